package worker

import (
	"time"

	"github.com/rbee-hive/hive/messages"
)

// EventKind names what can happen to a worker.
type EventKind string

// The events. The first group are requests of people and orchestrators, the
// second the process's own doing, the third hive's clocks and decisions.
const (
	Start   EventKind = "start"
	Stop    EventKind = "stop"
	Restart EventKind = "restart"
	Drain   EventKind = "drain"
	Resume  EventKind = "resume"
	Kill    EventKind = "kill"
	Reset   EventKind = "reset"

	Spawned     EventKind = "spawned"      // the process exists
	SpawnFailed EventKind = "spawn failed" // it could not be made
	Ready       EventKind = "ready"
	InFlight    EventKind = "in flight" // how much work is in flight
	Exited      EventKind = "exited"    // the process ended, seen by its pidfd
	Gone        EventKind = "gone"      // verified: no process of the tree left, port free

	Prepared      EventKind = "prepared"       // prepare has run to its end
	PrepareFailed EventKind = "prepare failed" // it did not

	Admit      EventKind = "admit"       // the pool grants the resources
	Hold       EventKind = "hold"        // the pool says why it does not yet
	Fault      EventKind = "fault"       // hive found it unfit: deadline, probe, heartbeat
	DrainEnd   EventKind = "drain end"   // drain time is over
	GraceEnd   EventKind = "grace end"   // time between SIGTERM and SIGKILL is over
	KillEnd    EventKind = "kill end"    // still there after SIGKILL
	Due        EventKind = "due"         // the backoff or the slow retry is over
	RetryLater EventKind = "retry later" // verdict: restart after a delay
	Looping    EventKind = "looping"     // verdict: crash loop
	Never      EventKind = "never"       // verdict: no restart
	Reborn     EventKind = "reborn"      // the actor panicked and was restarted: a bug in hive
)

// EventKinds lists all events, in order.
func EventKinds() []EventKind {
	return []EventKind{Start, Stop, Restart, Drain, Resume, Kill, Reset, Spawned, SpawnFailed, Ready, InFlight,
		Exited, Gone, Prepared, PrepareFailed, Admit, Hold, Fault, DrainEnd, GraceEnd, KillEnd, Due, RetryLater, Looping, Never, Reborn}
}

// aim is the state a request leads to where it is allowed, for errors.
func (k EventKind) aim() messages.State {
	switch k {
	case Start, Admit, Due, Reset, Restart, Prepared:
		return messages.Pending
	case Resume, Ready:
		return messages.Idle
	case InFlight:
		return messages.Busy
	case Drain:
		return messages.Draining
	case Stop, Kill, DrainEnd, GraceEnd:
		return messages.Stopping
	case Spawned:
		return messages.Loading
	case Gone, Hold:
		return messages.Stopped
	case KillEnd:
		return messages.Unkillable
	case RetryLater:
		return messages.Backoff
	case Looping:
		return messages.Crashloop
	case SpawnFailed, Exited, Fault, Never, Reborn, PrepareFailed:
		return messages.Failed
	}
	return messages.Failed
}

func hint(s messages.State, k EventKind) string {
	switch {
	case k == Start:
		return "it runs or is on its way, use restart for a new process"
	case k == Resume && s == messages.Draining:
		return "it is being stopped, and only a drain by request can be taken back"
	case k == Resume:
		return "only a draining worker can be resumed"
	case k == Drain:
		return "only an idle or busy worker can be drained, use stop to end it"
	case k == Ready:
		return "only a loading worker becomes ready"
	}
	return "see \"hive states\" for what is allowed"
}

// Event is one thing that happened, as data.
type Event struct {
	Kind     EventKind
	Attempt  messages.Attempt // 0: not bound to one
	Ticket   uint64           // Admit: the request it answers
	Reason   string           // for people; replaces the row's own
	Cause    messages.Cause   // Exited, SpawnFailed, Fault: why; Stop: what for
	InFlight int
	Drain    time.Duration // Drain, Stop, Restart: how long to wait for work in flight
	Grace    time.Duration // Stop, Restart, Kill, Fault: between SIGTERM and SIGKILL
	Delay    time.Duration // RetryLater, Looping
}

// Timer names one of the worker's timers; arming it replaces the earlier one.
type Timer string

// The timers.
const (
	TimerDrain Timer = "drain"
	TimerGrace Timer = "grace"
	TimerKill  Timer = "kill"
	TimerDue   Timer = "due"
	// TimerSettle makes a worker without a readiness rule ready.
	TimerSettle Timer = "settle"
	// TimerReady is the cap on loading.
	TimerReady Timer = "ready"
	// TimerStall looks whether a load still moves.
	TimerStall Timer = "stall"
	// TimerBeat looks whether the heartbeats still come.
	TimerBeat Timer = "beat"
	// TimerIdle ends a worker that nobody uses.
	TimerIdle Timer = "idle"
)

// killWait is how long a process may live on after SIGKILL before it is called
// unkillable. A killed process ends in milliseconds; only one that sleeps
// uninterruptibly (state D: a dead disk, a hung driver) takes longer.
const killWait = 2 * time.Second

// Effect is one act to perform after a step, as data.
type Effect struct {
	Do    EffectKind
	Timer Timer
	After time.Duration
}

// EffectKind names an act.
type EffectKind uint8

// The acts.
const (
	DoQueue        EffectKind = iota // ask the pool for the resources
	DoRelease                        // give them back, or take the request back
	DoLoaded                         // give the load slot back
	DoPrepare                        // run prepare
	DoUnprepare                      // end it, if it runs
	DoStartProcess                   // make the process
	DoWatchReady                     // begin to watch for readiness
	DoServe                          // begin to watch a ready worker
	DoUnwatch                        // end every watch of the attempt
	DoSignal                         // the stop signal to the whole group
	DoKillTree                       // SIGKILL to the whole tree
	DoSweepNow                       // after the leader's unasked end: kill what is left, verify that tree and port are gone
	DoSweep                          // after the leader's end: verify that tree and port are gone
	DoArm                            // start a timer
	DoDisarm                         // stop a timer
	DoClearHistory                   // forget the restart account
	DoFail                           // fail the actor, so that the pool's strategy decides
)

func armed(t Timer, after time.Duration) Effect { return Effect{Do: DoArm, Timer: t, After: after} }
func disarm(t Timer) Effect                     { return Effect{Do: DoDisarm, Timer: t} }
func do(kinds ...EffectKind) []Effect {
	fx := make([]Effect, len(kinds))
	for i, k := range kinds {
		fx[i].Do = k
	}
	return fx
}

func hold(m *Machine, _ Event, _ time.Time) []Effect {
	m.Held = true
	return nil
}

func none(*Machine, Event, time.Time) []Effect { return nil }

func queue(m *Machine, _ Event, _ time.Time) []Effect {
	if m.Prepare {
		m.Reason = "preparing"
		return do(DoPrepare)
	}
	m.Queued, m.Held = true, false
	m.Ticket++
	return do(DoQueue)
}

func unqueue(m *Machine, ev Event, now time.Time) []Effect {
	m.Queued, m.Held = false, false
	m.Want, m.Cause, m.EndAt = WantNothing, ev.Cause, now
	return do(DoUnprepare, DoRelease)
}

func prepared(m *Machine, ev Event, now time.Time) []Effect {
	m.Prepare = false
	return queue(m, ev, now)
}

// prepareFailed ends an attempt before it was one.
func prepareFailed(m *Machine, ev Event, now time.Time) []Effect {
	m.Cause, m.Detail, m.EndAt = ev.Cause, ev.Reason, now
	m.StartedAt, m.ReadyAt = time.Time{}, time.Time{}
	return escalate(m, ev, now)
}

// again leaves an ended attempt behind and asks for a new one.
func again(m *Machine, ev Event, now time.Time) []Effect {
	fx := ended(m)
	m.Want, m.Decided = WantNothing, false
	return append(fx, queue(m, ev, now)...)
}

// ended gives back what the attempt held.
func ended(m *Machine) []Effect {
	fx := []Effect{{Do: DoUnwatch}, disarm(TimerDrain), disarm(TimerGrace), disarm(TimerKill), disarm(TimerDue)}
	m.Proc, m.Killed, m.InFlight, m.InFlightKnown = ProcNone, false, 0, false
	if m.Claimed || m.Queued {
		fx = append(fx, Effect{Do: DoRelease})
	}
	m.Claimed, m.Queued, m.Held = false, false, false
	return fx
}

func settle(m *Machine, _ Event, _ time.Time) []Effect {
	fx := ended(m)
	m.Want, m.Decided = WantNothing, false
	switch m.Cause {
	case messages.CauseStoppedByUser:
		m.Reason = "stopped by request"
	case messages.CauseShutdown:
		m.Reason = "hive was shut down"
	case messages.CauseEvicted:
		m.Reason = m.Detail
	default: // the reason tells how it ended by itself
	}
	return fx
}

func start(m *Machine, _ Event, _ time.Time) []Effect {
	m.Queued, m.Claimed, m.Held = false, true, false
	m.Attempt++
	m.Proc, m.Want, m.Killed, m.Decided = ProcMaking, WantNothing, false, false
	m.Cause, m.Detail = messages.CauseNone, ""
	m.StartedAt, m.ReadyAt, m.EndAt = time.Time{}, time.Time{}, time.Time{}
	return do(DoStartProcess)
}

func loading(m *Machine, _ Event, now time.Time) []Effect {
	m.Proc, m.StartedAt = ProcAlive, now
	return do(DoWatchReady)
}

func ready(m *Machine, _ Event, now time.Time) []Effect {
	m.ReadyAt = now
	return do(DoLoaded, DoServe)
}

func setInFlight(m *Machine, ev Event, _ time.Time) []Effect {
	m.InFlight, m.InFlightKnown = ev.InFlight, true
	return nil
}

func clear(then action) action {
	return func(m *Machine, ev Event, now time.Time) []Effect {
		return append(do(DoClearHistory), then(m, ev, now)...)
	}
}

// wish records what shall follow the end that is already under way.
func wish(w Want) action {
	return func(m *Machine, ev Event, now time.Time) []Effect {
		m.Want = w
		if m.Cause == messages.CauseNone {
			m.Cause = ev.Cause
		}
		if m.EndAt.IsZero() {
			m.EndAt = now
		}
		return nil
	}
}

func wishKill(m *Machine, ev Event, now time.Time) []Effect {
	m.Killed = true
	return wish(WantStopped)(m, ev, now)
}

func drain(w Want) action {
	return func(m *Machine, ev Event, now time.Time) []Effect {
		if w != WantNothing {
			m.Want = w
		}
		m.Cause, m.EndAt = ev.Cause, now
		return []Effect{armed(TimerDrain, ev.Drain)}
	}
}

func resume(m *Machine, _ Event, _ time.Time) []Effect {
	m.Cause, m.EndAt = messages.CauseNone, time.Time{}
	return []Effect{disarm(TimerDrain)}
}

// drained goes on from draining to the signal; a drain by request ends stopped.
func drained(m *Machine, ev Event, now time.Time) []Effect {
	if ev.Kind == InFlight {
		setInFlight(m, ev, now)
	}
	w := m.Want
	if w == WantNothing {
		w = WantStopped
	}
	ev.Cause = m.Cause
	return signal(w)(m, ev, now)
}

func signal(w Want) action {
	return func(m *Machine, ev Event, now time.Time) []Effect {
		m.Want, m.Cause = w, ev.Cause
		if ev.Cause == messages.CauseEvicted {
			m.Detail = ev.Reason
		}
		if m.EndAt.IsZero() {
			m.EndAt = now
		}
		return []Effect{{Do: DoUnwatch}, disarm(TimerDrain), {Do: DoLoaded}, {Do: DoSignal}, armed(TimerGrace, ev.Grace)}
	}
}

func kill(m *Machine, ev Event, now time.Time) []Effect {
	m.Want = WantStopped
	if m.Cause == messages.CauseNone {
		m.Cause = ev.Cause
	}
	if m.EndAt.IsZero() {
		m.EndAt = now
	}
	return killTree(m, ev, now)
}

// killTree sends SIGKILL, unless the process is still being made: then it is
// killed as soon as it exists.
func killTree(m *Machine, _ Event, _ time.Time) []Effect {
	m.Killed = true
	fx := []Effect{{Do: DoUnwatch}, disarm(TimerDrain), disarm(TimerGrace), {Do: DoLoaded}}
	if m.Proc == ProcAlive || m.Proc == ProcSweeping {
		fx = append(fx, Effect{Do: DoKillTree}, armed(TimerKill, killWait))
	}
	return fx
}

// spawnedLate: the process appeared after its end was asked for.
func spawnedLate(m *Machine, ev Event, now time.Time) []Effect {
	m.Proc, m.StartedAt = ProcAlive, now
	if m.Killed {
		return killTree(m, ev, now)
	}
	return []Effect{{Do: DoSignal}, armed(TimerGrace, ev.Grace)}
}

func notStarted(m *Machine, ev Event, now time.Time) []Effect {
	if m.Want == WantNothing {
		m.Cause, m.Detail = ev.Cause, ev.Reason
	}
	m.Proc, m.EndAt = ProcSweeping, now
	return []Effect{{Do: DoUnwatch}, {Do: DoLoaded}, {Do: DoSweep}}
}

// exited: the process ended unasked.
func exited(m *Machine, ev Event, now time.Time) []Effect {
	m.Proc, m.EndAt = ProcSweeping, now
	m.Cause, m.Detail = ev.Cause, ev.Reason
	return []Effect{{Do: DoUnwatch}, disarm(TimerDrain), {Do: DoLoaded}, {Do: DoSweepNow}, armed(TimerKill, killWait)}
}

func exitedClean(m *Machine, ev Event, now time.Time) []Effect {
	if m.Want == WantNothing {
		m.Want = WantStopped
	}
	return exited(m, ev, now)
}

func exitedDraining(m *Machine, ev Event, now time.Time) []Effect {
	if m.Want == WantNothing {
		m.Want = WantStopped
	}
	return exited(m, ev, now)
}

// exitedAsked: the leader ended after hive told it to. Members of its group
// keep the rest of the grace; the sweep ends when nothing is left.
func exitedAsked(m *Machine, _ Event, _ time.Time) []Effect {
	m.Proc = ProcSweeping
	return do(DoUnwatch, DoSweep)
}

// fault ends an attempt that hive found unfit while its process lives.
func fault(m *Machine, ev Event, now time.Time) []Effect {
	m.Cause, m.Detail, m.EndAt = ev.Cause, ev.Reason, now
	return []Effect{{Do: DoUnwatch}, disarm(TimerDrain), {Do: DoLoaded}, {Do: DoSignal}, armed(TimerGrace, ev.Grace)}
}

func faultDraining(m *Machine, ev Event, now time.Time) []Effect {
	if m.Want == WantNothing {
		m.Want = WantStopped
	}
	return fault(m, ev, now)
}

func escalate(m *Machine, _ Event, _ time.Time) []Effect {
	return append(ended(m), Effect{Do: DoFail})
}

func arm(t Timer) action {
	return func(_ *Machine, ev Event, _ time.Time) []Effect {
		if ev.Delay <= 0 && ev.Kind != RetryLater {
			return nil // slow_retry 0: waits for a person
		}
		return []Effect{armed(t, ev.Delay)}
	}
}

func decided(m *Machine, _ Event, _ time.Time) []Effect {
	m.Decided = true
	return nil
}

func rebornDraining(m *Machine, ev Event, now time.Time) []Effect {
	if m.Want == WantNothing {
		m.Want = WantStopped // a drain by request ends stopped
	}
	return reborn(m, ev, now)
}

// reborn: a new incarnation after a panic ends whatever its predecessor left.
func reborn(m *Machine, ev Event, now time.Time) []Effect {
	if m.Cause == messages.CauseNone {
		m.Cause, m.Detail = messages.CauseUnknown, ev.Reason
	}
	if m.EndAt.IsZero() {
		m.EndAt = now
	}
	m.Killed = true
	switch m.Proc {
	case ProcAlive:
		return []Effect{{Do: DoLoaded}, {Do: DoKillTree}, armed(TimerKill, killWait)}
	case ProcMaking:
		return do(DoLoaded) // Spawned or SpawnFailed is still to come
	case ProcSweeping, ProcNone:
		m.Proc = ProcSweeping
		return []Effect{{Do: DoLoaded}, {Do: DoSweepNow}, armed(TimerKill, killWait)}
	}
	return nil
}
