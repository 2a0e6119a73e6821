package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrStale means that this process belongs to an attempt which hive has given
// up: another process has its place, or will have. It may as well end.
var ErrStale = errors.New("hive has given this attempt up")

// RefusedError is a callback that hive answered, and refused. With the code
// stale_attempt it is ErrStale to errors.Is.
type RefusedError struct {
	Status int    // of HTTP
	Code   string // hive's stable word for it, such as unknown_worker; may be empty
	Detail string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("hive answered %d %s", e.Status, cmp.Or(e.Detail, e.Code, "without a reason"))
}

// Is makes errors.Is(err, ErrStale) true.
func (e *RefusedError) Is(target error) bool {
	return target == ErrStale && e.Code == "stale_attempt"
}

// Stats is what an engine knows of its work. What is nil stays unsaid.
type Stats struct {
	InFlight        *int     `json:"in_flight,omitempty"`         // requests being worked on
	QueueDepth      *int     `json:"queue_depth,omitempty"`       // requests that wait
	TokensTotal     *float64 `json:"tokens_total,omitempty"`      // generated since the process began
	TokensPerSecond *float64 `json:"tokens_per_second,omitempty"` // as the engine measures it
	LatencyP50      *float64 `json:"latency_ms_p50,omitempty"`    // of whole requests, milliseconds
	LatencyP99      *float64 `json:"latency_ms_p99,omitempty"`
	KVCacheUsed     *float64 `json:"kv_cache_used,omitempty"` // 0 to 1
	MemoryBytes     *uint64  `json:"memory_bytes,omitempty"`
	GPUUtilization  *float64 `json:"gpu_utilization,omitempty"` // 0 to 1
}

// Ptr is a pointer to v, for the fields of Stats.
func Ptr[T any](v T) *T { return &v }

// Answer is what hive says to a heartbeat. It is zero over notify and without
// hive.
type Answer struct {
	State  string    `json:"state"`   // as hive sees the worker: idle, busy, draining, ...
	Drain  bool      `json:"drain"`   // take no more work and finish what is in flight
	StopBy time.Time `json:"stop_by"` // when the process will be ended; zero: not said
}

// Worker speaks to hive. Its methods may be called from any goroutine.
type Worker struct {
	http   *callbacks // nil: not possible, or not wanted
	notify *notifier  // nil: not possible
	every  time.Duration

	// first is the one of the two that is used where both can say a thing.
	preferNotify bool

	draining chan struct{}      // closed when hive first asks
	silent   chan time.Duration // holds the newest word only

	mu       sync.Mutex // guards what follows
	stage    string     // of the last Progress
	progress float64
	drain    bool
	onDrain  []func()
	onSilent []func(time.Duration)
}

// Option changes what FromEnv makes.
type Option func(*Worker)

// PreferNotify uses NOTIFY_SOCKET where there is one, and HTTP otherwise.
func PreferNotify() Option { return func(w *Worker) { w.preferNotify = true } }

// defaultEvery is hive's own default for the time between heartbeats.
const defaultEvery = 5 * time.Second

// FromEnv is the worker that the environment describes. It is never nil.
func FromEnv(options ...Option) *Worker {
	w := &Worker{every: watchdog(), draining: make(chan struct{}), silent: make(chan time.Duration, 1)}
	for _, o := range options {
		o(w)
	}
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		w.notify = &notifier{path: path}
	}
	if w.notify == nil || !w.preferNotify {
		w.http = callbacksFromEnv()
	}
	return w
}

// watchdog is half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises.
func watchdog() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || usec < 2 || usec > int64(24*time.Hour/time.Microsecond) ||
		pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return defaultEvery
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// Ready says that the worker takes requests from now on.
func (w *Worker) Ready(ctx context.Context) error {
	return w.say(ctx, "READY=1", "ready", struct{}{})
}

// Heartbeat says that the worker lives, and what it does. Run sends heartbeats by
// itself; one between them, such as when the last request of a drain has ended,
// spares hive the wait for the next.
func (w *Worker) Heartbeat(ctx context.Context, s Stats) (Answer, error) {
	if s.InFlight != nil && *s.InFlight < 0 {
		return Answer{}, fmt.Errorf("heartbeat: %d requests in flight is less than none", *s.InFlight)
	}
	if w.http != nil {
		return w.post(ctx, "heartbeat", s)
	}
	words := "WATCHDOG=1"
	if s.InFlight != nil {
		words += "\nX_HIVE_IN_FLIGHT=" + strconv.Itoa(*s.InFlight)
	}
	return Answer{}, w.notify.send(ctx, words)
}

// progress is the body of a progress callback.
type progress struct {
	Stage string  `json:"stage,omitempty"`
	Value float64 `json:"value"`
}

// Progress says how far loading is: value is from 0 to 1, and stage names what
// is going on, such as "weights". It also keeps a slow load from being taken for
// one that is stuck.
func (w *Worker) Progress(ctx context.Context, stage string, value float64) error {
	if !(value >= 0 && value <= 1) { // so written that NaN is refused
		return fmt.Errorf("progress %v is not from 0 to 1", value)
	}
	w.mu.Lock()
	w.stage, w.progress = stage, value
	w.mu.Unlock()
	words := "X_HIVE_PROGRESS=" + strconv.FormatFloat(value, 'g', -1, 64)
	if stage != "" {
		words += "\nX_HIVE_STAGE=" + oneLine(stage)
	}
	return w.say(ctx, words, "progress", progress{stage, value})
}

// Extend asks for d from now on before hive gives a load up. Over HTTP alone
// there is no word for it: the last progress is said again, and gives what hive
// gives after any progress.
func (w *Worker) Extend(ctx context.Context, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("extend by %s: less than nothing", d)
	}
	w.mu.Lock()
	last := progress{w.stage, w.progress}
	w.mu.Unlock()
	return w.sayFirstByNotify(ctx, "EXTEND_TIMEOUT_USEC="+strconv.FormatInt(d.Microseconds(), 10), "progress", last)
}

// Stopping says that the worker is about to end by its own will.
func (w *Worker) Stopping(ctx context.Context) error {
	return w.sayFirstByNotify(ctx, "STOPPING=1", "state", map[string]string{"state": "stopping"})
}

// Status says in a few words what the worker is doing, for people to read. HTTP
// has no word for it: without NOTIFY_SOCKET it does nothing.
func (w *Worker) Status(ctx context.Context, text string) error {
	return w.notify.send(ctx, "STATUS="+oneLine(text))
}

// oneLine keeps text from becoming words of its own.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

func (w *Worker) say(ctx context.Context, words, kind string, body any) error {
	if w.http != nil {
		_, err := w.post(ctx, kind, body)
		return err
	}
	return w.notify.send(ctx, words)
}

// sayFirstByNotify is for what notify says better.
func (w *Worker) sayFirstByNotify(ctx context.Context, words, kind string, body any) error {
	if w.notify != nil {
		return w.notify.send(ctx, words)
	}
	return w.say(ctx, words, kind, body)
}

// post sends a callback and obeys the answer.
func (w *Worker) post(ctx context.Context, kind string, body any) (Answer, error) {
	a, err := w.http.post(ctx, kind, body)
	if err == nil && a.Drain {
		w.beginDrain()
	}
	return a, err
}

// beginDrain tells everybody once.
func (w *Worker) beginDrain() {
	w.mu.Lock()
	first := !w.drain
	w.drain = true
	told := w.onDrain
	w.mu.Unlock()
	if !first {
		return
	}
	close(w.draining)
	for _, f := range told {
		go f()
	}
}

// OnDrain calls f once, in its own goroutine, when hive asks the worker to
// drain; at once if it has asked already.
func (w *Worker) OnDrain(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.drain {
		go f()
		return
	}
	w.onDrain = append(w.onDrain, f)
}

// Draining is closed when hive asks the worker to drain.
func (w *Worker) Draining() <-chan struct{} { return w.draining }
