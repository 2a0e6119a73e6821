package worker

import (
	"time"

	"github.com/rbee-hive/hive/messages"
)

// ProcPhase is what exists of the attempt's process tree.
type ProcPhase uint8

// The phases of a process tree.
const (
	ProcNone     ProcPhase = iota // nothing
	ProcMaking                    // being started
	ProcAlive                     // the leader lives
	ProcSweeping                  // the leader has ended, its tree and port are being checked
)

// Want is what shall follow once the tree is gone.
type Want uint8

// The wishes.
const (
	WantNothing Want = iota // no wish: the restart policy decides
	WantStopped             // stay stopped
	WantRestart             // a new attempt at once
)

// Machine is a worker's whole life as data. Only Step changes it.
type Machine struct {
	Worker  messages.WorkerID
	Policy  messages.RestartPolicy
	State   messages.State
	Since   time.Time
	Reason  string
	Attempt messages.Attempt

	Proc    ProcPhase
	Want    Want
	Claimed bool   // holds a port, a device or a load slot
	Queued  bool   // asked its pool for them
	Held    bool   // its pool has said that it has to wait
	Ticket  uint64 // numbers the requests, so that a late grant is told from a current one
	Decided bool   // failed: the restart policy has said never
	Prepare bool   // the spec's prepare has still to run before an attempt

	InFlight      int
	InFlightKnown bool // the worker reports it; otherwise hive cannot see it

	Cause  messages.Cause // why the attempt ends or ended
	Detail string         // the same in words
	Killed bool           // SIGKILL was sent

	StartedAt time.Time // the attempt's process was made
	ReadyAt   time.Time // it got ready
	EndAt     time.Time // it was told to end, or ended
}

// Step is the only way a machine changes: it finds the row for the state and
// the event, and returns the machine after it and the effects to perform. An
// event of an older attempt gives a *messages.StaleError, a pair without a row
// a *messages.IllegalError; both leave the machine as it was. Step is pure.
func Step(m Machine, ev Event, now time.Time) (Machine, []Effect, error) {
	if ev.Attempt != 0 && ev.Attempt != m.Attempt {
		return m, nil, &messages.StaleError{Worker: m.Worker, Got: ev.Attempt, Current: m.Attempt}
	}
	if ev.Kind == Admit && (!m.Queued || ev.Ticket != m.Ticket) {
		return m, nil, &messages.StaleError{Worker: m.Worker, Got: ev.Attempt, Current: m.Attempt}
	}
	for i := range Table {
		r := &Table[i]
		if r.From != m.State || r.On != ev.Kind || (r.If != nil && !r.If.ok(m, ev)) {
			continue
		}
		next := m
		if r.To != m.State {
			next.State, next.Since = r.To, now
		}
		if ev.Reason != "" {
			next.Reason = ev.Reason
		} else if r.To != m.State && r.Why != "" {
			next.Reason = r.Why
		}
		fx := r.Do(&next, ev, now)
		return next, fx, nil
	}
	return m, nil, &messages.IllegalError{Worker: m.Worker, From: m.State, Verb: string(ev.Kind),
		To: ev.Kind.aim(), Hint: hint(m.State, ev.Kind)}
}

// Row is one line of the table: in From, On leads to To if If holds.
type Row struct {
	From messages.State
	On   EventKind
	If   *Guard // nil: always
	To   messages.State
	Why  string // the reason shown when the event brings none
	Do   action
}

// Guard is a named condition on the machine and the event.
type Guard struct {
	Name string
	ok   func(Machine, Event) bool
}

type action func(m *Machine, ev Event, now time.Time) []Effect

// The guards.
var (
	ifClean = &Guard{"exit code 0 and policy is not always", func(m Machine, e Event) bool {
		return e.Cause == messages.CauseClean && m.Policy != messages.RestartAlways
	}}
	ifWork       = &Guard{"in flight >= 1", func(_ Machine, e Event) bool { return e.InFlight > 0 }}
	ifNoWork     = &Guard{"in flight = 0", func(_ Machine, e Event) bool { return e.InFlight == 0 }}
	ifNothing    = &Guard{"nothing known to be in flight", func(m Machine, _ Event) bool { return m.InFlight == 0 }}
	ifKnownEmpty = &Guard{"in flight is reported as 0", func(m Machine, _ Event) bool { return m.InFlightKnown && m.InFlight == 0 }}
	ifDrainOnly  = &Guard{"drained by request, nothing in flight", func(m Machine, _ Event) bool { return m.Want == WantNothing && m.InFlight == 0 }}
	ifDrainBusy  = &Guard{"drained by request, in flight >= 1", func(m Machine, _ Event) bool { return m.Want == WantNothing && m.InFlight > 0 }}
	ifAgain      = &Guard{"a restart was asked for", func(m Machine, _ Event) bool { return m.Want == WantRestart }}
	ifStay       = &Guard{"a stop was asked for", func(m Machine, _ Event) bool { return m.Want == WantStopped }}
	ifFinal      = &Guard{"the policy has given up", func(m Machine, _ Event) bool { return m.Decided }}
	ifPreparing  = &Guard{"prepare has still to run", func(m Machine, _ Event) bool { return m.Prepare }}
	ifAlive      = &Guard{"its process lives", func(m Machine, _ Event) bool { return m.Proc == ProcAlive }}
)

// Table is the truth about states. A pair that is not in it is refused. The
// first row that fits wins. docs/worker-states.md is generated from it.
var Table = []Row{
	// pending: waits for a device, a port, a dependency or a load slot.
	{messages.Pending, Admit, nil, messages.Starting, "resources claimed", start},
	{messages.Pending, Hold, nil, messages.Pending, "", hold},
	{messages.Pending, Stop, nil, messages.Stopped, "stopped before it started", unqueue},
	{messages.Pending, Kill, nil, messages.Stopped, "stopped before it started", unqueue},
	{messages.Pending, Restart, nil, messages.Pending, "", none},
	{messages.Pending, Reset, nil, messages.Pending, "", clear(none)},
	{messages.Pending, Reborn, nil, messages.Pending, "", queue},
	{messages.Pending, Prepared, ifPreparing, messages.Pending, "waits for its pool", prepared},
	{messages.Pending, PrepareFailed, ifPreparing, messages.Failed, "", prepareFailed},

	// starting: resources claimed, process being made.
	{messages.Starting, Spawned, nil, messages.Loading, "process started", loading},
	{messages.Starting, SpawnFailed, nil, messages.Failed, "could not be started", notStarted},
	{messages.Starting, Stop, nil, messages.Stopping, "stopping", wish(WantStopped)},
	{messages.Starting, Restart, nil, messages.Stopping, "restarting", wish(WantRestart)},
	{messages.Starting, Kill, nil, messages.Stopping, "killing", wishKill},
	{messages.Starting, Reborn, nil, messages.Failed, "hive's own actor failed while it was starting", reborn},

	// loading: process lives, not ready.
	{messages.Loading, Ready, nil, messages.Idle, "ready", ready},
	{messages.Loading, Exited, ifClean, messages.Stopping, "exited by itself with code 0", exitedClean},
	{messages.Loading, Exited, nil, messages.Failed, "process ended", exited},
	{messages.Loading, Fault, nil, messages.Failed, "", fault},
	{messages.Loading, Stop, nil, messages.Stopping, "stopping", signal(WantStopped)},
	{messages.Loading, Restart, nil, messages.Stopping, "restarting", signal(WantRestart)},
	{messages.Loading, Kill, nil, messages.Stopping, "killing", kill},
	{messages.Loading, Reset, nil, messages.Loading, "", clear(none)},
	{messages.Loading, Reborn, nil, messages.Failed, "hive's own actor failed", reborn},

	// idle: ready, nothing in flight.
	{messages.Idle, InFlight, ifWork, messages.Busy, "work in flight", setInFlight},
	{messages.Idle, InFlight, ifNoWork, messages.Idle, "", setInFlight},
	{messages.Idle, Drain, ifKnownEmpty, messages.Stopping, "drained, nothing was in flight", signal(WantStopped)},
	{messages.Idle, Drain, nil, messages.Draining, "drained by request", drain(WantNothing)},
	{messages.Idle, Stop, nil, messages.Stopping, "stopping", signal(WantStopped)},
	{messages.Idle, Restart, nil, messages.Stopping, "restarting", signal(WantRestart)},
	{messages.Idle, Kill, nil, messages.Stopping, "killing", kill},
	{messages.Idle, Exited, ifClean, messages.Stopping, "exited by itself with code 0", exitedClean},
	{messages.Idle, Exited, nil, messages.Failed, "process ended", exited},
	{messages.Idle, Fault, nil, messages.Failed, "", fault},
	{messages.Idle, Reset, nil, messages.Idle, "", clear(none)},
	{messages.Idle, Reborn, nil, messages.Failed, "hive's own actor failed", reborn},

	// busy: in flight >= 1.
	{messages.Busy, InFlight, ifNoWork, messages.Idle, "ready", setInFlight},
	{messages.Busy, InFlight, ifWork, messages.Busy, "", setInFlight},
	{messages.Busy, Drain, nil, messages.Draining, "drained by request", drain(WantNothing)},
	{messages.Busy, Stop, nil, messages.Draining, "stopping, waits for work in flight", drain(WantStopped)},
	{messages.Busy, Restart, nil, messages.Draining, "restarting, waits for work in flight", drain(WantRestart)},
	{messages.Busy, Kill, nil, messages.Stopping, "killing", kill},
	{messages.Busy, Exited, ifClean, messages.Stopping, "exited by itself with code 0", exitedClean},
	{messages.Busy, Exited, nil, messages.Failed, "process ended", exited},
	{messages.Busy, Fault, nil, messages.Failed, "", fault},
	{messages.Busy, Reset, nil, messages.Busy, "", clear(none)},
	{messages.Busy, Reborn, nil, messages.Failed, "hive's own actor failed", reborn},

	// draining: takes no new work.
	{messages.Draining, InFlight, ifNoWork, messages.Stopping, "drained", drained},
	{messages.Draining, InFlight, ifWork, messages.Draining, "", setInFlight},
	{messages.Draining, DrainEnd, nil, messages.Stopping, "drain time is over", drained},
	{messages.Draining, Resume, ifDrainOnly, messages.Idle, "resumed", resume},
	{messages.Draining, Resume, ifDrainBusy, messages.Busy, "resumed", resume},
	{messages.Draining, Stop, ifNothing, messages.Stopping, "stopping", signal(WantStopped)},
	{messages.Draining, Stop, nil, messages.Draining, "stopping, waits for work in flight", drain(WantStopped)},
	{messages.Draining, Restart, ifNothing, messages.Stopping, "restarting", signal(WantRestart)},
	{messages.Draining, Restart, nil, messages.Draining, "restarting, waits for work in flight", drain(WantRestart)},
	{messages.Draining, Kill, nil, messages.Stopping, "killing", kill},
	{messages.Draining, Exited, ifClean, messages.Stopping, "exited while draining", exitedClean},
	{messages.Draining, Exited, nil, messages.Failed, "process ended while draining", exitedDraining},
	{messages.Draining, Fault, nil, messages.Failed, "", faultDraining},
	{messages.Draining, Reborn, nil, messages.Failed, "hive's own actor failed", rebornDraining},

	// stopping: told to end.
	{messages.Stopping, Spawned, nil, messages.Stopping, "", spawnedLate},
	{messages.Stopping, SpawnFailed, nil, messages.Stopping, "", notStarted},
	{messages.Stopping, Exited, nil, messages.Stopping, "", exitedAsked},
	{messages.Stopping, GraceEnd, nil, messages.Stopping, "grace is over, killing", killTree},
	{messages.Stopping, KillEnd, nil, messages.Unkillable, "survived SIGKILL", none},
	{messages.Stopping, Kill, nil, messages.Stopping, "killing", kill},
	{messages.Stopping, Stop, nil, messages.Stopping, "stopping", wish(WantStopped)},
	{messages.Stopping, Restart, nil, messages.Stopping, "restarting", wish(WantRestart)},
	{messages.Stopping, Gone, ifAgain, messages.Pending, "restarting", again},
	{messages.Stopping, Gone, nil, messages.Stopped, "", settle},
	{messages.Stopping, Reborn, nil, messages.Stopping, "", reborn},

	// stopped: ended on purpose.
	{messages.Stopped, Start, nil, messages.Pending, "waits for its pool", again},
	{messages.Stopped, Restart, nil, messages.Pending, "waits for its pool", again},
	{messages.Stopped, Stop, nil, messages.Stopped, "", none},
	{messages.Stopped, Reset, nil, messages.Stopped, "", clear(none)},
	{messages.Stopped, Reborn, nil, messages.Stopped, "", none},

	// failed: this attempt ended badly; what is left of it is being ended.
	{messages.Failed, Exited, nil, messages.Failed, "", exitedAsked},
	{messages.Failed, GraceEnd, nil, messages.Failed, "", killTree},
	{messages.Failed, KillEnd, nil, messages.Unkillable, "survived SIGKILL", none},
	{messages.Failed, Spawned, nil, messages.Failed, "", spawnedLate},
	{messages.Failed, SpawnFailed, nil, messages.Failed, "", notStarted},
	{messages.Failed, Gone, ifStay, messages.Stopped, "", settle},
	{messages.Failed, Gone, ifAgain, messages.Pending, "restarting", again},
	{messages.Failed, Gone, nil, messages.Failed, "", escalate},
	{messages.Failed, RetryLater, nil, messages.Backoff, "waits to restart", arm(TimerDue)},
	{messages.Failed, Looping, nil, messages.Crashloop, "gave up fast restarts", arm(TimerDue)},
	{messages.Failed, Never, nil, messages.Failed, "", decided},
	{messages.Failed, Stop, ifFinal, messages.Stopped, "stopped", settle},
	{messages.Failed, Kill, ifFinal, messages.Stopped, "stopped", settle},
	{messages.Failed, Start, ifFinal, messages.Pending, "waits for its pool", again},
	{messages.Failed, Restart, ifFinal, messages.Pending, "waits for its pool", again},
	{messages.Failed, Reset, ifFinal, messages.Pending, "waits for its pool", clear(again)},
	{messages.Failed, Stop, nil, messages.Failed, "", wish(WantStopped)},
	{messages.Failed, Restart, nil, messages.Failed, "", wish(WantRestart)},
	{messages.Failed, Reset, nil, messages.Failed, "", clear(none)},
	{messages.Failed, Kill, ifAlive, messages.Failed, "", kill},
	{messages.Failed, Kill, nil, messages.Failed, "", wish(WantStopped)},
	{messages.Failed, Reborn, ifFinal, messages.Failed, "", none},
	{messages.Failed, Reborn, nil, messages.Failed, "", reborn},

	// backoff: waits to restart.
	{messages.Backoff, Due, nil, messages.Pending, "waits for its pool", again},
	{messages.Backoff, Start, nil, messages.Pending, "waits for its pool", again},
	{messages.Backoff, Restart, nil, messages.Pending, "waits for its pool", again},
	{messages.Backoff, Reset, nil, messages.Pending, "waits for its pool", clear(again)},
	{messages.Backoff, Stop, nil, messages.Stopped, "stopped", settle},
	{messages.Backoff, Kill, nil, messages.Stopped, "stopped", settle},
	{messages.Backoff, Reborn, nil, messages.Backoff, "", arm(TimerDue)},

	// crashloop: gave up fast restarts; retries slowly or waits for a person.
	{messages.Crashloop, Due, nil, messages.Pending, "slow retry", again},
	{messages.Crashloop, Start, nil, messages.Pending, "waits for its pool", again},
	{messages.Crashloop, Restart, nil, messages.Pending, "waits for its pool", again},
	{messages.Crashloop, Reset, nil, messages.Pending, "reset", clear(again)},
	{messages.Crashloop, Stop, nil, messages.Stopped, "stopped", settle},
	{messages.Crashloop, Kill, nil, messages.Stopped, "stopped", settle},
	{messages.Crashloop, Reborn, nil, messages.Crashloop, "", arm(TimerDue)},

	// unkillable: survived SIGKILL; reported, never blocks shutdown.
	{messages.Unkillable, Exited, nil, messages.Unkillable, "", exitedAsked},
	{messages.Unkillable, Gone, ifAgain, messages.Pending, "restarting", again},
	{messages.Unkillable, Gone, ifStay, messages.Stopped, "gone at last", settle},
	{messages.Unkillable, Gone, nil, messages.Failed, "gone at last", escalate},
	{messages.Unkillable, Stop, nil, messages.Unkillable, "", wish(WantStopped)},
	{messages.Unkillable, Restart, nil, messages.Unkillable, "", wish(WantRestart)},
	{messages.Unkillable, Kill, nil, messages.Unkillable, "", kill},
	{messages.Unkillable, Reset, nil, messages.Unkillable, "", clear(none)},
	{messages.Unkillable, Reborn, nil, messages.Unkillable, "", none},
}
