package observe

import (
	"bytes"
	"context"
	"regexp"
	"sync"
	"time"

	"github.com/rbee-hive/hive/engine"
	"github.com/rbee-hive/hive/messages"
)

// askEvery is how often a loading worker is asked: often enough that a load of
// a second is not doubled, rarely enough to cost nothing.
const askEvery = 100 * time.Millisecond

// readGrain is how much must be read for a load to move: answers to hive's own
// probes come to a few hundred bytes.
const readGrain = 64 << 10

// The sources of a load's progress, the best last.
const (
	sourceHistory = "history" // the time that the worker's load before took
	sourceBytes   = "bytes"   // what it has read, against the size of the model
	sourceLog     = "log"     // what its log says
)

// Loading watches a load until ctx ends. Readiness is reported once, by the one
// rule of the spec; progress when it grows; Advanced whenever the load was seen
// to do something.
func (w *Watcher) Loading(ctx context.Context, t Target, report func(Sighting)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	l := &load{t: t, report: report, began: time.Now(), own: ownPaths(t)}
	if t.Spec.Ready.Log != "" {
		l.pattern, _ = regexp.Compile(t.Spec.Ready.Log) // the configuration has checked it
	}
	wg.Go(func() { w.rule(ctx, t, report) })
	wg.Go(func() { _ = t.Log.Follow(ctx, 1000, l.text) })
	l.usage(ctx)
}

// rule reports ready once the spec's rule holds. With several the strongest
// counts: http, then tcp, then the command; the log pattern is the log's.
func (w *Watcher) rule(ctx context.Context, t Target, report func(Sighting)) {
	var holds func() bool
	switch r := t.Spec.Ready; {
	case r.HTTP != "":
		holds = func() bool { v, _ := w.verdict(t, r.HTTP, probeTimeout); return v == engine.Ready }
	case r.TCP:
		holds = func() bool { return w.connects(t) }
	case r.Log == "" && len(r.Command) > 0:
		holds = func() bool { return t.Command(ctx) }
	default:
		return
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	report(Sighting{Ready: true})
}

// load gathers what a load shows.
type load struct {
	t       Target
	report  func(Sighting)
	began   time.Time
	own     *regexp.Regexp
	pattern *regexp.Regexp
	line    []byte

	mu   sync.Mutex // guards best and said
	best int        // rank of the best source of progress so far
	said messages.Progress
}

var ranks = map[string]int{sourceHistory: 1, sourceBytes: 2, sourceLog: 3}

// text takes the log as it comes. A carriage return ends a line too: progress
// bars are drawn with it.
func (l *load) text(b []byte) error {
	for len(b) > 0 {
		i := bytes.IndexAny(b, "\r\n")
		if i < 0 {
			if len(l.line) < maxLine {
				l.line = append(l.line, b...)
			}
			return nil
		}
		l.sees(append(l.line, b[:i]...))
		l.line, b = l.line[:0], b[i+1:]
	}
	return nil
}

const maxLine = 64 << 10

func (l *load) sees(line []byte) {
	if len(line) == 0 {
		return
	}
	if l.pattern != nil && l.t.Spec.Ready.HTTP == "" && !l.t.Spec.Ready.TCP && l.pattern.Match(line) {
		l.report(Sighting{Ready: true})
		return
	}
	if l.own != nil && l.own.Match(line) {
		return
	}
	s := Sighting{Advanced: true}
	if p, ok := l.t.Engine.Load(string(line)); ok {
		p.Source = sourceLog
		s.Progress = l.better(p)
	}
	l.report(s)
}

// better passes progress on when no better source has spoken and it has grown.
func (l *load) better(p messages.Progress) *messages.Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := ranks[p.Source]
	if r < l.best || r == l.best && p.Stage == l.said.Stage && p.Value < l.said.Value+0.01 {
		return nil
	}
	l.best, l.said = r, p
	return &p
}

// usage looks at what the tree uses, and lets the clock speak where nothing else does.
func (l *load) usage(ctx context.Context) {
	every := time.Second
	if s := l.t.Spec.Ready.Stall.D(); s > 0 {
		every = min(max(s/8, 50*time.Millisecond), every)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	m := &meter{}
	_, total := m.grown(l.t.Usage()) // a fast load has read much before it is first looked at
	var unread int64
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		cpu, read := m.grown(l.t.Usage())
		total, unread = total+read, unread+read
		s := Sighting{Advanced: unread >= readGrain || works(cpu, now.Sub(last))}
		last = now
		if unread >= readGrain {
			unread = 0
		}
		switch {
		case l.t.Model > 0 && total > 0:
			s.Progress = l.better(messages.Progress{Stage: "reading the model", Source: sourceBytes, Value: share(float64(total) / float64(l.t.Model))})
		case l.t.LastLoad > 0:
			s.Progress = l.better(messages.Progress{Stage: "loading", Source: sourceHistory, Value: share(float64(now.Sub(l.began)) / float64(l.t.LastLoad))})
		}
		if s.Advanced || s.Progress != nil {
			l.report(s)
		}
	}
}

// share keeps a guess below the end, which only readiness tells.
func share(v float64) float64 { return min(max(v, 0), 0.99) }
