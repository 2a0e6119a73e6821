package observe

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/rbee-hive/hive/engine"
	"github.com/rbee-hive/hive/messages"
)

// readEvery is how often an engine's own figures are read: a router that asks
// hive for the free worker wants them fresh, and a page of them costs an engine
// well under a millisecond.
const readEvery = 2 * time.Second

// Serving watches a ready worker until ctx ends: its health, its engine's
// figures, and whether its work moves. It returns at once when there is nothing
// to watch: no probe, no figures, and no heartbeat that tells of work.
func (w *Watcher) Serving(ctx context.Context, t Target, report func(Sighting)) {
	h, stall := t.Spec.Health, t.Spec.Progress.Stall.D()
	probes := h.HTTP != "" && h.Interval > 0 && h.Failures > 0
	r := t.Pulse.Read()
	stalls := stall > 0 && (r.Kind == messages.BeatNative || r.Stats.InFlight != nil || len(t.Sources) > 0)
	if !probes && len(t.Sources) == 0 && !stalls {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if stalls {
		// Beside the questions: an engine that lets them wait must not put this off.
		wg.Go(func() { defer cancel(); w.moves(ctx, t, stall, report) })
	}
	var probe, read <-chan time.Time
	if probes {
		tick := time.NewTicker(h.Interval.D())
		defer tick.Stop()
		probe = tick.C
	}
	if len(t.Sources) > 0 {
		tick := time.NewTicker(readEvery)
		defer tick.Stop()
		read = tick.C
		w.figures(t, report)
	}
	failed := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-probe:
			v, words := w.verdict(t, h.HTTP, h.Timeout.D())
			if v == engine.Ready {
				failed = 0
				if t.Pulse.Seen(t.Attempt, time.Now(), nil) {
					report(Sighting{Moved: true})
				}
				continue
			}
			if failed++; failed >= h.Failures {
				report(Sighting{Fault: messages.CauseHealthFailed,
					Detail: fmt.Sprintf("%d health probes in a row failed, the last: %s", failed, words)})
				return
			}
		case <-read:
			w.figures(t, report)
		}
	}
}

// moves reports work in flight that does not move, and returns.
func (w *Watcher) moves(ctx context.Context, t Target, stall time.Duration, report func(Sighting)) {
	watch := newStallWatch(t, stall)
	watch.every = min(max(stall/8, 50*time.Millisecond), 10*time.Second)
	tick := time.NewTicker(watch.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		evidence := watch.look(time.Now())
		if evidence == "" {
			continue
		}
		if h := t.Spec.Health; h.HTTP != "" {
			_, words := w.verdict(t, h.HTTP, h.Timeout.D())
			evidence += "; meanwhile " + words
		}
		report(Sighting{Fault: messages.CauseProgressStalled, Detail: evidence})
		return
	}
}

// figures reads what the engine tells of itself. One that does not answer is not
// at fault here: that is the health probe's.
func (w *Watcher) figures(t Target, report func(Sighting)) {
	var all messages.Stats
	got := false
	for _, s := range t.Sources {
		code, body, err := w.Get("http://"+t.Addr+s.Path, probeTimeout)
		if err != nil || code != 200 {
			continue
		}
		if st, err := s.Parse(body); err == nil {
			st.Fill(&all)
			got = true
		}
	}
	if got && t.Pulse.Seen(t.Attempt, time.Now(), &all) {
		report(Sighting{Moved: true})
	}
}

// stallWatch holds work in flight to its progress.
type stallWatch struct {
	t      Target
	stall  time.Duration
	every  time.Duration // how often it is looked at
	own    *regexp.Regexp
	meter  meter
	pos    int64 // of the log, up to which it was read
	before messages.Stats
	last   time.Time // when it was last looked at
	since  time.Time // since when nothing has moved; zero: nothing in flight
	cpu    time.Duration
}

func newStallWatch(t Target, stall time.Duration) *stallWatch {
	s := &stallWatch{t: t, stall: stall, own: ownPaths(t), pos: t.Log.Size(), last: time.Now()}
	s.meter.grown(t.Usage())
	return s
}

// look returns the evidence once work in flight has not moved for too long: no
// token, no finished request, no line of log beside hive's own echo, and less
// than busyShare of a core.
func (s *stallWatch) look(now time.Time) string {
	st := s.t.Pulse.Read().Stats
	over := now.Sub(s.last)
	s.last = now
	if st.InFlight == nil || *st.InFlight == 0 {
		s.since, s.before = time.Time{}, st
		s.pos = s.t.Log.Size()
		return ""
	}
	cpu, _ := s.meter.grown(s.t.Usage())
	if s.every > 0 && over > 2*s.every+2*time.Second {
		s.since = time.Time{} // hive itself stood still, and has not seen what moved
	}
	moved := s.since.IsZero() || grew(s.before.TokensTotal, st.TokensTotal) || grew(s.before.Requests, st.Requests) ||
		changed(s.before.InFlight, st.InFlight) || works(cpu, over) || s.wrote()
	s.before = st
	if moved {
		s.since, s.cpu = now, 0
		return ""
	}
	s.cpu += cpu
	quiet := now.Sub(s.since)
	if quiet < s.stall {
		return ""
	}
	tokens := "no token count is known"
	if st.TokensTotal != nil {
		tokens = fmt.Sprintf("no token (still %.0f)", *st.TokensTotal)
	}
	return fmt.Sprintf("%d in flight, and for %s %s, no line of log, and %.1f %% of a core", *st.InFlight,
		quiet.Round(100*time.Millisecond), tokens, 100*float64(s.cpu)/float64(quiet))
}

func grew(a, b *float64) bool { return b != nil && (a == nil || *b > *a) }
func changed(a, b *int) bool  { return b != nil && (a == nil || *a != *b) }

// wrote reports whether the log holds a new line that is not about a question
// of hive's own.
func (s *stallWatch) wrote() bool {
	buf := make([]byte, 64<<10)
	for {
		n, next, err := s.t.Log.ReadAt(buf, s.pos)
		if n == 0 || err != nil {
			return false
		}
		text := buf[:n]
		if i := bytes.LastIndexByte(text, '\n'); i >= 0 { // the rest of a line comes with the next look
			next -= int64(n - i - 1)
			text = text[:i+1]
		} else if n < len(buf) {
			return false
		}
		s.pos = next
		for line := range bytes.Lines(text) {
			if line = bytes.TrimSpace(line); len(line) > 0 && (s.own == nil || !s.own.Match(line)) {
				s.pos = s.t.Log.Size()
				return true
			}
		}
	}
}
