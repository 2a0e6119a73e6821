package worker

import (
	"context"
	"errors"
	"time"
)

// silentAfter is how many intervals without an answer make hive silent, as many
// as hive itself allows a worker.
const silentAfter = 3

// Run sends a heartbeat at once and then every interval until ctx ends. The
// interval 0 is half of WATCHDOG_USEC, or 5 seconds. stats may be nil.
//
// A heartbeat that fails is followed by the next at its time: hive may be
// restarting. The error is nil when ctx has ended, and ErrStale when hive has
// given this attempt up, after which there is nothing left to tell.
func (w *Worker) Run(ctx context.Context, every time.Duration, stats func() Stats) error {
	if every <= 0 {
		every = w.every
	}
	if w.http == nil && w.notify == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	heard, silent := time.Now(), false
	for {
		var s Stats
		if stats != nil {
			s = stats()
		}
		err := w.beat(ctx, every, s)
		switch answered := err == nil || errors.As(err, new(*RefusedError)); {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrStale):
			return ErrStale
		case answered:
			if silent {
				w.tellSilent(0)
			}
			heard, silent = time.Now(), false
		case !silent && time.Since(heard) >= silentAfter*every:
			silent = true
			w.tellSilent(time.Since(heard))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// beat is a heartbeat that does not outlast its interval.
func (w *Worker) beat(ctx context.Context, every time.Duration, s Stats) error {
	ctx, cancel := context.WithTimeout(ctx, min(every, callTimeout))
	defer cancel()
	_, err := w.Heartbeat(ctx, s)
	return err
}

// tellSilent replaces a word that nobody has read.
func (w *Worker) tellSilent(d time.Duration) {
	select {
	case <-w.silent:
	default:
	}
	select {
	case w.silent <- d:
	default: // a second Run was faster, with news as fresh
	}
	w.mu.Lock()
	told := w.onSilent
	w.mu.Unlock()
	for _, f := range told {
		f(d)
	}
}

// Silent carries how long hive has been silent when Run finds that it has not
// answered for three intervals, and 0 when it is back. Only the newest word is
// kept for a reader. Over notify, hive is silent when nobody takes the datagrams.
func (w *Worker) Silent() <-chan time.Duration { return w.silent }

// OnSilent calls f with what Silent carries. Run waits for f.
func (w *Worker) OnSilent(f func(time.Duration)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onSilent = append(w.onSilent, f)
}
