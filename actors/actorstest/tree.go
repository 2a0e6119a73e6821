package actorstest

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/pool"
	"github.com/rbee-hive/hive/actors/root"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// HangBound is how long anything is waited for. Nothing takes that long unless it hangs.
const HangBound = 10 * time.Second

// TB is what the helpers need of a test; *testing.T and *rapid.T have it.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Tree is a whole supervision tree in its fake world.
type Tree struct {
	*Host
	T      TB
	Root   *actor.PID
	Book   *root.Book
	mu     sync.Mutex // guards fatals
	fatals []error
}

// Record is a pool with the default budget.
func Record(id messages.PoolID) *pool.Record {
	return &pool.Record{ID: id, Policy: supervision.PoolPolicy{MaxCrashloops: 3, Window: 10 * time.Minute}}
}

// Grow plants a tree under a guardian; Fell ends it.
func Grow(t TB, pools ...*pool.Record) *Tree {
	t.Helper()
	if len(pools) == 0 {
		pools = []*pool.Record{Record(messages.PoolCPU)}
	}
	tr := &Tree{Host: NewHost(), T: t, Book: &root.Book{Pools: pools}}
	tr.System = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	g := &supervision.Guardian{Max: 3, Period: time.Minute, Now: tr.Now, Fatal: func(err error) {
		tr.mu.Lock()
		tr.fatals = append(tr.fatals, err)
		tr.mu.Unlock()
	}}
	pid, err := tr.System.Root.SpawnNamed(root.Props(tr.Book, tr.Host).Configure(actor.WithGuardian(g)), "hive")
	if err != nil {
		t.Fatalf("%v", err)
	}
	tr.Root = pid
	return tr
}

// Fell stops all actors and ends what lives, whatever state the test left.
func (tr *Tree) Fell() {
	tr.Disarm()
	for _, p := range tr.Living() {
		p.Crash()
	}
	tr.System.Root.Stop(tr.Root)
	for _, v := range tr.Violations() {
		tr.T.Errorf("%s", v)
	}
}

// Fatals are the errors that reached the top.
func (tr *Tree) Fatals() []error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]error(nil), tr.fatals...)
}

// Spec is an ordinary worker, ready one second after its start.
func Spec(name messages.WorkerID) messages.WorkerSpec {
	sec := func(n int) messages.Duration { return messages.Duration(time.Duration(n) * time.Second) }
	return messages.WorkerSpec{Name: name, Base: string(name), Command: []string{"serve"}, Engine: "exec", Port: "auto",
		Restart: messages.RestartSpec{Policy: messages.RestartOnFailure, Backoff: messages.BackoffSpec{Initial: sec(1), Max: sec(60), Factor: 2, Jitter: 0.25},
			MaxRestarts: 5, Window: sec(600), StableAfter: sec(600), SlowRetry: sec(300)},
		Ready: messages.ReadySpec{Settle: sec(1), Timeout: sec(1800)},
		Stop:  messages.StopSpec{Signal: "SIGTERM", Drain: sec(30), Grace: sec(10)}}
}

// Until waits for a fact, which must come without the clock being moved.
func (tr *Tree) Until(what string, holds func() bool) {
	tr.T.Helper()
	if err := tr.await(holds); err != nil {
		tr.T.Fatalf("%s: did not come to be\n%s", what, tr.Picture())
	}
}

func (tr *Tree) await(holds func() bool) error {
	bound := time.NewTimer(HangBound)
	defer bound.Stop()
	look := time.NewTicker(5 * time.Millisecond) // for what the host does not hear of
	defer look.Stop()
	for {
		tr.Host.mu.Lock()
		changed := tr.changed
		tr.Host.mu.Unlock()
		if holds() {
			return nil
		}
		select {
		case <-changed:
		case <-look.C:
		case <-bound.C:
			return fmt.Errorf("not within %s", HangBound)
		}
	}
}

// UntilState waits for a worker's state.
func (tr *Tree) UntilState(id messages.WorkerID, want messages.State) *messages.WorkerStatus {
	tr.T.Helper()
	var st *messages.WorkerStatus
	tr.Until(fmt.Sprintf("worker %s %s", id, want), func() bool {
		st = tr.Status(id)
		return st != nil && st.State == want
	})
	return st
}

// Picture is the world in words, for a failure's message.
func (tr *Tree) Picture() string {
	s := ""
	for _, st := range tr.Statuses() {
		s += fmt.Sprintf("  %s #%d %s: %s\n", st.Name, st.Attempt, st.State, st.Reason)
	}
	s += fmt.Sprintf("  living %d, leases %v, ended %v, panicked %v\n", len(tr.Living()), tr.Leases(), tr.Ended(), tr.PanicsSeen())
	es := tr.Events()
	for _, e := range es[max(0, len(es)-25):] {
		s += "  " + e.String() + "\n"
	}
	return s
}

// Tell sends the root a message whose answer nobody waits for.
func (tr *Tree) Tell(m any) { tr.System.Root.Send(tr.Root, m) }

// Ask sends the root a message and waits for its answer.
func (tr *Tree) Ask(m func(chan<- messages.Reply) any) messages.Reply {
	tr.T.Helper()
	ch := make(chan messages.Reply, 1)
	tr.Tell(m(ch))
	select {
	case r := <-ch:
		return r
	case <-time.After(HangBound):
		tr.T.Fatalf("no answer\n%s", tr.Picture())
		return messages.Reply{}
	}
}

// Create declares a worker.
func (tr *Tree) Create(s messages.WorkerSpec) {
	tr.T.Helper()
	if r := tr.Ask(func(to chan<- messages.Reply) any { return messages.CreateWorker{Spec: s, Reply: to} }); r.Err != nil {
		tr.T.Fatalf("create %s: %v", s.Name, r.Err)
	}
}

// CreateIdle declares workers and waits until they are idle.
func (tr *Tree) CreateIdle(specs ...messages.WorkerSpec) {
	tr.T.Helper()
	for _, s := range specs {
		tr.Create(s)
	}
	for _, s := range specs {
		tr.UntilState(s.Name, messages.Loading)
	}
	tr.Advance(time.Second)
	for _, s := range specs {
		tr.UntilState(s.Name, messages.Idle)
	}
}

// Do asks for a verb and waits for the answer.
func (tr *Tree) Do(id messages.WorkerID, v messages.Verb) messages.Reply {
	tr.T.Helper()
	return tr.Ask(func(to chan<- messages.Reply) any { return messages.DoWorker{Worker: id, Verb: v, Reply: to} })
}

// Beat tells of work in flight and waits until the worker's actor has heard it.
func (tr *Tree) Beat(id messages.WorkerID, inFlight int) messages.Reply {
	tr.T.Helper()
	return tr.Ask(func(to chan<- messages.Reply) any { return tr.beat(id, inFlight, to) })
}

// TellBeat tells of work in flight.
func (tr *Tree) TellBeat(id messages.WorkerID, inFlight int) { tr.Tell(tr.beat(id, inFlight, nil)) }

func (tr *Tree) beat(id messages.WorkerID, inFlight int, to chan<- messages.Reply) messages.Callback {
	st := tr.Status(id)
	st.Live.Seen(st.Attempt, tr.Now(), &messages.Stats{InFlight: &inFlight})
	return messages.Callback{Worker: id, Attempt: st.Attempt, Kind: messages.CallbackHeartbeat, Reply: to}
}

// ComesBack moves the clock second by second until the worker is idle again.
func (tr *Tree) ComesBack(id messages.WorkerID) {
	tr.T.Helper()
	tr.Creep(fmt.Sprintf("worker %s is idle again", id), func() bool {
		st := tr.Status(id)
		return st != nil && st.State == messages.Idle && tr.Alive(id) != nil
	})
}

// Creep moves the clock a second each time the tree has come to rest, until
// the fact holds, for ten minutes at most.
func (tr *Tree) Creep(what string, holds func() bool) {
	tr.T.Helper()
	for range 600 {
		tr.Rest()
		if holds() {
			return
		}
		tr.Advance(time.Second)
	}
	tr.T.Fatalf("%s: not within ten minutes of the fake clock\n%s", what, tr.Picture())
}

// Rest waits until nothing has changed for some milliseconds. What it is used
// for must be true of a busy tree too; it only keeps the clock from running away.
func (tr *Tree) Rest() {
	bound := time.After(HangBound)
	for {
		tr.Host.mu.Lock()
		changed := tr.changed
		tr.Host.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(8 * time.Millisecond):
			return
		case <-bound:
			return
		}
	}
}
