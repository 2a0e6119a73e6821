// Package hive keeps model-serving OS processes alive: the library behind the
// hive command. New assembles the supervision tree, the store of logs, the API
// and the metrics; Run lets it work until its context ends. It decides nothing
// itself: decisions are in actors/worker (the state machine) and supervision.
package hive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/pool"
	"github.com/rbee-hive/hive/actors/root"
	"github.com/rbee-hive/hive/admission"
	"github.com/rbee-hive/hive/cgroup"
	"github.com/rbee-hive/hive/config"
	httpd "github.com/rbee-hive/hive/http"
	"github.com/rbee-hive/hive/journal"
	"github.com/rbee-hive/hive/logs"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/metrics"
	"github.com/rbee-hive/hive/observe"
	"github.com/rbee-hive/hive/ports"
	"github.com/rbee-hive/hive/process"
	"github.com/rbee-hive/hive/snapshot"
	"github.com/rbee-hive/hive/supervision"
)

// What a caller of Run or New branches on.
var (
	// ErrAlreadyRunning: another hive holds the data directory.
	ErrAlreadyRunning = errors.New("another hive runs on this data directory")
	// ErrFatal: the root of the tree failed more often than it may.
	ErrFatal = errors.New("hive gave up")
)

// HiveRoot may fail this often within rootPeriod before hive ends itself in
// order with exit code 70, so that whatever started it can start a fresh one.
const (
	rootRestarts = 3
	rootPeriod   = time.Minute
)

// ringSize is how many events a late reader can still get: an hour of a restless
// hive, at about 300 bytes each.
const ringSize = 8192

// Options are what a caller may set beside the configuration.
type Options struct {
	Log     *slog.Logger
	Version string
	// Reread returns the configuration anew for a reload; nil forbids reloads.
	Reread func() (*config.Config, error)
}

// Hive is one running hive. Its methods are safe for concurrent use.
type Hive struct {
	cfg     *config.Config
	opt     Options
	log     *slog.Logger
	lock    *os.File
	cgroups *cgroup.Host
	runner  *process.Runner
	logs    *logs.Keeper
	ports   *ports.Ledger
	board   *snapshot.Board
	journal *journal.Journal
	metrics *metrics.Set
	system  *actor.ActorSystem
	root    *actor.PID
	book    *root.Book
	server  *httpd.Server
	addr    string // where the API listens, known after the listener is open
	sock    string

	running sync.Map // messages.WorkerID -> running
	memory  *admission.Memory
	tokens  sync.Map // messages.WorkerID -> callToken
	desired sync.Map // messages.WorkerID -> messages.WorkerSpec, as asked for
	watcher *observe.Watcher
	notices *notices
	sockets *sockets
	stop    chan messages.Shutdown
	ended   chan []messages.WorkerID
	fatal   chan error

	listeners []net.Listener
	tidying   sync.WaitGroup // cgroups that are being removed
	hush      func()         // ends the narration of events in the log
	narrated  chan struct{}  // closed when it has ended

	mu sync.Mutex // guards cfg, which a reload replaces
}

// New takes the data directory, opens everything and starts the tree and the
// API. It returns ErrAlreadyRunning when another hive holds the directory.
func New(cfg *config.Config, opt Options) (*Hive, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	h := &Hive{cfg: cfg, opt: opt, log: opt.Log, stop: make(chan messages.Shutdown, 8),
		ended: make(chan []messages.WorkerID, 1), fatal: make(chan error, 1)}
	if err := h.open(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *Hive) open() (err error) {
	if err := os.MkdirAll(h.cfg.DataDir, 0o711); err != nil {
		return fmt.Errorf("make data_dir: %w; name a writable one with data_dir or --data-dir", err)
	}
	if h.lock, err = takeLock(h.cfg.DataDir); err != nil {
		return err
	}
	span, err := ports.ParseRange(h.cfg.Ports)
	if err != nil {
		return err
	}
	if e, ok := ports.Ephemeral(); ok && span.Overlaps(e) {
		h.log.Warn("the ports of workers overlap those that the kernel gives to outgoing connections, so any program may hold one now and then; choose `ports` outside",
			"ports", span.String(), "kernel", e.String())
	}
	h.cgroups = cgroup.Open("hive-" + strconv.Itoa(os.Getpid()))
	h.cgroups.Sweep()
	if h.runner, err = process.NewRunner(); err != nil {
		return err
	}
	h.memory = admission.NewMemory(memoryAvailable, h.memoryUsed)
	h.watcher, h.notices, h.sockets = observe.New(), newNotices(h), newSockets()
	if h.logs, err = logs.Open(filepath.Join(h.cfg.DataDir, "logs")); err != nil {
		return err
	}
	h.ports = ports.New(workerHost, span)
	h.board = snapshot.New()
	h.journal = journal.New(ringSize, time.Now)
	h.metrics = metrics.New(h.board)
	h.journal.Observe(h.metrics.Observe)
	ctx, cancel := context.WithCancel(context.Background())
	h.hush, h.narrated = cancel, make(chan struct{})
	go h.narrate(ctx)
	go h.sample(ctx)
	if err := h.listen(); err != nil {
		return err
	}
	h.plant()
	return h.firstConfig()
}

// plant starts the supervision tree.
func (h *Hive) plant() {
	h.system = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(quiet{h.log.Handler()})
	}))
	h.book = &root.Book{Pools: h.pools()}
	guardian := &supervision.Guardian{Max: rootRestarts, Period: rootPeriod, Now: time.Now,
		Failed: func(err error, n int) {
			h.Panicked("root", err)
			h.journal.Append(messages.Event{Type: messages.HiveFailing, Reason: err.Error(), Done: n, Total: rootRestarts})
		},
		Fatal: func(err error) {
			select {
			case h.fatal <- err:
			default:
			}
		}}
	pid, err := h.system.Root.SpawnNamed(root.Props(h.book, h).Configure(actor.WithGuardian(guardian)), "hive")
	if err != nil {
		panic(fmt.Errorf("spawn the root actor: %w", err)) // a fresh system has no other
	}
	h.root = pid
}

func (h *Hive) pools() []*pool.Record {
	policy := supervision.PoolPolicy{MaxCrashloops: h.cfg.Pool.MaxCrashloops, Window: h.cfg.Pool.Window.D(),
		Restart: h.cfg.Pool.Escalation == "restart"}
	recs := []*pool.Record{{ID: messages.PoolCPU, Policy: policy}}
	for i := range h.cfg.GPU.Fake {
		recs = append(recs, &pool.Record{ID: messages.PoolID(fmt.Sprintf("gpu-%d", i)), MaxLoads: 1, Policy: policy,
			Device: &messages.Device{UUID: fmt.Sprintf("GPU-fake-%d", i), Name: "fake device", Fake: true}})
	}
	return recs
}

// firstConfig declares the file's workers. A worker whose form is right always
// exists afterwards: what it lacks on this host shows when it starts.
func (h *Hive) firstConfig() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg := h.config()
	plan, err := h.apply(ctx, cfg, false)
	if err != nil {
		return fmt.Errorf("start the workers of the configuration: %w", err)
	}
	for _, n := range plan.Notes {
		h.log.Warn(n)
	}
	h.server.SetReady(true)
	h.journal.Append(messages.Event{Type: messages.HiveStarted, Total: len(cfg.Workers),
		Reason: fmt.Sprintf("%s listens on %s and %s", cfg.Name, h.addr, h.sock)})
	return nil
}

// Address is the TCP address of the API, Socket the path of its unix socket.
func (h *Hive) Address() string { return h.addr }

// Socket is the path of the API's unix socket.
func (h *Hive) Socket() string { return h.sock }

// Run works until ctx ends or a shutdown is asked for by the API, then ends all
// workers in parallel and returns. The error is nil after an orderly end, wraps
// ErrFatal when the tree gave up, and otherwise names what could not be ended.
func (h *Hive) Run(ctx context.Context) error {
	defer h.close()
	var cause error
	select {
	case <-ctx.Done():
		h.Shutdown(false, "asked to end by a signal")
	case err := <-h.fatal:
		cause = fmt.Errorf("%w: %w", ErrFatal, err)
		h.log.Error("the supervision tree gave up, hive ends in order", "error", err)
		h.ended <- nil // the tree is gone, there is nobody to ask
	case m := <-h.stop:
		h.tell(m)
	}
	h.server.SetReady(false)
	left := h.finish()
	reason := "all workers have ended"
	if len(left) > 0 {
		reason = fmt.Sprintf("workers survived SIGKILL and are left behind: %v", left)
		h.log.Warn(reason)
	}
	h.journal.Append(messages.Event{Type: messages.HiveStopped, Reason: reason, Done: len(left)})
	return cause
}

// finish waits for the workers' end; later shutdown requests (a second signal)
// are passed on. What is left when the deadline is over is killed.
func (h *Hive) finish() []messages.WorkerID {
	deadline := time.NewTimer(h.deadline())
	defer deadline.Stop()
	for {
		select {
		case left := <-h.ended:
			return left
		case m := <-h.stop:
			h.tell(m)
		case err := <-h.fatal:
			h.log.Error("the supervision tree gave up while hive was ending", "error", err)
			return nil
		case <-deadline.C:
			h.log.Error("the shutdown deadline is over, killing what is left")
			h.tell(messages.Shutdown{Now: true, Reason: "the shutdown deadline is over"})
			deadline.Reset(lastResort)
			select {
			case left := <-h.ended:
				return left
			case <-deadline.C:
				return nil
			}
		}
	}
}

// lastResort is how long a shutdown waits after its own deadline: SIGKILL, the
// two seconds after which a worker is called unkillable, and some room.
const lastResort = 5 * time.Second

// deadline bounds a whole shutdown: the longest drain and grace of any worker.
func (h *Hive) deadline() time.Duration {
	ends := h.config().Shutdown
	longest := ends.Drain.D() + ends.Grace.D()
	for _, s := range h.specs() { // the longest of all: they end in parallel
		longest = max(longest, s.Stop.Drain.D()+s.Stop.Grace.D())
	}
	return longest + lastResort
}

func (h *Hive) tell(m messages.Shutdown) { h.system.Root.Send(h.root, m) }

// Shutdown asks for the end; Now kills at once. It does not wait.
func (h *Hive) Shutdown(now bool, reason string) {
	select {
	case h.stop <- messages.Shutdown{Now: now, Reason: reason}:
	default: // several are on their way already
	}
}

// close gives everything back; it may be called on a half-opened hive. The
// socket's name goes just before the lock and the API last, so that whoever saw
// this hive end may start the next one.
func (h *Hive) close() {
	if h.system != nil {
		h.system.Root.Stop(h.root)
	}
	if h.runner != nil {
		h.runner.KillEverything()
		h.runner.Close()
		h.tidying.Wait()
		if err := h.cgroups.Close(); err != nil {
			h.log.Debug("hive's cgroup folders were not removed", "error", err)
		}
		h.notices.close()
		h.sockets.close()
	}
	if h.logs != nil {
		_ = h.logs.Close()
	}
	if h.lock != nil {
		if h.sock != "" {
			_ = os.Remove(h.sock)
		}
		_ = h.lock.Close()
	}
	if h.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_ = h.server.Shutdown(ctx)
		cancel()
	}
	for _, l := range h.listeners {
		_ = l.Close()
	}
	if h.hush != nil {
		h.hush()
		select {
		case <-h.narrated:
		case <-time.After(logPatience):
		}
	}
}

// logPatience bounds how long hive's end waits for a log that nobody takes away.
const logPatience = time.Second
