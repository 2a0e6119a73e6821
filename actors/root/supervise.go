package root

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/pool"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// A pool actor that panics by itself more often than this fails the root too.
const (
	maxPoolBugs   = 3
	poolBugPeriod = time.Minute
)

// HandleFailure implements actor.SupervisorStrategy for the pools; it runs in
// the root's own goroutine.
func (r *Root) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, message any) {
	if r.down {
		return // the pool has its Stop; a Restart after it would bring a second incarnation to life
	}
	id := messages.PoolID(child.Id[strings.LastIndex(child.Id, "/")+1:])
	id = messages.PoolID(strings.TrimPrefix(string(id), "pool-"))
	err := supervision.AsError(reason)
	var loop *supervision.CrashLoopFailure
	if errors.As(err, &loop) {
		r.escalated(sup, child, id, loop, message)
		return
	}
	r.host.Panicked("pool "+string(id), reason)
	if r.book.bugs[id] == nil {
		r.book.bugs[id] = &supervision.Window{}
	}
	var up error
	if n := r.book.bugs[id].Add(r.host.Now(), poolBugPeriod); n > maxPoolBugs {
		up = fmt.Errorf("pool %s failed %d times within %s: %w", id, n, poolBugPeriod, err)
	}
	supervision.Apply(sup, child, supervision.Restart, up, message)
}

// escalated answers a crash loop by the health of the device: on a sick one the
// pool is cordoned, on a healthy one the pool's own policy holds.
func (r *Root) escalated(sup actor.Supervisor, child *actor.PID, id messages.PoolID, loop *supervision.CrashLoopFailure, message any) {
	now := r.host.Now()
	answer := loop.Answer
	if !r.host.DeviceHealthy(id) {
		answer = supervision.CordonDevice
	}
	send := func(m any) { r.host.Send(child, m) }
	switch answer {
	case supervision.Isolate:
		supervision.Apply(sup, child, supervision.Resume, nil, message)
	case supervision.Degrade:
		why := fmt.Sprintf("%d crash loops within its window, and pool.max_crashloops is %d; the last is worker %s", loop.Used, loop.Max, loop.Worker)
		r.host.Emit(messages.Event{Type: messages.PoolDegraded, At: now, Pool: id, Reason: why})
		supervision.Apply(sup, child, supervision.Resume, nil, message)
		send(pool.Degrade{Reason: why})
	case supervision.RestartPool:
		r.host.Emit(messages.Event{Type: messages.PoolRestarted, At: now, Pool: id,
			Reason: fmt.Sprintf("%d crash loops, over its budget of %d: the pool is restarted with all its workers", loop.Used, loop.Max)})
		supervision.Apply(sup, child, supervision.Restart, nil, message)
	case supervision.CordonDevice:
		why := fmt.Sprintf("over its crash-loop budget again (%d of %d)", loop.Used, loop.Max)
		r.host.Emit(messages.Event{Type: messages.PoolCordoned, At: now, Pool: id, Reason: why})
		supervision.Apply(sup, child, supervision.Resume, nil, message)
		send(pool.Cordon{On: true, Reason: why})
	}
}
