package supervision

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rbee-hive/hive/messages"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func spec() messages.RestartSpec {
	return messages.RestartSpec{Policy: messages.RestartOnFailure,
		Backoff:     messages.BackoffSpec{Initial: messages.Duration(time.Second), Max: messages.Duration(time.Minute), Factor: 2, Jitter: 0.25},
		MaxRestarts: 5, Window: messages.Duration(10 * time.Minute), StableAfter: messages.Duration(10 * time.Minute), SlowRetry: messages.Duration(5 * time.Minute)}
}

func TestDelayDoublesUpToItsCap(t *testing.T) {
	b := spec().Backoff
	for n, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		if got := Delay(b, n, 0.5); got != want*time.Second {
			t.Errorf("restart %d: %s, want %s", n, got, want*time.Second)
		}
	}
	if got := Delay(b, 5000, 0.5); got != time.Minute {
		t.Errorf("a delay past the range of a float: %s", got)
	}
}

func TestDelayStaysWithinItsJitter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := spec().Backoff
		n := rapid.IntRange(0, 100).Draw(t, "n")
		plain, got := Delay(b, n, 0.5), Delay(b, n, rapid.Float64Range(0, 0.999999).Draw(t, "spread"))
		if got < plain*3/4 || got > plain*5/4 {
			t.Fatalf("%s is not within 25%% of %s", got, plain)
		}
	})
}

// TestTraces plays failures against the policy and compares what it says, line
// by line, with what a person would expect.
func TestTraces(t *testing.T) {
	type fail struct {
		after time.Duration // since the last failure
		f     Failure
	}
	crash := func(after time.Duration) fail {
		return fail{after, Failure{Cause: messages.CauseErrorExit, Detail: "exited with code 1"}}
	}
	served := func(after, ready, load time.Duration) fail {
		return fail{after, Failure{Cause: messages.CauseSignal, Detail: "killed", ReadyFor: ready, LoadTook: load}}
	}
	for _, c := range []struct {
		name  string
		spec  func(*messages.RestartSpec)
		fails []fail
		want  string
	}{
		{"six failures in a row", nil,
			[]fail{crash(0), crash(1 * time.Second), crash(2 * time.Second), crash(4 * time.Second), crash(8 * time.Second), crash(16 * time.Second), crash(5 * time.Minute)},
			"restart 1s, restart 2s, restart 4s, restart 8s, restart 16s, crashloop 5m0s up, crashloop 5m0s"},
		{"ready alone resets nothing", nil,
			[]fail{crash(0), served(time.Minute, 59*time.Second, time.Second), served(time.Minute, 59*time.Second, time.Second)},
			"restart 1s, restart 2s, restart 4s"},
		{"stable_after resets", nil,
			[]fail{crash(0), crash(time.Second), served(11*time.Minute, 10*time.Minute, time.Second)},
			"restart 1s, restart 2s, restart 1s"},
		{"a slow load raises stable_after to three times the load", nil,
			[]fail{crash(0), crash(time.Second), served(11*time.Minute, 10*time.Minute, 5*time.Minute), served(30*time.Minute, 15*time.Minute, 5*time.Minute)},
			"restart 1s, restart 2s, restart 4s, restart 1s"},
		{"failures that leave the window do not count", nil,
			[]fail{crash(0), crash(4 * time.Minute), crash(4 * time.Minute), crash(4 * time.Minute), crash(4 * time.Minute), crash(4 * time.Minute), crash(4 * time.Minute)},
			"restart 1s, restart 2s, restart 4s, restart 8s, restart 16s, restart 32s, restart 1m0s"},
		{"config goes straight to crash loop", nil,
			[]fail{{0, Failure{Cause: messages.CauseConfig, Detail: "binary x not found"}}},
			"crashloop 5m0s"},
		{"slow_retry 0 waits for a person", func(s *messages.RestartSpec) { s.MaxRestarts, s.SlowRetry = 0, 0 },
			[]fail{crash(0)}, "crashloop 0s up"},
		{"never", func(s *messages.RestartSpec) { s.Policy = messages.RestartNever },
			[]fail{crash(0)}, "give up 0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, h, now, got := spec(), History{}, t0, []string{}
			if c.spec != nil {
				c.spec(&s)
			}
			for _, f := range c.fails {
				now = now.Add(f.after)
				f.f.At = now
				v := Decide(s, &h, f.f, 0.5)
				line := fmt.Sprintf("%s %s", v.Kind, v.Delay)
				if v.Escalate {
					line += " up"
				}
				got = append(got, line)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), c.want)
			}
		})
	}
}

func TestResetForgetsAllButTheTotal(t *testing.T) {
	s, h := spec(), History{Total: 7}
	for range 8 {
		Decide(s, &h, Failure{Cause: messages.CauseSignal, At: t0}, 0.5)
	}
	h.Reset()
	if v := Decide(s, &h, Failure{Cause: messages.CauseSignal, At: t0}, 0.5); v.Kind != RestartAfter || v.Delay != time.Second || h.Total != 7 {
		t.Errorf("after reset: %+v, %+v", v, h)
	}
}

func TestPoolBudget(t *testing.T) {
	p := PoolPolicy{MaxCrashloops: 3, Window: 10 * time.Minute}
	for _, c := range []struct {
		name    string
		restart bool
		want    []Answer
	}{
		{"isolate", false, []Answer{Isolate, Isolate, Isolate, Degrade, Degrade}},
		{"restart", true, []Answer{Isolate, Isolate, Isolate, RestartPool, Isolate, Isolate, Isolate, CordonDevice}},
	} {
		p.Restart = c.restart
		var a PoolAccount
		for i, want := range c.want {
			if got, _ := Escalated(p, &a, t0.Add(time.Duration(i)*time.Second)); got != want {
				t.Errorf("%s: crash loop %d: %d, want %d", c.name, i+1, got, want)
			}
		}
	}
}
