package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

// verbHelp is the text of each verb that is sent to a worker.
var verbHelp = []struct {
	verb                 messages.Verb
	short, long, example string
	ending               bool // takes --drain and --grace
}{
	{messages.VerbStart, "Start stopped workers", "Start workers that are stopped or failed. With --wait, return when they are ready.",
		"  hive start chat-1\n  hive start --wait chat-1 chat-2", false},
	{messages.VerbStop, "Stop workers, after their work in flight", `Stop workers: no new work, time to finish what is in flight (--drain), the stop
signal, time to end (--grace), then SIGKILL to the whole process tree. A stopped
worker stays stopped until it is started.`,
		"  hive stop chat-1\n  hive stop --drain 5s --grace 2s --wait chat-1 chat-2", true},
	{messages.VerbRestart, "Stop workers and start them again", `Stop workers as "hive stop" does, then start them again as the next attempt. It
costs nothing of the restart budget.`,
		"  hive restart --wait chat-1", true},
	{messages.VerbDrain, "Let workers finish what is in flight", `Take no new work, and let what is in flight finish. The process keeps running;
"hive resume" takes work again. With --wait, return when nothing is in flight.`,
		"  hive drain --wait chat-1", false},
	{messages.VerbResume, "Take work again after a drain", "End a drain: the worker takes work again.",
		"  hive resume chat-1", false},
	{messages.VerbKill, "Kill workers at once", `Send SIGKILL to the whole process tree at once, without drain or grace. Work in
flight is lost; "hive stop" is the kind way.`,
		"  hive kill chat-1", false},
	{messages.VerbReset, "Forget failures and try again", `Clear the restart budget of workers that gave up (crashloop), so that they are
tried again at once.`,
		"  hive reset chat-1\n  hive reset $(hive ps -q --state crashloop)", false},
}

// newVerbs builds start, stop, restart, drain, resume, kill and reset.
func newVerbs(a *app) []*cobra.Command {
	var cmds []*cobra.Command
	for _, h := range verbHelp {
		var wait bool
		var drain, grace time.Duration
		cmd := &cobra.Command{
			Use:               string(h.verb) + " NAME...",
			Short:             h.short,
			Long:              h.long,
			Example:           h.example,
			Args:              needNames(1),
			ValidArgsFunction: a.completeWorkers,
		}
		cmd.Flags().BoolVar(&wait, "wait", false, "return only when it is done")
		if h.ending {
			cmd.Flags().DurationVar(&drain, "drain", 0, "time for work in flight, instead of the worker's stop.drain")
			cmd.Flags().DurationVar(&grace, "grace", 0, "time between the stop signal and SIGKILL, instead of stop.grace")
		}
		cmd.RunE = a.action(func(ctx context.Context, c *client, names []string) error {
			body, err := endingBody(cmd, drain, grace)
			if err != nil {
				return err
			}
			return a.sendVerb(ctx, c, h.verb, names, body, wait)
		})
		cmds = append(cmds, cmd)
	}
	return cmds
}

// endingBody is the optional body of a verb that ends a process; nil when
// neither time was given.
func endingBody(cmd *cobra.Command, drain, grace time.Duration) (any, error) {
	body := map[string]string{}
	for name, d := range map[string]time.Duration{"drain": drain, "grace": grace} {
		if f := cmd.Flags().Lookup(name); f == nil || !f.Changed {
			continue
		}
		if d < 0 {
			return nil, usagef("--%s %s is negative; write 0 or more, such as 5s", name, d)
		}
		body[name] = d.String()
	}
	if len(body) == 0 {
		return nil, nil
	}
	return body, nil
}

// sendVerb sends the verb to every name before it waits for any, so that they
// end or load side by side. A refusal for one does not keep it from the others.
func (a *app) sendVerb(ctx context.Context, c *client, verb messages.Verb, names []string, body any, wait bool) error {
	var errs []error
	goals := map[string]goal{}
	for _, name := range names {
		before := messages.WorkerStatus{}
		if wait {
			var err error
			if before, _, err = c.worker(ctx, name); err != nil {
				errs = append(errs, err)
				if gone(err) {
					break
				}
				continue
			}
		}
		var after messages.WorkerStatus
		raw, err := c.call(ctx, http.MethodPost, workerPath(name)+"/"+string(verb), nil, body, &after)
		if err != nil {
			errs = append(errs, err)
			if gone(err) {
				break
			}
			continue
		}
		goals[name] = goalAfter(verb, before)
		if wait {
			continue
		}
		if err := a.sayStatus(name, after, raw); err != nil {
			return err
		}
	}
	for _, name := range names {
		if g, ok := goals[name]; ok && wait {
			errs = append(errs, a.waitAndSay(ctx, c, name, g))
		}
	}
	return errors.Join(errs...)
}

// sayStatus prints the answer to a verb.
func (a *app) sayStatus(name string, w messages.WorkerStatus, raw []byte) error {
	if a.json() && json.Valid(raw) {
		return a.writeRaw(raw)
	}
	line := fmt.Sprintf("%s %s", name, a.term.paint(stateColour(w.State), w.State.String()))
	if w.Reason != "" {
		line += ": " + printable(w.Reason)
	}
	a.printf("%s\n", line)
	return nil
}

func newRm(a *app) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove", "delete"},
		Short:   "Stop workers and forget them",
		Long: `Stop workers as "hive stop" does and forget them, their budget and their history.
A worker that hive.yaml declares comes back with the next reload; remove it there.`,
		Example:           "  hive rm chat-1\n  hive rm --wait chat-1 chat-2",
		Args:              needNames(1),
		ValidArgsFunction: a.completeWorkers,
		RunE: a.action(func(ctx context.Context, c *client, names []string) error {
			var errs []error
			var sent []string
			for _, name := range names {
				if _, err := c.call(ctx, http.MethodDelete, workerPath(name), nil, nil, nil); err != nil {
					errs = append(errs, err)
					continue
				}
				sent = append(sent, name)
			}
			for _, name := range sent {
				if wait {
					g, _ := goalNamed("gone")
					errs = append(errs, a.waitAndSay(ctx, c, name, g))
				} else if a.json() {
					errs = append(errs, a.writeJSON(map[string]any{"name": name, "removing": true}))
				} else {
					a.printf("%s is being removed\n", name)
				}
			}
			return errors.Join(errs...)
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return only when it is gone")
	return cmd
}
