package hive

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/cgroup"
	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/process"
)

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
	group, lacks, err := h.bound(l.Spec, l.Attempt)
	if err != nil {
		return nil, &worker.LaunchError{Cause: messages.CauseConfig, Detail: err.Error()}
	}
	out, err := h.logs.Begin(l.Spec.Name, l.Attempt, l.Spec.Logs)
	if err != nil {
		h.ungroup(l.Spec.Name, group)
		return nil, &worker.LaunchError{Cause: messages.CauseUnknown, Detail: fmt.Sprintf("open the log of worker %s: %v", l.Spec.Name, err)}
	}
	defer out.Close()
	vars := h.environment(l, env)
	if socket != "" {
		vars = append(vars, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC="+strconv.FormatInt(l.Spec.Heartbeat.Interval.D().Microseconds()*int64(l.Spec.Heartbeat.Misses), 10))
	}
	s := process.Spec{Command: command, Env: vars, Dir: l.Spec.Dir, User: l.Spec.User, Output: out,
		MarkKey: markKey, MarkValue: fmt.Sprintf("%d/%s/%d", os.Getpid(), l.Spec.Name, l.Attempt), Tuning: tuning(l.Spec)}
	if group != nil {
		s.Leaf, s.Enter = group.Dir2(), group.Enter
	}
	if closed := h.passSocket(l.Spec.Name, &s); closed != nil {
		defer closed()
	}
	done := h.notices.expect(l.Spec.Name, l.Attempt)
	began, kills := time.Now(), kernelKills()
	p, err := h.runner.Start(s)
	done(p)
	if err != nil {
		h.ungroup(l.Spec.Name, group)
		h.logs.End(l.Spec.Name, l.Attempt)
		return nil, launchError(l.Spec, err)
	}
	r := running{attempt: l.Attempt, proc: p}
	h.running.Store(l.Spec.Name, r)
	where := ""
	if l.Port != 0 {
		where = h.URL(l.Port)
	}
	return osProcess{p: p, spec: l.Spec, url: where, group: group, lacks: lacks, began: began, kills: kills, closed: func() {
		h.running.CompareAndDelete(l.Spec.Name, r)
		h.ungroup(l.Spec.Name, group)
	}}, nil
}

// ungroup removes the cgroup of an ended attempt, beside whatever comes next: the
// kernel may need a moment for it.
func (h *Hive) ungroup(id messages.WorkerID, group *cgroup.Group) {
	if group == nil {
		return
	}
	h.tidying.Go(func() {
		if err := group.Remove(); err != nil {
			h.log.Warn("the cgroup of an ended attempt could not be removed", "worker", id, "error", err)
		}
	})
}

func launchError(s messages.WorkerSpec, err error) error {
	var se *process.StartError
	if !errors.As(err, &se) || !se.Config {
		return &worker.LaunchError{Cause: messages.CauseUnknown, Detail: err.Error()}
	}
	words := err.Error()
	if lacks := config.WorkerHostProblems(s); len(lacks) > 0 {
		words = lacks[0].Message // the words of hive check
	}
	return &worker.LaunchError{Cause: messages.CauseConfig, Detail: words}
}

// bound makes the cgroup of an attempt; nil when it needs none. lacks are the
// limits that this host cannot hold; with limits.required they are an error.
func (h *Hive) bound(s messages.WorkerSpec, a messages.Attempt) (group *cgroup.Group, lacks []string, err error) {
	want := cgroup.Limits{Memory: uint64(s.Limits.Memory), CPUs: s.Limits.CPUs, CPUSet: s.Limits.CPUSet, PIDs: s.Limits.PIDs}
	lacks = h.cgroups.Unenforced(want)
	if len(lacks) > 0 && s.Limits.Required {
		return nil, lacks, fmt.Errorf("limits.required is set, and %s", strings.Join(lacks, "; "))
	}
	group, err = h.cgroups.New(fmt.Sprintf("%s-%d", s.Name, a), want)
	return group, lacks, err
}

func tuning(s messages.WorkerSpec) process.Tuning {
	return process.Tuning{NoFile: s.Limits.NoFile, Core: uint64(s.Limits.Core), AS: uint64(s.Limits.AS), MemLock: uint64(s.Limits.MemLock),
		Nice: s.Nice, OOMScoreAdj: s.OOMScoreAdj}
}

// passSocket gives a worker the socket that hive listens on for it, if there is
// one; closed gives hive's copy back once the process is made.
func (h *Hive) passSocket(id messages.WorkerID, s *process.Spec) (closed func()) {
	f, err := h.sockets.file(id)
	if err != nil {
		h.log.Warn("a worker's socket could not be passed on", "worker", id, "error", err)
	}
	if f == nil {
		return nil
	}
	s.Files = []*os.File{f}
	if process.Check(*s) == nil { // else Start says it of the program itself
		var listen []string
		s.Command, listen = activation(s.Command)
		s.Env = append(s.Env, listen...)
	}
	return func() { _ = f.Close() }
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
	spec   messages.WorkerSpec
	url    string        // where it serves, "" without a port
	group  *cgroup.Group // nil without limits
	lacks  []string
	began  time.Time
	kills  uint64 // kernelKills when it began
	closed func()
}

// kernelKills is how many processes the kernel has killed for want of memory
// since it started, 0 where it does not say. Source: /proc/vmstat, oom_kill.
func kernelKills() uint64 {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	_, rest, found := strings.Cut(string(b), "\noom_kill ")
	if !found {
		return 0
	}
	number, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseUint(number, 10, 64)
	return n
}

func (o osProcess) PID() int { return o.p.PID() }

// Signal sends the stop signal to the group. An rbee worker is first asked to end
// by its own route, beside the actor, and gets the signal when that does not help.
func (o osProcess) Signal(sig syscall.Signal) error {
	if o.spec.Engine != config.EngineRbee || o.url == "" {
		return o.p.Signal(sig)
	}
	go func() {
		if err := askToEnd(o.url + "/v1/admin/shutdown"); err == nil {
			for end := time.Now().Add(politely); time.Now().Before(end); {
				if m, err := o.p.Survivors(); err == nil && len(m) == 0 {
					return
				}
				<-time.After(politely / 40)
			}
		}
		_ = o.p.Signal(sig) // gone already, or the grace will tell
	}()
	return nil
}

// politely bounds both the question and the wait for its effect; the grace runs
// meanwhile.
const politely = 2 * time.Second

func askToEnd(url string) error {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(url)
	req.Header.SetMethod(fasthttp.MethodPost)
	if err := fasthttp.DoTimeout(req, resp, politely); err != nil {
		return err
	}
	if resp.StatusCode() >= 300 {
		return fmt.Errorf("POST %s: %d", url, resp.StatusCode())
	}
	return nil
}

func (o osProcess) Close() {
	o.p.Close()
	o.closed()
}

func (o osProcess) Unenforced() []string { return o.lacks }

// Verdict tells an out-of-memory kill from any other: by the counter of the
// attempt's own group, which is exact, or for a kill on behalf of the whole host
// by the kernel's log.
func (o osProcess) Verdict(e worker.Exit) (messages.Cause, string, bool) {
	if e.Code == 0 && e.Signal == 0 {
		return messages.CauseNone, "", false
	}
	if o.group != nil {
		if kills, err := o.group.OOMKills(); err == nil && kills > 0 {
			words := "killed at its own limit of memory, " + o.spec.Limits.Memory.About()
			if e.Signal != syscall.SIGKILL {
				words = "ended after one of its processes was killed at its own limit of memory, " + o.spec.Limits.Memory.About()
			}
			if peak, err := o.group.Peak(); err == nil {
				words += ", peak " + messages.Size(peak).About()
			}
			return messages.CauseOOM, words + "; raise limits.memory, or give it a smaller model, context or batch", true
		}
	}
	if e.Signal == syscall.SIGKILL && kernelKills() != o.kills { // the log is long, and seldom worth reading
		if yes, words := cgroup.KernelKilled(o.p.PID(), o.began); yes {
			return messages.CauseOOM, "killed by the kernel because the whole host ran out of memory (" + words + "); give the workers of this host limits.memory, or run fewer", true
		}
	}
	return messages.CauseNone, "", false
}

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
