package worker

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/messages"
)

// perform carries the effects out, in order; it reports whether the actor shall fail.
func (w *Worker) perform(c actor.Context, fx []Effect) (fail bool) {
	l := w.life
	for _, f := range fx {
		switch f.Do {
		case DoQueue:
			c.Send(c.Parent(), Wanted{Worker: l.Spec.Name, Ticket: l.Machine.Ticket})
		case DoRelease:
			if l.proc != nil {
				l.proc.Close()
				l.proc = nil
			}
			l.port = 0
			c.Send(c.Parent(), Released{Worker: l.Spec.Name})
		case DoLoaded:
			w.disarm(TimerReady)
			w.disarm(TimerStall)
			w.disarm(TimerSettle)
			c.Send(c.Parent(), Loaded{Worker: l.Spec.Name})
		case DoPrepare:
			w.prepare()
		case DoUnprepare:
			w.unprepare()
		case DoStartProcess:
			w.launch()
		case DoWatchReady:
			w.watchLoad()
		case DoServe:
			w.serve(c)
		case DoUnwatch:
			w.unwatch()
		case DoSignal:
			if l.proc != nil {
				w.problem("signal", l.proc.Signal(signalNumber(l.Spec.Stop.Signal)))
			}
		case DoKillTree:
			if l.proc != nil {
				w.problem("kill", l.proc.KillTree())
			}
		case DoSweep:
			w.sweep(false)
		case DoSweepNow:
			w.sweep(true)
		case DoArm:
			w.arm(f.Timer, f.After)
			if f.Timer == TimerDrain || f.Timer == TimerGrace {
				l.stopBy = w.host.Now().Add(f.After)
			}
		case DoDisarm:
			w.disarm(f.Timer)
		case DoClearHistory:
			l.History.Reset()
		case DoFail:
			fail = true
		}
	}
	return fail
}

func (w *Worker) problem(act string, err error) {
	if err != nil {
		w.emit(messages.Event{Type: messages.WorkerRefused, Reason: fmt.Sprintf("%s worker %s: %v", act, w.life.Spec.Name, err)})
	}
}

// making is an attempt's process on its way: it outlives the incarnation that
// asked for it, and reports to whichever is there.
type making struct {
	attempt messages.Attempt

	mu     sync.Mutex // guards the rest
	report func(any)
	start  *spawned
	end    *procExited
	orphan bool // the actor was stopped for good, and no other has come
}

func (m *making) tell(start *spawned, end *procExited) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if start != nil {
		m.start = start
		if m.orphan && start.err == nil {
			_ = start.proc.KillTree() // nobody is there to end it
		}
		m.report(*start)
	}
	if end != nil {
		m.end = end
		m.report(*end)
	}
}

// adopt makes a new incarnation the one that is told; it hears again what its
// predecessor may have missed.
func (m *making) adopt(report func(any)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report, m.orphan = report, false
	if m.start != nil {
		report(*m.start)
	}
	if m.end != nil {
		report(*m.end)
	}
}

// abandon makes sure that a process which is still on its way does not outlive
// an actor that was stopped for good.
func (m *making) abandon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.orphan = true
}

// launch makes the process in a goroutine: exec may hang on a dead file system,
// and the actor must go on answering.
func (w *Worker) launch() {
	l := w.life
	l.token, l.progress, l.told, l.said = w.host.Token(l.Spec.Name, l.Machine.Attempt), nil, 0, ""
	l.pulse.Begin(l.Machine.Attempt)
	req := Launch{Spec: l.Spec, Attempt: l.Machine.Attempt, Port: l.port, GPUs: l.gpus, Token: l.token}
	mk, host := &making{attempt: req.Attempt, report: w.reporter()}, w.host
	l.making = mk
	go func() {
		p, err := launched(host, req)
		mk.tell(&spawned{attempt: req.Attempt, proc: p, err: err}, nil)
		if err == nil {
			mk.tell(nil, &procExited{attempt: req.Attempt, exit: p.Wait()})
		}
	}()
}

// launched turns a panic of the launch, which nobody else could catch, into a
// failed start.
func launched(host Host, req Launch) (p Process, err error) {
	defer func() {
		if r := recover(); r != nil {
			host.Panicked("launch of worker "+string(req.Spec.Name), r)
			p, err = nil, &LaunchError{Cause: messages.CauseUnknown, Detail: "hive itself failed while it started the process; please report it"}
		}
	}()
	return host.Launch(req)
}

// reporter sends to this incarnation from outside its message handling.
func (w *Worker) reporter() func(any) { return w.life.outlet.Send }

func (w *Worker) spawned(c actor.Context, m spawned) {
	if m.attempt == w.life.Machine.Attempt && w.life.Machine.Proc != ProcMaking {
		return // heard before
	}
	if m.err == nil {
		w.life.proc, w.life.lacks = m.proc, m.proc.Unenforced()
		w.quiet(c, Event{Kind: Spawned, Attempt: m.attempt, Grace: w.life.Spec.Stop.Grace.D()})
		return
	}
	ev := Event{Kind: SpawnFailed, Attempt: m.attempt, Cause: messages.CauseUnknown, Reason: m.err.Error()}
	var le *LaunchError
	if errors.As(m.err, &le) {
		ev.Cause = le.Cause
	}
	w.life.exit = Exit{Unknown: true, At: w.host.Now()}
	w.life.lastExit = w.lastExit(ev.Cause, ev.Reason, []string{})
	w.quiet(c, ev)
}

// exited: the pidfd woke up. The event is out before anything is cleaned up.
func (w *Worker) exited(c actor.Context, m procExited) {
	l := w.life
	if m.attempt != l.Machine.Attempt || l.Machine.Proc != ProcAlive {
		return // old, or heard before
	}
	l.exit = m.exit
	cause, detail := judge(m.exit)
	l.pulse.End()
	if s := l.Machine.State; s == messages.Stopping || s == messages.Failed || s == messages.Unkillable {
		cause = l.Machine.Cause
		detail = strings.Replace(detail, "exited by itself", "exited", 1)
		w.phase("term", l.Machine.EndAt)
	} else if c, words, ok := l.proc.Verdict(m.exit); ok {
		cause, detail = c, words
	} else if cause == messages.CauseErrorExit || m.exit.Signal == syscall.SIGABRT || m.exit.Signal == syscall.SIGSEGV {
		if c, words, ok := w.host.Diagnose(l.Spec, m.attempt); ok {
			cause, detail = c, detail+": "+words
		}
	}
	w.emit(messages.Event{Type: messages.WorkerExited, PID: l.proc.PID(), Cause: cause, Reason: detail,
		Took: messages.Seconds(w.host.Now().Sub(m.exit.At).Seconds())})
	l.lastExit = w.lastExit(cause, detail, []string{}) // never failed without one; the tail follows
	w.quiet(c, Event{Kind: Exited, Attempt: m.attempt, Cause: cause, Reason: detail})
}

// judge names the cause of an end that hive did not ask for.
func judge(e Exit) (messages.Cause, string) {
	switch {
	case e.Unknown:
		return messages.CauseUnknown, "its exit status could not be read"
	case e.Signal != 0:
		s := "killed by " + SignalName(e.Signal)
		if e.CoreDumped {
			s += ", core dumped"
		}
		return messages.CauseSignal, s
	case e.Code == 0:
		return messages.CauseClean, "exited by itself with code 0"
	}
	return messages.CauseErrorExit, fmt.Sprintf("exited with code %d", e.Code)
}

// sweepEvery is how often the sweep looks for what is left of a tree; the
// leader's own end is never polled, only strangers' children are.
const sweepEvery = 10 * time.Millisecond

// sweep verifies that nothing of the tree lives and the port is free. After an
// end that hive asked for, members of the group keep the rest of the grace;
// whoever left the group never got the stop signal and is killed at once, as is
// everybody after an unasked end.
func (w *Worker) sweep(killAll bool) {
	l := w.life
	send, host := w.reporter(), w.host
	attempt, proc, port, name := l.Machine.Attempt, l.proc, l.port, l.Spec.Name
	go func() {
		left := 0
		wait := sweepEvery
		for proc != nil {
			members, err := proc.Survivors()
			if err == nil && len(members) == 0 {
				break
			}
			left = max(left, len(members))
			for _, m := range members {
				if killAll || !m.InGroup {
					_ = proc.KillTree()
					break
				}
			}
			pause(host, wait)
			wait = min(wait*3/2, 500*time.Millisecond)
		}
		for i := 0; port != 0 && !host.PortFree(port) && i < 50; i++ {
			pause(host, sweepEvery)
		}
		host.LogEnd(name, attempt)
		send(treeGone{attempt: attempt, leftovers: left, tail: host.LogTail(name, attempt, 50)})
	}()
}

func pause(h Host, d time.Duration) {
	done := make(chan struct{})
	h.AfterFunc(d, func() { close(done) })
	<-done
}

func (w *Worker) gone(c actor.Context, m treeGone) {
	l := w.life
	if m.attempt != l.Machine.Attempt || l.Machine.Proc != ProcSweeping {
		return // old, or heard before
	}
	mach := l.Machine
	l.lastExit = w.lastExit(mach.Cause, mach.Detail, m.tail)
	if m.leftovers > 0 {
		w.emit(messages.Event{Type: messages.WorkerLeftover, Total: m.leftovers, Done: m.leftovers,
			Reason: fmt.Sprintf("%d processes outlived the worker's main process and were ended", m.leftovers)})
	}
	w.phase("gone", l.exit.At)
	w.quiet(c, Event{Kind: Gone, Attempt: m.attempt, Cause: mach.Cause})
}

// lastExit describes the attempt's end; the tail of its log is known once the
// tree is gone.
func (w *Worker) lastExit(cause messages.Cause, detail string, tail []string) *messages.LastExit {
	l := w.life
	le := &messages.LastExit{Cause: cause, Detail: detail, Attempt: l.Machine.Attempt, At: l.exit.At, LogTail: tail}
	if le.Detail == "" {
		_, le.Detail = judge(l.exit)
		le.Detail = strings.Replace(le.Detail, "exited by itself", "exited", 1)
	}
	switch {
	case l.exit.Unknown:
	case l.exit.Signal != 0:
		le.Signal, le.CoreDumped, le.OOMKilled = SignalName(l.exit.Signal), l.exit.CoreDumped, cause == messages.CauseOOM
	default:
		code := l.exit.Code
		le.Code = &code
	}
	if started := l.Machine.StartedAt; !started.IsZero() {
		le.UptimeSeconds = messages.Secs(l.exit.At.Sub(started))
	}
	return le
}

func (w *Worker) survivors() string {
	if w.life.proc == nil {
		return ""
	}
	members, err := w.life.proc.Survivors()
	if err != nil || len(members) == 0 {
		return "still there after SIGKILL"
	}
	names := make([]string, 0, 3)
	for _, m := range members[:min(3, len(members))] {
		names = append(names, fmt.Sprintf("%d (%s)", m.PID, m.Command))
	}
	return fmt.Sprintf("%d processes survived SIGKILL, probably asleep in the kernel (state D): %s", len(members), strings.Join(names, ", "))
}

func (w *Worker) arm(t Timer, d time.Duration) {
	w.disarm(t)
	w.life.timerGen++
	m := tick{timer: t, gen: w.life.timerGen, attempt: w.life.Machine.Attempt}
	send := w.reporter()
	w.timers[t] = armedTimer{gen: m.gen, due: w.host.Now().Add(d), stop: w.host.AfterFunc(d, func() { send(m) })}
}

func (w *Worker) disarm(t Timer) {
	if a, ok := w.timers[t]; ok {
		a.stop()
		delete(w.timers, t)
	}
}

// NotInfluenceReceiveTimeout and IgnoreDeadLetterLogging mark a timer's message
// as neither activity nor worth a log line when its worker is gone.
func (tick) NotInfluenceReceiveTimeout() {}

// IgnoreDeadLetterLogging implements protoactor's marker.
func (tick) IgnoreDeadLetterLogging() {}

// down ends an incarnation. No panic may leave it: protoactor would bring a
// stopping actor back to life. When the actor stops for good its process is
// ended too, within twice downWait.
func (w *Worker) down(_ actor.Context, forGood bool) {
	defer func() {
		if r := recover(); r != nil {
			w.host.Panicked("worker "+string(w.life.Spec.Name), r)
		}
	}()
	if forGood {
		w.life.outlet.Set(nil)
	}
	w.unwatch()
	w.unprepare()
	for t := range w.timers {
		w.disarm(t)
	}
	if forGood && w.life.making != nil && w.life.Machine.Proc == ProcMaking {
		w.life.making.abandon()
	}
	p := w.life.proc
	if p == nil || w.life.Machine.Proc == ProcNone {
		return
	}
	if !forGood {
		_ = p.KillTree() // a panic: the next incarnation verifies
		return
	}
	_ = p.Signal(signalNumber(w.life.Spec.Stop.Signal))
	if !w.vanishes(p) {
		_ = p.KillTree()
		w.vanishes(p)
	}
}

// downWait bounds how long an actor's own end waits for its process.
const downWait = time.Second

func (w *Worker) vanishes(p Process) bool {
	for waited := time.Duration(0); waited < downWait; waited += sweepEvery {
		if m, err := p.Survivors(); err == nil && len(m) == 0 {
			return true
		}
		pause(w.host, sweepEvery)
	}
	return false
}

func (w *Worker) emit(e messages.Event) {
	e.At = w.host.Now()
	e.Worker, e.Attempt, e.Pool = w.life.Spec.Name, w.life.Machine.Attempt, w.life.pool
	w.host.Emit(e)
}

func (w *Worker) phase(name string, since time.Time) {
	if !since.IsZero() {
		w.emit(messages.Event{Type: messages.WorkerPhase, Phase: name, Took: messages.Secs(w.host.Now().Sub(since))})
	}
}

var signals = map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT,
	"SIGHUP": syscall.SIGHUP, "SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2, "SIGKILL": syscall.SIGKILL,
	"SIGABRT": syscall.SIGABRT, "SIGSEGV": syscall.SIGSEGV, "SIGBUS": syscall.SIGBUS, "SIGFPE": syscall.SIGFPE,
	"SIGILL": syscall.SIGILL, "SIGPIPE": syscall.SIGPIPE, "SIGALRM": syscall.SIGALRM, "SIGTRAP": syscall.SIGTRAP,
	"SIGXCPU": syscall.SIGXCPU, "SIGXFSZ": syscall.SIGXFSZ, "SIGSYS": syscall.SIGSYS, "SIGWINCH": syscall.SIGWINCH}

func signalNumber(name string) syscall.Signal {
	if s, ok := signals[name]; ok {
		return s
	}
	return syscall.SIGTERM
}

// SignalName is the inverse, "SIGKILL" for 9.
func SignalName(s syscall.Signal) string {
	for n, v := range signals {
		if v == s {
			return n
		}
	}
	return fmt.Sprintf("signal %d", int(s))
}
