package hive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/notify"
	"github.com/rbee-hive/hive/process"
)

// notices hears what workers say on their notify sockets. A socket belongs to a
// worker, not to an attempt or to a start of hive, so its path stays.
type notices struct {
	h   *Hive
	ctx context.Context // ends with hive
	end context.CancelFunc
	wg  sync.WaitGroup

	mu  sync.Mutex // guards all below
	ear map[messages.WorkerID]*ear
}

// ear is one worker's socket.
type ear struct {
	socket   *notify.Socket
	uid, gid int // who may send, beside root

	mu      sync.Mutex // guards all below
	attempt messages.Attempt
	made    chan struct{} // closed once proc is known
	proc    *process.Proc
	trusted map[int]time.Time // senders found in the tree, and when
	told    map[messages.EventType]bool
	far     messages.Progress // the progress last told
}

// trustFor is how long a sender once found in the tree is not looked up again:
// far shorter than it takes a host to use a pid again.
const trustFor = 5 * time.Second

func newNotices(h *Hive) *notices {
	n := &notices{h: h, ear: map[messages.WorkerID]*ear{}}
	n.ctx, n.end = context.WithCancel(context.Background())
	return n
}

// path is where a worker's socket lies: data_dir/notify/NAME.sock. Where that is
// too long for the kernel it has a short name there, or in data_dir itself, or
// beside the API's socket.
func (n *notices) path(id messages.WorkerID) string {
	sum := sha256.Sum256([]byte(id))
	short := hex.EncodeToString(sum[:5]) + ".sock"
	if data, err := filepath.Abs(n.h.config().DataDir); err == nil {
		for _, path := range []string{filepath.Join(data, "notify", string(id)+".sock"), filepath.Join(data, "notify", short), filepath.Join(data, short)} {
			if len(path) <= notify.MaxPath {
				return path
			}
		}
	}
	return filepath.Join(strings.TrimSuffix(n.h.sock, ".sock")+".notify", short)
}

// open makes sure that a worker's socket listens, and returns its path.
func (n *notices) open(s messages.WorkerSpec) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	uid, gid, err := process.Owner(s.User)
	if err != nil {
		return "", err
	}
	if e := n.ear[s.Name]; e != nil {
		if e.uid == uid && e.gid == gid {
			return e.socket.Path(), nil
		}
		_ = e.socket.Close() // its user has changed
		delete(n.ear, s.Name)
	}
	path := n.path(s.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return "", err
	}
	socket, err := notify.Listen(path, uid, gid)
	if err != nil {
		return "", err
	}
	e := &ear{socket: socket, uid: uid, gid: gid}
	n.ear[s.Name] = e
	n.wg.Go(func() {
		if err := socket.Serve(func(d notify.Datagram) { n.hear(s.Name, e, d) }); err != nil {
			n.h.log.Warn("a notify socket failed", "worker", s.Name, "error", err)
		}
	})
	return path, nil
}

// expect says that an attempt's process is about to be made; the function it
// returns takes that process, or nil when it could not be. What a process says
// before hive knows it waits for that.
func (n *notices) expect(id messages.WorkerID, a messages.Attempt) func(*process.Proc) {
	n.mu.Lock()
	e := n.ear[id]
	n.mu.Unlock()
	if e == nil {
		return func(*process.Proc) {}
	}
	made := make(chan struct{})
	e.mu.Lock()
	e.attempt, e.made, e.proc, e.trusted, e.told = a, made, nil, map[int]time.Time{}, map[messages.EventType]bool{}
	e.far = messages.Progress{}
	e.mu.Unlock()
	return func(p *process.Proc) {
		e.mu.Lock()
		if e.attempt == a {
			e.proc = p
		}
		e.mu.Unlock()
		close(made)
	}
}

// shut closes a worker's socket until it runs again.
func (n *notices) shut(id messages.WorkerID) {
	n.mu.Lock()
	e := n.ear[id]
	delete(n.ear, id)
	n.mu.Unlock()
	if e != nil {
		_ = e.socket.Close()
	}
}

func (n *notices) close() {
	n.end()
	n.mu.Lock()
	all := n.ear
	n.ear = map[messages.WorkerID]*ear{}
	n.mu.Unlock()
	for _, e := range all {
		_ = e.socket.Close()
	}
	n.wg.Wait()
}

// hear takes one datagram, in the socket's own goroutine.
func (n *notices) hear(id messages.WorkerID, e *ear, d notify.Datagram) {
	e.mu.Lock()
	made, a := e.made, e.attempt
	e.mu.Unlock()
	if made == nil {
		return
	}
	select {
	case <-made:
	case <-n.ctx.Done():
		return
	}
	if !e.trusts(d.PID) {
		n.h.metrics.NotifyRefused(id, "stranger")
		e.once(messages.WorkerStranger, func() {
			n.h.Emit(messages.Event{Type: messages.WorkerStranger, Worker: id, Attempt: a, PID: d.PID,
				Reason: fmt.Sprintf("process %d (uid %d) wrote to the notify socket and does not belong to the worker; it was ignored", d.PID, d.UID)})
		})
		return
	}
	if d.Err != nil {
		n.h.metrics.NotifyRefused(id, "malformed")
		e.once(messages.WorkerMalformed, func() {
			n.h.Emit(messages.Event{Type: messages.WorkerMalformed, Worker: id, Attempt: a, PID: d.PID,
				Reason: "a notify datagram has words that hive does not take: " + firstLine(d.Err)})
		})
		if errors.Is(d.Err, notify.ErrTooLong) {
			return
		}
	}
	if d.Message.Unknown > 0 {
		n.h.metrics.NotifyRefused(id, "unknown word")
	}
	if !e.advances(d.Message) {
		n.h.metrics.NotifyRefused(id, "progress went back")
		d.Message.Progress = nil
	}
	n.pass(id, a, d.Message)
}

// pass hands a message on: what a heartbeat says goes to the pulse, and the tree
// is told of what it must decide.
func (n *notices) pass(id messages.WorkerID, a messages.Attempt, m notify.Message) {
	tell := func(c messages.Callback) {
		c.Worker, c.Attempt = id, a
		n.h.afterStart(n.ctx, id, a)
		n.h.system.Root.Send(n.h.root, c)
	}
	if m.ExtendTimeout != nil {
		tell(messages.Callback{Kind: messages.CallbackExtend, Extend: *m.ExtendTimeout})
	}
	if m.Status != nil {
		tell(messages.Callback{Kind: messages.CallbackSaid, Text: *m.Status})
	}
	if m.Progress != nil {
		p := messages.Progress{Value: *m.Progress, Source: "native"}
		if m.Stage != nil {
			p.Stage = *m.Stage
		}
		tell(messages.Callback{Kind: messages.CallbackProgress, Progress: &p})
	}
	if m.Ready {
		tell(messages.Callback{Kind: messages.CallbackReady})
	}
	if m.Stopping {
		tell(messages.Callback{Kind: messages.CallbackSaid, Text: "it says that it is stopping"})
	}
	if m.Watchdog || m.InFlight != nil {
		if w, ok := n.h.board.Worker(id); ok && w.Live != nil {
			var s *messages.Stats
			if m.InFlight != nil {
				s = &messages.Stats{InFlight: m.InFlight}
			}
			moved := false
			if m.Watchdog {
				moved = w.Live.Beat(a, time.Now(), s)
			} else {
				moved = w.Live.Note(a, s) // no heartbeat: it may come on changes only
			}
			if moved {
				tell(messages.Callback{Kind: messages.CallbackHeartbeat})
			}
		}
	}
	if m.WatchdogTrigger {
		tell(messages.Callback{Kind: messages.CallbackFault})
	}
}

// afterStart waits until the tree has heard that an attempt's process exists: a
// fast worker speaks before that.
func (h *Hive) afterStart(ctx context.Context, id messages.WorkerID, a messages.Attempt) {
	if w, ok := h.board.Worker(id); ok && w.Attempt >= a && w.State != messages.Starting && w.State != messages.Pending {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, _ = h.board.WaitFor(ctx, id, func(w *messages.WorkerStatus) bool {
		return w.Attempt > a || w.Attempt == a && w.State != messages.Starting && w.State != messages.Pending
	})
}

// trusts reports whether pid is a process of the attempt's tree.
func (e *ear) trusts(pid int) bool {
	e.mu.Lock()
	p, at := e.proc, e.trusted[pid]
	e.mu.Unlock()
	if p == nil || pid <= 0 {
		return false
	}
	now := time.Now()
	if now.Sub(at) < trustFor {
		return true
	}
	if !p.Owns(pid) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.proc == p {
		if len(e.trusted) > 1024 { // a worker that forks for each word
			clear(e.trusted)
		}
		e.trusted[pid] = now
	}
	return true
}

// advances reports whether a message's progress, if it has one, is no step back
// within a stage.
func (e *ear) advances(m notify.Message) bool {
	if m.Progress == nil {
		return true
	}
	p := messages.Progress{Value: *m.Progress}
	if m.Stage != nil {
		p.Stage = *m.Stage
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.Stage == e.far.Stage && p.Value < e.far.Value {
		return false
	}
	e.far = p
	return true
}

// once does a thing once an attempt: a log is not to be flooded.
func (e *ear) once(t messages.EventType, f func()) {
	e.mu.Lock()
	first := !e.told[t]
	if e.told != nil {
		e.told[t] = true
	}
	e.mu.Unlock()
	if first {
		f()
	}
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}
