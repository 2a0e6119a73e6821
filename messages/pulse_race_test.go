package messages

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestEachChangeIsToldOnce: of many that beat the same at once, one is told of.
func TestEachChangeIsToldOnce(t *testing.T) {
	p := &Pulse{}
	p.Begin(1)
	for n := range 200 {
		var told atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if p.Beat(1, time.Now(), &Stats{InFlight: ptr(n)}) {
					told.Add(1)
				}
				if p.Beat(7, time.Now(), &Stats{InFlight: ptr(n + 1)}) || p.Note(0, &Stats{InFlight: ptr(n + 1)}) || p.Seen(2, time.Now(), &Stats{InFlight: ptr(n + 1)}) {
					t.Error("another attempt is listened to")
				}
			})
		}
		wg.Wait()
		if told.Load() != 1 {
			t.Fatalf("%d in flight was told %d times", n, told.Load())
		}
	}
}

// TestAnEarlierAttemptIsOver, also for one that is in the middle of a word.
func TestAnEarlierAttemptIsOver(t *testing.T) {
	p := &Pulse{}
	var wg sync.WaitGroup
	for a := range Attempt(50) {
		p.Begin(a + 1)
		if r := p.Read(); r.Attempt != a+1 || r.Kind != BeatNone || r.Beats != 0 || r.Stats != (Stats{}) || p.Used(a+1).MemoryBytes != 0 {
			t.Fatalf("attempt %d begins with %+v", a+1, r)
		}
		for range 4 {
			wg.Go(func() {
				p.Beat(a+1, time.Now(), &Stats{InFlight: ptr(int(a + 1))})
				p.Uses(a+1, Resources{MemoryBytes: uint64(a + 1)})
				if r := p.Read(); r.Stats.InFlight != nil && *r.Stats.InFlight != int(r.Attempt) {
					t.Errorf("attempt %d has the work of %d", r.Attempt, *r.Stats.InFlight)
				}
			})
		}
	}
	wg.Wait()
	if r := p.Used(49); r.MemoryBytes != 0 {
		t.Errorf("an earlier attempt uses %d", r.MemoryBytes)
	}
}

func TestWhatIsSeenDoesNotReplaceWhatIsTold(t *testing.T) {
	p, at := &Pulse{}, time.Now()
	p.Begin(1)
	if !p.Seen(1, at, &Stats{InFlight: ptr(3)}) || p.Read().Kind != BeatSynthetic {
		t.Errorf("%+v", p.Read())
	}
	if !p.Beat(1, at, &Stats{InFlight: ptr(1)}) {
		t.Error("its own word changes what is in flight")
	}
	for range 3 {
		if p.Seen(1, at.Add(time.Hour), &Stats{InFlight: ptr(9)}) {
			t.Error("told of what a worker knows better")
		}
	}
	if r := p.Read(); r.Kind != BeatNative || !r.At.Equal(at) || *r.Stats.InFlight != 1 {
		t.Errorf("%s at %s, %d in flight", r.Kind, r.At, *r.Stats.InFlight)
	}
}

// TestTheActorHearsAgain of what it took differently from what was told.
func TestTheActorHearsAgain(t *testing.T) {
	p := &Pulse{}
	p.Begin(1)
	p.Beat(1, time.Now(), &Stats{InFlight: ptr(2)})
	p.Told(0) // a drain of an unknown load, say
	if !p.Beat(1, time.Now(), &Stats{InFlight: ptr(2)}) {
		t.Error("not told that it is 2 still")
	}
	if p.Beat(1, time.Now(), &Stats{InFlight: ptr(2)}) {
		t.Error("told twice")
	}
}

// TestAReadingIsNotChanged: neither by its giver nor by what comes next.
func TestAReadingIsNotChanged(t *testing.T) {
	p := &Pulse{}
	p.Begin(1)
	n := 4
	p.Beat(1, time.Now(), &Stats{InFlight: &n})
	before := p.Read()
	n = 5
	p.Beat(1, time.Now(), &Stats{InFlight: ptr(6)})
	if *before.Stats.InFlight != 4 {
		t.Errorf("a reading changed to %d", *before.Stats.InFlight)
	}
}
