package messages

import (
	"sync"
	"testing"
	"time"
)

func ptr[T any](v T) *T { return &v }

func TestAPulseTellsOfTheFirstBeatAndOfChangesOfWork(t *testing.T) {
	p, now := &Pulse{}, time.Now()
	if p.Beat(1, now, nil) {
		t.Error("nothing is listened to yet")
	}
	p.Begin(1)
	for i, step := range []struct {
		tell bool
		want bool
	}{
		{p.Beat(1, now, nil), true},
		{p.Beat(1, now, nil), false},
		{p.Beat(1, now, &Stats{InFlight: ptr(2)}), true},
		{p.Beat(1, now, &Stats{InFlight: ptr(2)}), false},
		{p.Beat(1, now, &Stats{QueueDepth: ptr(9)}), false},
		{p.Beat(2, now, &Stats{InFlight: ptr(5)}), false}, // not its attempt
		{p.Note(1, &Stats{InFlight: ptr(0)}), true},
		{p.Seen(1, now, &Stats{InFlight: ptr(7)}), false}, // it knows better itself
	} {
		if step.tell != step.want {
			t.Errorf("step %d: tell is %v", i, step.tell)
		}
	}
	r := p.Read()
	if r.Kind != BeatNative || r.Beats != 5 || *r.Stats.InFlight != 0 || *r.Stats.QueueDepth != 9 {
		t.Errorf("%+v", r)
	}
	p.End()
	if p.Beat(1, now, &Stats{InFlight: ptr(1)}) || p.Read().Stats.InFlight != nil {
		t.Error("an ended attempt beats on")
	}
}

func TestANoteIsNoHeartbeat(t *testing.T) {
	p := &Pulse{}
	p.Begin(1)
	if !p.Note(1, &Stats{InFlight: ptr(1)}) {
		t.Error("work is told")
	}
	if r := p.Read(); r.Kind != BeatNone || !r.At.IsZero() {
		t.Errorf("%+v", r)
	}
}

func TestManySpeakAtOnce(t *testing.T) {
	p := &Pulse{}
	p.Begin(1)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 1000 {
				p.Beat(1, time.Now(), &Stats{InFlight: ptr((n + i) % 3)})
				p.Seen(1, time.Now(), nil)
				p.Uses(1, Resources{MemoryBytes: uint64(n)})
				_ = p.Read()
			}
		})
	}
	wg.Wait()
	if p.Read().Beats != 8000 {
		t.Errorf("%d beats", p.Read().Beats)
	}
}

func TestAStatusAsOfNow(t *testing.T) {
	p, at := &Pulse{}, time.Now()
	p.Begin(3)
	p.Beat(3, at, &Stats{TokensTotal: ptr(5.0)})
	p.Uses(3, Resources{MemoryBytes: 7})
	w := &WorkerStatus{Name: "w", PID: 1, Attempt: 3, Live: p, Resources: Resources{Unenforced: []string{"x"}}}
	n := w.Now(at.Add(2 * time.Second))
	if n.Heartbeat.Kind != BeatNative || *n.Heartbeat.AgeSeconds != 2 || *n.Stats.TokensTotal != 5 || n.Resources.MemoryBytes != 7 || len(n.Resources.Unenforced) != 1 {
		t.Errorf("%+v", n)
	}
	if w.Stats != nil || w.Resources.MemoryBytes != 0 {
		t.Error("a published status was changed")
	}
	w.Attempt = 4
	if w.Now(at) != w {
		t.Error("an old attempt's pulse shows")
	}
}

func TestWhatAWorkerTellsAndWhatIsSeenAreJoinedFieldByField(t *testing.T) {
	p := &Pulse{}
	p.Begin(1)
	p.Beat(1, time.Now(), nil) // a bare heartbeat tells no work
	p.Seen(1, time.Now(), &Stats{InFlight: ptr(2), TokensTotal: ptr(10.0)})
	if !p.Seen(1, time.Now(), &Stats{InFlight: ptr(0), TokensTotal: ptr(20.0)}) || *p.Read().Stats.InFlight != 0 || *p.Read().Stats.TokensTotal != 20 {
		t.Errorf("the engine's figures stand still beside heartbeats: %+v", p.Read().Stats)
	}
	p.Beat(1, time.Now(), &Stats{InFlight: ptr(1)}) // from now on it tells its work itself
	p.Seen(1, time.Now(), &Stats{InFlight: ptr(7), TokensTotal: ptr(30.0)})
	if r := p.Read(); *r.Stats.InFlight != 1 || *r.Stats.TokensTotal != 30 || r.Kind != BeatNative {
		t.Errorf("%+v", r)
	}
}
