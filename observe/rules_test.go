package observe

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rbee-hive/hive/engine"
	"github.com/rbee-hive/hive/messages"
)

func TestReadyByTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld()
	target := w.target("exec", func(s *messages.WorkerSpec) { s.Ready.TCP = true })
	target.Addr = l.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := &sightings{}
	w.watcher().rule(ctx, target, s.add) // returns once it is ready
	if ctx.Err() != nil || s.count(isReady) != 1 {
		t.Error("an open port is not seen")
	}
}

func TestReadyByACommandThatIsRunAgain(t *testing.T) {
	w := newWorld()
	var runs atomic.Int64
	target := w.target("exec", func(s *messages.WorkerSpec) { s.Ready.Command = []string{"check"} })
	target.Command = func(context.Context) bool { return runs.Add(1) == 4 }
	watch(t, false, w, target, func(s *sightings) {
		pass(time.Second)
		if runs.Load() != 4 || s.count(isReady) != 1 {
			t.Errorf("run %d times, ready %d times", runs.Load(), s.count(isReady))
		}
	})
}

// TestTheStrongestRuleCounts: a line of the log does not do what a probe must.
func TestTheStrongestRuleCounts(t *testing.T) {
	for name, stronger := range map[string]func(*messages.WorkerSpec){
		"http": func(s *messages.WorkerSpec) { s.Ready.HTTP = "/health" },
		"log":  func(s *messages.WorkerSpec) { s.Ready.Command = []string{"check"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.answer("/health", 503, "", nil)
			target := w.target("exec", func(s *messages.WorkerSpec) { s.Ready.Log = "listening"; stronger(s) })
			target.Command = func(context.Context) bool { t.Error("the command is run beside a stronger rule"); return true }
			watch(t, false, w, target, func(s *sightings) {
				w.write("server is listening\n")
				pass(time.Second)
				if byLog := s.count(isReady) > 0; byLog != (name == "log") {
					t.Errorf("ready by its log: %v", byLog)
				}
			})
		})
	}
}

func TestWithoutARuleNothingIsReady(t *testing.T) {
	w := newWorld()
	w.answer("/health", 200, "", nil)
	watch(t, false, w, w.target("llama-server", func(*messages.WorkerSpec) {}), func(s *sightings) {
		w.write("server is listening\n")
		pass(time.Minute)
		if s.count(isReady) != 0 || w.times("/health") != 0 {
			t.Errorf("ready %d times, asked %d times", s.count(isReady), w.times("/health"))
		}
	})
}

// TestOnlyItsOwnHealthPathIsTheEnginesWord: another path is judged as plain HTTP.
func TestOnlyItsOwnHealthPathIsTheEnginesWord(t *testing.T) {
	w := newWorld()
	w.answer("/health", 204, "", nil)
	w.answer("/other", 204, "", nil)
	target := w.target("vllm", func(*messages.WorkerSpec) {})
	if v, words := w.watcher().verdict(target, "/health", time.Second); v != engine.Broken || words != "GET /health answered 204" {
		t.Errorf("%v, %s", v, words)
	}
	if v, _ := w.watcher().verdict(target, "/other", time.Second); v != engine.Ready {
		t.Errorf("%v", v)
	}
	if v, words := w.watcher().verdict(target, "/none", time.Second); v != engine.Broken || words != "GET /none: connection refused" {
		t.Errorf("%v, %s", v, words)
	}
}

// TestAnEngineThatLoadsAgainHasFailed: what is patience before ready is a failed
// probe after it.
func TestAnEngineThatLoadsAgainHasFailed(t *testing.T) {
	for name, body := range map[string]string{"sglang": "", "llama-server": `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.answer("/health", 503, body, nil)
			target := w.target(name, func(s *messages.WorkerSpec) { s.Health.HTTP = "/health" })
			if v, _ := w.watcher().verdict(target, "/health", time.Second); v != engine.Loading {
				t.Fatalf("before ready it is %v", v)
			}
			watch(t, true, w, target, func(s *sightings) {
				pass(60 * time.Second)
				if s.count(faulty) != 0 {
					t.Error("two failed probes are not three")
				}
				pass(30 * time.Second)
				x, _ := s.first(faulty)
				if x.Fault != messages.CauseHealthFailed || x.Detail != "3 health probes in a row failed, the last: GET /health answered 503" {
					t.Errorf("%+v", x)
				}
			})
		})
	}
}

// TestTheFirstSourceThatKnowsAFigureWins, and one that fails takes nothing away.
func TestTheFirstSourceThatKnowsAFigureWins(t *testing.T) {
	n, m, rate := 2, 7, 12.5
	source := func(path string, s messages.Stats, err error) engine.Source {
		return engine.Source{Path: path, Parse: func([]byte) (messages.Stats, error) { return s, err }}
	}
	w := newWorld()
	for _, path := range []string{"/a", "/b", "/bad"} {
		w.answer(path, 200, "", nil)
	}
	w.answer("/off", 501, "", nil)
	target := w.target("exec", func(*messages.WorkerSpec) {})
	target.Sources = []engine.Source{
		source("/off", messages.Stats{InFlight: &m}, nil),
		source("/gone", messages.Stats{InFlight: &m}, nil),
		source("/bad", messages.Stats{InFlight: &m}, errors.New("no figures")),
		source("/a", messages.Stats{InFlight: &n}, nil),
		source("/b", messages.Stats{InFlight: &m, QueueDepth: &m, TokensPerSecond: &rate}, nil),
	}
	s := &sightings{}
	w.watcher().figures(target, s.add)
	w.watcher().figures(target, s.add)
	st := target.Pulse.Read().Stats
	if st.InFlight == nil || *st.InFlight != 2 || st.QueueDepth == nil || *st.QueueDepth != 7 || st.TokensPerSecond == nil || *st.TokensPerSecond != 12.5 {
		t.Errorf("%+v", st)
	}
	if len(s.all) != 1 || !s.all[0].Moved {
		t.Errorf("the actor was told %d times of one change", len(s.all))
	}
	target.Sources = target.Sources[:3]
	before := target.Pulse.Read()
	w.watcher().figures(target, s.add)
	if got := target.Pulse.Read(); got != before {
		t.Errorf("an engine that told nothing was seen: %+v", got)
	}
}

// TestAWedgedEngineThatLogsNothingButProbes: its log grows without end, by
// hive's own questions alone, over more than one read of it.
func TestAWedgedEngineThatLogsNothingButProbes(t *testing.T) {
	for name, extra := range map[string]string{"wedged": "", "at work": "slot 3: 12 tokens\n"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			for _, path := range []string{"/health", "/metrics", "/slots"} {
				w.answer(path, 500, "", nil)
			}
			target := w.target("llama-server", func(s *messages.WorkerSpec) { s.Health.HTTP = "/health"; s.Health.Interval = 0 })
			one := 1
			target.Pulse.Beat(1, time.Now(), &messages.Stats{InFlight: &one})
			watch(t, true, w, target, func(s *sightings) {
				echo := "request: GET /health 127.0.0.1 200\nrequest: GET /slots?fail_on_no_slot=1 127.0.0.1 200\n\"GET /metrics HTTP/1.1\" 200\n\n"
				for range 15 {
					w.write(strings.Repeat(echo, 800)) // some 90 KiB
					w.write(extra)
					w.write(echo)
					pass(10 * time.Second)
				}
				x, caught := s.first(faulty)
				if caught != (name == "wedged") {
					t.Fatalf("caught: %v", caught)
				}
				if want := "1 in flight, and for 1m20s no token count is known, no line of log, and 0.0 % of a core; meanwhile GET /health answered 500"; caught && x.Detail != want {
					t.Errorf("evidence %q\nwant     %q", x.Detail, want)
				}
			})
		})
	}
}

// TestHiveStoodStill: time in which hive itself did not look proves nothing.
func TestHiveStoodStill(t *testing.T) {
	w := newWorld()
	target := w.target("exec", func(*messages.WorkerSpec) {})
	one := 1
	target.Pulse.Beat(1, time.Now(), &messages.Stats{InFlight: &one})
	synctest.Test(t, func(t *testing.T) {
		s := newStallWatch(target, 80*time.Second)
		s.every = 10 * time.Second
		now := time.Now()
		look := func(after time.Duration) string { now = now.Add(after); return s.look(now) }
		for i, after := range []time.Duration{10, 10, 10, 3600, 10, 10, 10, 10, 10, 10, 10} { // seconds
			if evidence := look(after * time.Second); evidence != "" {
				t.Errorf("look %d: %s", i, evidence)
			}
		}
		if evidence := look(10 * time.Second); !strings.HasPrefix(evidence, "1 in flight, and for 1m20s ") {
			t.Errorf("80 s after it was back: %q", evidence)
		}
	})
}

func TestWorkThatMovesIsNotStalled(t *testing.T) {
	one, two := 1, 2
	for name, change := range map[string]func(*messages.Stats, float64){
		"tokens":    func(s *messages.Stats, n float64) { s.TokensTotal = &n },
		"requests":  func(s *messages.Stats, n float64) { s.Requests = &n },
		"in flight": func(s *messages.Stats, n float64) { s.InFlight = map[bool]*int{true: &one, false: &two}[int(n)%2 == 0] },
	} {
		w := newWorld()
		target := w.target("exec", func(*messages.WorkerSpec) {})
		s := newStallWatch(target, 30*time.Second)
		now := time.Now()
		for i := range 60 {
			now = now.Add(10 * time.Second)
			st := &messages.Stats{InFlight: &one}
			if i%2 == 0 { // every 20 s
				change(st, float64(i/2))
				target.Pulse.Beat(1, now, st)
			}
			if evidence := s.look(now); evidence != "" {
				t.Fatalf("%s, look %d: %s", name, i, evidence)
			}
		}
	}
}

// TestAMeterKnowsAPidUsedAgain: a process that begins anew is not counted less.
func TestAMeterKnowsAPidUsedAgain(t *testing.T) {
	m := &meter{}
	for i, step := range []struct {
		now  []Usage
		cpu  time.Duration
		read int64
	}{
		{[]Usage{{PID: 1, Start: 1, CPU: 5, Read: 50}}, 5, 50},
		{[]Usage{{PID: 1, Start: 1, CPU: 7, Read: 60}, {PID: 2, Start: 3, CPU: 1, Read: 1}}, 3, 11},
		{[]Usage{{PID: 1, Start: 9, CPU: 2, Read: 20}, {PID: 2, Start: 3, CPU: 1, Read: 1}}, 2, 20}, // pid 1 is another process
		{[]Usage{{PID: 1, Start: 9, CPU: 1, Read: 10}}, 0, 0},                                       // never below nothing
		{nil, 0, 0},
		{[]Usage{{PID: 1, Start: 9, CPU: 1, Read: 10}}, 1, 10},
	} {
		if cpu, read := m.grown(step.now); cpu != step.cpu || read != step.read {
			t.Errorf("step %d: %d and %d, want %d and %d", i, cpu, read, step.cpu, step.read)
		}
	}
}

func TestAGuessNeverSaysDone(t *testing.T) {
	for v, want := range map[float64]float64{-1: 0, 0.5: 0.5, 1: 0.99, 40: 0.99} {
		if got := share(v); got != want {
			t.Errorf("share(%g) = %g", v, got)
		}
	}
	w := newWorld()
	target := w.target("exec", func(*messages.WorkerSpec) {})
	target.Model, target.LastLoad = 1000, 10*time.Second
	watch(t, false, w, target, func(s *sightings) {
		w.uses(0, 5000) // it reads the model five times
		pass(time.Minute)
		if n := s.count(func(s Sighting) bool { return s.Progress != nil && s.Progress.Value >= 1 }); n != 0 {
			t.Errorf("a guess said %d times that the load is done", n)
		}
		if _, ok := s.first(func(s Sighting) bool { return s.Progress != nil && s.Progress.Value == 0.99 }); !ok {
			t.Error("it stopped far from the end")
		}
	})
}

func TestProgressOfASourceGrows(t *testing.T) {
	l := &load{}
	for i, step := range []struct {
		p    messages.Progress
		pass bool
	}{
		{messages.Progress{Stage: "loading", Value: 0.1, Source: sourceHistory}, true},
		{messages.Progress{Stage: "loading", Value: 0.105, Source: sourceHistory}, false}, // too little
		{messages.Progress{Stage: "loading", Value: 0.2, Source: sourceHistory}, true},
		{messages.Progress{Stage: "reading", Value: 0.05, Source: sourceBytes}, true}, // a better source may say less
		{messages.Progress{Stage: "loading", Value: 0.3, Source: sourceHistory}, false},
		{messages.Progress{Stage: "shards", Value: 0.5, Source: sourceLog}, true},
		{messages.Progress{Stage: "shards", Value: 0.4, Source: sourceLog}, false}, // not back
		{messages.Progress{Stage: "reading", Value: 0.9, Source: sourceBytes}, false},
		{messages.Progress{Stage: "graphs", Value: 0, Source: sourceLog}, true}, // a new stage
	} {
		if got := l.better(step.p); (got != nil) != step.pass {
			t.Errorf("step %d: %v", i, got)
		}
	}
}

func TestWhoseLineItIs(t *testing.T) {
	target := newWorld().target("vllm", func(s *messages.WorkerSpec) { s.Ready.HTTP, s.Health.HTTP = "/ready", "/live" })
	own := ownPaths(target)
	for line, want := range map[string]bool{
		`INFO: 127.0.0.1:5 - "GET /health HTTP/1.1" 200 OK`: true,
		`GET /ready`:                    true,
		`path=/live status=200`:         true,
		`"/metrics"`:                    true,
		`GET /metrics?x=1 200`:          true,
		`POST /v1/chat/completions 200`: false,
		`GET /healthcheck 200`:          false,
		`loaded /models/health/a.gguf`:  false,
		`GET /api/health 200`:           false,
	} {
		if own.MatchString(line) != want {
			t.Errorf("%q is taken for hive's own: %v", line, !want)
		}
	}
	if target = newWorld().target("exec", func(*messages.WorkerSpec) {}); ownPaths(target) != nil {
		t.Error("a worker that is asked nothing has own lines")
	}
}

// TestServingReturnsAtOnce where there is nothing to watch, each switch alone.
func TestServingReturnsAtOnce(t *testing.T) {
	zero := 0
	for name, change := range map[string]func(*Target){
		"no probe":            func(*Target) {},
		"probes are off":      func(t *Target) { t.Spec.Health.HTTP, t.Spec.Health.Interval = "/health", 0 },
		"no failures allowed": func(t *Target) { t.Spec.Health.HTTP, t.Spec.Health.Failures = "/health", 0 },
		"stalls are off": func(t *Target) {
			t.Spec.Progress.Stall = 0
			t.Pulse.Beat(1, time.Now(), &messages.Stats{InFlight: &zero})
		},
	} {
		w := newWorld()
		target := w.target("exec", func(*messages.WorkerSpec) {})
		change(&target)
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			w.watcher().Serving(t.Context(), target, func(s Sighting) { t.Errorf("%s: %+v", name, s) })
			if took := time.Since(start); took != 0 {
				t.Errorf("%s: it took %s", name, took)
			}
		})
	}
}

// FuzzLogText feeds a load's log in any pieces: what is seen does not hang on
// where they are cut, and nothing is seen in it beyond its lines.
func FuzzLogText(f *testing.F) {
	f.Add("Loading shards: 10%|#\rLoading shards: 20%|##\rserver is up\nGET /health 200\n", 7)
	f.Add("\n\n\r\r", 1)
	f.Fuzz(func(t *testing.T, text string, size int) {
		see := func(size int) (all []Sighting) {
			w := newWorld()
			target := w.target("vllm", func(s *messages.WorkerSpec) { s.Ready.Log = "server is up" })
			l := &load{t: target, own: ownPaths(target), report: func(s Sighting) { all = append(all, s) }}
			for b := []byte(text); len(b) > 0; {
				n := min(max(size, 1), len(b))
				_ = l.text(b[:n])
				b = b[n:]
			}
			return all
		}
		whole, pieces := see(len(text)), see(size)
		if len(whole) != len(pieces) || len(whole) > strings.Count(text, "\n")+strings.Count(text, "\r") {
			t.Errorf("%d seen as a whole, %d in pieces of %d", len(whole), len(pieces), size)
		}
	})
}
