package messages

import (
	"errors"
	"fmt"
)

// What a caller branches on. http turns each into a status and a stable code.
var (
	ErrUnknownWorker = errors.New("no such worker")
	ErrUnknownPool   = errors.New("no such pool")
	ErrExists        = errors.New("a worker of this name exists")
	ErrIllegal       = errors.New("illegal transition")
	ErrStaleAttempt  = errors.New("stale attempt")
	ErrShuttingDown  = errors.New("hive is shutting down")
	ErrBusy          = errors.New("hive did not answer in time")
)

// IllegalError is a request that the state table does not allow.
type IllegalError struct {
	Worker WorkerID
	From   State
	Verb   string // what was asked: "resume"
	To     State  // where it would have led
	Hint   string // what to do next, a sentence part
}

func (e *IllegalError) Error() string {
	s := fmt.Sprintf("worker %s is %s and cannot go to %s by %s", e.Worker, e.From, e.To, e.Verb)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Is makes errors.Is(err, ErrIllegal) true.
func (e *IllegalError) Is(target error) bool { return target == ErrIllegal }

// StaleError is an input from an attempt that is no longer the current one.
type StaleError struct {
	Worker       WorkerID
	Got, Current Attempt
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("worker %s is at attempt %d, and this message is from attempt %d; it was ignored", e.Worker, e.Current, e.Got)
}

// Is makes errors.Is(err, ErrStaleAttempt) true.
func (e *StaleError) Is(target error) bool { return target == ErrStaleAttempt }

// Problem is one thing wrong with a configuration or a request.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path"`    // "workers[1].restart.policy"
	Message string `json:"message"` // a sentence part: what is wrong, what to do
}

func (p Problem) String() string {
	s := p.Message
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Line > 0 {
		s = fmt.Sprintf("line %d: %s", p.Line, s)
	}
	if p.File != "" {
		s = p.File + ": " + s
	}
	return s
}

// Problems is every problem found at once; it is an error when not empty.
type Problems []Problem

func (ps Problems) Error() string {
	switch len(ps) {
	case 0:
		return "no problem"
	case 1:
		return ps[0].String()
	}
	return fmt.Sprintf("%s (and %d more)", ps[0], len(ps)-1)
}
