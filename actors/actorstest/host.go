// Package actorstest is a world for the actors to be tested in: a real actor
// system under a host whose clock, processes and panics are moved by hand.
package actorstest

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/root"
	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/messages"
)

// Epoch is when every test begins.
var Epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// firstPort begins the range of ports that the host leases.
const firstPort = 7100

// Manner is how a fake process takes signals.
type Manner uint8

// The manners.
const (
	Obedient Manner = iota // ends at the stop signal
	Stubborn               // ends only by SIGKILL
	Immortal               // survives SIGKILL until the test ends it
)

// Host is the fake world. Its methods are safe for concurrent use.
type Host struct {
	root.Host // nil: a method that a test needs and that is not here panics

	System *actor.ActorSystem

	mu         sync.Mutex // guards the rest
	now        time.Time
	timers     []*timer
	seq        int
	procs      []*Process
	manners    map[messages.WorkerID]Manner
	held       map[messages.WorkerID]chan struct{}
	events     []messages.Event
	statuses   map[messages.WorkerID]*messages.WorkerStatus
	pools      map[messages.PoolID]*messages.PoolStatus
	leases     map[messages.WorkerID]int
	ended      [][]messages.WorkerID
	traps      []*trap
	violations []string
	panicked   []string
	changed    chan struct{} // closed at each change
}

type timer struct {
	at   time.Time
	seq  int
	f    func()
	gone bool
}

type trap struct {
	at   string
	fits func(any) bool
	left int
}

// NewHost makes a world in which nothing has happened yet.
func NewHost() *Host {
	return &Host{now: Epoch, manners: map[messages.WorkerID]Manner{}, held: map[messages.WorkerID]chan struct{}{},
		statuses: map[messages.WorkerID]*messages.WorkerStatus{}, pools: map[messages.PoolID]*messages.PoolStatus{},
		leases: map[messages.WorkerID]int{}, changed: make(chan struct{})}
}

// touch wakes whoever waits for a change. The caller holds mu.
func (h *Host) touch() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Host) locked(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.touch()
}

// Behave says how the processes that a worker gets from now on take signals.
func (h *Host) Behave(id messages.WorkerID, m Manner) { h.locked(func() { h.manners[id] = m }) }

// HoldLaunch makes the next launches of a worker hang until release is called.
func (h *Host) HoldLaunch(id messages.WorkerID) (release func()) {
	ch := make(chan struct{})
	h.locked(func() { h.held[id] = ch })
	return sync.OnceFunc(func() { h.locked(func() { delete(h.held, id) }); close(ch) })
}

// Trap makes the host panic the next n times that the named call ("emit",
// "publish", "publish pool", "lease", "launch", "device") has an argument that fits.
func (h *Host) Trap(call string, n int, fits func(any) bool) {
	h.locked(func() { h.traps = append(h.traps, &trap{at: call, left: n, fits: fits}) })
}

// Disarm takes every trap away.
func (h *Host) Disarm() { h.locked(func() { h.traps = nil }) }

// Armed is how many panics are still to come.
func (h *Host) Armed() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.traps {
		n += t.left
	}
	return n
}

func (h *Host) spring(call string, arg any) {
	h.mu.Lock()
	for _, t := range h.traps {
		if t.at == call && t.left > 0 && t.fits(arg) {
			t.left--
			h.touch()
			h.mu.Unlock()
			panic("sprung: " + call)
		}
	}
	h.mu.Unlock()
}

// Now is the fake clock.
func (h *Host) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// AfterFunc arms a timer of the fake clock. Waits shorter than a second, which
// only pace a repeated look, run by themselves and shortened.
func (h *Host) AfterFunc(d time.Duration, f func()) (stop func()) {
	if d < time.Second {
		t := time.AfterFunc(time.Millisecond, f)
		return func() { t.Stop() }
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	t := &timer{at: h.now.Add(d), seq: h.seq, f: f}
	h.timers = append(h.timers, t)
	h.touch()
	return func() { h.locked(func() { t.gone = true }) }
}

// Advance moves the clock and fires what is due, in order.
func (h *Host) Advance(d time.Duration) {
	h.mu.Lock()
	end := h.now.Add(d)
	for {
		var next *timer
		keep := h.timers[:0]
		for _, t := range h.timers {
			if t.gone {
				continue
			}
			keep = append(keep, t)
			if !t.at.After(end) && (next == nil || t.at.Before(next.at) || t.at.Equal(next.at) && t.seq < next.seq) {
				next = t
			}
		}
		h.timers = keep
		if next == nil {
			break
		}
		next.gone = true
		h.now = next.at
		h.mu.Unlock()
		next.f()
		h.mu.Lock()
	}
	h.now = end
	h.touch()
	h.mu.Unlock()
}

// Timers is how many timers of the fake clock are armed.
func (h *Host) Timers() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.timers {
		if !t.gone {
			n++
		}
	}
	return n
}

// Token makes an attempt's token.
func (h *Host) Token(id messages.WorkerID, a messages.Attempt) string {
	return fmt.Sprintf("token-%s-%d", id, a)
}

// Launch makes a fake process.
func (h *Host) Launch(l worker.Launch) (worker.Process, error) {
	h.spring("launch", l)
	h.mu.Lock()
	held := h.held[l.Spec.Name]
	if got := h.leases[l.Spec.Name]; got != l.Port {
		h.violations = append(h.violations, fmt.Sprintf("worker %s: attempt %d was launched on port %d, its lease is %d", l.Spec.Name, l.Attempt, l.Port, got))
	}
	h.mu.Unlock()
	if held != nil {
		<-held
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.procs {
		if p.Worker == l.Spec.Name && p.alive {
			h.violations = append(h.violations, fmt.Sprintf("worker %s: attempt %d was launched while the process of attempt %d lives", l.Spec.Name, l.Attempt, p.Attempt))
		}
	}
	p := &Process{host: h, Worker: l.Spec.Name, Attempt: l.Attempt, Port: l.Port, pid: 1000 + len(h.procs), manner: h.manners[l.Spec.Name],
		alive: true, exit: make(chan worker.Exit, 1)}
	h.procs = append(h.procs, p)
	h.touch()
	return p, nil
}

// Prepare succeeds at once.
func (h *Host) Prepare(context.Context, messages.WorkerSpec, messages.Attempt, func(messages.Progress)) error {
	return nil
}

// Watch sees nothing by itself.
func (h *Host) Watch(ctx context.Context, _ worker.Watched, _ func(worker.Sighting)) { <-ctx.Done() }

// Diagnose finds nothing in the last words.
func (h *Host) Diagnose(messages.WorkerSpec, messages.Attempt) (messages.Cause, string, bool) {
	return messages.CauseNone, "", false
}

// LogTail is the last line an attempt wrote.
func (h *Host) LogTail(id messages.WorkerID, a messages.Attempt, _ int) []string {
	return []string{fmt.Sprintf("last words of %s %d", id, a)}
}

// LogEnd does nothing.
func (h *Host) LogEnd(messages.WorkerID, messages.Attempt) {}

// PortFree is always true.
func (h *Host) PortFree(int) bool { return true }

// URL is where a port is reached.
func (h *Host) URL(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// Publish keeps the status.
func (h *Host) Publish(s *messages.WorkerStatus) {
	h.spring("publish", s)
	h.locked(func() { h.statuses[s.Name] = s })
}

// Emit keeps the event.
func (h *Host) Emit(e messages.Event) {
	h.spring("emit", e)
	h.locked(func() {
		e.Seq = uint64(len(h.events) + 1)
		h.events = append(h.events, e)
	})
}

// Panicked keeps who panicked.
func (h *Host) Panicked(who string, reason any) {
	h.locked(func() { h.panicked = append(h.panicked, fmt.Sprintf("%s: %v", who, reason)) })
}

// LeasePort gives a worker the port that it has, or the lowest free one.
func (h *Host) LeasePort(s messages.WorkerSpec) (int, error) {
	h.spring("lease", s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if p, ok := h.leases[s.Name]; ok {
		return p, nil
	}
	taken := map[int]bool{}
	for _, p := range h.leases {
		taken[p] = true
	}
	port := firstPort
	for taken[port] {
		port++
	}
	h.leases[s.Name] = port
	h.touch()
	return port, nil
}

// ReleasePort gives a worker's port back.
func (h *Host) ReleasePort(id messages.WorkerID) { h.locked(func() { delete(h.leases, id) }) }

// WaitsFor says that nothing is lacking.
func (h *Host) WaitsFor([]string) string { return "" }

// PublishPool keeps the pool's status.
func (h *Host) PublishPool(p *messages.PoolStatus) {
	h.spring("publish pool", p)
	h.locked(func() { h.pools[p.Name] = p })
}

// Forget drops a worker from view.
func (h *Host) Forget(id messages.WorkerID) { h.locked(func() { delete(h.statuses, id) }) }

// Spread is the middle of the jitter.
func (h *Host) Spread() float64 { return 0.5 }

// AllEnded keeps what a shutdown left behind.
func (h *Host) AllEnded(left []messages.WorkerID) {
	h.locked(func() { h.ended = append(h.ended, left) })
}

// Send tells an actor something from outside.
func (h *Host) Send(to *actor.PID, m any) { h.System.Root.Send(to, m) }

// DeviceHealthy is always true.
func (h *Host) DeviceHealthy(id messages.PoolID) bool {
	h.spring("device", id)
	return true
}

// Status is the last published one of a worker, nil when there is none.
func (h *Host) Status(id messages.WorkerID) *messages.WorkerStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.statuses[id]
}

// Statuses is every worker's last published status.
func (h *Host) Statuses() (all []*messages.WorkerStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.statuses {
		all = append(all, s)
	}
	return all
}

// Pool is the last published status of a pool.
func (h *Host) Pool(id messages.PoolID) *messages.PoolStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pools[id]
}

// Events are the events of the given types so far, or all without any type.
func (h *Host) Events(types ...messages.EventType) (out []messages.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		fits := len(types) == 0
		for _, t := range types {
			fits = fits || e.Type == t
		}
		if fits {
			out = append(out, e)
		}
	}
	return out
}

// Processes are all processes a worker ever had, oldest first.
func (h *Host) Processes(id messages.WorkerID) (out []*Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.procs {
		if p.Worker == id {
			out = append(out, p)
		}
	}
	return out
}

// Alive is a worker's living process, nil when there is none.
func (h *Host) Alive(id messages.WorkerID) *Process {
	for _, p := range h.Processes(id) {
		if p.Lives() {
			return p
		}
	}
	return nil
}

// Living are all living processes.
func (h *Host) Living() (out []*Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.procs {
		if p.alive {
			out = append(out, p)
		}
	}
	return out
}

// Leases are the ports held now.
func (h *Host) Leases() map[messages.WorkerID]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[messages.WorkerID]int{}
	for id, p := range h.leases {
		out[id] = p
	}
	return out
}

// Violations are what must never happen and did.
func (h *Host) Violations() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.violations...)
}

// Ended is what each call of AllEnded left behind.
func (h *Host) Ended() [][]messages.WorkerID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([][]messages.WorkerID(nil), h.ended...)
}

// PanicsSeen are the panics reported to the host.
func (h *Host) PanicsSeen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.panicked...)
}

// Process is a fake OS process.
type Process struct {
	Worker  messages.WorkerID
	Attempt messages.Attempt
	Port    int

	host    *Host
	pid     int
	exit    chan worker.Exit
	manner  Manner // host.mu guards this and below
	alive   bool
	signals []syscall.Signal
	killed  bool
	closed  bool
}

// PID is the fake process id.
func (p *Process) PID() int { return p.pid }

// Wait blocks until the process ends.
func (p *Process) Wait() worker.Exit { return <-p.exit }

// Signal takes note of a signal; an obedient process ends by it.
func (p *Process) Signal(s syscall.Signal) error {
	p.host.mu.Lock()
	p.signals = append(p.signals, s)
	p.host.touch()
	obeys := p.manner == Obedient
	p.host.mu.Unlock()
	if obeys {
		p.End(worker.Exit{Signal: s})
	}
	return nil
}

// KillTree ends the process unless it is immortal.
func (p *Process) KillTree() error {
	p.host.mu.Lock()
	p.killed = true
	p.host.touch()
	dies := p.manner != Immortal
	p.host.mu.Unlock()
	if dies {
		p.End(worker.Exit{Signal: syscall.SIGKILL})
	}
	return nil
}

// Survivors is the process itself while it lives.
func (p *Process) Survivors() ([]worker.Member, error) {
	if p.Lives() {
		return []worker.Member{{PID: p.pid, Command: "fake", InGroup: true}}, nil
	}
	return nil, nil
}

// Close gives the handle back.
func (p *Process) Close() { p.host.locked(func() { p.closed = true }) }

// End lets the process end, once.
func (p *Process) End(e worker.Exit) {
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	if !p.alive {
		return
	}
	p.alive = false
	e.At = p.host.now
	p.exit <- e
	p.host.touch()
}

// Crash ends the process by a segmentation fault.
func (p *Process) Crash() { p.End(worker.Exit{Signal: syscall.SIGSEGV}) }

// Lives reports whether the process lives.
func (p *Process) Lives() bool {
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	return p.alive
}

// Signals are the signals it got, SIGKILL of the tree last when there was one.
func (p *Process) Signals() []syscall.Signal {
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	out := append([]syscall.Signal(nil), p.signals...)
	if p.killed {
		out = append(out, syscall.SIGKILL)
	}
	return out
}

// Reserve finds room for everybody.
func (h *Host) Reserve(messages.WorkerSpec, time.Time) error { return nil }

// Unreserve takes nothing back.
func (h *Host) Unreserve(messages.WorkerID) {}

// Unenforced is nothing: there is no host.
func (p *Process) Unenforced() []string { return nil }

// Verdict knows no accounts.
func (p *Process) Verdict(worker.Exit) (messages.Cause, string, bool) { return "", "", false }
