package worker

import (
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/messages"
)

// What a worker says of itself, and the deadlines that hold it to it.

// callback takes a worker's own word. ready moves loading to idle, a heartbeat's
// in_flight moves between idle and busy.
func (w *Worker) callback(c actor.Context, m messages.Callback) {
	l := w.life
	if m.Attempt != l.Machine.Attempt {
		w.answer(m.Reply, &messages.StaleError{Worker: l.Spec.Name, Got: m.Attempt, Current: l.Machine.Attempt})
		return
	}
	var err error
	switch m.Kind {
	case messages.CallbackReady:
		err = w.apply(c, Event{Kind: Ready, Attempt: m.Attempt})
	case messages.CallbackHeartbeat:
		err = w.heard(c)
	case messages.CallbackProgress:
		w.progressed(m.Progress)
	case messages.CallbackState:
		err = w.ownState(c, m)
	case messages.CallbackExtend:
		w.extended(m.Extend)
	case messages.CallbackSaid:
		l.said = m.Text
	case messages.CallbackFault:
		err = w.apply(c, Event{Kind: Fault, Attempt: m.Attempt, Cause: messages.CauseHealthFailed, Grace: l.Spec.Stop.Grace.D(),
			Reason: "the worker asked to be restarted (WATCHDOG=trigger)"})
	}
	w.publish()
	w.answer(m.Reply, err)
}

// heard follows the pulse: it tells of the first heartbeat of an attempt, and
// of each that changes how much is in flight.
func (w *Worker) heard(c actor.Context) error {
	l := w.life
	r := l.pulse.Read()
	if r.Attempt != l.Machine.Attempt {
		return nil
	}
	s := l.Machine.State
	if s.Ready() && tells(r) && !w.native {
		w.serve(c) // it turned out to speak for itself
	}
	if r.Stats.InFlight == nil || !s.Ready() && s != messages.Draining {
		return nil
	}
	l.pulse.Told(*r.Stats.InFlight)
	return w.apply(c, Event{Kind: InFlight, Attempt: r.Attempt, InFlight: *r.Stats.InFlight,
		Drain: l.Spec.Stop.Drain.D(), Grace: l.Spec.Stop.Grace.D()})
}

// tells reports whether a worker beats itself, or tells its work by itself.
func tells(r messages.Reading) bool {
	return r.Kind == messages.BeatNative || r.Kind == messages.BeatNone && r.Stats.InFlight != nil
}

// ownState takes the state that a worker says it is in. ready alone moves it out
// of loading; what the table does not allow is refused, naming both states.
func (w *Worker) ownState(c actor.Context, m messages.Callback) error {
	l := w.life
	ends := Event{Attempt: m.Attempt, Cause: messages.CauseStoppedByUser, Drain: l.Spec.Stop.Drain.D(), Grace: l.Spec.Stop.Grace.D()}
	from := l.Machine.State
	switch {
	case m.State == from:
		return nil
	case m.State == messages.Idle && from == messages.Busy:
		ends.Kind = InFlight
	case m.State == messages.Busy && from == messages.Idle:
		ends.Kind, ends.InFlight = InFlight, 1
	case m.State == messages.Draining && from.Ready():
		ends.Kind, ends.Reason = Drain, "drained by the worker's own word"
	default:
		err := &messages.IllegalError{Worker: l.Spec.Name, From: from, Verb: "state", To: m.State,
			Hint: "a worker tells idle, busy or draining once it is ready, and gets ready by the ready callback"}
		w.emit(messages.Event{Type: messages.WorkerRefused, Reason: err.Error()})
		return err
	}
	return w.apply(c, ends)
}

// progressed notes how far a load has come. A worker's own word is never
// replaced by a guess, and progress does not go back within a stage.
func (w *Worker) progressed(p *messages.Progress) {
	l := w.life
	if p == nil || l.Machine.State != messages.Loading && l.Machine.State != messages.Pending {
		return
	}
	was := l.progress
	if was != nil && was.Source == sourceNative && p.Source != sourceNative {
		return
	}
	if was == nil || was.Source != p.Source || was.Stage != p.Stage {
		l.told = 0
	} else if p.Value <= was.Value {
		return
	}
	l.progress, l.advanced = p, w.host.Now()
	if tenth := int(p.Value * 10); tenth > l.told {
		l.told = tenth
		w.emit(messages.Event{Type: messages.WorkerProgress, Progress: p, Reason: fmt.Sprintf("%s %.0f %%", or(p.Stage, "loading"), p.Value*100)})
	}
}

const sourceNative = "native"

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// longestPatience bounds one request for more time, so that a bug in a worker
// cannot switch its deadlines off.
const longestPatience = 24 * time.Hour

// extended gives a load at least d more from now on.
// Source: sd_notify(3), EXTEND_TIMEOUT_USEC.
func (w *Worker) extended(d time.Duration) {
	l := w.life
	if l.Machine.State != messages.Loading || d <= 0 {
		return
	}
	until := w.host.Now().Add(min(d, longestPatience))
	if until.After(l.patient) {
		l.patient = until
	}
	if !l.readyBy.IsZero() && until.After(l.readyBy) {
		l.readyBy = until
		w.arm(TimerReady, until.Sub(w.host.Now()))
	}
}

// lateTick: the cap on loading is over, unless the worker was given more.
func (w *Worker) lateTick(c actor.Context, m tick) {
	l := w.life
	if left := l.readyBy.Sub(w.host.Now()); left > 0 {
		w.arm(TimerReady, left)
		return
	}
	w.quiet(c, Event{Kind: Fault, Attempt: m.attempt, Cause: messages.CauseReadyTimeout, Grace: l.Spec.Stop.Grace.D(),
		Reason: "not ready within ready.timeout (" + l.Spec.Ready.Timeout.String() + ")" + w.howFar()})
}

// stallTick: no load may stand still for ready.stall.
func (w *Worker) stallTick(c actor.Context, m tick) {
	l := w.life
	stall := l.Spec.Ready.Stall.D()
	due := l.advanced.Add(stall)
	if l.patient.After(due) {
		due = l.patient
	}
	if left := due.Sub(w.host.Now()); left > 0 {
		w.arm(TimerStall, left)
		return
	}
	w.quiet(c, Event{Kind: Fault, Attempt: m.attempt, Cause: messages.CauseLoadStalled, Grace: l.Spec.Stop.Grace.D(),
		Reason: "its load has not moved for ready.stall (" + l.Spec.Ready.Stall.String() + ")" + w.howFar()})
}

func (w *Worker) howFar() string {
	if p := w.life.progress; p != nil {
		return fmt.Sprintf(", it had come to %.0f %% of %s (source: %s)", p.Value*100, or(p.Stage, "loading"), p.Source)
	}
	return ""
}

// demandsBeats: engines that speak the contract beat from ready on; any other
// worker is held to it from its first heartbeat on, once it is ready, since many
// an engine cannot beat while it loads.
func (w *Worker) demandsBeats() bool {
	s := w.life.Spec
	return s.Heartbeat.Interval > 0 && s.Heartbeat.Misses > 0 &&
		(s.Engine == "hive" || s.Engine == "rbee" || w.life.pulse.Read().Kind == messages.BeatNative)
}

// beatDeadline is when the next heartbeat is overdue: the last one, or ready,
// plus the misses allowed.
func (w *Worker) beatDeadline() time.Time {
	l := w.life
	last := l.Machine.ReadyAt
	if r := l.pulse.Read(); r.Kind == messages.BeatNative && r.At.After(last) {
		last = r.At
	}
	return last.Add(l.Spec.Heartbeat.Interval.D() * time.Duration(l.Spec.Heartbeat.Misses))
}

// beatTick looks at the pulse when the heartbeat would be overdue. Heartbeats do
// not touch the timer, so that any number of them costs nothing here.
func (w *Worker) beatTick(c actor.Context, m tick) {
	l := w.life
	if left := w.beatDeadline().Sub(w.host.Now()); left > 0 {
		w.arm(TimerBeat, left)
		return
	}
	hb := l.Spec.Heartbeat
	w.quiet(c, Event{Kind: Fault, Attempt: m.attempt, Cause: messages.CauseHeartbeatLost, Grace: l.Spec.Stop.Grace.D(),
		Reason: fmt.Sprintf("no heartbeat for %s, %d of one each %s were missed", time.Duration(hb.Misses)*hb.Interval.D(), hb.Misses, hb.Interval)})
}

// heldUp is how late a timer may be before hive itself is taken to have stood
// still (stopped, swapped out, a host that was paused): a busy host delays timers
// by milliseconds.
const heldUp = 2 * time.Second

// amnesty gives a deadline again that passed while hive stood still: it has not
// heard what its workers said meanwhile, and must not take all of them for dead.
func (w *Worker) amnesty(t Timer, late time.Duration) bool {
	l := w.life
	switch t {
	case TimerBeat:
		w.arm(TimerBeat, l.Spec.Heartbeat.Interval.D())
	case TimerStall:
		l.advanced = w.host.Now()
		w.arm(TimerStall, l.Spec.Ready.Stall.D())
	case TimerReady:
		l.readyBy = l.readyBy.Add(late)
		w.arm(TimerReady, l.readyBy.Sub(w.host.Now()))
	default:
		return false
	}
	return true
}

// watchIdle starts the idle timeout's clock when a worker comes to be idle, and
// stops it when it is not any more. Only work counts: no probe reaches this.
func (w *Worker) watchIdle(before, now messages.State) {
	switch d := w.life.Spec.IdleTimeout.D(); {
	case before == now:
	case now == messages.Idle && d > 0:
		w.arm(TimerIdle, d)
	case before == messages.Idle:
		w.disarm(TimerIdle)
	}
}
