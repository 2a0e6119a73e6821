package messages

import "time"

// Verb is a request about one worker.
type Verb string

// The verbs of the API and the command line.
const (
	VerbStart   Verb = "start"
	VerbStop    Verb = "stop"
	VerbRestart Verb = "restart"
	VerbDrain   Verb = "drain"
	VerbResume  Verb = "resume"
	VerbKill    Verb = "kill"
	VerbReset   Verb = "reset"
)

// Verbs lists the verbs in the order help shows them.
func Verbs() []Verb {
	return []Verb{VerbStart, VerbStop, VerbRestart, VerbDrain, VerbResume, VerbKill, VerbReset}
}

// Reply answers a command; exactly one is sent on a channel of capacity one.
type Reply struct {
	Worker *WorkerStatus
	Plan   *Plan
	Err    error
}

// DoWorker asks for a verb on a worker.
type DoWorker struct {
	Worker WorkerID
	Verb   Verb
	Drain  *time.Duration // overrides stop.drain
	Grace  *time.Duration // overrides stop.grace
	Reply  chan<- Reply
}

// CallbackKind is what a worker tells of itself.
type CallbackKind string

// The callbacks.
const (
	CallbackReady     CallbackKind = "ready"
	CallbackHeartbeat CallbackKind = "heartbeat"
	CallbackProgress  CallbackKind = "progress"
	CallbackState     CallbackKind = "state"

	// These come by notify alone.
	CallbackExtend CallbackKind = "extend" // asks for more time to get ready
	CallbackSaid   CallbackKind = "said"   // its status in words
	CallbackFault  CallbackKind = "fault"  // asks to be failed: WATCHDOG=trigger
)

// Callback is a worker's own word, already authenticated.
type Callback struct {
	Worker   WorkerID
	Attempt  Attempt
	Kind     CallbackKind
	Stats    *Stats        // heartbeat
	Progress *Progress     // progress
	State    State         // state
	Extend   time.Duration // extend
	Text     string        // said
	Reply    chan<- Reply
}

// CreateWorker declares a worker by the API.
type CreateWorker struct {
	Spec  WorkerSpec
	Reply chan<- Reply
}

// ChangeWorker replaces a worker's spec; its process is restarted if the change needs it.
type ChangeWorker struct {
	Spec  WorkerSpec
	Reply chan<- Reply
}

// RemoveWorker stops a worker and forgets it.
type RemoveWorker struct {
	Worker WorkerID
	Reply  chan<- Reply
}

// ApplyConfig makes the workers declared by the file equal to Specs.
type ApplyConfig struct {
	Specs  []WorkerSpec
	DryRun bool
	Reply  chan<- Reply
}

// CordonPool stops (or allows again) new starts in a pool.
type CordonPool struct {
	Pool   PoolID
	On     bool
	Reason string
	Reply  chan<- Reply
}

// Shutdown ends hive in order; Now skips drain and grace.
type Shutdown struct {
	Now    bool
	Reason string
}

// Plan is the difference between what runs and what is asked for.
type Plan struct {
	Start     []WorkerID `json:"start"`
	Stop      []WorkerID `json:"stop"`
	Restart   []Change   `json:"restart"`
	Update    []Change   `json:"update"` // changed without a restart
	Unchanged []WorkerID `json:"unchanged"`
	Notes     []string   `json:"notes"` // what a reload cannot change
}

// Change is a worker whose spec differs, with the keys that do.
type Change struct {
	Worker WorkerID `json:"worker"`
	Keys   []string `json:"keys"`
}
