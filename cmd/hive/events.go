package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

type eventsFlags struct {
	follow bool
	worker string
	since  uint64
}

func newEvents(a *app) *cobra.Command {
	var f eventsFlags
	cmd := &cobra.Command{
		Use:   "events [-f]",
		Short: "Print what happened",
		Long: `Print the events hive remembers and end. With -f, print what happens from now on
(from --since, when given) until Ctrl-C; a connection that breaks is taken up again
where it broke. With -o json each event is one line.`,
		Example: `  hive events
  hive events -f --worker chat-1
  hive events --since 120 -o json`,
		Args: cobra.NoArgs,
	}
	fl := cmd.Flags()
	fl.BoolVarP(&f.follow, "follow", "f", false, "go on with what happens from now on")
	fl.StringVar(&f.worker, "worker", "", "only events of this worker")
	fl.Uint64Var(&f.since, "since", 0, "only events after this number")
	_ = cmd.RegisterFlagCompletionFunc("worker", a.completeWorkers)
	cmd.RunE = a.action(func(ctx context.Context, c *client, _ []string) error {
		if f.worker != "" && !messages.ValidName(f.worker) {
			return usagef("--worker %q cannot be a worker; names have the form %s", f.worker, messages.NamePattern)
		}
		if f.follow {
			var since *uint64
			if cmd.Flags().Changed("since") {
				since = &f.since
			}
			return ended(ctx, a.followEvents(ctx, c, f.worker, since))
		}
		return ended(ctx, a.pastEvents(ctx, c, f))
	})
	return cmd
}

// pastEvents prints what the ring holds. The filter is applied here, since the
// event that ends the reading may be another worker's.
func (a *app) pastEvents(parent context.Context, c *client, f eventsFlags) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	// A hive that does not say where its ring ends, or says nothing at all
	// since there is nothing new, is read until it has been silent for a while.
	quiet := time.AfterFunc(requestTimeout, cancel)
	defer quiet.Stop()
	silent := func() bool { return ctx.Err() != nil && parent.Err() == nil }

	stream, err := c.openEvents(ctx, &f.since, "")
	if err != nil {
		if silent() {
			err = c.unreachable(context.DeadlineExceeded)
		}
		return err
	}
	defer stream.Close()
	if stream.known && stream.last <= f.since {
		return nil
	}
	if !stream.known {
		quiet.Reset(4 * a.tick)
	}
	err = stream.Each(func(e messages.Event, raw string) error {
		if stream.known {
			quiet.Reset(requestTimeout)
		} else {
			quiet.Reset(4 * a.tick)
		}
		if f.worker == "" || string(e.Worker) == f.worker {
			a.printEvent(e, raw)
		}
		if stream.known && e.Seq >= stream.last {
			return errStop
		}
		return nil
	})
	if err != nil && silent() && !stream.known {
		return nil
	}
	return a.streamError(c, err)
}

// followEvents prints events as they come. It ends when hive has stopped.
func (a *app) followEvents(ctx context.Context, c *client, worker string, since *uint64) error {
	last, stopped := since, false
	for {
		stream, err := c.openEvents(ctx, last, worker)
		if err != nil {
			if stopped && gone(err) {
				return nil
			}
			return err
		}
		if last == nil && stream.known {
			last = &stream.last
		}
		err = stream.Each(func(e messages.Event, raw string) error {
			a.printEvent(e, raw)
			seq := e.Seq
			last, stopped = &seq, e.Type == messages.HiveStopped
			return nil
		})
		stream.Close()
		if ctx.Err() != nil || stopped {
			return nil
		}
		if err != nil && isDecode(err) {
			return err
		}
		select { // a hive that closes at once is not asked in a loop
		case <-ctx.Done():
			return nil
		case <-time.After(a.tick):
		}
	}
}

// streamError tells a broken connection from an unreadable event.
func (a *app) streamError(c *client, err error) error {
	if err == nil || isDecode(err) {
		return err
	}
	return c.unreachable(fmt.Errorf("%w: %w", errBroken, err))
}

func (a *app) printEvent(e messages.Event, raw string) {
	if a.json() {
		a.printf("%s\n", raw)
		return
	}
	tint := plain
	switch {
	case e.Type == messages.WorkerCrashloop || e.Type == messages.WorkerPanic || e.Type == messages.HiveFailing || e.Type == messages.PoolDegraded:
		tint = red
	case e.To != nil:
		tint = stateColour(*e.To)
	}
	a.printf("%6d  %s  %s\n", e.Seq, e.At.Local().Format("2006-01-02 15:04:05.000"), a.term.paint(tint, printable(e.String())))
}

// isDecode reports whether err came from an event that is no event, which
// trying again does not mend.
func isDecode(err error) bool {
	var d *decodeError
	return errors.As(err, &d)
}
