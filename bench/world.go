package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/pool"
	"github.com/rbee-hive/hive/actors/root"
	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/snapshot"
)

// world is the real tree over processes that do nothing.
type world struct {
	root.Host // nil: what the scenario does not reach
	board     *snapshot.Board
	system    *actor.ActorSystem
	pid       *actor.PID
	mu        sync.Mutex // guards pids
	pids      int
	end       chan struct{}
}

// sleeping is a process that exists on paper.
type sleeping struct {
	pid int
	end <-chan struct{}
}

func (s sleeping) PID() int                                           { return s.pid }
func (s sleeping) Wait() worker.Exit                                  { <-s.end; return worker.Exit{At: time.Now()} }
func (s sleeping) Signal(syscall.Signal) error                        { return nil }
func (s sleeping) KillTree() error                                    { return nil }
func (s sleeping) Survivors() ([]worker.Member, error)                { return nil, nil }
func (s sleeping) Unenforced() []string                               { return nil }
func (s sleeping) Verdict(worker.Exit) (messages.Cause, string, bool) { return "", "", false }
func (s sleeping) Close()                                             {}

func newWorld() *world { return &world{board: snapshot.New(), end: make(chan struct{})} }

func (w *world) Now() time.Time { return time.Now() }
func (w *world) AfterFunc(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}
func (w *world) Token(messages.WorkerID, messages.Attempt) string { return "" }
func (w *world) Launch(worker.Launch) (worker.Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids++
	return sleeping{pid: w.pids, end: w.end}, nil
}
func (w *world) Watch(context.Context, worker.Watched, func(worker.Sighting)) {}
func (w *world) LogTail(messages.WorkerID, messages.Attempt, int) []string    { return nil }
func (w *world) LogEnd(messages.WorkerID, messages.Attempt)                   {}
func (w *world) PortFree(int) bool                                            { return true }
func (w *world) URL(int) string                                               { return "" }
func (w *world) Publish(s *messages.WorkerStatus)                             { w.board.PutWorker(s) }
func (w *world) PublishPool(s *messages.PoolStatus)                           { w.board.PutPool(s) }
func (w *world) Emit(messages.Event)                                          {}
func (w *world) Panicked(string, any)                                         {}
func (w *world) LeasePort(messages.WorkerSpec) (int, error)                   { return 0, nil }
func (w *world) Reserve(messages.WorkerSpec, time.Time) error                 { return nil }
func (w *world) Unreserve(messages.WorkerID)                                  {}
func (w *world) ReleasePort(messages.WorkerID)                                {}
func (w *world) WaitsFor([]string) string                                     { return "" }
func (w *world) Spread() float64                                              { return 0.5 }

func (w *world) start(n int, interval time.Duration) {
	w.system = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	book := &root.Book{Pools: []*pool.Record{{ID: messages.PoolCPU}}}
	w.pid = w.system.Root.Spawn(root.Props(book, w))
	for i := range n {
		w.system.Root.Send(w.pid, messages.CreateWorker{Spec: messages.WorkerSpec{Name: messages.WorkerID(fmt.Sprintf("w-%d", i)), Command: []string{"x"},
			Engine: "hive", Heartbeat: messages.HeartbeatSpec{Interval: messages.Duration(interval), Misses: 3}}})
	}
}

// untilIdle makes every worker ready by its own word.
func (w *world) untilIdle(n int, within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		idle := 0
		for _, s := range w.board.Workers() {
			switch s.State {
			case messages.Idle:
				idle++
			case messages.Loading:
				w.system.Root.Send(w.pid, messages.Callback{Worker: s.Name, Attempt: s.Attempt, Kind: messages.CallbackReady})
			default:
			}
		}
		if idle == n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d workers are idle after %s", idle, n, within)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// beatFor lets every worker beat once each interval, spread evenly.
func (w *world) beatFor(long, interval time.Duration) (sent int) {
	list := w.board.Workers()
	const step = 10 * time.Millisecond
	each := max(len(list)*int(step)/int(interval), 1)
	tick := time.NewTicker(step)
	defer tick.Stop()
	end := time.After(long)
	for at := 0; ; {
		select {
		case <-end:
			return sent
		case now := <-tick.C:
			for range each {
				s := list[at%len(list)]
				at++
				sent++
				if s.Live.Beat(s.Attempt, now, nil) {
					w.system.Root.Send(w.pid, messages.Callback{Worker: s.Name, Attempt: s.Attempt, Kind: messages.CallbackHeartbeat})
				}
			}
		}
	}
}

// stop leaves the actors to the end of this process: their processes exist on paper.
func (w *world) stop() {}

func eachLine(r io.Reader, f func(string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f(lines.Text())
	}
	return lines.Err()
}
