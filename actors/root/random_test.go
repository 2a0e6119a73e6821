package root_test

import (
	"flag"
	"fmt"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rbee-hive/hive/actors/actorstest"
	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/messages"
)

// TestAnythingMayHappenToATree moves a whole tree by random requests, ends of
// processes, steps of the clock and panics of every actor. Whatever it was, a
// worker never has two living processes, a port is held by nobody who has no
// use for it, and after the shutdown nothing is left.
func TestAnythingMayHappenToATree(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("25") // each is a whole tree and takes a tenth of a second; ask for more by the flag
	}
	rapid.Check(t, func(t *rapid.T) {
		tr := actorstest.Grow(t, actorstest.Record(messages.PoolCPU), actorstest.Record("gpu-0"))
		defer tr.Fell()
		ids := []messages.WorkerID{"a", "b", "c", "d"}
		bugs := map[messages.WorkerID]int{} // more than five give the actor up, which has tests of its own
		poolBugs, rootBugs := 0, 0
		for i, id := range ids {
			tr.Behave(id, actorstest.Manner(rapid.IntRange(0, 1).Draw(t, "manner of "+string(id))))
			s := actorstest.Spec(id)
			if i%2 == 1 {
				s = onGPU(id)
			}
			s.Restart.Policy = rapid.SampledFrom([]messages.RestartPolicy{messages.RestartAlways, messages.RestartOnFailure, messages.RestartNever}).Draw(t, "policy")
			tr.Create(s)
		}
		anyID := rapid.SampledFrom(ids)
		steps := rapid.IntRange(5, 30).Draw(t, "steps")
		for range steps {
			id := anyID.Draw(t, "worker")
			switch rapid.SampledFrom([]string{"verb", "verb", "end", "end", "clock", "clock", "clock", "beat", "worker panic", "pool panic", "root panic", "nothing"}).Draw(t, "step") {
			case "verb":
				tr.Tell(messages.DoWorker{Worker: id, Verb: rapid.SampledFrom(messages.Verbs()).Draw(t, "verb")})
			case "end":
				if p := tr.Alive(id); p != nil {
					p.End(rapid.SampledFrom([]worker.Exit{{Code: 0}, {Code: 1}, {Signal: syscall.SIGSEGV}, {Unknown: true}}).Draw(t, "exit"))
				}
			case "clock":
				tr.Advance(rapid.SampledFrom([]time.Duration{time.Second, 2 * time.Second, 10 * time.Second, 5 * time.Minute}).Draw(t, "clock"))
			case "beat":
				if st := tr.Status(id); st != nil && st.Live != nil {
					tr.TellBeat(id, rapid.IntRange(0, 2).Draw(t, "in flight"))
				}
			case "worker panic":
				if bugs[id]++; bugs[id] > 4 {
					continue
				}
				call := rapid.SampledFrom([]string{"emit", "publish"}).Draw(t, "call")
				tr.Trap(call, 1, func(a any) bool { return ofWorker(a, id) })
				tr.Tell(messages.DoWorker{Worker: id, Verb: rapid.SampledFrom(messages.Verbs()).Draw(t, "verb")})
			case "pool panic":
				if poolBugs++; poolBugs > 2 {
					continue
				}
				tr.Trap(rapid.SampledFrom([]string{"publish pool", "lease"}).Draw(t, "call"), 1, func(any) bool { return true })
				tr.Tell(messages.CordonPool{Pool: "cpu"})
			case "root panic":
				if rootBugs++; rootBugs > 2 {
					continue
				}
				tr.Trap("emit", 1, func(a any) bool {
					e, ok := a.(messages.Event)
					return ok && e.Type == messages.PoolUncordoned
				})
				tr.Tell(messages.CordonPool{Pool: messages.PoolCPU})
			case "nothing":
				tr.Rest()
			}
			for _, v := range tr.Violations() {
				t.Fatalf("%s\n%s", v, tr.Picture())
			}
			if rapid.IntRange(0, 2).Draw(t, "look") == 0 {
				consistent(t, tr)
			}
		}
		tr.Disarm()
		if len(tr.Fatals()) != 0 {
			t.Fatalf("fatal: %v\n%s", tr.Fatals(), tr.Picture())
		}
		consistent(t, tr)
		tr.Tell(messages.Shutdown{Reason: "test"})
		tr.Creep("the shutdown is over", func() bool { return len(tr.Ended()) > 0 })
		tr.Until("nothing is left", func() bool { return len(tr.Living()) == 0 && len(tr.Leases()) == 0 })
		if n := len(tr.Ended()); n != 1 || len(tr.Ended()[0]) != 0 {
			t.Fatalf("ended %v\n%s", tr.Ended(), tr.Picture())
		}
		for _, v := range tr.Violations() {
			t.Fatalf("%s\n%s", v, tr.Picture())
		}
	})
}

// ofWorker fits what a worker's own actor tells, and not what its pool or the
// root tell of it. What is told on the way to starting is left out.
func ofWorker(a any, id messages.WorkerID) bool {
	switch m := a.(type) {
	case *messages.WorkerStatus:
		return m.Name == id && m.Attempt > 0
	case messages.Event:
		return m.Worker == id && m.Type != messages.WorkerCreated && m.Type != messages.WorkerRemoved && m.Type != messages.WorkerPanic &&
			(m.To == nil || *m.To != messages.Starting)
	}
	return false
}

// consistent waits until processes, leases and what is shown agree; they must
// without the clock being moved.
func consistent(t *rapid.T, tr *actorstest.Tree) {
	why := ""
	tr.Rest()
	tr.Until("a consistent world", func() bool {
		why = disagreement(tr)
		return why == "" || tr.Armed() > 0 && why == "no answer"
	})
	if why != "" {
		t.Fatalf("%s\n%s", why, tr.Picture())
	}
}

func disagreement(tr *actorstest.Tree) string {
	living := map[messages.WorkerID]int{}
	for _, p := range tr.Living() {
		living[p.Worker]++
	}
	for _, st := range tr.Statuses() {
		_, leased := tr.Leases()[st.Name]
		n := living[st.Name]
		switch st.State {
		case messages.Stopped, messages.Backoff, messages.Crashloop, messages.Pending:
			if n != 0 || leased {
				return fmt.Sprintf("worker %s is %s with %d processes, port held: %v", st.Name, st.State, n, leased)
			}
		case messages.Loading, messages.Idle, messages.Busy, messages.Draining:
			if n != 1 || !leased || st.Port == 0 {
				return fmt.Sprintf("worker %s is %s with %d processes, port held: %v, shown: %d", st.Name, st.State, n, leased, st.Port)
			}
		default:
			if n > 1 {
				return fmt.Sprintf("worker %s has %d processes", st.Name, n)
			}
		}
	}
	return ""
}
