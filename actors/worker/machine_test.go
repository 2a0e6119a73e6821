package worker

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rbee-hive/hive/messages"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is what the effects of a machine do to the outside, in a model.
type world struct {
	processes int // process trees that exist
	claims    int // resources held or asked for
	failed    bool
	preparing bool
}

func (w *world) perform(t *rapid.T, m Machine, fx []Effect) {
	for _, f := range fx {
		switch f.Do {
		case DoStartProcess:
			w.processes++
			if w.processes > 1 {
				t.Fatalf("a second process for one worker in %s", m.State)
			}
		case DoQueue:
			if w.claims != 0 && m.Claimed {
				t.Fatalf("asks for resources while it holds some, in %s", m.State)
			} // asking again after a rebirth replaces the earlier request
			w.claims = 1
		case DoRelease:
			w.claims = 0
		case DoFail:
			w.failed = true
		case DoPrepare:
			if m.Queued || m.Claimed {
				t.Fatalf("prepares while it holds or waits for resources, in %s", m.State)
			}
			w.preparing = true
		case DoUnprepare:
			w.preparing = false
		case DoLoaded, DoWatchReady, DoServe, DoUnwatch, DoSignal, DoKillTree, DoSweep, DoSweepNow, DoArm, DoDisarm, DoClearHistory:
		}
	}
}

// TestAnyOrderOfEvents draws random orders of events, true to what can happen
// outside (a process that does not exist cannot exit) but otherwise free, and
// holds the machine to its promises.
func TestAnyOrderOfEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Machine{Worker: "w", Policy: rapid.SampledFrom([]messages.RestartPolicy{messages.RestartAlways, messages.RestartOnFailure, messages.RestartNever}).Draw(t, "policy"), Prepare: rapid.Bool().Draw(t, "prepare")}
		w := &world{}
		step := func(ev Event) {
			next, fx, err := Step(m, ev, t0)
			if err != nil {
				if next != m || fx != nil {
					t.Fatalf("refused %s in %s, but changed something", ev.Kind, m.State)
				}
				return
			}
			if ev.Kind == Gone {
				w.processes = 0
			}
			m = next
			w.perform(t, m, fx)
		}
		step(Event{Kind: Reborn})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if w.failed { // the actor has failed: the next thing it hears is the verdict
				w.failed = false
				step(Event{Kind: rapid.SampledFrom([]EventKind{RetryLater, Looping, Never}).Draw(t, "verdict"), Delay: time.Second})
				continue
			}
			ev := Event{Kind: rapid.SampledFrom(EventKinds()).Draw(t, "event"), InFlight: rapid.IntRange(0, 2).Draw(t, "in flight"),
				Cause: rapid.SampledFrom(messages.Causes()).Draw(t, "cause")}
			switch ev.Kind {
			case RetryLater, Looping, Never:
				continue // only after a failure
			case Admit:
				ev.Ticket = m.Ticket - uint64(rapid.IntRange(0, 1).Draw(t, "stale"))
			case Spawned, SpawnFailed:
				if m.Proc != ProcMaking {
					continue
				}
			case Exited, Ready, InFlight:
				if m.Proc != ProcAlive {
					continue
				}
			case Prepared, PrepareFailed:
				if !w.preparing || m.State != messages.Pending { // the actor drops the end of a run that was taken back
					continue
				}
				w.preparing = false
			case Gone:
				if m.Proc != ProcSweeping {
					continue
				}
			case Fault:
				if m.Proc != ProcAlive || m.State == messages.Failed {
					continue
				}
			default:
			}
			before := m
			step(ev)
			check(t, before, ev, m, w)
		}
	})
}

func check(t *rapid.T, before Machine, ev Event, m Machine, w *world) {
	if m.State == messages.Lost {
		t.Fatalf("a local worker became lost")
	}
	if (m.Proc == ProcNone) != (w.processes == 0) {
		t.Fatalf("%s by %s to %s: process phase %d, but %d process trees exist", before.State, ev.Kind, m.State, m.Proc, w.processes)
	}
	if (m.Claimed || m.Queued) != (w.claims == 1) {
		t.Fatalf("%s by %s to %s: claimed %v queued %v, but %d claims", before.State, ev.Kind, m.State, m.Claimed, m.Queued, w.claims)
	}
	if w.preparing && m.State != messages.Pending {
		t.Fatalf("%s by %s to %s: prepare still runs", before.State, ev.Kind, m.State)
	}
	switch m.State {
	case messages.Stopped, messages.Backoff, messages.Crashloop:
		if w.processes != 0 || w.claims != 0 {
			t.Fatalf("%s holds %d processes and %d claims", m.State, w.processes, w.claims)
		}
	case messages.Loading, messages.Idle, messages.Busy, messages.Draining:
		if m.Proc != ProcAlive {
			t.Fatalf("%s without a living process", m.State)
		}
	default:
	}
	if before.State == messages.Loading && m.State == messages.Busy || before.State != messages.Loading && before.State != messages.Busy && before.State != messages.Draining && m.State == messages.Idle && before.State != messages.Idle {
		t.Fatalf("%s to %s by %s", before.State, m.State, ev.Kind)
	}
	if before.State == messages.Loading && m.State == messages.Idle && ev.Kind != Ready {
		t.Fatalf("loading to idle by %s", ev.Kind)
	}
}

// TestEveryAbsenceIsOnPurpose walks every pair; a pair without a row must be
// refused, naming both states, and leave the machine as it was.
func TestEveryAbsenceIsOnPurpose(t *testing.T) {
	rows := map[messages.State]map[EventKind]bool{}
	for _, r := range Table {
		if rows[r.From] == nil {
			rows[r.From] = map[EventKind]bool{}
		}
		rows[r.From][r.On] = true
	}
	for _, s := range messages.States() {
		for _, k := range EventKinds() {
			if rows[s][k] {
				continue
			}
			m := Machine{Worker: "w", State: s, Queued: true, Reason: "as it was"}
			next, fx, err := Step(m, Event{Kind: k}, t0)
			var illegal *messages.IllegalError
			if !errors.As(err, &illegal) || illegal.From != s {
				t.Errorf("%s by %s: want a refusal, got %v", s, k, err)
			}
			if next != m || len(fx) != 0 {
				t.Errorf("%s by %s: refused and yet changed", s, k)
			}
		}
	}
	if rows[messages.Lost] != nil {
		t.Error("lost belongs to the fleet's view alone")
	}
}

func TestAnOldAttemptIsRefused(t *testing.T) {
	m := Machine{Worker: "w", State: messages.Loading, Attempt: 3, Proc: ProcAlive}
	next, _, err := Step(m, Event{Kind: Ready, Attempt: 2}, t0)
	if !errors.Is(err, messages.ErrStaleAttempt) || next != m {
		t.Fatalf("got %v, %v", next.State, err)
	}
}

func BenchmarkStep(b *testing.B) {
	m := Machine{Worker: "w", State: messages.Idle, Attempt: 1, Proc: ProcAlive}
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = Step(m, Event{Kind: InFlight, InFlight: 1}, t0)
	}
}
