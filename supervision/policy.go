package supervision

import (
	"fmt"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// Kind is what follows a failure.
type Kind uint8

// The verdicts.
const (
	RestartAfter Kind = iota // a new attempt after Delay
	CrashLoop                // no more fast restarts; a slow retry after Delay, or never when Delay is 0
	GiveUp                   // the policy forbids a restart
)

func (k Kind) String() string { return [...]string{"restart", "crashloop", "give up"}[k] }

// Verdict is the answer to a failure.
type Verdict struct {
	Kind   Kind
	Delay  time.Duration
	Reason string // a sentence part for people
	// Escalate is true when the failure must be made known above the pool.
	Escalate bool
}

// Failure is the end of one attempt, as the policy sees it.
type Failure struct {
	Cause    messages.Cause
	At       time.Time
	ReadyFor time.Duration // how long it was idle or busy; 0 when it never was
	LoadTook time.Duration // how long it took to get ready; 0 when it never did
	Detail   string
}

// History is a worker's restart account. The zero value is a fresh one.
type History struct {
	Failures    Window
	Consecutive int  // failures since the worker was last stable
	Looping     bool // in crash loop until stable or reset
	Total       int  // new attempts after failures, over the worker's life
}

// Reset forgets everything but the lifetime total.
func (h *History) Reset() { *h = History{Total: h.Total} }

// StableAfter is how long an attempt must have been ready for its failures to
// be forgotten: the setting, but never less than three times its load time,
// since a worker that loads for 5 minutes and serves for 6 is not stable.
func StableAfter(spec messages.RestartSpec, loadTook time.Duration) time.Duration {
	return max(spec.StableAfter.D(), 3*loadTook)
}

// Decide records the failure in h and says what follows. spread is the jitter's
// random number in [0, 1).
func Decide(spec messages.RestartSpec, h *History, f Failure, spread float64) Verdict {
	if f.ReadyFor > 0 && f.ReadyFor >= StableAfter(spec, f.LoadTook) {
		h.Reset()
	}
	if spec.Policy == messages.RestartNever {
		return Verdict{Kind: GiveUp, Reason: fmt.Sprintf("%s; its restart policy is never, so it stays ended until \"hive start\"", f.why())}
	}
	inWindow := h.Failures.Add(f.At, spec.Window.D())
	switch {
	case f.Cause.Permanent():
		h.Looping = true
		return Verdict{Kind: CrashLoop, Delay: spec.SlowRetry.D(), Escalate: false,
			Reason: f.why() + "; a fast retry cannot help, mend it and run \"hive reset\""}
	case h.Looping:
		return Verdict{Kind: CrashLoop, Delay: spec.SlowRetry.D(), Escalate: false,
			Reason: f.why() + "; the slow retry failed too"}
	case inWindow > spec.MaxRestarts:
		h.Looping = true
		return Verdict{Kind: CrashLoop, Delay: spec.SlowRetry.D(), Escalate: true,
			Reason: fmt.Sprintf("%s; %d failures within %s, and max_restarts is %d", f.why(), inWindow, spec.Window, spec.MaxRestarts)}
	}
	d := Delay(spec.Backoff, h.Consecutive, spread)
	h.Consecutive++
	return Verdict{Kind: RestartAfter, Delay: d,
		Reason: fmt.Sprintf("%s; restart %d of %d within %s", f.why(), inWindow, spec.MaxRestarts, spec.Window)}
}

func (f Failure) why() string {
	if f.Detail != "" {
		return f.Detail
	}
	return string(f.Cause)
}

// Answer is what the root does with a pool's escalation.
type Answer uint8

// The answers.
const (
	Isolate      Answer = iota // only the looping worker stays ended
	Degrade                    // the same, and the pool is shown as degraded
	RestartPool                // the pool with all its workers
	CordonDevice               // no new starts in the pool
)

// PoolAccount is a pool's own intensity: how many crash loops its window holds.
type PoolAccount struct {
	Crashloops Window
	Restarted  bool // has used its one restart of the whole pool
	Degraded   bool
}

// PoolPolicy is the pool section of the configuration.
type PoolPolicy struct {
	MaxCrashloops int
	Window        time.Duration
	Restart       bool // escalation: restart
}

// Escalated records a crash loop in a and says what the root does, on a device
// that is healthy.
func Escalated(p PoolPolicy, a *PoolAccount, now time.Time) (Answer, int) {
	n := a.Crashloops.Add(now, p.Window)
	switch {
	case n <= p.MaxCrashloops:
		return Isolate, n
	case !p.Restart:
		a.Degraded = true
		return Degrade, n
	case !a.Restarted:
		a.Restarted = true
		a.Crashloops.Reset()
		return RestartPool, n
	}
	a.Degraded = true
	return CordonDevice, n
}
