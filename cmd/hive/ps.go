package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

type psFlags struct {
	states, pools, labels []string
	quiet, watch          bool
}

func newPs(a *app) *cobra.Command {
	var f psFlags
	cmd := &cobra.Command{
		Use:     "ps",
		Aliases: []string{"ls", "list"},
		Short:   "List the workers",
		Long: `List the workers with their state.

STATE shows how far a load has come, and in brackets how much is in flight.
HEARTBEAT is how hive knows that a worker lives: native (it says so itself), synthetic
(hive asks it) or none (only its process is watched). RESTARTS is the total, and in
brackets the failures in the restart window and how many it may hold. UP/SINCE is how
long a running process has been up; for a worker without one it is how long ago its
state last changed.`,
		Example: `  hive ps
  hive ps --state failed --state crashloop
  hive ps --pool gpu-0 --label model=llama-3-8b
  hive ps -w                           # redraw until Ctrl-C
  hive stop $(hive ps -q --state idle)`,
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context, c *client, _ []string) error { return a.ps(ctx, c, f) }),
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.states, "state", nil, "only workers in this state; may be repeated")
	fl.StringSliceVar(&f.pools, "pool", nil, "only workers of this pool; may be repeated")
	fl.StringSliceVar(&f.labels, "label", nil, "only workers with this label, key=value; all given must match")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "print names only")
	fl.BoolVarP(&f.watch, "watch", "w", false, "redraw until interrupted")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(stateNames(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("pool", a.completePools)
	return cmd
}

func stateNames() []string {
	var names []string
	for _, s := range messages.States() {
		names = append(names, s.String())
	}
	return names
}

func (f psFlags) check() error {
	for _, s := range f.states {
		if _, err := messages.ParseState(s); err != nil {
			return usagef("--state %q is no state; the states are %s", s, strings.Join(stateNames(), ", "))
		}
	}
	for _, l := range f.labels {
		if _, _, ok := splitPair(l); !ok {
			return usagef("--label %q is no label; write key=value", l)
		}
	}
	return nil
}

// query is the filter hive applies itself. With more than one value of a key
// the answer is filtered here as well.
func (f psFlags) query() url.Values {
	q := url.Values{}
	if len(f.states) == 1 {
		q.Set("state", f.states[0])
	}
	if len(f.pools) == 1 {
		q.Set("pool", f.pools[0])
	}
	if len(f.labels) == 1 {
		q.Set("label", f.labels[0])
	}
	return q
}

// match applies the whole filter to one worker.
func (f psFlags) match(w messages.WorkerStatus) bool {
	for _, l := range f.labels {
		key, value, _ := splitPair(l)
		if got, ok := w.Labels[key]; !ok || got != value {
			return false
		}
	}
	return oneOf(f.states, w.State.String()) && oneOf(f.pools, string(w.Pool))
}

// oneOf reports whether list is empty or holds s.
func oneOf(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return len(list) == 0
}

func (a *app) ps(ctx context.Context, c *client, f psFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	if !f.watch {
		out, err := a.psOnce(ctx, c, f)
		if err == nil {
			a.printf("%s", out)
		}
		return err
	}
	if a.json() {
		return usagef("--watch draws for people; for a program use \"hive events -f -o json\"")
	}
	return a.watch(ctx, func() (string, error) { return a.psOnce(ctx, c, f) })
}

// watch draws once a second until the context ends, which is no error.
func (a *app) watch(ctx context.Context, draw func() (string, error)) error {
	every := time.NewTicker(4 * a.tick)
	defer every.Stop()
	for {
		out, err := draw()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if a.term.live {
			out = "\x1b[H\x1b[2J" + out // cursor home, clear the screen
		}
		a.printf("%s", out)
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

func (a *app) psOnce(ctx context.Context, c *client, f psFlags) (string, error) {
	workers, raw, err := c.workers(ctx, f.query())
	if err != nil {
		return "", err
	}
	shown := workers[:0:0]
	for _, w := range workers {
		if f.match(w) {
			shown = append(shown, w)
		}
	}
	switch {
	case f.quiet:
		var b strings.Builder
		for _, w := range shown {
			fmt.Fprintln(&b, w.Name)
		}
		return b.String(), nil
	case a.json():
		return filteredJSON(raw, f)
	}
	return psTable(shown, a.now(), a.term), nil
}

// psTable is `hive ps` for people.
func psTable(workers []messages.WorkerStatus, now time.Time, term terminal) string {
	t := table{header: []string{"NAME", "STATE", "POOL", "PID", "PORT", "HEARTBEAT", "RESTARTS", "UP/SINCE", "REASON"}}
	for _, w := range workers {
		t.add(text(string(w.Name)), cell{stateText(w, term), stateColour(w.State)}, text(orDash(string(w.Pool))),
			text(number(w.PID)), text(number(w.Port)), text(beatText(w)), text(restartsText(w.Restarts)),
			text(upText(w, now)), text(noteText(w)))
	}
	return t.render(term)
}

// stateText is the state, with how far a load has come when that is known, as a
// bar too for people, and with what is in flight.
func stateText(w messages.WorkerStatus, term terminal) string {
	s := w.State.String()
	switch {
	case w.InFlight > 0 && (w.State.Ready() || w.State == messages.Draining):
		return fmt.Sprintf("%s (%d)", s, w.InFlight)
	case !comes(w):
		return s
	case term.tty:
		return fmt.Sprintf("%s %s %s", s, term.bar(w.Progress.Value, 8), percent(w.Progress.Value))
	}
	return s + " " + percent(w.Progress.Value)
}

// comes reports whether the worker is on its way to being ready and it is known
// how far it has come.
func comes(w messages.WorkerStatus) bool {
	return w.Progress != nil && (w.State == messages.Loading || w.State == messages.Starting || w.State == messages.Pending)
}

// beatText is the kind of heartbeat of a process that lives.
func beatText(w messages.WorkerStatus) string {
	if w.PID == 0 {
		return "-"
	}
	return orDash(w.Heartbeat.Kind)
}

// noteText is why a worker stands where it does. Of one that loads its own words
// or the load's stage tell more.
func noteText(w messages.WorkerStatus) string {
	switch {
	case w.State == messages.Loading && w.Said != "":
		return w.Said
	case w.State == messages.Loading && comes(w) && w.Progress.Stage != "":
		return w.Progress.Stage
	}
	return w.Reason
}

func restartsText(r messages.Restarts) string {
	if r.InWindow == 0 {
		return fmt.Sprint(r.Total)
	}
	return fmt.Sprintf("%d (%d/%d)", r.Total, r.InWindow, r.Max)
}

// upText is "3m12s" for a live process and "2m4s ago" for any other worker.
func upText(w messages.WorkerStatus, now time.Time) string {
	switch {
	case w.PID != 0 && !w.StartedAt.IsZero():
		return age(now.Sub(w.StartedAt))
	case w.Since.IsZero():
		return "-"
	}
	return age(now.Sub(w.Since)) + " ago"
}
