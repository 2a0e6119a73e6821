package worker

import (
	"time"

	"github.com/rbee-hive/hive/messages"
)

func (w *Worker) publish() { w.host.Publish(w.status()) }

// status is the worker as the world sees it. The value is never changed later.
func (w *Worker) status() *messages.WorkerStatus {
	l := w.life
	m := l.Machine
	s := &messages.WorkerStatus{
		Name: l.Spec.Name, State: m.State, Since: m.Since, Reason: m.Reason, Attempt: m.Attempt, Pool: l.pool,
		GPUs: l.gpus, Port: l.port, Model: l.Spec.Model, Engine: l.Spec.Engine, Progress: l.progress,
		Heartbeat: messages.Heartbeat{Kind: messages.BeatNone}, InFlight: m.InFlight, Held: m.Held, Rests: m.State == messages.Stopped || m.State == messages.Crashloop || m.State == messages.Failed && m.Decided, Ready: m.State.Ready(), Said: l.said, Live: l.pulse,
		Restarts: messages.Restarts{Total: l.History.Total, Max: l.Spec.Restart.MaxRestarts,
			InWindow: l.History.Failures.Count(w.host.Now(), l.Spec.Restart.Window.D())},
		Resources: messages.Resources{Unenforced: l.unenforced()},
		LastExit:  l.lastExit, Labels: l.Spec.Labels, Command: l.Spec.Command, Source: l.Source,
	}
	if s.GPUs == nil {
		s.GPUs = []string{}
	}
	if m.Proc == ProcAlive && l.proc != nil {
		s.PID = l.proc.PID()
		s.StartedAt, s.ReadyAt = m.StartedAt, m.ReadyAt
	}
	if (m.State == messages.Draining || m.State == messages.Stopping) && !l.stopBy.IsZero() {
		by := l.stopBy
		s.StopBy = &by
	}
	if l.port != 0 {
		s.URL = w.host.URL(l.port)
	}
	if !l.nextAt.IsZero() {
		at := l.nextAt
		s.Restarts.NextAt = &at
	}
	return s
}

// GivenUp is the status of a life whose actor was given up and has ended. Called
// by the pool after the actor's end.
func (l *Life) GivenUp(h Host) *messages.WorkerStatus {
	if l.proc != nil {
		l.proc.Close()
		l.proc = nil
	}
	m := &l.Machine
	if m.State != messages.Failed {
		m.State, m.Since = messages.Failed, h.Now()
	}
	m.Proc, m.Claimed, m.Queued, m.Decided = ProcNone, false, false, true
	m.Reason = "given up: hive's own actor failed too often, please report it; remove the worker and create it again"
	l.port, l.gpus, l.nextAt = 0, nil, time.Time{}
	return l.Status(h)
}

// SetPool notes the pool before the first incarnation begins.
func (l *Life) SetPool(id messages.PoolID) { l.pool = id }

// Status is the status of a life that no incarnation has touched yet.
func (l *Life) Status(h Host) *messages.WorkerStatus { return (&Worker{life: l, host: h}).status() }

// unenforced is never null in an answer.
func (l *Life) unenforced() []string {
	if l.lacks == nil {
		return []string{}
	}
	return l.lacks
}
