package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive"
	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
)

func init() { stateMachine = hive.StateMachine }

func newUp(a *app) *cobra.Command {
	var logLevel, logFormat string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a hive on this host, in the foreground",
		Long: `Run a hive on this host, in the foreground: it reads the configuration, starts the
workers and keeps them alive until it is told to end.

SIGTERM or SIGINT ends all workers in order and in parallel; a second one kills
them now. SIGHUP reads the configuration again, as "hive reload" does.`,
		Example: `  hive up                      # with ./hive.yaml, or without any workers
  hive up -c /etc/hive.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.logger(logLevel, logFormat)
			if err != nil {
				return err
			}
			return a.up(cmd.Context(), log)
		},
	}
	cmd.Flags().StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&logFormat, "log-format", "text", "text or json")
	return cmd
}

func (a *app) logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level %q is not known; write debug, info, warn or error", level)
	}
	opt := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(a.errOut, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.errOut, opt)), nil
	}
	return nil, usagef("--log-format %q is not known; write text or json", format)
}

// readConfig is the configuration this command line means.
func (a *app) readConfig() (*config.Config, error) {
	cfg := config.Default()
	c := &cfg
	if path := a.configFile(); path != "" {
		read, err := config.Load(path)
		if err != nil {
			return nil, withCode(exitConfig, err)
		}
		c = read
	}
	if dir := a.flagOrEnv(a.dataDir, "HIVE_DATA_DIR"); dir != "" {
		c.DataDir = dir
	}
	return c, nil
}

func (a *app) up(ctx context.Context, log *slog.Logger) error {
	cfg, err := a.readConfig()
	if err != nil {
		return err
	}
	for _, p := range config.HostProblems(cfg) {
		log.Warn(p.String())
	}
	opt := hive.Options{Log: log, Version: version, Reread: a.readConfig}
	if a.configFile() == "" {
		opt.Reread = nil
	}
	return a.runHive(ctx, cfg, opt, nil)
}

// runHive runs a hive until a signal or the API ends it. ready is called once
// it answers.
func (a *app) runHive(ctx context.Context, cfg *config.Config, opt hive.Options, ready func(*hive.Hive)) error {
	// Taken before anything is started, so that no signal finds hive unprepared.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // hive allocates little; a small daemon is worth more than a rare collection
	}
	h, err := hive.New(cfg, opt)
	if err != nil {
		return hiveError(err)
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	done := make(chan struct{})
	defer close(done)
	go a.onSignals(signals, done, h, opt.Log, end)
	if ready != nil {
		go ready(h)
	}
	return hiveError(h.Run(ctx))
}

// onSignals: the first SIGTERM or SIGINT ends in order, a second kills now,
// SIGHUP reloads.
func (a *app) onSignals(signals <-chan os.Signal, done <-chan struct{}, h *hive.Hive, log *slog.Logger, end func()) {
	ending := false
	for {
		select {
		case <-done:
			return
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				reload(h, log)
			case !ending:
				ending = true
				end()
			default:
				h.Shutdown(true, "a second "+s.String()+" signal")
			}
		}
	}
}

func reload(h *hive.Hive, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	plan, err := h.Reload(ctx, false)
	var problems messages.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			log.Error("the configuration was not reloaded: " + p.String())
		}
	case err != nil:
		log.Error("the configuration was not reloaded", "error", err)
	default:
		for _, n := range plan.Notes {
			log.Warn(n)
		}
	}
}

// hiveError gives the daemon's errors their exit codes.
func hiveError(err error) error {
	var coded *codeError
	var problems messages.Problems
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded):
		return err
	case errors.Is(err, hive.ErrAlreadyRunning):
		return withCode(exitRunning, err)
	case errors.As(err, &problems):
		return withCode(exitConfig, err)
	}
	return withCode(exitInternal, err)
}

// humanLog writes events as short lines for a person who watches.
type humanLog struct {
	out   io.Writer
	start time.Time
}

func (l humanLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l humanLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l humanLog) WithGroup(string) slog.Handler                    { return l }

func (l humanLog) Handle(_ context.Context, r slog.Record) error {
	mark := " "
	if r.Level >= slog.LevelWarn {
		mark = "!"
	}
	_, err := fmt.Fprintf(l.out, "%7.1fs %s %s\n", r.Time.Sub(l.start).Seconds(), mark, strings.TrimPrefix(r.Message, "worker."))
	return err
}
