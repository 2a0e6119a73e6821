package hive

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/process"
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

// Launch makes the process of an attempt. It blocks until exec has happened.
func (h *Hive) Launch(l worker.Launch) (worker.Process, error) {
	command, env, err := config.Expand(l.Spec, config.Vars{Port: l.Port, Host: workerHost, Attempt: l.Attempt,
		GPU: strings.Join(l.GPUs, ",")})
	if err != nil {
		return nil, &worker.LaunchError{Cause: messages.CauseConfig, Detail: err.Error()}
	}
	if l.Spec.Model != "" || len(l.Spec.Prepare) > 0 || len(l.Spec.Ready.Command) > 0 { // the start itself finds out about the rest
		if lacks := config.WorkerHostProblems(l.Spec); len(lacks) > 0 {
			return nil, &worker.LaunchError{Cause: messages.CauseConfig, Detail: lacks[0].Message}
		}
	}
	socket, err := h.notices.open(l.Spec)
	if err != nil {
		h.log.Warn("a worker has no notify socket", "worker", l.Spec.Name, "error", err)
	}
	out, err := h.logs.Begin(l.Spec.Name, l.Attempt, l.Spec.Logs)
	if err != nil {
		return nil, &worker.LaunchError{Cause: messages.CauseUnknown, Detail: fmt.Sprintf("open the log of worker %s: %v", l.Spec.Name, err)}
	}
	defer out.Close()
	done := h.notices.expect(l.Spec.Name, l.Attempt)
	vars := h.environment(l, env)
	if socket != "" {
		vars = append(vars, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC="+strconv.FormatInt(l.Spec.Heartbeat.Interval.D().Microseconds()*int64(l.Spec.Heartbeat.Misses), 10))
	}
	var files []*os.File
	if f, err := h.sockets.file(l.Spec.Name); err != nil {
		h.log.Warn("a worker's socket could not be passed on", "worker", l.Spec.Name, "error", err)
	} else if f != nil {
		defer f.Close()
		files = []*os.File{f}
		if err := process.Check(process.Spec{Command: command, Env: vars, Dir: l.Spec.Dir, User: l.Spec.User}); err == nil { // else Start says it of the program itself
			var listen []string
			command, listen = activation(command)
			vars = append(vars, listen...)
		}
	}
	p, err := h.runner.Start(process.Spec{Command: command, Env: vars, Files: files, Dir: l.Spec.Dir, User: l.Spec.User,
		Output: out, MarkKey: markKey, MarkValue: fmt.Sprintf("%d/%s/%d", os.Getpid(), l.Spec.Name, l.Attempt), Tuning: process.Tuning{
			NoFile: l.Spec.Limits.NoFile, Core: uint64(l.Spec.Limits.Core), AS: uint64(l.Spec.Limits.AS), MemLock: uint64(l.Spec.Limits.MemLock),
			Nice: l.Spec.Nice, OOMScoreAdj: l.Spec.OOMScoreAdj}})
	done(p)
	if err != nil {
		h.logs.End(l.Spec.Name, l.Attempt)
		var se *process.StartError
		if !errors.As(err, &se) || !se.Config {
			return nil, &worker.LaunchError{Cause: messages.CauseUnknown, Detail: err.Error()}
		}
		words := err.Error()
		if lacks := config.WorkerHostProblems(l.Spec); len(lacks) > 0 {
			words = lacks[0].Message // the words of hive check
		}
		return nil, &worker.LaunchError{Cause: messages.CauseConfig, Detail: words}
	}
	h.running.Store(l.Spec.Name, running{attempt: l.Attempt, proc: p})
	return osProcess{p: p, closed: func() { h.running.CompareAndDelete(l.Spec.Name, running{attempt: l.Attempt, proc: p}) }}, nil
}

// inherited is the environment that hive was started with.
var inherited = sync.OnceValue(func() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
})

// environment is hive's own, the spec's over it, and the contract's over both.
func (h *Hive) environment(l worker.Launch, own map[string]string) []string {
	env := maps.Clone(inherited())
	maps.Copy(env, own)
	env["HIVE_WORKER"] = string(l.Spec.Name)
	env["HIVE_ATTEMPT"] = strconv.FormatUint(uint64(l.Attempt), 10)
	env["HIVE_URL"] = h.apiURL()
	env["HIVE_TOKEN"] = l.Token
	env["HOST"] = workerHost
	for _, k := range []string{"PORT", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} { // hive's own are not the worker's
		delete(env, k)
	}
	if l.Port != 0 {
		env["PORT"] = strconv.Itoa(l.Port)
	}
	if len(l.GPUs) > 0 {
		env["CUDA_VISIBLE_DEVICES"] = strings.Join(l.GPUs, ",")
		env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
	}
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

// osProcess fits a process.Proc to what the worker actor needs.
type osProcess struct {
	p      *process.Proc
	closed func()
}

func (o osProcess) PID() int                        { return o.p.PID() }
func (o osProcess) Signal(sig syscall.Signal) error { return o.p.Signal(sig) }

func (o osProcess) Close() {
	o.closed()
	o.p.Close()
}

func (o osProcess) Unenforced() []string { return nil }

// Verdict knows nothing yet.
func (o osProcess) Verdict(worker.Exit) (messages.Cause, string, bool) { return "", "", false }

func (o osProcess) Wait() worker.Exit {
	e := o.p.Wait()
	return worker.Exit{Code: e.Code, Signal: e.Signal, CoreDumped: e.CoreDumped, Unknown: e.Unknown, At: e.At}
}

func (o osProcess) KillTree() error {
	_, err := o.p.KillTree()
	return err
}

func (o osProcess) Survivors() ([]worker.Member, error) {
	ms, err := o.p.Survivors()
	out := make([]worker.Member, len(ms))
	for i, m := range ms {
		out[i] = worker.Member{PID: m.PID, Command: m.Command, InGroup: m.InGroup}
	}
	return out, err
}
