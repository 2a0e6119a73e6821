package worker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// Messages between a worker and its pool.
type (
	// Wanted asks the pool for the resources of a new attempt.
	Wanted struct {
		Worker messages.WorkerID
		Ticket uint64
	}
	// Granted gives them.
	Granted struct {
		Ticket uint64
		Port   int
		GPUs   []string
		Pool   messages.PoolID
	}
	// Held says why they are not given yet.
	Held struct {
		Ticket uint64
		Reason string
	}
	// Released gives them back.
	Released struct{ Worker messages.WorkerID }
	// Loaded gives back the load slot alone.
	Loaded struct{ Worker messages.WorkerID }
	// Changed tells the pool of a new state.
	Changed struct {
		Worker messages.WorkerID
		State  messages.State
	}
	// End is a planned end by the pool: shutdown or removal.
	End struct {
		Cause messages.Cause
		Now   bool
	}
	// NewSpec replaces the spec; Restart says that the process must follow.
	NewSpec struct {
		Spec    messages.WorkerSpec
		Restart bool
		Reply   chan<- messages.Reply
	}
)

// Messages a worker sends to itself. They carry the attempt, so that one from
// an earlier attempt is refused by the machine.
type (
	spawned struct {
		attempt messages.Attempt
		proc    Process
		err     error
	}
	procExited struct {
		attempt messages.Attempt
		exit    Exit
	}
	treeGone struct {
		attempt   messages.Attempt
		leftovers int
		tail      []string
	}
	sighted struct {
		attempt messages.Attempt
		serving bool
		Sighting
	}
	preparing struct {
		run      uint64
		progress *messages.Progress // nil: it has ended
		err      error
	}
	tick struct {
		timer   Timer
		gen     uint64
		attempt messages.Attempt
	}
)

// Worker is the actor. One incarnation lives from Started to Restarting or Stopping.
type Worker struct {
	life   *Life
	host   Host
	timers map[Timer]armedTimer
	watch  context.CancelFunc // ends what watches the attempt
	prep   context.CancelFunc // ends prepare
	preps  uint64             // numbers its runs
	native bool               // a worker that beats itself is watched as such
}

type armedTimer struct {
	gen  uint64
	due  time.Time
	stop func()
}

// Props makes the actor's props for a life.
func Props(life *Life, host Host) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		return &Worker{life: life, host: host, timers: map[Timer]armedTimer{}}
	})
}

// Receive handles one message. It never blocks on anything but short system calls.
func (w *Worker) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		w.started(c)
	case *actor.Restarting:
		w.down(c, false)
	case *actor.Stopping:
		w.down(c, true)
	case messages.DoWorker:
		w.do(c, m)
	case messages.Callback:
		w.callback(c, m)
	case End:
		w.end(c, m)
	case NewSpec:
		w.newSpec(c, m)
	case Granted:
		if mach := w.life.Machine; mach.Queued && mach.Ticket == m.Ticket {
			w.life.port, w.life.gpus, w.life.pool = m.Port, m.GPUs, m.Pool
		}
		w.quiet(c, Event{Kind: Admit, Ticket: m.Ticket})
	case Held:
		if mach := w.life.Machine; mach.Queued && mach.Ticket == m.Ticket && (!mach.Held || mach.Reason != m.Reason) {
			w.quiet(c, Event{Kind: Hold, Reason: m.Reason})
		}
	case spawned:
		w.spawned(c, m)
	case procExited:
		w.exited(c, m)
	case treeGone:
		w.gone(c, m)
	case sighted:
		w.sighted(c, m)
	case preparing:
		w.prepared(c, m)
	case tick:
		w.tick(c, m)
	}
}

// started begins an incarnation: the first one asks for resources, one after a
// process failure carries out the pool's verdict, one after a panic cleans up.
func (w *Worker) started(c actor.Context) {
	l := w.life
	self, top := c.Self(), c.ActorSystem().Root
	l.outlet.Set(func(m any) { top.Send(self, m) })
	v := l.Verdict
	l.Verdict = nil
	switch {
	case v != nil:
		w.verdict(c, *v)
	case !l.begun:
		l.begun = true
		w.quiet(c, Event{Kind: Reborn})
	default:
		why := l.rebirth
		if why == "" {
			why = "hive's own actor failed and was restarted"
		}
		l.rebirth = ""
		ev := Event{Kind: Reborn, Reason: why}
		if !l.nextAt.IsZero() {
			ev.Delay = max(l.nextAt.Sub(w.host.Now()), time.Millisecond)
		}
		if s := l.Machine.State; s == messages.Backoff || s == messages.Crashloop || s == messages.Stopped {
			ev.Reason = l.Machine.Reason
		}
		if !l.Machine.Claimed && !l.Machine.Queued {
			c.Send(c.Parent(), Released{Worker: l.Spec.Name}) // the predecessor's may be lost with its pool
		}
		w.quiet(c, ev)
		if l.Machine.Proc == ProcMaking && (l.making == nil || l.making.attempt != l.Machine.Attempt) {
			// The predecessor failed before it launched anything.
			w.spawned(c, spawned{attempt: l.Machine.Attempt, err: errors.New(why)})
		}
		if l.making != nil && l.making.attempt == l.Machine.Attempt && (l.Machine.Proc == ProcMaking || l.Machine.Proc == ProcAlive) {
			l.making.adopt(w.reporter())
		}
		switch s := l.Machine.State; {
		case !l.afresh:
		case s == messages.Backoff || s == messages.Crashloop:
			w.quiet(c, Event{Kind: Reset, Reason: why})
		case s == messages.Failed && l.Machine.Proc != ProcNone: // restarted for its siblings' sake: no failure of its own
			w.quiet(c, Event{Kind: Restart, Reason: why})
		}
		l.afresh = false
	}
}

func (w *Worker) verdict(c actor.Context, v supervision.Verdict) {
	l, now := w.life, w.host.Now()
	ev := Event{Reason: v.Reason, Delay: v.Delay, Cause: l.Machine.Cause}
	l.nextAt = time.Time{}
	if v.Delay > 0 || v.Kind == supervision.RestartAfter {
		l.nextAt = now.Add(v.Delay)
	}
	l.retry = v.Kind != supervision.GiveUp
	switch v.Kind {
	case supervision.RestartAfter:
		ev.Kind = RetryLater
		w.emit(messages.Event{Type: messages.WorkerRestarting, Cause: l.Machine.Cause, Reason: v.Reason, Took: messages.Secs(v.Delay)})
	case supervision.CrashLoop:
		ev.Kind = Looping
		w.emit(messages.Event{Type: messages.WorkerCrashloop, Cause: l.Machine.Cause, Reason: v.Reason, Took: messages.Secs(v.Delay)})
	case supervision.GiveUp:
		ev.Kind = Never
		l.nextAt = time.Time{}
	}
	w.quiet(c, ev)
}

// apply runs one event through the machine, publishes, and performs the effects.
func (w *Worker) apply(c actor.Context, ev Event) error {
	l, now := w.life, w.host.Now()
	next, fx, err := Step(l.Machine, ev, now)
	if err != nil {
		var illegal *messages.IllegalError
		if errors.As(err, &illegal) {
			w.emit(messages.Event{Type: messages.WorkerRefused, Reason: err.Error()})
		}
		return err
	}
	before := l.Machine
	l.Machine = next
	if next.State != before.State {
		w.entered(before, next, ev)
	}
	fail := w.perform(c, fx)
	w.watchIdle(before.State, next.State)
	w.publish()
	if next.State != before.State {
		c.Send(c.Parent(), Changed{Worker: l.Spec.Name, State: next.State})
	}
	if fail {
		panic(&supervision.ProcessFailure{Worker: string(l.Spec.Name), Failure: w.failure()})
	}
	return nil
}

// quiet is apply for inputs that nobody waits for: a refusal is in the event log already.
func (w *Worker) quiet(c actor.Context, ev Event) { _ = w.apply(c, ev) }

// entered tells of a transition.
func (w *Worker) entered(before, next Machine, ev Event) {
	l := w.life
	if next.State != messages.Backoff && next.State != messages.Crashloop {
		l.nextAt = time.Time{}
	}
	from, to := before.State, next.State
	e := messages.Event{Type: messages.WorkerState, From: &from, To: &to, Reason: next.Reason}
	if to == messages.Failed || to == messages.Stopped {
		e.Cause = next.Cause
	}
	w.emit(e)
	switch {
	case ev.Kind == Ready:
		l.loadTook = next.ReadyAt.Sub(next.StartedAt)
		l.progress = nil
		w.emit(messages.Event{Type: messages.WorkerReady, Took: messages.Secs(l.loadTook)})
	case from == messages.Draining:
		w.phase("drain", before.Since)
	}
	if to == messages.Starting && l.retry {
		l.retry = false
		l.History.Total++
	}
}

func (w *Worker) failure() supervision.Failure {
	m := w.life.Machine
	f := supervision.Failure{Cause: m.Cause, At: m.EndAt, Detail: m.Detail}
	if !m.ReadyAt.IsZero() {
		f.ReadyFor, f.LoadTook = m.EndAt.Sub(m.ReadyAt), w.life.loadTook
	}
	return f
}

func (w *Worker) do(c actor.Context, m messages.DoWorker) {
	ev := Event{Kind: EventKind(m.Verb), Cause: messages.CauseStoppedByUser,
		Drain: w.life.Spec.Stop.Drain.D(), Grace: w.life.Spec.Stop.Grace.D()}
	if m.Drain != nil {
		ev.Drain = *m.Drain
	}
	if m.Grace != nil {
		ev.Grace = *m.Grace
	}
	err := w.apply(c, ev)
	w.answer(m.Reply, err)
}

func (w *Worker) answer(to chan<- messages.Reply, err error) {
	if to != nil {
		to <- messages.Reply{Worker: w.status(), Err: err}
	}
}

func (w *Worker) end(c actor.Context, m End) {
	ev := Event{Kind: Stop, Cause: m.Cause, Drain: w.life.Spec.Stop.Drain.D(), Grace: w.life.Spec.Stop.Grace.D()}
	if m.Now {
		ev.Kind = Kill
	}
	if w.life.Machine.State == messages.Stopped {
		c.Send(c.Parent(), Changed{Worker: w.life.Spec.Name, State: messages.Stopped})
		return
	}
	w.quiet(c, ev)
}

func (w *Worker) newSpec(c actor.Context, m NewSpec) {
	if !slices.Equal(w.life.Spec.Prepare, m.Spec.Prepare) || w.life.Spec.Model != m.Spec.Model {
		w.life.Machine.Prepare = len(m.Spec.Prepare) > 0
	}
	w.life.Spec = m.Spec
	w.life.Machine.Policy = m.Spec.Restart.Policy
	s := w.life.Machine.State
	if m.Restart && s != messages.Stopped && s != messages.Pending {
		w.quiet(c, Event{Kind: Restart, Cause: messages.CauseStoppedByUser, Reason: "restarting with a changed spec",
			Drain: m.Spec.Stop.Drain.D(), Grace: m.Spec.Stop.Grace.D()})
	}
	w.publish()
	w.answer(m.Reply, nil)
}

func (w *Worker) tick(c actor.Context, m tick) {
	t, ok := w.timers[m.timer]
	if !ok || t.gen != m.gen {
		return // replaced or stopped meanwhile
	}
	delete(w.timers, m.timer)
	if late := w.host.Now().Sub(t.due); late > heldUp && w.amnesty(m.timer, late) {
		return
	}
	grace := w.life.Spec.Stop.Grace.D()
	switch m.timer {
	case TimerDrain:
		w.quiet(c, Event{Kind: DrainEnd, Grace: grace})
	case TimerGrace:
		w.phase("term", w.life.Machine.EndAt)
		w.quiet(c, Event{Kind: GraceEnd})
	case TimerKill:
		w.quiet(c, Event{Kind: KillEnd, Reason: w.survivors()})
	case TimerDue:
		w.quiet(c, Event{Kind: Due})
	case TimerSettle:
		w.quiet(c, Event{Kind: Ready, Attempt: m.attempt})
	case TimerReady:
		w.lateTick(c, m)
	case TimerStall:
		w.stallTick(c, m)
	case TimerBeat:
		w.beatTick(c, m)
	case TimerIdle:
		w.quiet(c, Event{Kind: Stop, Cause: messages.CauseEvicted, Grace: grace,
			Reason: "nothing was in flight for idle_timeout (" + w.life.Spec.IdleTimeout.String() + ")"})
	}
}
