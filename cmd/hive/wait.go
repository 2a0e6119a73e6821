package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

// goal is what a wait waits for.
type goal struct {
	name string // for sentences: "ready"
	done func(w messages.WorkerStatus) bool
	// hit reports that passing through a state is enough; nil for goals that
	// are about where the worker stands.
	hit func(s messages.State) bool
	// gone makes a worker that hive does not know (any more) a success.
	gone bool
	// before is the worker as it was when a verb was sent, so that an old
	// failure is not taken for the answer. Zero when nothing was sent.
	before messages.WorkerStatus
}

// goalNamed returns the goal of `hive wait --for`.
func goalNamed(name string) (goal, error) {
	switch name {
	case "ready":
		return goal{name: name, done: func(w messages.WorkerStatus) bool { return w.State.Ready() }, hit: messages.State.Ready}, nil
	case "settled":
		return goal{name: name, done: func(w messages.WorkerStatus) bool { return w.State.Settled() }}, nil
	case "gone":
		return goal{name: name, done: func(messages.WorkerStatus) bool { return false }, gone: true}, nil
	}
	want, err := messages.ParseState(name)
	if err != nil {
		return goal{}, usagef("--for %q is nothing to wait for; write ready, settled, gone or a state: %s", name, strings.Join(stateNames(), ", "))
	}
	is := func(s messages.State) bool { return s == want }
	return goal{name: name, done: func(w messages.WorkerStatus) bool { return is(w.State) }, hit: is}, nil
}

// goalAfter returns what --wait waits for after a verb, given the worker as it
// was before.
func goalAfter(verb messages.Verb, before messages.WorkerStatus) goal {
	next := func(w messages.WorkerStatus) bool { return w.Attempt > before.Attempt }
	g := goal{name: "settled", before: before}
	switch verb {
	case messages.VerbStop:
		g.name, g.done = "stopped", func(w messages.WorkerStatus) bool { return w.State.Settled() }
	case messages.VerbKill:
		g.name = "killed"
		g.done = func(w messages.WorkerStatus) bool { return w.State.Settled() || w.State == messages.Backoff || next(w) }
	case messages.VerbDrain:
		g.name = "drained"
		g.done = func(w messages.WorkerStatus) bool {
			return w.State.Settled() || (w.State == messages.Draining || w.State == messages.Stopping) && w.InFlight == 0
		}
	case messages.VerbRestart:
		g.name = "ready"
		g.done = func(w messages.WorkerStatus) bool { return next(w) && (w.State.Ready() || w.State == messages.Stopped) }
	default: // start, resume, reset
		g.name = "ready"
		g.done = func(w messages.WorkerStatus) bool {
			return w.State.Ready() || w.State == messages.Stopped && next(w)
		}
	}
	return g
}

func newWait(a *app) *cobra.Command {
	var want string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait --for=STATE NAME...",
		Short: "Wait until workers reach a state",
		Long: `Wait until every named worker is in the wanted state: a state's name, ready (idle
or busy), settled (nothing runs and nothing is planned) or gone (removed).

While a worker loads, stderr shows how far it has come: a bar on a terminal, else a
line for each tenth; nothing with -o json. When a worker fails for good instead, or the
time is over, the exit code is 1 and the reason is on stderr.`,
		Example: `  hive wait --for=ready chat-1 chat-2
  hive wait --for=stopped --timeout 1m chat-1`,
		Args:              needNames(1),
		ValidArgsFunction: a.completeWorkers,
		RunE: a.action(func(ctx context.Context, c *client, names []string) error {
			g, err := goalNamed(want)
			if err != nil {
				return err
			}
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, timeout, &lateError{timeout})
				defer cancel()
			}
			var errs []error
			for _, name := range names {
				errs = append(errs, a.waitAndSay(ctx, c, name, g))
			}
			return errors.Join(errs...)
		}),
	}
	cmd.Flags().StringVar(&want, "for", "ready", "what to wait for: ready, settled, gone or a state")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this long, such as 90s (0 = never)")
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(append([]string{"ready", "settled", "gone"}, stateNames()...), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// lateError says that the time of --timeout is over.
type lateError struct{ after time.Duration }

func (e *lateError) Error() string { return fmt.Sprintf("after %s", e.after) }

// waitAndSay waits and prints where the worker then stands.
func (a *app) waitAndSay(ctx context.Context, c *client, name string, g goal) error {
	w, raw, err := a.waitFor(ctx, c, name, g)
	switch {
	case err != nil:
		return err
	case raw == nil:
		return a.sayGone(name)
	case a.json():
		return a.writeRaw(raw)
	}
	a.printf("%s %s\n", name, a.term.paint(stateColour(w.State), w.State.String()))
	return nil
}

func (a *app) sayGone(name string) error {
	if a.json() {
		return a.writeJSON(map[string]any{"name": name, "removed": true})
	}
	a.printf("%s removed\n", name)
	return nil
}

// waitFor asks until the goal is reached. Events only make it ask sooner; a
// hive that sends none is asked every tick. Raw is nil for a goal of being gone.
func (a *app) waitFor(ctx context.Context, c *client, name string, g goal) (messages.WorkerStatus, []byte, error) {
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	states := c.watchStates(watchCtx, name)
	every := time.NewTicker(a.tick)
	defer every.Stop()
	progress := newAwaited(a)
	defer progress.clear()

	var bad messages.WorkerStatus // the failure seen last, and since when
	var badSince time.Time
	passed := false
	for {
		w, raw, err := c.worker(ctx, name)
		switch {
		case ctx.Err() != nil:
			return w, nil, waitOver(ctx, name, g, progress.last)
		case notFound(err) && g.gone:
			return w, nil, nil
		case err != nil:
			return w, nil, err
		case passed || g.done(w):
			return w, raw, nil
		}
		if failed(w) {
			if bad.State != w.State || !bad.Since.Equal(w.Since) {
				bad, badSince = w, time.Now()
			}
			if time.Since(badSince) >= a.patience(w, g) {
				return w, nil, badEnd(w, g)
			}
		} else {
			bad = messages.WorkerStatus{}
		}
		progress.draw(w)
		select {
		case <-ctx.Done():
		case s, open := <-states:
			if !open {
				states = nil // no events; the ticker remains
			} else if g.hit != nil && g.hit(s) {
				passed = true
			}
		case <-every.C:
		}
	}
}

// failed reports whether a worker stands where it does not leave by itself
// soon: waiting longer is of no use.
func failed(w messages.WorkerStatus) bool {
	return w.State == messages.Failed || w.State == messages.Crashloop || w.State == messages.Unkillable
}

// patience is how long a failure must be seen before it is believed. A failed
// attempt is followed by backoff in a moment; a failure that was there before a
// verb was sent may be left by it.
func (a *app) patience(w messages.WorkerStatus, g goal) time.Duration {
	switch {
	case !g.before.Since.IsZero() && w.State == g.before.State && w.Since.Equal(g.before.Since):
		return 8 * a.tick
	case w.State == messages.Failed:
		return 2 * a.tick
	}
	return 0
}

func badEnd(w messages.WorkerStatus, g goal) error {
	reason := w.Reason
	if reason == "" && w.LastExit != nil {
		reason = strings.TrimSpace(string(w.LastExit.Cause) + " " + w.LastExit.Detail)
	}
	if reason == "" {
		reason = "no reason is known"
	}
	return fmt.Errorf("worker %s is in %s and did not become %s: %s; see \"hive show %s\"", w.Name, w.State, g.name, reason, w.Name)
}

func waitOver(ctx context.Context, name string, g goal, last messages.WorkerStatus) error {
	var late *lateError
	if !errors.As(context.Cause(ctx), &late) {
		return context.Canceled
	}
	where := "did not answer"
	if last.Name != "" {
		where = "is " + stateText(last, terminal{})
		if last.Reason != "" {
			where += " (" + last.Reason + ")"
		}
	}
	return fmt.Errorf("worker %s %s and was not %s %w; wait longer with --timeout, or see \"hive show %s\"", name, where, g.name, late, name)
}

// watchStates returns the states a worker enters from now on, as events tell
// them. The channel closes when the stream ends or could not be opened.
func (c *client) watchStates(ctx context.Context, name string) <-chan messages.State {
	states := make(chan messages.State, 16)
	go func() {
		defer close(states)
		stream, err := c.openEvents(ctx, nil, name)
		if err != nil {
			return
		}
		defer stream.Close()
		_ = stream.Each(func(e messages.Event, _ string) error {
			if e.To == nil || string(e.Worker) != name || stream.known && e.Seq <= stream.last {
				return nil
			}
			select {
			case states <- *e.To:
				return nil
			case <-ctx.Done():
				return errStop
			}
		})
	}()
	return states
}
