package worker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rbee-hive/hive/actors/actorstest"
	"github.com/rbee-hive/hive/messages"
)

func grow(t *testing.T) *actorstest.Tree {
	t.Helper()
	tr := actorstest.Grow(t)
	t.Cleanup(tr.Fell)
	return tr
}

func TestADeadProcessIsFollowedByANewAttemptAfterTheBackoff(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"))
	tr.Alive("w").Crash()
	st := tr.UntilState("w", messages.Backoff)
	if st.Attempt != 1 || st.PID != 0 || st.LastExit == nil || st.LastExit.Cause != messages.CauseSignal || st.LastExit.Signal != "SIGSEGV" {
		t.Errorf("in backoff: %+v, last exit %+v", st, st.LastExit)
	}
	if st.Restarts.NextAt == nil || !st.Restarts.NextAt.Equal(tr.Now().Add(time.Second)) {
		t.Errorf("next attempt at %v, it is %v", st.Restarts.NextAt, tr.Now())
	}
	tr.Until("no port is held during the backoff", func() bool { return len(tr.Leases()) == 0 })

	// The mailbox is live: a request is answered while it waits.
	if r := tr.Do("w", messages.VerbDrain); r.Err == nil || r.Worker.State != messages.Backoff {
		t.Errorf("answer during the backoff: %+v", r)
	}
	tr.Advance(999 * time.Millisecond)
	if r := tr.Do("w", messages.VerbDrain); r.Worker.State != messages.Backoff || len(tr.Processes("w")) != 1 {
		t.Errorf("a millisecond early: %s, %d processes", r.Worker.State, len(tr.Processes("w")))
	}
	tr.Advance(time.Millisecond)
	st = tr.UntilState("w", messages.Loading)
	if st.Attempt != 2 || st.Restarts.Total != 1 || tr.Alive("w") == nil || tr.Alive("w").Attempt != 2 {
		t.Errorf("after the backoff: %+v", st)
	}
}

func TestTheBackoffGrows(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"))
	for _, want := range []time.Duration{1, 2, 4, 8, 16} {
		tr.Alive("w").Crash()
		st := tr.UntilState("w", messages.Backoff)
		if got := st.Restarts.NextAt.Sub(tr.Now()); got != want*time.Second {
			t.Errorf("attempt %d: waits %s, want %s", st.Attempt, got, want*time.Second)
		}
		tr.Advance(want * time.Second)
		tr.UntilState("w", messages.Loading)
	}
}

func TestALateGrantLeavesAStoppedWorkerWithoutAPort(t *testing.T) {
	tr := grow(t)
	for i := range 50 { // the stop meets the grant on its way in some of them
		id := messages.WorkerID(fmt.Sprintf("w-%d", i))
		tr.Tell(messages.CreateWorker{Spec: actorstest.Spec(id)})
		tr.Do(id, messages.VerbStop)
		tr.UntilState(id, messages.Stopped)
		if st := tr.Do(id, messages.VerbReset).Worker; st.State != messages.Stopped || st.Port != 0 || st.URL != "" {
			t.Fatalf("a stopped worker shows port %d, %q", st.Port, st.URL)
		}
		if p, ok := tr.Leases()[id]; ok {
			t.Fatalf("a stopped worker holds port %d", p)
		}
	}
}

// inState fits the publication of a worker's status in a state.
func inState(id messages.WorkerID, s messages.State) func(any) bool {
	return func(a any) bool {
		st, ok := a.(*messages.WorkerStatus)
		return ok && st.Name == id && st.State == s && (st.Attempt > 0 || s == messages.Pending && st.Reason != "waits for its pool")
	}
}

// enters fits the event that tells of a transition.
func enters(id messages.WorkerID, s messages.State) func(any) bool {
	return func(a any) bool {
		e, ok := a.(messages.Event)
		return ok && e.Type == messages.WorkerState && e.Worker == id && e.To != nil && *e.To == s
	}
}

// into drives a fresh worker to a state.
var into = []struct {
	state messages.State
	drive func(tr *actorstest.Tree)
}{
	{messages.Starting, func(*actorstest.Tree) {}},
	{messages.Loading, func(*actorstest.Tree) {}},
	{messages.Idle, func(tr *actorstest.Tree) {
		tr.Rest()
		tr.Advance(time.Second)
	}},
	{messages.Busy, func(tr *actorstest.Tree) {
		tr.UntilState("w", messages.Loading)
		tr.Advance(time.Second)
		tr.UntilState("w", messages.Idle)
		tr.TellBeat("w", 2)
	}},
	{messages.Draining, func(tr *actorstest.Tree) {
		tr.UntilState("w", messages.Loading)
		tr.Advance(time.Second)
		tr.UntilState("w", messages.Idle)
		tr.Beat("w", 2)
		tr.Tell(messages.DoWorker{Worker: "w", Verb: messages.VerbRestart})
	}},
	{messages.Stopping, func(tr *actorstest.Tree) {
		tr.UntilState("w", messages.Loading)
		tr.Tell(messages.DoWorker{Worker: "w", Verb: messages.VerbRestart})
	}},
	{messages.Failed, func(tr *actorstest.Tree) {
		tr.UntilState("w", messages.Loading)
		tr.Alive("w").Crash()
	}},
	{messages.Backoff, func(tr *actorstest.Tree) {
		tr.UntilState("w", messages.Loading)
		tr.Alive("w").Crash()
	}},
	{messages.Pending, func(tr *actorstest.Tree) {
		tr.UntilState("w", messages.Loading)
		tr.Alive("w").Crash()
		tr.UntilState("w", messages.Backoff)
		tr.Advance(time.Second)
	}},
}

// TestAPanicOfTheActorInEveryState lets the actor panic once, before (emit) or
// after (publish) the effects of entering a state were performed.
func TestAPanicOfTheActorInEveryState(t *testing.T) {
	for _, manner := range []actorstest.Manner{actorstest.Obedient, actorstest.Stubborn} {
		for _, call := range []string{"emit", "publish"} {
			for _, c := range into {
				t.Run(fmt.Sprintf("%s %s manner %d", call, c.state, manner), func(t *testing.T) {
					tr := grow(t)
					tr.Behave("w", manner)
					tr.CreateIdle(actorstest.Spec("sibling"))
					fits := enters("w", c.state)
					if call == "publish" {
						fits = inState("w", c.state)
					}
					tr.Trap(call, 1, fits)
					tr.Create(actorstest.Spec("w"))
					c.drive(tr)
					tr.Until("the panic", func() bool { return len(tr.Events(messages.WorkerPanic)) == 1 })
					if tr.Armed() != 0 {
						t.Fatal("the trap was not sprung")
					}
					tr.ComesBack("w")
					check(t, tr)
					if n := len(tr.Processes("sibling")); n != 1 || tr.Alive("sibling") == nil {
						t.Errorf("the sibling has had %d processes", n)
					}
				})
			}
		}
	}
}

// check holds what is true of every tree at rest with workers w and sibling idle.
func check(t *testing.T, tr *actorstest.Tree) {
	t.Helper()
	living := map[messages.WorkerID]int{}
	for _, p := range tr.Living() {
		living[p.Worker]++
		if p.Attempt != tr.Status(p.Worker).Attempt {
			t.Errorf("the process of attempt %d of worker %s was leaked, it is at %d", p.Attempt, p.Worker, tr.Status(p.Worker).Attempt)
		}
	}
	for id, n := range living {
		if n > 1 {
			t.Errorf("worker %s has %d living processes", id, n)
		}
	}
	for _, v := range tr.Violations() {
		t.Error(v)
	}
}

func TestAPanicWhileTheProcessIsStillBeingMade(t *testing.T) {
	tr := grow(t)
	release := tr.HoldLaunch("w")
	defer release()
	tr.Trap("publish", 1, inState("w", messages.Starting))
	tr.Create(actorstest.Spec("w"))
	tr.Until("the panic", func() bool { return len(tr.Events(messages.WorkerPanic)) == 1 })
	tr.UntilState("w", messages.Failed)
	if r := tr.Do("w", messages.VerbReset); r.Worker.State != messages.Failed {
		t.Errorf("%s while its process is being made", r.Worker.State)
	}
	release()
	tr.Until("the late process is ended", func() bool { p := tr.Processes("w"); return len(p) == 1 && !p[0].Lives() })
	tr.ComesBack("w")
	check(t, tr)
}

func TestAPanicWhenTheExitIsTold(t *testing.T) {
	for _, typ := range []messages.EventType{messages.WorkerExited, messages.WorkerPhase, messages.WorkerRestarting} {
		t.Run(string(typ), func(t *testing.T) {
			tr := grow(t)
			tr.CreateIdle(actorstest.Spec("w"), actorstest.Spec("sibling"))
			tr.Trap("emit", 1, func(a any) bool {
				e, ok := a.(messages.Event)
				return ok && e.Worker == "w" && e.Type == typ
			})
			tr.Alive("w").Crash()
			tr.Until("the panic", func() bool { return len(tr.Events(messages.WorkerPanic)) == 1 })
			tr.ComesBack("w")
			check(t, tr)
		})
	}
}

func TestAPanicDoesNotUndoAStopByRequest(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"))
	tr.Trap("publish", 1, inState("w", messages.Stopping))
	tr.Tell(messages.DoWorker{Worker: "w", Verb: messages.VerbStop})
	tr.UntilState("w", messages.Stopped)
	tr.Advance(time.Hour)
	tr.Rest()
	if n := len(tr.Processes("w")); n != 1 || len(tr.Living()) != 0 || len(tr.Leases()) != 0 {
		t.Errorf("%d processes were made, %d live, leases %v", n, len(tr.Living()), tr.Leases())
	}
}

func TestAPanicDoesNotUndoADrainByRequest(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"))
	tr.Beat("w", 1)
	tr.Trap("publish", 1, inState("w", messages.Draining))
	tr.Tell(messages.DoWorker{Worker: "w", Verb: messages.VerbDrain})
	tr.Until("the panic", func() bool { return len(tr.Events(messages.WorkerPanic)) == 1 })
	tr.UntilState("w", messages.Stopped)
	tr.Until("nothing is held", func() bool { return len(tr.Living()) == 0 && len(tr.Leases()) == 0 })
}

func TestAPanicInTheLaunchIsAFailedStart(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("sibling"))
	tr.Trap("launch", 1, func(any) bool { return true })
	tr.Create(actorstest.Spec("w"))
	tr.UntilState("w", messages.Backoff)
	tr.ComesBack("w")
	check(t, tr)
}
