package worker

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/messages"
)

// What hive sees of a worker from outside.

// watchLoad begins to watch an attempt that loads.
func (w *Worker) watchLoad() {
	l, now := w.life, w.host.Now()
	r := l.Spec.Ready
	l.advanced, l.patient, l.readyBy = now, time.Time{}, time.Time{}
	if r.Timeout > 0 {
		l.readyBy = now.Add(r.Timeout.D())
		w.arm(TimerReady, r.Timeout.D())
	}
	if r.Stall > 0 {
		w.arm(TimerStall, r.Stall.D())
	}
	switch {
	case HasReadyRule(l.Spec), SaysItself(l.Spec):
		w.startWatch(false)
	default:
		w.arm(TimerSettle, r.Settle.D())
	}
}

// HasReadyRule reports whether hive itself looks for readiness.
func HasReadyRule(s messages.WorkerSpec) bool {
	return s.Ready.HTTP != "" || s.Ready.TCP || s.Ready.Log != "" || len(s.Ready.Command) > 0
}

// SaysItself reports whether the worker is trusted to say that it is ready.
func SaysItself(s messages.WorkerSpec) bool {
	return s.Engine == "hive" || s.Engine == "rbee" || s.Ready.Notify
}

// serve begins to watch a worker that is ready.
func (w *Worker) serve(c actor.Context) {
	w.stopWatch()
	w.native = tells(w.life.pulse.Read())
	if w.demandsBeats() {
		w.arm(TimerBeat, max(w.beatDeadline().Sub(w.host.Now()), time.Millisecond))
	}
	w.startWatch(true)
	// What it said about its work while it loaded counts from now on.
	c.Send(c.Self(), sighted{attempt: w.life.Machine.Attempt, serving: true, Sighting: Sighting{Moved: true}})
}

// contain keeps a panic of a goroutine beside the actor, a bug in hive, from
// ending hive; the deadlines still hold the worker.
func (w *Worker) contain(who string) {
	if r := recover(); r != nil {
		w.host.Panicked(who, r)
	}
}

func (w *Worker) startWatch(serving bool) {
	l := w.life
	ctx, cancel := context.WithCancel(context.Background())
	w.watch = cancel
	send, host := w.reporter(), w.host
	watched := Watched{Spec: l.Spec, Attempt: l.Machine.Attempt, Port: l.port, Proc: l.proc, Pulse: l.pulse, Serving: serving, LastLoad: l.loadTook}
	go func() {
		defer w.contain("watch of worker " + string(watched.Spec.Name))
		host.Watch(ctx, watched, func(s Sighting) {
			if ctx.Err() == nil {
				send(sighted{attempt: watched.Attempt, serving: serving, Sighting: s})
			}
		})
	}()
}

func (w *Worker) stopWatch() {
	if w.watch != nil {
		w.watch()
		w.watch = nil
	}
}

// unwatch ends every watch of the attempt, and its deadlines.
func (w *Worker) unwatch() {
	for _, t := range []Timer{TimerReady, TimerStall, TimerSettle, TimerBeat, TimerIdle} {
		w.disarm(t)
	}
	w.stopWatch()
	w.native = false
}

func (w *Worker) sighted(c actor.Context, m sighted) {
	l := w.life
	s := l.Machine.State
	loading, serving := s == messages.Loading, s.Ready() || s == messages.Draining
	if m.attempt != l.Machine.Attempt || m.serving && !serving || !m.serving && !loading {
		return // of an earlier stage of its life
	}
	if m.Progress != nil {
		w.progressed(m.Progress)
		w.publish()
	}
	if m.Advanced && (l.progress == nil || l.progress.Source != sourceNative) {
		l.advanced = w.host.Now() // a worker that tells its progress is held to what it tells
	}
	switch {
	case m.Fault != messages.CauseNone:
		w.quiet(c, Event{Kind: Fault, Attempt: m.attempt, Cause: m.Fault, Reason: m.Detail, Grace: l.Spec.Stop.Grace.D()})
	case m.Ready:
		w.quiet(c, Event{Kind: Ready, Attempt: m.attempt})
	case m.Moved:
		_ = w.heard(c) // a refusal is in the event log
	}
}

// prepare runs the spec's prepare beside the actor.
func (w *Worker) prepare() {
	w.unprepare()
	l := w.life
	ctx, cancel := context.WithCancel(context.Background())
	w.prep = cancel
	w.preps++
	run, send, host, spec, next := w.preps, w.reporter(), w.host, l.Spec, l.Machine.Attempt+1
	l.progress, l.told = nil, 0
	w.emit(messages.Event{Type: messages.WorkerPreparing})
	began := w.host.Now()
	go func() {
		defer w.contain("prepare of worker " + string(spec.Name))
		err := host.Prepare(ctx, spec, next, func(p messages.Progress) {
			send(preparing{run: run, progress: &p})
		})
		if ctx.Err() != nil {
			return // taken back
		}
		if err == nil {
			host.Emit(messages.Event{Type: messages.WorkerPrepared, At: host.Now(), Worker: spec.Name, Pool: l.pool, Took: messages.Secs(host.Now().Sub(began))})
		}
		send(preparing{run: run, err: err})
	}()
}

func (w *Worker) unprepare() {
	if w.prep != nil {
		w.prep()
		w.prep = nil
	}
}

func (w *Worker) prepared(c actor.Context, m preparing) {
	l := w.life
	if m.run != w.preps || w.prep == nil || l.Machine.State != messages.Pending {
		return // of a run that was taken back
	}
	if m.progress != nil {
		w.progressed(m.progress)
		w.publish()
		return
	}
	w.unprepare()
	l.progress = nil
	if m.err == nil {
		w.quiet(c, Event{Kind: Prepared})
		return
	}
	l.exit = Exit{Unknown: true, At: w.host.Now()}
	l.lastExit = w.lastExit(messages.CausePrepareFailed, m.err.Error(), w.host.LogTail(l.Spec.Name, l.Machine.Attempt+1, 50))
	w.quiet(c, Event{Kind: PrepareFailed, Cause: messages.CausePrepareFailed, Reason: m.err.Error()})
}
