package main

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

// runFlags are the flags of `hive run`, each a key of a worker's configuration.
type runFlags struct {
	gpu, vram, port, restart, dir, user, engine, model, memory, readyHTTP string
	env, labels                                                           []string
	wait                                                                  bool
}

func newRun(a *app) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] NAME -- COMMAND [ARG...]",
		Short: "Declare a worker and start it",
		Long: `Declare a worker and start it. What is not said here has the defaults of hive.yaml.

The command is a list of arguments, never a shell line; ${PORT}, ${HOST}, ${WORKER},
${ATTEMPT}, ${GPU}, ${MODEL} and ${env.X} are replaced by hive, so quote them. Paths in it
are looked up by hive, not from the current directory.

A worker declared this way is kept over a restart of hive; "hive rm" forgets it.`,
		Example: `  hive run echo -- sleep 1000
  hive run --gpu 1 --vram 18GiB --engine llama-server --model /m/a.gguf --wait chat -- \
      llama-server -m '${MODEL}' --host '${HOST}' --port '${PORT}'
  hive run --gpu none --port 7150 --restart always --env LOG=debug web -- ./serve`,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := f.spec(args, a.env)
			if err != nil {
				return err
			}
			return a.action(func(ctx context.Context, c *client, _ []string) error {
				return a.runWorker(ctx, c, args[0], spec, f.wait)
			})(cmd, args)
		},
		Args: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case len(args) == 0 || dash == 0:
				return usagef(`hive run needs a name before the command, such as "hive run chat -- llama-server -m a.gguf"`)
			case dash > 1 || dash < 0 && len(args) > 1:
				return usagef(`put "--" between the worker's name and its command, such as "hive run %s -- %s"`, args[0], args[1])
			case len(args) == 1:
				return usagef(`worker %s has no command; write it behind "--", such as "hive run %s -- llama-server -m a.gguf"`, args[0], args[0])
			case !messages.ValidName(args[0]):
				return usagef("%q cannot name a worker; names have the form %s", args[0], messages.NamePattern)
			case messages.ReservedName(args[0]):
				return usagef("%q is a word of the API and cannot name a worker; choose another", args[0])
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.gpu, "gpu", "", "number of GPUs, or none")
	fl.StringVar(&f.vram, "vram", "", "device memory it needs, such as 18GiB")
	fl.StringVar(&f.port, "port", "", "auto (leased by hive), none, or a number")
	fl.StringVar(&f.restart, "restart", "", "restart policy: always, on-failure or never")
	fl.StringArrayVar(&f.env, "env", nil, "environment variable KEY=VALUE, or KEY to take it from here; may be repeated")
	fl.StringVar(&f.dir, "dir", "", "working directory")
	fl.StringVar(&f.user, "user", "", "user to run as (needs a hive that runs as root)")
	fl.StringArrayVar(&f.labels, "label", nil, "label key=value; may be repeated")
	fl.StringVar(&f.engine, "engine", "", "what it is: llama-server, vllm, tgi, sglang, rbee, hive, http or exec")
	fl.StringVar(&f.model, "model", "", "model file or directory, checked before the start; ${MODEL} in the command")
	fl.StringVar(&f.memory, "memory", "", "memory limit, such as 24GiB")
	fl.StringVar(&f.readyHTTP, "ready-http", "", "path that answers 200 when the worker is ready, such as /health")
	fl.BoolVar(&f.wait, "wait", false, "return only when it is ready")
	_ = cmd.RegisterFlagCompletionFunc("restart", cobra.FixedCompletions([]string{"always", "on-failure", "never"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("port", cobra.FixedCompletions([]string{"auto", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// spec is the worker to post: only what was said, so that hive's own defaults
// hold for the rest.
func (f runFlags) spec(args []string, env func(string) string) (map[string]any, error) {
	spec := map[string]any{"name": args[0], "command": args[1:]}
	gpu := map[string]any{}
	switch n, err := strconv.Atoi(f.gpu); {
	case f.gpu == "none":
		gpu["count"] = 0
	case f.gpu != "" && (err != nil || n < 0):
		return nil, usagef("--gpu %q is no number of GPUs; write none, 1, 2 and so on", f.gpu)
	case f.gpu != "":
		gpu["count"] = n
	}
	for _, size := range []struct{ flag, value string }{{"vram", f.vram}, {"memory", f.memory}} {
		if size.value == "" {
			continue
		}
		if err := new(messages.Size).UnmarshalText([]byte(size.value)); err != nil {
			return nil, usagef("--%s: %w", size.flag, err)
		}
	}
	if f.vram != "" {
		gpu["vram"] = f.vram
	}
	if len(gpu) > 0 {
		spec["gpu"] = gpu
	}
	if f.port != "" {
		if n, err := strconv.Atoi(f.port); f.port != "auto" && f.port != "none" && (err != nil || n < 1 || n > 65535) {
			return nil, usagef("--port %q is no port; write auto, none or a number from 1 to 65535", f.port)
		}
		spec["port"] = f.port
	}
	switch messages.RestartPolicy(f.restart) {
	case "":
	case messages.RestartAlways, messages.RestartOnFailure, messages.RestartNever:
		spec["restart"] = map[string]any{"policy": f.restart}
	default:
		return nil, usagef("--restart %q is no restart policy; write always, on-failure or never", f.restart)
	}
	if f.dir != "" {
		dir, err := filepath.Abs(f.dir) // hive's own working directory is another
		if err != nil {
			return nil, usagef("--dir %q: %w", f.dir, err)
		}
		spec["dir"] = dir
	}
	for key, value := range map[string]string{"user": f.user, "engine": f.engine, "model": f.model} {
		if value != "" {
			spec[key] = value
		}
	}
	if f.memory != "" {
		spec["limits"] = map[string]any{"memory": f.memory}
	}
	if f.readyHTTP != "" {
		spec["ready"] = map[string]any{"http": f.readyHTTP}
	}
	return spec, f.addPairs(spec, env)
}

// addPairs adds env and labels.
func (f runFlags) addPairs(spec map[string]any, env func(string) string) error {
	vars, labels := map[string]string{}, map[string]string{}
	for _, s := range f.env {
		key, value, ok := splitPair(s)
		switch {
		case ok:
		case s != "" && !strings.Contains(s, "=") && env(s) != "":
			key, value = s, env(s)
		default:
			return usagef("--env %q is no variable; write KEY=VALUE, or KEY of one that is set here", s)
		}
		vars[key] = value
	}
	for _, s := range f.labels {
		key, value, ok := splitPair(s)
		if !ok {
			return usagef("--label %q is no label; write key=value", s)
		}
		labels[key] = value
	}
	if len(vars) > 0 {
		spec["env"] = vars
	}
	if len(labels) > 0 {
		spec["labels"] = labels
	}
	return nil
}

func (a *app) runWorker(ctx context.Context, c *client, name string, spec map[string]any, wait bool) error {
	var w messages.WorkerStatus
	raw, err := c.call(ctx, http.MethodPost, "/v1/workers", nil, spec, &w)
	if err != nil {
		return err
	}
	if !wait {
		return a.sayStatus(name, w, raw)
	}
	return a.waitAndSay(ctx, c, name, goalAfter(messages.VerbStart, messages.WorkerStatus{}))
}
