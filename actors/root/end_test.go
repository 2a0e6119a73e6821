package root_test

import (
	"errors"
	"fmt"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/rbee-hive/hive/actors/actorstest"
	"github.com/rbee-hive/hive/messages"
)

func grow(t *testing.T) *actorstest.Tree {
	t.Helper()
	tr := actorstest.Grow(t, actorstest.Record(messages.PoolCPU), actorstest.Record("gpu-0"))
	t.Cleanup(tr.Fell)
	return tr
}

// rootPanic lets the root's actor panic, in the cordoning of a pool.
func rootPanic(tr *actorstest.Tree) {
	tr.Trap("emit", 1, func(a any) bool {
		e, ok := a.(messages.Event)
		return ok && e.Type == messages.PoolUncordoned
	})
	tr.Tell(messages.CordonPool{Pool: messages.PoolCPU})
	tr.Until("the panic", func() bool { return tr.Armed() == 0 })
}

func onGPU(id messages.WorkerID) messages.WorkerSpec {
	s := actorstest.Spec(id)
	s.GPU.Count = 1
	return s
}

func TestTheFourthFailureOfTheRootIsFatalOnce(t *testing.T) {
	tr := grow(t)
	tr.Behave("stubborn", actorstest.Stubborn)
	tr.CreateIdle(actorstest.Spec("w"), actorstest.Spec("stubborn"), onGPU("far"))
	for range 3 {
		rootPanic(tr)
		for _, id := range []messages.WorkerID{"w", "stubborn", "far"} {
			tr.UntilState(id, messages.Backoff)
		}
		for _, id := range []messages.WorkerID{"w", "stubborn", "far"} {
			tr.ComesBack(id)
		}
		if len(tr.Fatals()) != 0 || len(tr.Living()) != 3 {
			t.Fatalf("fatal %v, %d live", tr.Fatals(), len(tr.Living()))
		}
	}
	if took := tr.Now().Sub(actorstest.Epoch); took >= time.Minute {
		t.Fatalf("the failures are spread over %s", took)
	}
	rootPanic(tr)
	tr.Until("the fatal signal", func() bool { return len(tr.Fatals()) > 0 })
	tr.Until("no process left", func() bool { return len(tr.Living()) == 0 })
	made := len(tr.Processes("w"))
	tr.Tell(messages.CordonPool{Pool: messages.PoolCPU})
	tr.Advance(time.Hour)
	tr.Rest()
	if n := len(tr.Fatals()); n != 1 {
		t.Errorf("the fatal signal came %d times", n)
	}
	if n := len(tr.Processes("w")); n != made {
		t.Errorf("%d processes were made after the end", n-made)
	}
}

func TestFailuresOfTheRootThatAreFarApartAreForgiven(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"))
	for range 6 {
		rootPanic(tr)
		tr.ComesBack("w")
		tr.Advance(21 * time.Second)
	}
	if len(tr.Fatals()) != 0 || len(tr.Living()) != 1 {
		t.Errorf("fatal %v, %d live", tr.Fatals(), len(tr.Living()))
	}
}

func TestShutdownEndsAllWorkersInParallel(t *testing.T) {
	const n = 8
	tr := grow(t)
	var ids []messages.WorkerID
	for i := range n {
		id := messages.WorkerID(fmt.Sprintf("w-%d", i))
		ids = append(ids, id)
		tr.Behave(id, actorstest.Stubborn)
		s := actorstest.Spec(id)
		if i%2 == 1 {
			s = onGPU(id)
		}
		tr.CreateIdle(s)
	}
	tr.Tell(messages.Shutdown{Reason: "test"})
	tr.Until("every process has its stop signal", func() bool {
		for _, id := range ids {
			if sig := tr.Processes(id)[0].Signals(); len(sig) != 1 || sig[0] != syscall.SIGTERM {
				return false
			}
		}
		return true
	})
	if len(tr.Living()) != n {
		t.Fatalf("%d of %d live before any was let go", len(tr.Living()), n)
	}
	if r := tr.Ask(func(to chan<- messages.Reply) any {
		return messages.CreateWorker{Spec: actorstest.Spec("late"), Reply: to}
	}); !errors.Is(r.Err, messages.ErrShuttingDown) {
		t.Errorf("create during the shutdown: %v", r.Err)
	}

	// One that never ends does not hold the others.
	for i, id := range ids[1:] {
		tr.Processes(id)[0].Crash()
		tr.UntilState(id, messages.Stopped)
		if done := tr.Events(messages.HiveStopProgress); done[len(done)-1].Done > i+1 {
			t.Errorf("after %d ends: %s", i+1, done[len(done)-1])
		}
	}
	if len(tr.Ended()) != 0 || len(tr.Living()) != 1 {
		t.Fatalf("over while one lives: %v", tr.Ended())
	}
	tr.Advance(10 * time.Second) // its grace
	tr.Until("the shutdown is over", func() bool { return len(tr.Ended()) == 1 })
	if len(tr.Ended()[0]) != 0 || len(tr.Living()) != 0 || len(tr.Leases()) != 0 {
		t.Errorf("left %v, %d live, leases %v", tr.Ended()[0], len(tr.Living()), tr.Leases())
	}
	var done []int
	for _, e := range tr.Events(messages.HiveStopProgress) {
		done = append(done, e.Done)
		if e.Total != n {
			t.Errorf("progress %d/%d", e.Done, e.Total)
		}
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8}; !reflect.DeepEqual(done, want) {
		t.Errorf("progress %v, want %v", done, want)
	}
}

func TestShutdownReportsTheUnkillable(t *testing.T) {
	tr := grow(t)
	tr.Behave("d-state", actorstest.Immortal)
	tr.CreateIdle(actorstest.Spec("d-state"), actorstest.Spec("w"))
	tr.Tell(messages.Shutdown{Reason: "test"})
	tr.UntilState("w", messages.Stopped)
	tr.UntilState("d-state", messages.Stopping)
	tr.Advance(10 * time.Second)
	tr.Until("SIGKILL", func() bool { return len(tr.Processes("d-state")[0].Signals()) == 2 })
	tr.Rest() // the timer after SIGKILL is armed
	tr.Advance(2 * time.Second)
	tr.UntilState("d-state", messages.Unkillable)
	tr.Until("the shutdown is over", func() bool { return len(tr.Ended()) == 1 })
	if got := tr.Ended()[0]; !reflect.DeepEqual(got, []messages.WorkerID{"d-state"}) {
		t.Errorf("left behind: %v", got)
	}
}

func TestShutdownNowKillsWithoutGrace(t *testing.T) {
	tr := grow(t)
	tr.Behave("stubborn", actorstest.Stubborn)
	tr.CreateIdle(actorstest.Spec("stubborn"), actorstest.Spec("busy"))
	tr.Beat("busy", 3)
	tr.Tell(messages.Shutdown{Reason: "test"})
	tr.UntilState("busy", messages.Draining)
	tr.Tell(messages.Shutdown{Reason: "again", Now: true})
	tr.Until("the shutdown is over", func() bool { return len(tr.Ended()) == 1 })
	if len(tr.Living()) != 0 || len(tr.Ended()[0]) != 0 {
		t.Errorf("%d live, left %v", len(tr.Living()), tr.Ended()[0])
	}
	if n := len(tr.Events(messages.HiveStopping)); n != 1 {
		t.Errorf("the shutdown was told %d times", n)
	}
}

func TestShutdownOfWorkersThatDoNotRun(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("backoff"), actorstest.Spec("stopped"), actorstest.Spec("idle"))
	release := tr.HoldLaunch("making")
	defer release()
	tr.Create(actorstest.Spec("making"))
	tr.Ask(func(to chan<- messages.Reply) any { return messages.CordonPool{Pool: "gpu-0", On: true, Reply: to} })
	tr.Create(onGPU("pending"))
	tr.Alive("backoff").Crash()
	tr.UntilState("backoff", messages.Backoff)
	tr.Do("stopped", messages.VerbStop)
	tr.UntilState("stopped", messages.Stopped)
	tr.UntilState("making", messages.Starting)
	tr.Tell(messages.Shutdown{Reason: "test"})
	for _, id := range []messages.WorkerID{"backoff", "stopped", "idle", "pending"} {
		tr.UntilState(id, messages.Stopped)
	}
	if len(tr.Ended()) != 0 {
		t.Error("over while a process is being made")
	}
	release()
	tr.Until("the shutdown is over", func() bool { return len(tr.Ended()) == 1 })
	if len(tr.Living()) != 0 || len(tr.Leases()) != 0 || len(tr.Ended()[0]) != 0 {
		t.Errorf("%d live, leases %v, left %v", len(tr.Living()), tr.Leases(), tr.Ended()[0])
	}
}

func TestAPanicOfTheRootDoesNotLoseAShutdown(t *testing.T) {
	tr := grow(t)
	tr.Behave("slow", actorstest.Stubborn)
	tr.CreateIdle(actorstest.Spec("slow"), actorstest.Spec("quick"))
	tr.Tell(messages.Shutdown{Reason: "test"})
	tr.UntilState("quick", messages.Stopped)
	rootPanic(tr)
	tr.Creep("the shutdown is over", func() bool { return len(tr.Ended()) == 1 })
}

func TestNothingIsStartedByAReloadDuringAShutdown(t *testing.T) {
	tr := grow(t)
	tr.Tell(messages.Shutdown{Reason: "test"})
	r := tr.Ask(func(to chan<- messages.Reply) any {
		return messages.ApplyConfig{Specs: []messages.WorkerSpec{actorstest.Spec("w")}, Reply: to}
	})
	if !errors.Is(r.Err, messages.ErrShuttingDown) || tr.Status("w") != nil {
		t.Errorf("%v", r.Err)
	}
	tr.Until("an empty hive is over at once", func() bool { return len(tr.Ended()) == 1 })
}
