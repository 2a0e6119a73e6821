package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/config"
)

// Where a hive keeps its data when nobody says otherwise.
const (
	defaultConfig  = "hive.yaml"
	defaultDataDir = "./hive-data"
	demoDataDir    = "./hive-demo"
)

// app is what the verbs share: the global flags, where to write, and the few
// things tests replace. One app serves one command line.
type app struct {
	out, errOut io.Writer
	env         func(string) string
	now         func() time.Time
	term        terminal
	errTerm     terminal      // of errOut, where progress is shown
	tick        time.Duration // how often wait, watch and down look again

	output     string // text or json, states also mermaid
	url        string
	token      string
	dataDir    string
	configPath string

	ran bool // a verb began, so an error is no longer about usage
}

func newApp(out, errOut io.Writer, env func(string) string) *app {
	return &app{out: out, errOut: errOut, env: env, now: time.Now, term: terminalOf(out, env), errTerm: terminalOf(errOut, env), tick: 250 * time.Millisecond}
}

// json reports whether answers are for a program.
func (a *app) json() bool { return a.output == "json" }

// checkFlags refuses values of global flags that no verb could use.
func (a *app) checkFlags(cmd *cobra.Command) error {
	if a.output == "text" || a.output == "json" {
		return nil
	}
	if (a.output == "mermaid" || a.output == "markdown") && cmd.Name() == "states" {
		return nil
	}
	return usagef("--output %q is not known; write text or json", a.output)
}

// flagOrEnv prefers the flag.
func (a *app) flagOrEnv(flag, env string) string {
	if flag != "" {
		return flag
	}
	return a.env(env)
}

// configFile is the configuration file in force: --config, else ./hive.yaml
// when present, else "".
func (a *app) configFile() string {
	if a.configPath != "" {
		return a.configPath
	}
	if exists(defaultConfig) {
		return defaultConfig
	}
	return ""
}

// target says which data directory to talk to. note is a sentence part for the
// error of a hive that does not answer there.
type target struct {
	dataDir string
	note    string
}

// resolve finds the data directory: --data-dir, HIVE_DATA_DIR, the file named
// by --config, ./hive.yaml, ./hive-data; and the demo's when only that has a
// socket. A broken ./hive.yaml nobody named does not stand in the way of
// looking at a hive that runs.
func (a *app) resolve() (target, error) {
	if dir := a.flagOrEnv(a.dataDir, "HIVE_DATA_DIR"); dir != "" {
		return target{dataDir: dir}, nil
	}
	if a.configPath != "" {
		c, err := config.Load(a.configPath)
		if err != nil {
			return target{}, withCode(exitConfig, err)
		}
		return target{dataDir: c.DataDir}, nil
	}
	t := target{dataDir: defaultDataDir}
	if exists(defaultConfig) {
		if c, err := config.Load(defaultConfig); err == nil {
			t.dataDir = c.DataDir
		} else {
			t.note = `./hive.yaml could not be used to find it, see "hive check"`
		}
	}
	if !exists(config.SocketPath(t.dataDir)) && exists(config.SocketPath(demoDataDir)) {
		return target{dataDir: demoDataDir}, nil
	}
	return t, nil
}

// client returns a client for the hive this command line means. Nothing is
// dialled yet.
func (a *app) client() (*client, error) {
	token := a.flagOrEnv(a.token, "HIVE_TOKEN")
	if url := a.flagOrEnv(a.url, "HIVE_URL"); url != "" {
		return newURLClient(url, token)
	}
	t, err := a.resolve()
	if err != nil {
		return nil, err
	}
	c := newSocketClient(config.SocketPath(t.dataDir), token)
	c.note = t.note
	return c, nil
}

// action wraps a verb that talks to hive: it makes the client and a context
// that ends at SIGINT or SIGTERM.
func (a *app) action(do func(ctx context.Context, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return do(ctx, c, args)
	}
}

// printf writes to stdout; a broken pipe there is not worth a word.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// splitPair reads "key=value".
func splitPair(s string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(s, "=")
	return key, value, ok && key != ""
}
