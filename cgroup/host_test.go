package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests use the cgroups of the host they run on, and skip what it cannot
// do: natively v1 or a hybrid, in scripts/cgroup2-vm.sh a pure v2.

// exe is this binary, also for a user who may not enter the folder it lies in.
const exe = "/proc/self/exe"

// TestMain lets the test binary be its own worker.
func TestMain(m *testing.M) {
	switch os.Getenv("CGROUP_TEST_ACT") {
	case "eat":
		eat(256 << 20)
		os.Exit(3) // nobody minded
	case "spin":
		for range 2 {
			go func() {
				for n := 0; ; n++ {
					spun.Store(int64(n))
				}
			}()
		}
		select {}
	case "lead":
		os.Exit(lead())
	case "rest":
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var spun atomic.Int64

func eat(n int) {
	var held [][]byte
	for range n >> 20 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	runtime.KeepAlive(held)
}

// open gives the host, and checks at the end that nothing of it is left.
func open(t *testing.T) *Host {
	t.Helper()
	h := Open(fmt.Sprintf("hive-%d", os.Getpid()))
	t.Cleanup(func() {
		var dirs []string
		if h.ground != nil {
			dirs = h.ground.folders()
		}
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		for _, d := range dirs {
			if _, err := os.Stat(d); err == nil {
				t.Errorf("%s is left", d)
			}
		}
	})
	return h
}

func need(t *testing.T, h *Host, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if ok, why := h.Can(k); !ok {
			t.Skipf("cannot bound %s here (%s): %s", k, h.Mode(), why)
		}
	}
}

func plant(t *testing.T, h *Host, l Limits) *Group {
	t.Helper()
	g, err := h.New(t.Name(), l)
	if err != nil {
		t.Fatal(err)
	}
	if g == nil {
		t.Fatalf("no group for %+v", l)
	}
	t.Cleanup(func() {
		slay(t, g)
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if !g.Empty() {
			t.Error("a removed group is not empty")
		}
	})
	return g
}

// slay kills what is in the group until nothing is.
func slay(t *testing.T, g *Group) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !g.Empty(); {
		pids, _ := g.pids()
		for _, p := range pids {
			if p == os.Getpid() {
				t.Fatal("this process is in the group")
			}
			_ = unix.Kill(p, unix.SIGKILL)
			ended(p, deadline)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v do not die", pids)
		}
	}
}

// act makes this binary do something in the group, from birth.
func act(t *testing.T, g *Group, what string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CGROUP_TEST_ACT="+what)
	if what == "rest" {
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	begin(t, g, cmd)
	return cmd
}

func begin(t *testing.T, g *Group, cmd *exec.Cmd) {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if dir := g.Dir2(); dir != "" {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	}
	if err := g.Enter(cmd.Start); err != nil {
		t.Fatal(err)
	}
}

// inGroups lists the threads of this process that lie in an attempt's group.
func inGroups(t *testing.T, h *Host) []string {
	t.Helper()
	var found []string
	files, _ := filepath.Glob("/proc/self/task/*/cgroup")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "/"+h.name+"/w-") {
			found = append(found, f)
		}
	}
	return found
}

func kills(t *testing.T, g *Group) uint64 {
	t.Helper()
	n, err := g.OOMKills()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func signalOf(cmd *exec.Cmd) syscall.Signal {
	_ = cmd.Wait()
	return cmd.ProcessState.Sys().(syscall.WaitStatus).Signal()
}

func TestAnEaterIsKilledAndCounted(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	g := plant(t, h, Limits{Memory: 64 << 20})
	before := time.Now()
	cmd := act(t, g, "eat")
	if s := signalOf(cmd); s != syscall.SIGKILL {
		t.Fatalf("ended by %v (%v), want killed", s, cmd.ProcessState)
	}
	took := time.Since(before)
	if n := kills(t, g); n != 1 {
		t.Errorf("%d OOM kills, want 1", n)
	}
	peak, err := g.Peak()
	if errors.Is(err, ErrUnknown) {
		t.Logf("peak: %v", err)
	} else if err != nil || peak > 65<<20 || peak < 60<<20 {
		t.Errorf("peak %d MiB (%v), want about 64", peak>>20, err)
	}
	u, err := g.Usage()
	if err != nil || u.CPU <= 0 || u.Memory > 65<<20 {
		t.Errorf("usage %+v, %v", u, err)
	}
	t.Logf("%s: killed after %v at a peak of %.1f MiB, %v of CPU", h.Mode(), took.Round(time.Millisecond), float64(peak)/(1<<20), u.CPU)

	if log, err := os.Open("/dev/kmsg"); err == nil && hostPIDs() {
		_ = log.Close()
		said, words := KernelKilled(cmd.Process.Pid, before)
		if !said || !strings.Contains(words, "Killed process") {
			t.Errorf("the kernel's log of it: %v %q", said, words)
		}
		if said, words := KernelKilled(cmd.Process.Pid, time.Now().Add(time.Minute)); said {
			t.Errorf("found before its time: %q", words)
		}
		if said, words := KernelKilled(os.Getpid(), before); said {
			t.Errorf("found of this process: %q", words)
		}
	}
}

func TestAKillByHandIsNoOOMKill(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	g := plant(t, h, Limits{Memory: 64 << 20})
	before := time.Now()
	cmd := act(t, g, "rest")
	_ = cmd.Process.Kill()
	if s := signalOf(cmd); s != syscall.SIGKILL {
		t.Fatalf("ended by %v", s)
	}
	if n := kills(t, g); n != 0 {
		t.Errorf("%d OOM kills, want 0", n)
	}
	if said, words := KernelKilled(cmd.Process.Pid, before); said {
		t.Errorf("the kernel's log says %q", words)
	}
}

func TestASecondAttemptCountsFromZero(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	for range 2 {
		g, err := h.New("same", Limits{Memory: 32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		_ = act(t, g, "eat").Wait()
		if n := kills(t, g); n != 1 {
			t.Errorf("%d OOM kills, want 1", n)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if err := g.Remove(); err != nil {
			t.Errorf("removed twice: %v", err)
		}
		if _, err := g.OOMKills(); err == nil {
			t.Error("a removed group still counts")
		}
	}
}

func TestASpinnerGetsItsShareAndNoMore(t *testing.T) {
	h := open(t)
	need(t, h, CPUs)
	g := plant(t, h, Limits{CPUs: 0.5})
	act(t, g, "spin")
	read := func() Usage {
		u, err := g.Usage()
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	from := time.Now()
	first := read()
	time.Sleep(2 * time.Second) // the window that is measured
	last := read()
	share := (last.CPU - first.CPU).Seconds() / time.Since(from).Seconds()
	t.Logf("%s: %.3f of a CPU, throttled for %v", h.Mode(), share, last.Throttled-first.Throttled)
	if share > 0.55 {
		t.Errorf("it used %.3f of a CPU, want at most 0.5", share)
	}
	if share > 0.45 && last.Throttled == first.Throttled {
		t.Error("it was held back, and no time is accounted for that")
	}
}

func TestCPUsAreThoseAllowed(t *testing.T) {
	h := open(t)
	need(t, h, CPUSet)
	var before, after unix.CPUSet
	_ = unix.SchedGetaffinity(os.Getpid(), &before)
	g := plant(t, h, Limits{CPUSet: "0"})
	cmd := act(t, g, "rest")
	var got unix.CPUSet
	if err := unix.SchedGetaffinity(cmd.Process.Pid, &got); err != nil || got.Count() != 1 || !got.IsSet(0) {
		t.Errorf("it may use %v (%v), want CPU 0", got, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	threads, _ := os.ReadDir("/proc/self/task")
	for _, e := range threads {
		var tid int
		_, _ = fmt.Sscan(e.Name(), &tid)
		if err := unix.SchedGetaffinity(tid, &after); err == nil && after != before {
			t.Errorf("thread %d may use %v, before %v", tid, after, before)
		}
	}

	for _, list := range []string{"4095", "0,4095", "1-0", "x"} {
		if g, err := h.New("wrong", Limits{CPUSet: list}); !errors.Is(err, ErrCPUSet) {
			t.Errorf("cpuset %q: %v %v", list, g, err)
		}
	}
}

func TestAForkBombStopsAtItsLimit(t *testing.T) {
	h := open(t)
	need(t, h, PIDs)
	g := plant(t, h, Limits{PIDs: 16})
	bomb := exec.Command("/bin/sh", "-c", "while :; do sleep 600 & done")
	var said bytes.Buffer
	bomb.Stderr = &said
	bomb.WaitDelay = time.Millisecond // the sleepers hold its stderr
	begin(t, g, bomb)
	_ = bomb.Wait()
	if code := bomb.ProcessState.ExitCode(); code <= 0 {
		t.Errorf("the bomb ended with %v", bomb.ProcessState)
	}
	pids, err := g.pids()
	// The thread that gave birth counts too while it leaves: one fewer may fit, never one more.
	if err != nil || len(pids) < 14 || len(pids) > 15 {
		t.Errorf("%d processes are left, want 15 beside the shell (%v)", len(pids), err)
	}
	t.Logf("%s: %s", h.Mode(), strings.TrimSpace(said.String()))
}

func TestALimitOfOneProcessLetsItStart(t *testing.T) {
	h := open(t)
	need(t, h, PIDs)
	for range 20 {
		g := plant(t, h, Limits{PIDs: 1})
		cmd := exec.Command("/bin/sh", "-c", "sleep 0 & wait")
		begin(t, g, cmd)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code <= 0 {
			t.Errorf("it could fork: %v", cmd.ProcessState)
		}
	}
}

// The child is stopped by ptrace before its first instruction and looked at there.
func TestTheChildIsBornInTheGroup(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	l := Limits{Memory: 64 << 20}
	for _, more := range []string{CPUs, PIDs, CPUSet} {
		if ok, _ := h.Can(more); ok {
			l = map[string]func(Limits) Limits{
				CPUs:   func(l Limits) Limits { l.CPUs = 1; return l },
				PIDs:   func(l Limits) Limits { l.PIDs = 64; return l },
				CPUSet: func(l Limits) Limits { l.CPUSet = "0"; return l },
			}[more](l)
		}
	}
	g := plant(t, h, l)
	attr := &syscall.ProcAttr{
		Env: append(os.Environ(), "CGROUP_TEST_ACT=rest"),
		Sys: &syscall.SysProcAttr{Ptrace: true},
	}
	dir := g.Dir2()
	if h.Mode() == "hybrid" { // as when the tree is tracked in cgroup2 beside
		dir = trackingLeaf(t)
	}
	if dir != "" {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
	}

	var where string
	var during []string
	err := g.Enter(func() error {
		runtime.LockOSThread() // the tracer is a thread
		defer runtime.UnlockOSThread()
		pid, err := syscall.ForkExec(exe, []string{exe}, attr)
		if err != nil {
			return err
		}
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil || !ws.Stopped() {
			return fmt.Errorf("not stopped at its birth: %v %w", ws, err)
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		where = string(b)
		during = inGroups(t, h)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, err = syscall.Wait4(pid, &ws, 0, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	own := parseOwn(where)
	wanted := []string{"memory", "cpu", "cpuacct", "pids", "cpuset"}
	if g.Dir2() != "" {
		wanted = []string{""}
	}
	for _, c := range wanted {
		if !strings.Contains(own[c], "/"+h.name+"/w-TestTheChildIsBornInTheGroup.") {
			t.Errorf("%q: born in %q", c, own[c])
		}
	}
	if h.Mode() == "hybrid" && !strings.HasSuffix(dir, own[""]) {
		t.Errorf("born in %q of cgroup2, want %q", own[""], dir)
	}
	if g.Dir2() == "" && len(during) != 1 {
		t.Errorf("%d threads were in the group meanwhile, want 1", len(during))
	}
	if left := inGroups(t, h); len(left) != 0 {
		t.Errorf("threads left behind: %v", left)
	}
	for _, c := range []string{"devices", "freezer", "blkio"} {
		if strings.Contains(own[c], h.name) {
			t.Errorf("%s was touched: %q", c, own[c])
		}
	}
}

func trackingLeaf(t *testing.T) string {
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	own, _ := os.ReadFile("/proc/self/cgroup")
	dir := filepath.Join(places(parseMounts(string(mountinfo)), parseOwn(string(own)))[""].dir(), fmt.Sprintf("cgroup-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("needs a writable cgroup2 beside: %v", err)
	}
	t.Cleanup(func() { _ = unix.Rmdir(dir) })
	return dir
}

// What other threads fork meanwhile is born outside.
func TestOthersForkOutside(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	g := plant(t, h, Limits{Memory: 64 << 20})
	if g.Dir2() != "" {
		t.Skip("v2 moves no thread")
	}
	err := g.Enter(func() error {
		done := make(chan string)
		for range 8 {
			go func() {
				out, err := exec.Command("/bin/cat", "/proc/self/cgroup").Output()
				done <- fmt.Sprint(string(out), err)
			}()
		}
		for range 8 {
			if s := <-done; strings.Contains(s, h.name) || !strings.Contains(s, "memory") {
				t.Errorf("born in %s", s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestManyAttemptsLeaveNothing(t *testing.T) {
	h := open(t)
	need(t, h, Memory, CPUs, PIDs)
	const cycles, together = 200, 4
	var enter, remove atomic.Int64
	var wg sync.WaitGroup
	for range together {
		wg.Go(func() {
			for range cycles / together {
				g, err := h.New("busy", Limits{Memory: 64 << 20, CPUs: 1, PIDs: 64})
				if err != nil {
					t.Error(err)
					return
				}
				cmd := exec.Command("/bin/sleep", "600")
				at := time.Now()
				begin(t, g, cmd)
				enter.Add(int64(time.Since(at)))
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if n := kills(t, g); n != 0 {
					t.Errorf("%d OOM kills", n)
				}
				at = time.Now()
				if err := g.Remove(); err != nil {
					t.Error(err)
				}
				remove.Add(int64(time.Since(at)))
			}
		})
	}
	wg.Wait()
	t.Logf("%s: %v to enter and start, %v to remove, %d at a time", h.Mode(), time.Duration(enter.Load()/cycles), time.Duration(remove.Load()/cycles), together)
	if left := inGroups(t, h); len(left) != 0 {
		t.Errorf("threads left behind: %v", left)
	}
	for _, dir := range h.ground.folders() {
		if left, _ := filepath.Glob(filepath.Join(dir, "w-*")); len(left) != 0 {
			t.Errorf("folders left behind: %v", left)
		}
	}
}

func TestALivingGroupIsNotRemoved(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	g := plant(t, h, Limits{Memory: 64 << 20})
	cmd := act(t, g, "rest")
	if err := g.Remove(); !errors.Is(err, ErrBusy) {
		t.Errorf("removed with a process in it: %v", err)
	}
	if err := h.Close(); !errors.Is(err, ErrBusy) {
		t.Errorf("closed with a process in it: %v", err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid)); err != nil || !strings.Contains(string(b), "/w-") {
		t.Errorf("the worker lost its group: %s %v", b, err)
	}
	// Remove waits for what is dying.
	go func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}

func TestAGroupIsFoundAgainByItsProcess(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	g := plant(t, h, Limits{Memory: 64 << 20})
	cmd := act(t, g, "rest")
	found := h.Adopt(cmd.Process.Pid)
	if found == nil || found.Empty() || found.Dir2() != g.Dir2() {
		t.Fatalf("found %+v", found)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if n := kills(t, found); n != 0 {
		t.Errorf("%d OOM kills", n)
	}
	if u, err := found.Usage(); err != nil || u.CPU <= 0 {
		t.Errorf("%+v %v", u, err)
	}
	if err := found.Remove(); err != nil || !g.Empty() {
		t.Errorf("not removed: %v", err)
	}
	if other := h.Adopt(os.Getpid()); other != nil && os.Getenv(inside) == "" {
		t.Errorf("this process is said to be in %+v", other)
	}
}

func TestSweepRemovesWhatDeadHivesLeft(t *testing.T) {
	h := open(t)
	need(t, h, Memory)
	dead := exec.Command("/bin/true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for _, own := range h.ground.folders() {
		base := filepath.Dir(own)
		old := filepath.Join(base, fmt.Sprintf("hive-%d", dead.Process.Pid))
		living := filepath.Join(base, fmt.Sprintf("hive-%d", os.Getppid()))
		for _, d := range []string{filepath.Join(old, "w-chat.1", "inner"), living} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		h.Sweep()
		if _, err := os.Stat(old); err == nil {
			t.Errorf("%s is left", old)
		}
		if _, err := os.Stat(living); err != nil {
			t.Errorf("%s of a living process is gone", living)
		}
		_ = unix.Rmdir(living)
	}
}

func TestWhatIsNotAskedMakesNoGroup(t *testing.T) {
	h := open(t)
	if g, err := h.New("x", Limits{}); g != nil || err != nil {
		t.Errorf("%v %v", g, err)
	}
	nothing := &Host{mode: "none", why: map[string]string{Memory: "no memory; buy some"}}
	if g, err := nothing.New("x", Limits{Memory: 1}); g != nil || err != nil {
		t.Errorf("%v %v", g, err)
	}
	if got := nothing.Unenforced(Limits{Memory: 1}); len(got) != 1 || got[0] != "limits.memory is not enforced: no memory; buy some" {
		t.Errorf("%q", got)
	}
	if ok, why := nothing.Can("taste"); ok || why == "" {
		t.Error("an unknown limit is enforced")
	}
	nothing.Sweep()
	if err := nothing.Close(); err != nil {
		t.Error(err)
	}
	for _, key := range keys {
		if ok, why := h.Can(key); ok != (why == "") {
			t.Errorf("%s: %v %q", key, ok, why)
		}
	}
}
