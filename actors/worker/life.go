package worker

import (
	"context"
	"syscall"
	"time"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// Life is what survives a restart of the worker's actor: the spec, the machine,
// the restart account and the process. One incarnation touches it at a time; the
// pool does only while the actor is down between two of them.
type Life struct {
	Spec    messages.WorkerSpec
	Source  string // "file" or "api"
	Machine Machine
	History supervision.History
	Verdict *supervision.Verdict // what the pool decided after the last failure
	Bugs    supervision.Window   // panics of the actor itself

	proc     Process
	making   *making
	port     int
	gpus     []string
	pool     messages.PoolID
	token    string
	nextAt   time.Time
	lastExit *messages.LastExit
	exit     Exit
	loadTook time.Duration
	beat     time.Time
	beatKind string
	progress *messages.Progress
	timerGen uint64
	afresh   bool   // the next incarnation starts what waited
	begun    bool   // an incarnation has run before
	retry    bool   // the next attempt follows a failure
	rebirth  string // why there is a new incarnation, when its predecessor did not fail by a process
}

// NewLife is a worker that has not run yet; it begins in pending, or in stopped
// when started is false.
func NewLife(spec messages.WorkerSpec, source string, started bool, now time.Time) *Life {
	m := Machine{Worker: spec.Name, Policy: spec.Restart.Policy, State: messages.Pending, Since: now, Reason: "waits for its pool"}
	if !started {
		m.State, m.Reason = messages.Stopped, "not started yet"
	}
	return &Life{Spec: spec, Source: source, Machine: m, beatKind: "none"}
}

// Interrupt notes why the next incarnation finds a life that did not end by
// itself. Called by the pool while the actor is down.
func (l *Life) Interrupt(why string) {
	if l.begun {
		l.rebirth = why
	}
}

// Afresh makes the next incarnation forget the restart account and start at once
// what waited. Called by the pool while the actor is down.
func (l *Life) Afresh() {
	l.History.Reset()
	l.afresh = l.begun
}

// Exit is the end of a process as the kernel told it.
type Exit struct {
	Code       int
	Signal     syscall.Signal // 0 when it exited
	CoreDumped bool
	Unknown    bool      // nobody could tell
	At         time.Time // when hive woke up by it
}

// Member is one process of a worker's tree.
type Member struct {
	PID     int
	Command string
	InGroup bool // got the stop signal with its group
}

// Process is a started OS process with its whole tree.
type Process interface {
	PID() int
	Wait() Exit // blocks without a thread; once
	Signal(syscall.Signal) error
	KillTree() error
	Survivors() ([]Member, error)
	Close()
}

// Launch is what a Host needs to make a process.
type Launch struct {
	Spec    messages.WorkerSpec
	Attempt messages.Attempt
	Port    int
	GPUs    []string
	Token   string
}

// LaunchError says why a process could not be made.
type LaunchError struct {
	Cause  messages.Cause
	Detail string
}

func (e *LaunchError) Error() string { return e.Detail }

// Host is the world as a worker touches it. Its methods are called from several
// goroutines at once. Launch, WatchReady and LogTail may block and are never
// called inside an actor's message handling, except LogTail, which reads a file.
type Host interface {
	Now() time.Time
	AfterFunc(d time.Duration, f func()) (stop func())
	// Token makes the callback token of an attempt; the earlier one is void from then on.
	Token(messages.WorkerID, messages.Attempt) string
	Launch(Launch) (Process, error)
	// WatchReady blocks until the worker is ready (nil), ctx ends, or an error
	// shows that it never will be.
	WatchReady(ctx context.Context, spec messages.WorkerSpec, attempt messages.Attempt, port int) error
	LogTail(messages.WorkerID, messages.Attempt, int) []string
	LogEnd(messages.WorkerID, messages.Attempt)
	PortFree(port int) bool
	URL(port int) string
	Publish(*messages.WorkerStatus)
	Emit(messages.Event)
	Panicked(who string, reason any)
}
