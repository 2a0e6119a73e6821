package pool_test

import (
	"fmt"
	"strings"
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

// crashUntil lets a worker crash until it is in a crash loop.
func crashUntilLoop(tr *actorstest.Tree, id messages.WorkerID) {
	tr.Creep(fmt.Sprintf("worker %s in crashloop", id), func() bool {
		if p := tr.Alive(id); p != nil {
			p.Crash()
		}
		return tr.Status(id).State == messages.Crashloop
	})
}

func TestACrashLoop(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("bad"), actorstest.Spec("good-1"), actorstest.Spec("good-2"))
	crashUntilLoop(tr, "bad")
	if n := len(tr.Processes("bad")); n != 6 { // the first one and max_restarts more
		t.Errorf("%d attempts before the crash loop", n)
	}
	st := tr.Status("bad")
	if st.Restarts.InWindow != 6 || st.Restarts.Total != 5 || st.Restarts.NextAt == nil || st.Restarts.NextAt.Sub(st.Since) != 5*time.Minute {
		t.Errorf("restarts %+v since %s", st.Restarts, st.Since)
	}
	if es := tr.Events(messages.WorkerCrashloop); len(es) != 1 || es[0].Worker != "bad" {
		t.Errorf("crash loop told %d times", len(es))
	}
	tr.Until("one of the pool's budget spent", func() bool {
		b := tr.Pool(messages.PoolCPU).Budget
		return b.Used == 1 && b.Max == 3
	})
	if p := tr.Pool(messages.PoolCPU); p.Degraded || p.Cordoned {
		t.Errorf("pool after one crash loop: %+v", p)
	}

	// Its mailbox is live, and its siblings never noticed.
	if r := tr.Do("bad", messages.VerbResume); r.Err == nil || r.Worker.State != messages.Crashloop {
		t.Errorf("answer in crashloop: %+v", r)
	}
	for _, id := range []messages.WorkerID{"good-1", "good-2"} {
		if ps := tr.Processes(id); len(ps) != 1 || !ps[0].Lives() || len(ps[0].Signals()) != 0 {
			t.Errorf("sibling %s has had %d processes", id, len(ps))
		}
	}
	if r := tr.Do("bad", messages.VerbReset); r.Err != nil {
		t.Error(r.Err)
	}
	tr.ComesBack("bad")
	if n := len(tr.Processes("bad")); n != 7 {
		t.Errorf("%d attempts after the reset", n)
	}
}

func TestTheSlowRetryOfACrashLoop(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("bad"))
	crashUntilLoop(tr, "bad")
	tr.Advance(5*time.Minute - time.Second)
	if r := tr.Do("bad", messages.VerbResume); r.Worker.State != messages.Crashloop {
		t.Errorf("a second early: %s", r.Worker.State)
	}
	tr.Advance(time.Second)
	tr.UntilState("bad", messages.Loading)
	tr.Alive("bad").Crash()
	tr.UntilState("bad", messages.Crashloop)
	if b := tr.Pool(messages.PoolCPU).Budget; b.Used != 1 {
		t.Errorf("a failed slow retry costs the pool again: %+v", b)
	}
}

func TestAPoolOverItsBudgetIsDegradedAndItsSiblingsLive(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("good"))
	for i := range 4 {
		id := messages.WorkerID(fmt.Sprintf("bad-%d", i))
		tr.CreateIdle(actorstest.Spec(id))
		crashUntilLoop(tr, id)
	}
	tr.Until("degraded", func() bool { return tr.Pool(messages.PoolCPU).Degraded })
	if ps := tr.Processes("good"); len(ps) != 1 || !ps[0].Lives() {
		t.Errorf("the healthy sibling has had %d processes", len(ps))
	}
}

// panics lets the worker's actor panic n times, by heartbeats that change its state.
func panics(tr *actorstest.Tree, id messages.WorkerID, n int) {
	for i := range n {
		before := len(tr.Events(messages.WorkerPanic))
		tr.Trap("emit", 1, func(a any) bool {
			e, ok := a.(messages.Event)
			return ok && e.Worker == id && e.Type == messages.WorkerRefused
		})
		tr.Tell(messages.DoWorker{Worker: id, Verb: messages.VerbResume}) // refused in every state but draining
		tr.Until(fmt.Sprintf("panic %d", i+1), func() bool { return len(tr.Events(messages.WorkerPanic)) == before+1 })
	}
}

func TestFivePanicsAreForgiven(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"), actorstest.Spec("sibling"))
	panics(tr, "w", 5)
	tr.ComesBack("w")
	if ps := tr.Processes("sibling"); len(ps) != 1 || !ps[0].Lives() {
		t.Errorf("the sibling has had %d processes", len(ps))
	}
}

func TestASixthPanicGivesTheActorUp(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"), actorstest.Spec("sibling"))
	panics(tr, "w", 6)
	tr.Until("its process gone", func() bool { return tr.Alive("w") == nil })
	tr.Until("its port given back", func() bool { _, held := tr.Leases()["w"]; return !held })
	made := len(tr.Processes("w"))
	tr.Advance(time.Hour)
	tr.Rest()
	if n := len(tr.Processes("w")); n != made {
		t.Errorf("it was started %d times after it was given up", n-made)
	}
	if ps := tr.Processes("sibling"); len(ps) != 1 || !ps[0].Lives() {
		t.Errorf("the sibling has had %d processes", len(ps))
	}
	if st := tr.Status("w"); st.PID != 0 || st.State != messages.Failed {
		t.Errorf("shown as %s with pid %d", st.State, st.PID)
	}
	tr.Tell(messages.Shutdown{Reason: "test"})
	tr.Until("the shutdown is over", func() bool { return len(tr.Ended()) == 1 })
}

// poolPanic lets the pool's actor panic, by a message that asks it to publish.
func poolPanic(tr *actorstest.Tree, want int) {
	before := tr.PanicsSeen()
	tr.Trap("publish pool", 1, func(any) bool { return true })
	tr.Tell(messages.CordonPool{Pool: messages.PoolCPU})
	tr.Until(fmt.Sprintf("panic %d of the pool", want), func() bool { return tr.Armed() == 0 && len(tr.PanicsSeen()) > len(before) })
}

func TestAPanicOfThePool(t *testing.T) {
	for _, manner := range []actorstest.Manner{actorstest.Obedient, actorstest.Stubborn} {
		tr := grow(t)
		tr.Behave("idle", manner)
		tr.Behave("busy", manner)
		tr.CreateIdle(actorstest.Spec("idle"), actorstest.Spec("busy"), actorstest.Spec("waits"), actorstest.Spec("stopped"))
		tr.Beat("busy", 1)
		tr.Do("stopped", messages.VerbStop)
		tr.UntilState("stopped", messages.Stopped)
		tr.Alive("waits").Crash()
		tr.UntilState("waits", messages.Backoff)
		release := tr.HoldLaunch("making")
		tr.Create(actorstest.Spec("making"))
		tr.UntilState("making", messages.Starting)

		poolPanic(tr, 1)
		release()
		for _, id := range []messages.WorkerID{"idle", "busy", "waits", "making"} {
			tr.ComesBack(id)
		}
		if n := len(tr.Living()); n != 4 {
			t.Errorf("%d processes live", n)
		}
		for _, p := range tr.Living() {
			if st := tr.Status(p.Worker); st.PID != p.PID() || st.Attempt != p.Attempt {
				t.Errorf("the process of attempt %d of worker %s was leaked", p.Attempt, p.Worker)
			}
		}
		if st := tr.Status("stopped"); st.State != messages.Stopped || len(tr.Processes("stopped")) != 1 {
			t.Errorf("a stopped worker is %s after a restart of its pool", st.State)
		}
		if len(tr.Fatals()) != 0 {
			t.Errorf("fatal: %v", tr.Fatals())
		}
	}
}

// TestPanicsOfThePoolFailTheRoot: the fourth within a minute restarts the root,
// and with it every pool.
func TestPanicsOfThePoolFailTheRoot(t *testing.T) {
	tr := actorstest.Grow(t, actorstest.Record(messages.PoolCPU), actorstest.Record("gpu-0"))
	t.Cleanup(tr.Fell)
	onGPU := actorstest.Spec("far")
	onGPU.GPU.Count = 1
	tr.CreateIdle(actorstest.Spec("w"), onGPU)
	far := tr.Alive("far")
	for i := range 3 {
		poolPanic(tr, i+1)
		tr.Rest()
	}
	if !far.Lives() {
		t.Fatal("three panics of a pool reached another pool")
	}
	poolPanic(tr, 4)
	tr.Until("the other pool restarted too", func() bool { return !far.Lives() })
	tr.ComesBack("w")
	tr.ComesBack("far")
	if len(tr.Fatals()) != 0 || len(tr.Living()) != 2 {
		t.Errorf("fatal %v, %d live", tr.Fatals(), len(tr.Living()))
	}
}

func TestPanicsOfThePoolMoreThanAMinuteApartStayInThePool(t *testing.T) {
	tr := actorstest.Grow(t, actorstest.Record(messages.PoolCPU), actorstest.Record("gpu-0"))
	t.Cleanup(tr.Fell)
	onGPU := actorstest.Spec("far")
	onGPU.GPU.Count = 1
	tr.CreateIdle(onGPU)
	for i := range 6 {
		poolPanic(tr, i+1)
		tr.Rest()
		tr.Advance(31 * time.Second)
	}
	if ps := tr.Processes("far"); len(ps) != 1 || !ps[0].Lives() {
		t.Errorf("the other pool's worker has had %d processes", len(ps))
	}
}

func TestAPanicOfThePoolWhileItJudgesAFailure(t *testing.T) {
	tr := grow(t)
	tr.CreateIdle(actorstest.Spec("w"), actorstest.Spec("sibling"))
	tr.Trap("emit", 1, func(a any) bool {
		e, ok := a.(messages.Event)
		return ok && e.Type == messages.WorkerPanic
	})
	tr.Trap("emit", 1, func(a any) bool {
		e, ok := a.(messages.Event)
		return ok && e.Type == messages.WorkerRefused
	})
	tr.Tell(messages.DoWorker{Worker: "w", Verb: messages.VerbResume})
	tr.Until("both panics", func() bool { return tr.Armed() == 0 })
	tr.ComesBack("w")
	tr.ComesBack("sibling")
	if n := len(tr.Living()); n != 2 {
		t.Errorf("%d processes live", n)
	}
}

func TestAPanicOfThePoolDoesNotLoseARemoval(t *testing.T) {
	tr := grow(t)
	tr.Behave("w", actorstest.Immortal)
	tr.CreateIdle(actorstest.Spec("w"))
	tr.Ask(func(to chan<- messages.Reply) any { return messages.RemoveWorker{Worker: "w", Reply: to} })
	tr.UntilState("w", messages.Stopping)
	poolPanic(tr, 1)
	tr.Rest()
	tr.Alive("w").Crash()
	tr.Until("forgotten", func() bool { return tr.Status("w") == nil })
}

func TestAPanicOfThePoolDoesNotLoseAShutdown(t *testing.T) {
	tr := grow(t)
	tr.Behave("slow", actorstest.Stubborn)
	tr.CreateIdle(actorstest.Spec("slow"), actorstest.Spec("quick"))
	tr.Tell(messages.Shutdown{Reason: "test"})
	tr.UntilState("quick", messages.Stopped)
	poolPanic(tr, 1)
	tr.Creep("the shutdown is over", func() bool { return len(tr.Ended()) == 1 })
	if len(tr.Living()) != 0 || len(tr.Leases()) != 0 {
		t.Errorf("%d live, leases %v", len(tr.Living()), tr.Leases())
	}
	for _, p := range tr.PanicsSeen() {
		if strings.HasPrefix(p, "worker ") {
			t.Error(p)
		}
	}
}

func TestNoLateProcessOfAWorkerWithoutAnActor(t *testing.T) {
	tr := grow(t)
	release := tr.HoldLaunch("w")
	defer release()
	tr.Create(actorstest.Spec("w"))
	tr.UntilState("w", messages.Starting)
	tr.Ask(func(to chan<- messages.Reply) any { return messages.RemoveWorker{Worker: "w", Reply: to} })
	tr.UntilState("w", messages.Stopping)
	poolPanic(tr, 1)
	tr.Rest()
	release()
	tr.Until("the late process is there and ended", func() bool { ps := tr.Processes("w"); return len(ps) == 1 && !ps[0].Lives() })
}
