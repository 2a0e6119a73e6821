package observe

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rbee-hive/hive/engine"
	"github.com/rbee-hive/hive/messages"
)

// world is a worker on paper: its log, its use of the machine, its answers.
type world struct {
	mu      sync.Mutex // guards all below
	log     []byte
	grown   chan struct{}
	usage   Usage
	answers map[string]func() (int, string, error)
	asked   map[string]int
}

func newWorld() *world {
	return &world{grown: make(chan struct{}), usage: Usage{PID: 10, Start: 1}, answers: map[string]func() (int, string, error){}, asked: map[string]int{}}
}

func (w *world) write(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, s...)
	close(w.grown)
	w.grown = make(chan struct{})
}

func (w *world) uses(cpu time.Duration, read int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.usage.CPU += cpu
	w.usage.Read += read
}

func (w *world) answer(path string, code int, body string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[path] = func() (int, string, error) { return code, body, err }
}

func (w *world) times(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[path]
}

func (w *world) Follow(ctx context.Context, _ int, emit func([]byte) error) error {
	for at := 0; ; {
		w.mu.Lock()
		text, more := append([]byte(nil), w.log[at:]...), w.grown
		w.mu.Unlock()
		at += len(text)
		if len(text) > 0 {
			if err := emit(text); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

func (w *world) Size() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int64(len(w.log))
}

func (w *world) ReadAt(buf []byte, at int64) (int, int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := copy(buf, w.log[min(at, int64(len(w.log))):])
	return n, at + int64(n), nil
}

// watcher asks the world in place of the network.
func (w *world) watcher() *Watcher {
	return &Watcher{Get: func(url string, _ time.Duration) (int, []byte, error) {
		path := url[strings.Index(url[7:], "/")+7:]
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked[path]++
		if f := w.answers[path]; f != nil {
			code, body, err := f()
			return code, []byte(body), err
		}
		return 0, nil, errors.New("connection refused")
	}}
}

func (w *world) target(name string, change func(*messages.WorkerSpec)) Target {
	e, _ := engine.For(name)
	spec := messages.WorkerSpec{Name: "w", Engine: name, Ready: messages.ReadySpec{Stall: messages.Duration(8 * time.Second)},
		Health:   messages.HealthSpec{Interval: messages.Duration(30 * time.Second), Timeout: messages.Duration(2 * time.Second), Failures: 3},
		Progress: messages.ProgressSpec{Stall: messages.Duration(80 * time.Second)}}
	change(&spec)
	p := &messages.Pulse{}
	p.Begin(1)
	return Target{Spec: spec, Attempt: 1, Addr: "127.0.0.1:1", Engine: e, Sources: e.SourcesFor([]string{name}, nil), Pulse: p, Log: w,
		Command: func(context.Context) bool { return false },
		Usage: func() []Usage {
			w.mu.Lock()
			defer w.mu.Unlock()
			return []Usage{w.usage}
		}}
}

// sightings keeps what was reported.
type sightings struct {
	mu  sync.Mutex // guards all
	all []Sighting
}

func (s *sightings) add(x Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, x)
}

func (s *sightings) first(want func(Sighting) bool) (Sighting, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.all {
		if want(x) {
			return x, true
		}
	}
	return Sighting{}, false
}

func (s *sightings) count(want func(Sighting) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.all {
		if want(x) {
			n++
		}
	}
	return n
}

func isReady(s Sighting) bool  { return s.Ready }
func advanced(s Sighting) bool { return s.Advanced }
func faulty(s Sighting) bool   { return s.Fault != messages.CauseNone }

// watch runs f beside one stage of the watch, in a bubble where time is not real.
func watch(t *testing.T, serving bool, w *world, target Target, f func(*sightings)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w.grown = make(chan struct{}) // of this bubble
		ctx, cancel := context.WithCancel(t.Context())
		s, done := &sightings{}, make(chan struct{})
		go func() {
			defer close(done)
			if serving {
				w.watcher().Serving(ctx, target, s.add)
			} else {
				w.watcher().Loading(ctx, target, s.add)
			}
		}()
		synctest.Wait()
		f(s)
		cancel()
		<-done
	})
}

// pass lets time go by and everything settle.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble: takes no time
	synctest.Wait()
}

func TestReadyByHTTP(t *testing.T) {
	w := newWorld()
	w.answer("/health", 503, "", nil)
	watch(t, false, w, w.target("http", func(s *messages.WorkerSpec) { s.Ready.HTTP = "/health" }), func(s *sightings) {
		pass(5 * time.Second)
		if s.count(isReady) != 0 {
			t.Error("ready at 503")
		}
		w.answer("/health", 200, "", nil)
		pass(time.Second)
		if s.count(isReady) != 1 {
			t.Errorf("ready %d times", s.count(isReady))
		}
		if asked := w.times("/health"); asked > 60 {
			t.Errorf("asked %d times in 5 s, and after ready", asked)
		}
	})
}

func TestReadyByALineOfTheLogInPieces(t *testing.T) {
	w := newWorld()
	watch(t, false, w, w.target("exec", func(s *messages.WorkerSpec) { s.Ready.Log = "server is (up|there)" }), func(s *sightings) {
		w.write("server is no")
		w.write("t yet\nserver ")
		pass(time.Second)
		if s.count(isReady) != 0 {
			t.Error("ready by half a line")
		}
		w.write("is up\n")
		pass(time.Second)
		if s.count(isReady) == 0 {
			t.Error("not ready by its line")
		}
	})
}

func TestALoadThatDoesNothingDoesNotAdvance(t *testing.T) {
	w := newWorld()
	w.answer("/health", 503, "", nil)
	watch(t, false, w, w.target("llama-server", func(s *messages.WorkerSpec) { s.Ready.HTTP = "/health" }), func(s *sightings) {
		pass(time.Second)
		before := s.count(advanced)
		for range 60 { // it prints hive's own questions, computes a little and reads little
			w.write("srv  log_server_r: request: GET /health 127.0.0.1 503\n")
			w.uses(10*time.Millisecond, 300)
			pass(time.Second)
		}
		if n := s.count(advanced) - before; n != 0 {
			t.Errorf("advanced %d times by hive's own questions", n)
		}
		w.uses(500*time.Millisecond, 0)
		pass(2 * time.Second)
		if s.count(advanced) == before {
			t.Error("half a core is no advance")
		}
	})
}

func TestProgressTakesTheBestSource(t *testing.T) {
	w := newWorld()
	target := w.target("vllm", func(*messages.WorkerSpec) {})
	target.Model, target.LastLoad = 1000<<20, 100*time.Second
	watch(t, false, w, target, func(s *sightings) {
		pass(10 * time.Second)
		by := func(source string) Sighting {
			x, ok := s.first(func(s Sighting) bool { return s.Progress != nil && s.Progress.Source == source })
			if !ok {
				t.Errorf("no progress by %s", source)
				return Sighting{Progress: &messages.Progress{}}
			}
			return x
		}
		if p := by(sourceHistory).Progress; p.Value <= 0 || p.Value > 0.2 {
			t.Errorf("by history: %+v", p)
		}
		w.uses(0, 500<<20)
		pass(2 * time.Second)
		if p := by(sourceBytes).Progress; p.Value < 0.49 || p.Value > 0.51 {
			t.Errorf("by bytes: %+v", p)
		}
		w.write("Loading safetensors checkpoint shards:  75% Completed | 3/4 [00:03<00:01,  1.04s/it]\r")
		pass(time.Second)
		if p := by(sourceLog).Progress; p.Value != 0.75 {
			t.Errorf("by the log: %+v", p)
		}
		before := s.count(func(s Sighting) bool { return s.Progress != nil })
		w.uses(0, 400<<20)
		pass(20 * time.Second)
		if s.count(func(s Sighting) bool { return s.Progress != nil }) != before {
			t.Error("a guess replaced what the log says")
		}
	})
}

func TestHealthFailsThreeTimesInARow(t *testing.T) {
	w := newWorld()
	w.answer("/health", 200, "", nil)
	watch(t, true, w, w.target("exec", func(s *messages.WorkerSpec) { s.Health.HTTP = "/health" }), func(s *sightings) {
		pass(65 * time.Second)
		w.answer("/health", 0, "", errors.New("timeout"))
		pass(60 * time.Second) // two failures
		w.answer("/health", 200, "", nil)
		pass(30 * time.Second) // and back
		w.answer("/health", 503, "", nil)
		pass(60 * time.Second)
		if s.count(faulty) != 0 {
			t.Error("two failures in a row are not three")
		}
		pass(30 * time.Second)
		x, ok := s.first(faulty)
		if !ok || x.Fault != messages.CauseHealthFailed || !strings.Contains(x.Detail, "503") {
			t.Errorf("%+v", x)
		}
	})
}

func TestNothingToWatchIsNotWatched(t *testing.T) {
	w := newWorld()
	target := w.target("exec", func(*messages.WorkerSpec) {})
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		go func() { defer close(done); w.watcher().Serving(t.Context(), target, func(Sighting) {}) }()
		<-done // at once, or the bubble deadlocks
	})
}

// TestAWedgedEngineIsCaught: it says 200, its log shows hive's own questions, and
// nothing else happens.
func TestAWedgedEngineIsCaught(t *testing.T) {
	for name, sign := range map[string]func(*world, *messages.Pulse){
		"a token": func(_ *world, p *messages.Pulse) {
			n, m := 1, 1001.0
			p.Beat(1, time.Now(), &messages.Stats{InFlight: &n, TokensTotal: &m})
		},
		"a line": func(w *world, _ *messages.Pulse) { w.write("slot 0: generated\n") },
		"a core": func(w *world, _ *messages.Pulse) { w.uses(30*time.Second, 0) },
		"nothing": func(w *world, _ *messages.Pulse) {
			w.write("INFO: 127.0.0.1 - \"GET /health HTTP/1.1\" 200 OK\n")
			w.uses(50*time.Millisecond, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.answer("/health", 200, "", nil)
			target := w.target("exec", func(s *messages.WorkerSpec) { s.Health.HTTP = "/health" })
			synctest.Test(t, func(t *testing.T) {
				w.grown = make(chan struct{})
				n, m := 1, 1000.0
				target.Pulse.Beat(1, time.Now(), &messages.Stats{InFlight: &n, TokensTotal: &m})
				ctx, cancel := context.WithCancel(t.Context())
				s, done := &sightings{}, make(chan struct{})
				go func() { defer close(done); w.watcher().Serving(ctx, target, s.add) }()
				pass(70 * time.Second)
				sign(w, target.Pulse)
				pass(70 * time.Second)
				x, caught := s.first(faulty)
				if caught != (name == "nothing") {
					t.Errorf("caught: %v, %+v", caught, x)
				}
				if caught && (x.Fault != messages.CauseProgressStalled || !strings.Contains(x.Detail, "1 in flight") ||
					!strings.Contains(x.Detail, "still 1000") || !strings.Contains(x.Detail, "GET /health answered 200")) {
					t.Errorf("evidence: %s", x.Detail)
				}
				cancel()
				<-done
			})
		})
	}
}

func TestAnIdleEngineIsNotStalled(t *testing.T) {
	w := newWorld()
	target := w.target("exec", func(*messages.WorkerSpec) {})
	synctest.Test(t, func(t *testing.T) {
		zero := 0
		target.Pulse.Beat(1, time.Now(), &messages.Stats{InFlight: &zero})
		ctx, cancel := context.WithCancel(t.Context())
		s, done := &sightings{}, make(chan struct{})
		go func() { defer close(done); w.watcher().Serving(ctx, target, s.add) }()
		pass(time.Hour)
		if s.count(faulty) != 0 {
			t.Error("idle for an hour, and called stalled")
		}
		cancel()
		<-done
	})
}

func TestAnEnginesFiguresReachThePulse(t *testing.T) {
	w := newWorld()
	w.answer("/metrics", 200, "llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\nllamacpp:tokens_predicted_total 77\n", nil)
	target := w.target("llama-server", func(*messages.WorkerSpec) {})
	watch(t, true, w, target, func(s *sightings) {
		pass(3 * time.Second)
		r := target.Pulse.Read()
		if r.Kind != messages.BeatSynthetic || r.Stats.InFlight == nil || *r.Stats.InFlight != 2 || r.Stats.QueueDepth == nil || *r.Stats.QueueDepth != 5 {
			t.Errorf("%+v", r)
		}
		if s.count(func(s Sighting) bool { return s.Moved }) == 0 {
			t.Error("the actor was not told of work in flight")
		}
	})
}
