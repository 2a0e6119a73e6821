package pool

import (
	"errors"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// A worker actor that panics by itself more often than this is given up: the
// bug is in hive, and restarting it for ever would hide it.
const (
	maxBugs   = 5
	bugPeriod = 30 * time.Second
)

// HandleFailure implements actor.SupervisorStrategy for the pool's workers; it
// runs in the pool's own goroutine, so it may touch the pool. A process failure
// goes to the restart policy. Whatever the verdict, the worker's actor is
// restarted at once: the new incarnation waits out the delay, or sits in
// crashloop, with a live mailbox. Only then does a crash loop escalate.
func (p *Pool) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, message any) {
	if p.down {
		return // the child has its Stop; a Restart after it would bring a second incarnation to life
	}
	s := p.byPID[child.Id]
	if s == nil {
		supervision.Apply(sup, child, supervision.Stop, nil, message)
		return
	}
	err := supervision.AsError(reason)
	var pf *supervision.ProcessFailure
	if !errors.As(err, &pf) {
		p.bug(sup, s, child, err, message)
		return
	}
	life := s.life
	v := supervision.Decide(life.Spec.Restart, &life.History, pf.Failure, p.host.Spread())
	life.Verdict = &v
	var up error
	if v.Escalate {
		answer, used := supervision.Escalated(p.rec.Policy, &p.rec.Account, pf.Failure.At)
		up = &supervision.CrashLoopFailure{Worker: string(life.Spec.Name), Reason: v.Reason, Answer: answer, Used: used, Max: p.rec.Policy.MaxCrashloops}
		p.rec.afresh = answer == supervision.RestartPool
		p.publish()
	}
	supervision.Apply(sup, child, supervision.Restart, up, message)
}

// bug handles a panic that is hive's own fault.
func (p *Pool) bug(sup actor.Supervisor, s *slot, child *actor.PID, err error, message any) {
	life := s.life
	n := life.Bugs.Add(p.host.Now(), bugPeriod)
	p.host.Emit(messages.Event{Type: messages.WorkerPanic, At: p.host.Now(), Worker: life.Spec.Name, Pool: p.rec.ID,
		Attempt: life.Machine.Attempt, Reason: fmt.Sprintf("a bug in hive, please report it: %v (%d of %d allowed in %s)", err, n, maxBugs, bugPeriod)})
	if n > maxBugs {
		s.givenUp, life.Abandoned = true, true // its siblings and the pool are sound: nothing to escalate
		supervision.Apply(sup, child, supervision.Stop, nil, message)
		return
	}
	life.Interrupt("hive's own actor failed: " + err.Error())
	supervision.Apply(sup, child, supervision.Restart, nil, message)
}
