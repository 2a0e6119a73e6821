package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive"
	"github.com/rbee-hive/hive/config"
)

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Run a hive with demo workers on this host, to look around",
		Long: `Run a hive with a handful of demo workers in ./hive-demo: some load slowly, one
takes no work until another is ready, one crashes now and then, one cannot start
at all. Two fake GPU pools show how loads take turns on a device. No model, no
GPU and no configuration are needed. Ctrl-C ends it all in order.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			engine, err := demoEngine()
			if err != nil {
				return err
			}
			cfg, err := config.Parse("demo", []byte(demoConfig(engine, freeAddress(), demoData(a))))
			if err != nil {
				return withCode(exitInternal, err)
			}
			log := slog.New(humanLog{out: a.out, start: time.Now()})
			return a.runHive(cmd.Context(), cfg, hive.Options{Log: log, Version: version}, func(h *hive.Hive) { a.welcome(h, cfg.DataDir) })
		},
	}
}

func demoData(a *app) string {
	if dir := a.flagOrEnv(a.dataDir, "HIVE_DATA_DIR"); dir != "" {
		return dir
	}
	return demoDataDir
}

// demoEngine finds the stand-in for a model server: it is built beside hive.
func demoEngine() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the demo's worker program: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "fakeworker")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the demo needs the program fakeworker beside hive, and %s is not there; build both with \"make build\"", path)
	}
	return path, nil
}

// freeAddress is the usual address, or any free one when another hive has it.
func freeAddress() string {
	const usual = "127.0.0.1:7070"
	l, err := net.Listen("tcp", usual)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = l.Close()
	return usual
}

// demoConfig is a configuration as a user would write it.
func demoConfig(engine, listen, dataDir string) string {
	return fmt.Sprintf(`name: demo
data_dir: %[3]q
listen: %[2]s
ports: 7100-7199
gpu: {fake: 2}
shutdown: {drain: 2s, grace: 3s}
workers:
  - name: chat
    command: [%[1]q, --load, 6s, --notify, --notify-progress, --heartbeat-every, 2s, --log-lines, "1"]
    replicas: 2
    gpu: {count: 1}
    ready: {http: /health}
    labels: {model: demo-8b}
  - name: coder
    command: [%[1]q, --load, 8s, --callbacks, --heartbeat-every, 2s, --in-flight, "2", --tokens, "40"]
    gpu: {count: 1}
    ready: {http: /health}
  - name: embed
    command: [%[1]q, --load, 1s]
    ready: {http: /health}
  - name: rerank
    command: [%[1]q, --load, 1s]
    depends_on: [embed]
    ready: {http: /health}
  - name: shaky
    command: [%[1]q, --load, 1s, --crash-every, 8s, --crash-chance, "0.5", --exit-code, "3"]
    ready: {http: /health}
    restart: {backoff: {initial: 1s, max: 10s}, max_restarts: 20}
  - name: missing
    command: [/no/such/engine, --model, /models/a.gguf]
`, engine, listen, dataDir)
}

func (a *app) welcome(h *hive.Hive, dataDir string) {
	self := os.Args[0]
	fmt.Fprintf(a.out, `
  This is a hive with demo workers. Look at it from another terminal in this folder:

    %[1]s ps -w                the workers, redrawn as they change
    %[1]s events -f            what happens, as it happens
    %[1]s show shaky           one that crashes now and then, with its last exit
    %[1]s show missing         one that cannot start, and why
    %[1]s stop chat-1          and: start, restart, drain, kill, logs -f
    kill -9 $(%[1]s ps -o json | grep -m1 -o '"pid":[0-9]*' | cut -d: -f2)
    curl -s http://%[2]s/v1/workers/embed     http://%[2]s/metrics

  Data and logs: %[3]s. Ctrl-C ends it in order, twice kills at once.

`, self, h.Address(), dataDir)
}
