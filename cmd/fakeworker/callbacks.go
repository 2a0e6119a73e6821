package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/rbee-hive/hive/worker"
)

// tellTimeout is for words that the load waits for: a hive that hangs must not
// make a load much longer.
const tellTimeout = 500 * time.Millisecond

// contract is how the process speaks to hive; nil is a way not asked for.
type contract struct {
	any      *worker.Worker // whichever way there is, for words that have a flag of their own
	http     *worker.Worker
	notify   *worker.Worker
	beats    *worker.Worker // one of these two, or none
	progress []*worker.Worker
}

func (h *habits) contract() contract {
	c := contract{any: worker.FromEnv()}
	socket := os.Getenv("NOTIFY_SOCKET") != "" // else PreferNotify would be HTTP
	byNotify := worker.FromEnv(worker.PreferNotify())
	if h.notify && socket {
		c.notify = byNotify
	}
	if h.callbacks {
		c.http = worker.FromEnv()
		c.beats = c.http
		c.progress = append(c.progress, c.http)
	} else if h.heartbeatsAsked {
		c.beats = c.notify
	}
	if socket && (h.notifyProgress || c.beats != nil && c.beats == c.notify) {
		c.progress = append(c.progress, byNotify)
	}
	return c
}

// tell says one thing and complains on stderr where it cannot.
func tell(what string, say func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
	defer cancel()
	if err := say(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	}
}

// tellLoading says what is said once, before the load.
func (w *process) tellLoading() {
	if w.status != "" {
		tell("status", func(ctx context.Context) error { return w.hive.any.Status(ctx, w.status) })
	}
	if w.extend > 0 {
		tell("extend", func(ctx context.Context) error { return w.hive.any.Extend(ctx, w.extend) })
	}
}

func (w *process) tellProgress(done float64) {
	for _, way := range w.hive.progress {
		tell("progress", func(ctx context.Context) error { return way.Progress(ctx, "", done) })
	}
}

// tellReady says that the worker is ready in every way asked for, and starts
// the heartbeats.
func (w *process) tellReady() {
	times := 1
	if w.doubleReady {
		times = 2
	}
	for range times {
		for _, way := range []*worker.Worker{w.hive.notify, w.hive.http} {
			if way == nil {
				continue
			}
			if err := way.Ready(context.Background()); err != nil {
				fmt.Fprintf(os.Stderr, "ready: %v\n", err)
			}
		}
	}
	if w.hive.beats == nil {
		return
	}
	tick := time.NewTicker(w.heartbeatEvery)
	for {
		if w.muteAfter < 0 || time.Since(w.started) < w.muteAfter {
			w.beat()
		}
		select {
		case <-tick.C:
		case <-w.beatNow:
		}
	}
}

func (w *process) beat() {
	s := worker.Stats{InFlight: worker.Ptr(int(w.working()))}
	if w.tokenRate > 0 {
		s.TokensTotal = worker.Ptr(float64(w.tokens.Load()))
	}
	answer, err := w.hive.beats.Heartbeat(context.Background(), s)
	if err != nil {
		fmt.Fprintf(os.Stderr, "heartbeat: %v\n", err)
		return
	}
	if answer.Drain && !w.refuseDrain && !w.wedged.Load() && w.inFlight.Swap(0) > 0 {
		fmt.Println("drained")
		w.beatSoon()
	}
}

// beatSoon asks for a heartbeat before its time.
func (w *process) beatSoon() {
	select {
	case w.beatNow <- struct{}{}:
	default:
	}
}

// working is how many requests are in flight: of a wedged worker, one at least.
func (w *process) working() int64 {
	n := w.inFlight.Load()
	if w.wedged.Load() {
		n = max(n, 1)
	}
	return n
}
