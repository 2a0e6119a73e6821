package hive

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// workerHost is the address workers are told to listen on.
const workerHost = "127.0.0.1"

// markKey is the environment variable by which a stray process is recognised as
// a worker's, when it has left its group and its parents are dead.
const markKey = "HIVE_MARK"

type callToken struct {
	attempt messages.Attempt
	secret  string
}

// The methods below make Hive the actors' Host: the one place where what they
// decide touches the world.

// Now is the wall clock.
func (h *Hive) Now() time.Time { return time.Now() }

// AfterFunc runs f after d, unless stopped before.
func (h *Hive) AfterFunc(d time.Duration, f func()) (stop func()) {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}

// Spread is the jitter's random number.
func (h *Hive) Spread() float64 { return mathrand.Float64() }

// Token makes the callback token of an attempt.
func (h *Hive) Token(id messages.WorkerID, a messages.Attempt) string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	s := base64.RawURLEncoding.EncodeToString(b[:])
	h.tokens.Store(id, callToken{attempt: a, secret: s})
	return s
}

// Send tells an actor something from outside.
func (h *Hive) Send(to *actor.PID, m any) { h.system.Root.Send(to, m) }

// URL is where a worker with this port is reached.
func (h *Hive) URL(port int) string { return "http://" + workerHost + ":" + strconv.Itoa(port) }

// PortFree reports whether nobody listens on port.
func (h *Hive) PortFree(port int) bool { return h.sockets.onPort(port) || h.ports.Free(port) }

// LeasePort leases a port. A worker that never mentions one gets one while
// there are any, and runs without when there are none.
func (h *Hive) LeasePort(s messages.WorkerSpec) (int, error) {
	if s.Port == "none" {
		return 0, nil
	}
	fixed, _ := strconv.Atoi(string(s.Port))
	p, err := h.ports.Lease(string(s.Name), fixed)
	if err != nil && !config.NeedsPort(s) && s.Listen != messages.ListenSocket {
		return 0, nil
	}
	if err == nil && s.Listen == messages.ListenSocket {
		if err = h.sockets.bind(s.Name, p); err != nil {
			h.ports.Release(string(s.Name))
		}
	}
	return p, err
}

// ReleasePort gives a worker's port back, except one whose socket hive keeps for
// the next attempt.
func (h *Hive) ReleasePort(id messages.WorkerID) {
	if !h.sockets.holds(id) {
		h.ports.Release(string(id))
	}
}

// rest gives back what a worker keeps between its attempts.
func (h *Hive) rest(id messages.WorkerID) {
	h.notices.shut(id)
	if h.sockets.shut(id) {
		h.ports.Release(string(id))
	}
}

// WaitsFor says what dependencies lack; a name stands for all its replicas.
func (h *Hive) WaitsFor(deps []string) string {
	for _, d := range deps {
		found := false
		for _, s := range h.specsNamed(d) {
			found = true
			w, ok := h.board.Worker(s)
			if !ok || !w.State.Ready() {
				state := "not there yet"
				if ok {
					state = w.State.String()
				}
				return fmt.Sprintf("depends on %s, which is %s", s, state)
			}
		}
		if !found {
			return fmt.Sprintf("depends on %s, which is not declared", d)
		}
	}
	return ""
}

func (h *Hive) specsNamed(name string) []messages.WorkerID {
	if _, ok := h.board.Worker(messages.WorkerID(name)); ok {
		return []messages.WorkerID{messages.WorkerID(name)}
	}
	var ids []messages.WorkerID
	for _, s := range h.specs() {
		if s.Base == name {
			ids = append(ids, s.Name)
		}
	}
	return ids
}

// Publish puts a status in view.
func (h *Hive) Publish(s *messages.WorkerStatus) {
	h.board.PutWorker(s)
	if s.State == messages.Idle && s.Live.Used(s.Attempt).Processes == 0 {
		if r, ok := h.running.Load(s.Name); ok { // the first reading need not wait for the next round
			go h.uses(s.Name, r.(running))
		}
	}
	if s.Rests {
		h.rest(s.Name)
	}
}

// PublishPool puts a pool's status in view.
func (h *Hive) PublishPool(s *messages.PoolStatus) { h.board.PutPool(s) }

// Forget drops a worker from view, with its token and logs.
func (h *Hive) Forget(id messages.WorkerID) {
	h.board.DropWorker(id)
	h.tokens.Delete(id)
	h.desired.Delete(id)
	h.rest(id)
	if err := h.logs.Remove(id); err != nil {
		h.log.Warn("could not remove the logs of a removed worker", "worker", id, "error", err)
	}
}

// Emit puts an event into the journal.
func (h *Hive) Emit(e messages.Event) { h.journal.Append(e) }

// LogTail reads the last lines of an attempt.
func (h *Hive) LogTail(id messages.WorkerID, a messages.Attempt, n int) []string {
	lines, err := h.logs.Tail(id, a, n)
	if err != nil || lines == nil {
		return []string{}
	}
	return lines
}

// LogEnd tells that an attempt writes no more.
func (h *Hive) LogEnd(id messages.WorkerID, a messages.Attempt) { h.logs.End(id, a) }

// DeviceHealthy asks a pool's device. Without a driver every device is healthy.
func (h *Hive) DeviceHealthy(messages.PoolID) bool { return true }

// AllEnded tells Run that the shutdown is over.
func (h *Hive) AllEnded(left []messages.WorkerID) {
	select {
	case h.ended <- left:
	default:
	}
}

// Panicked logs a panic of an actor with its stack. A process failure is
// expected and never comes here.
func (h *Hive) Panicked(who string, reason any) {
	var pf *supervision.ProcessFailure
	if errors.As(supervision.AsError(reason), &pf) {
		return
	}
	h.log.Error("an actor panicked; this is a bug in hive", "actor", who, "reason", fmt.Sprint(reason), "stack", string(debug.Stack()))
}
