package supervision

import (
	"fmt"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// ProcessFailure is the typed reason with which a worker actor fails after its
// process ended badly. It is expected, so no stack is logged for it.
type ProcessFailure struct {
	Worker  string
	Failure Failure
}

func (e *ProcessFailure) Error() string {
	return fmt.Sprintf("worker %s failed: %s", e.Worker, e.Failure.why())
}

// CrashLoopFailure is what a pool escalates to the root, after it has spent one
// of its own budget: Used of Max, with what its policy proposes.
type CrashLoopFailure struct {
	Worker    string
	Reason    string
	Answer    Answer
	Used, Max int
}

func (e *CrashLoopFailure) Error() string {
	return fmt.Sprintf("worker %s is in a crash loop: %s", e.Worker, e.Reason)
}

// AsError turns the reason of a panic, which may be anything, into an error.
func AsError(reason any) error {
	if err, ok := reason.(error); ok {
		return err
	}
	return fmt.Errorf("panic: %v", reason)
}

// Directive is what a supervisor does with a failed child.
type Directive uint8

// The directives.
const (
	Restart Directive = iota // a new incarnation, at once, same mailbox
	Resume                   // go on with the same incarnation
	Stop                     // end the child
)

// Apply carries a directive out. When escalate is not nil the supervisor itself
// then fails with it, so that its parent decides too. The child is settled
// first: protoactor resumes only the parent after an escalation, and a child
// left undecided would stay suspended for ever.
func Apply(sup actor.Supervisor, child *actor.PID, d Directive, escalate error, message any) {
	switch d {
	case Restart:
		sup.RestartChildren(child)
	case Resume:
		sup.ResumeChildren(child)
	case Stop:
		sup.StopChildren(child)
	}
	if escalate != nil {
		sup.EscalateFailure(escalate, message)
	}
}

// Guardian supervises HiveRoot. It never escalates, since protoactor's guardian
// panics outside any recover when it does. Over the budget it stops HiveRoot
// and calls fatal, once.
type Guardian struct {
	Max    int // restarts allowed within Period
	Period time.Duration
	Now    func() time.Time
	Failed func(err error, restarts int) // each failure; may be nil
	Fatal  func(error)

	mu    sync.Mutex // guards the rest
	seen  Window
	ended bool
}

// HandleFailure implements actor.SupervisorStrategy.
func (g *Guardian) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, _ any) {
	g.mu.Lock()
	n := g.seen.Add(g.Now(), g.Period)
	over := n > g.Max
	first := over && !g.ended
	g.ended = g.ended || over
	g.mu.Unlock()
	err := AsError(reason)
	if g.Failed != nil {
		g.Failed(err, n)
	}
	if !over {
		sup.RestartChildren(child)
		return
	}
	sup.StopChildren(child)
	if first {
		g.Fatal(fmt.Errorf("the root of the supervision tree failed %d times within %s: %w", n, g.Period, err))
	}
}
