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
	// Abandoned: it panicked too often; there is no actor any more.
	Abandoned bool

	outlet   supervision.Outlet
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
	pulse    *messages.Pulse
	progress *messages.Progress
	told     int       // tenths of the progress that an event has told
	said     string    // the worker's own words
	lacks    []string  // limits that this host cannot hold
	advanced time.Time // when the load was last seen to move
	patient  time.Time // until when it asked for patience
	readyBy  time.Time // the cap on its load
	stopBy   time.Time // when a drain or a grace under way is over
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
	m.Prepare = len(spec.Prepare) > 0
	return &Life{Spec: spec, Source: source, Machine: m, pulse: &messages.Pulse{}}
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
	// Unenforced are the limits of its spec that the host does not hold, in words.
	Unenforced() []string
	// Verdict adds what the kernel's accounts tell to a bad end: out of memory.
	// Called once, after Wait and before Close.
	Verdict(Exit) (messages.Cause, string, bool)
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

// Watched is an attempt as it is watched from outside.
type Watched struct {
	Spec     messages.WorkerSpec
	Attempt  messages.Attempt
	Port     int
	Proc     Process
	Pulse    *messages.Pulse // takes what is seen of its work
	Serving  bool            // ready; false while it loads
	LastLoad time.Duration   // how long the load before took, 0 when unknown
}

// Sighting is what was seen of an attempt from outside.
type Sighting struct {
	Ready    bool
	Progress *messages.Progress // how far its load has come
	Advanced bool               // its load does something, however far it has come
	Moved    bool               // how much is in flight changed: the pulse tells
	Fault    messages.Cause     // it is unfit; Detail says by what evidence
	Detail   string
}

// Host is the world as a worker touches it. Its methods are called from several
// goroutines at once. Launch, Watch, Prepare and LogTail may block and are never
// called inside an actor's message handling; Diagnose reads the end of a file.
type Host interface {
	Now() time.Time
	AfterFunc(d time.Duration, f func()) (stop func())
	// Token makes the callback token of an attempt; the earlier one is void from then on.
	Token(messages.WorkerID, messages.Attempt) string
	Launch(Launch) (Process, error)
	// Prepare runs the spec's prepare to its end, or until ctx ends.
	Prepare(ctx context.Context, spec messages.WorkerSpec, next messages.Attempt, report func(messages.Progress)) error
	// Watch blocks and reports until ctx ends or there is nothing (more) to see.
	Watch(ctx context.Context, w Watched, report func(Sighting))
	// Diagnose reads the attempt's last words for the cause of its bad end.
	Diagnose(messages.WorkerSpec, messages.Attempt) (messages.Cause, string, bool)
	LogTail(messages.WorkerID, messages.Attempt, int) []string
	LogEnd(messages.WorkerID, messages.Attempt)
	PortFree(port int) bool
	URL(port int) string
	Publish(*messages.WorkerStatus)
	Emit(messages.Event)
	Panicked(who string, reason any)
}
