package messages

import (
	"fmt"
	"strings"
	"time"
)

// EventType is the stable name of an event.
type EventType string

// The events. Each WorkerX event carries worker, pool and attempt.
const (
	WorkerCreated    EventType = "worker.created"
	WorkerState      EventType = "worker.state"      // From, To, Reason, Cause
	WorkerExited     EventType = "worker.exited"     // the process ended: Cause, Detect
	WorkerReady      EventType = "worker.ready"      // Took is the time to ready
	WorkerPhase      EventType = "worker.stop_phase" // Phase, Took
	WorkerRestarting EventType = "worker.restarting" // Took is the backoff chosen
	WorkerCrashloop  EventType = "worker.crashloop"  // loud: gave up fast restarts
	WorkerRefused    EventType = "worker.refused"    // an input the table does not allow
	WorkerLeftover   EventType = "worker.leftover"   // processes of an ended attempt were found and ended
	WorkerPanic      EventType = "worker.panic"      // an actor panicked: a bug in hive
	WorkerRemoved    EventType = "worker.removed"
	WorkerProgress   EventType = "worker.progress"  // Progress of a load or a preparation, each tenth of it
	WorkerPreparing  EventType = "worker.preparing" // prepare begins
	WorkerPrepared   EventType = "worker.prepared"  // Took is how long it needed
	WorkerStranger   EventType = "worker.stranger"  // a notify datagram of a process that is not the worker's
	WorkerMalformed  EventType = "worker.malformed" // a notify datagram that could not be read, once an attempt
	PoolDegraded     EventType = "pool.degraded"
	PoolRestarted    EventType = "pool.restarted"
	PoolCordoned     EventType = "pool.cordoned"
	PoolUncordoned   EventType = "pool.uncordoned"
	HiveStarted      EventType = "hive.started"
	HiveReloaded     EventType = "hive.reloaded"
	HiveStopping     EventType = "hive.stopping"
	HiveStopProgress EventType = "hive.stop_progress" // Done of Total stopped
	HiveStopped      EventType = "hive.stopped"
	HiveFailing      EventType = "hive.failing" // HiveRoot is over its own restart budget
)

// Event is one thing that happened. Seq is given by the journal, from 1,
// without gaps, and is the id a reader resumes from.
type Event struct {
	Seq      uint64    `json:"seq"`
	At       time.Time `json:"at"`
	Type     EventType `json:"type"`
	Worker   WorkerID  `json:"worker,omitempty"`
	Pool     PoolID    `json:"pool,omitempty"`
	Attempt  Attempt   `json:"attempt,omitempty"`
	PID      int       `json:"pid,omitempty"`
	From     *State    `json:"from,omitempty"`
	To       *State    `json:"to,omitempty"`
	Cause    Cause     `json:"cause,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Phase    string    `json:"phase,omitempty"`
	Took     Seconds   `json:"took_seconds,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Done     int       `json:"done,omitempty"`
	Total    int       `json:"total,omitempty"`
}

// String is the event in one line, for the log and the terminal.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(string(e.Type))
	if e.Worker != "" {
		fmt.Fprintf(&b, " %s", e.Worker)
		if e.Attempt != 0 {
			fmt.Fprintf(&b, "#%d", e.Attempt)
		}
	} else if e.Pool != "" {
		fmt.Fprintf(&b, " %s", e.Pool)
	}
	if e.From != nil && e.To != nil {
		fmt.Fprintf(&b, " %s -> %s", *e.From, *e.To)
	}
	if e.Cause != "" {
		fmt.Fprintf(&b, " cause=%s", e.Cause)
	}
	if e.Phase != "" {
		fmt.Fprintf(&b, " phase=%s", e.Phase)
	}
	if e.Total != 0 {
		fmt.Fprintf(&b, " %d/%d", e.Done, e.Total)
	}
	if e.Took != 0 {
		fmt.Fprintf(&b, " took=%.3fs", float64(e.Took))
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, ": %s", e.Reason)
	}
	return b.String()
}
