package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

func newDown(a *app) *cobra.Command {
	var now, wait bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End the hive and its workers",
		Long: `End the hive in order: every worker drains and stops, all side by side, and then
hive itself ends. With "on_exit: keep" the workers stay for the next hive.

With --now nothing is drained and everything is killed at once. Ctrl-C stops the
watching, not the ending.`,
		Example: `  hive down
  hive down --now
  hive down --wait=false`,
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context, c *client, _ []string) error { return a.down(ctx, c, now, wait) }),
	}
	cmd.Flags().BoolVar(&now, "now", false, "kill at once, without drain and grace")
	cmd.Flags().BoolVar(&wait, "wait", true, "return only when hive has ended")
	return cmd
}

func (a *app) down(ctx context.Context, c *client, now, wait bool) error {
	var progress <-chan messages.Event
	if wait {
		watch, stop := context.WithCancel(ctx)
		defer stop()
		progress = c.watchShutdown(watch)
	}
	var body any
	if now {
		body = map[string]bool{"now": true}
	}
	_, err := c.call(ctx, http.MethodPost, "/v1/shutdown", nil, body, nil)
	if err != nil && !(wait && errors.Is(err, errBroken)) { // it may end before its answer is out
		return err
	}
	if wait {
		if err := a.awaitEnd(ctx, c, progress); err != nil {
			return err
		}
	}
	return a.saidDown(wait)
}

func (a *app) saidDown(waited bool) error {
	word := "stopping"
	if waited {
		word = "stopped"
	}
	if a.json() {
		return a.writeJSON(map[string]string{"hive": word})
	}
	a.printf("hive %s\n", word)
	return nil
}

// awaitEnd shows how many workers have stopped until nothing listens any more.
func (a *app) awaitEnd(ctx context.Context, c *client, progress <-chan messages.Event) error {
	every := time.NewTicker(a.tick)
	defer every.Stop()
	line := progressLine{to: a.out, term: a.term}
	defer line.clear()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("hive goes on ending; see its log: %w", context.Canceled)
		case e, open := <-progress:
			if !open {
				progress = nil
				continue
			}
			a.showStopProgress(&line, e)
			continue
		case <-every.C:
		}
		_, err := c.call(ctx, http.MethodGet, "/livez", nil, nil, nil)
		if gone(err) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errBroken) {
			return nil
		}
	}
}

func (a *app) showStopProgress(line *progressLine, e messages.Event) {
	switch {
	case a.json() || e.Total == 0:
	case a.term.live:
		line.text(fmt.Sprintf("%s %d/%d stopped", a.term.bar(float64(e.Done)/float64(e.Total), 20), e.Done, e.Total))
	default:
		a.printf("%d/%d stopped\n", e.Done, e.Total)
	}
}

// watchShutdown returns the progress of an ending hive. The channel closes when
// the stream ends or could not be opened.
func (c *client) watchShutdown(ctx context.Context) <-chan messages.Event {
	progress := make(chan messages.Event, 64)
	go func() {
		defer close(progress)
		stream, err := c.openEvents(ctx, nil, "")
		if err != nil {
			return
		}
		defer stream.Close()
		_ = stream.Each(func(e messages.Event, _ string) error {
			if e.Type != messages.HiveStopProgress || stream.known && e.Seq <= stream.last {
				return nil
			}
			select {
			case progress <- e:
				return nil
			case <-ctx.Done():
				return errStop
			}
		})
	}()
	return progress
}
