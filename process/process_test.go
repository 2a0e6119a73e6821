package process

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The trees are found by cgroup where the host gives one and in /proc where it
// does not; both ways must tell the same.
func bothWays(t *testing.T, f func(t *testing.T, r *Runner)) {
	for _, way := range []string{"cgroup", "proc"} {
		t.Run(way, func(t *testing.T) {
			r, err := NewRunner()
			if err != nil {
				t.Fatal(err)
			}
			if way == "proc" {
				r.grove.close()
				r.grove = nil
			} else if r.grove == nil {
				r.Close()
				t.Skip("this host gives no writable cgroup2 folder")
			}
			before := goleak.IgnoreCurrent()
			f(t, r)
			r.KillEverything()
			r.Close()
			goleak.VerifyNone(t, before, goleak.IgnoreTopFunction("os/signal.loop"), goleak.IgnoreAnyFunction("os/signal.signal_recv"))
		})
	}
}

func shell(t *testing.T, r *Runner, script string) *Proc {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := r.Start(Spec{Command: []string{"sh", "-c", script}, Env: os.Environ(), Output: null,
		MarkKey: "HIVE_TEST_MARK", MarkValue: t.Name() + strconv.FormatInt(time.Now().UnixNano(), 36)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// eventually waits for something that can be seen, without a sleep of its own luck.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func members(t *testing.T, p *Proc) int {
	t.Helper()
	m, err := p.Survivors()
	if err != nil {
		t.Fatal(err)
	}
	return len(m)
}

func TestExit(t *testing.T) {
	bothWays(t, func(t *testing.T, r *Runner) {
		for script, want := range map[string]Exit{
			"exit 0": {}, "exit 42": {Code: 42}, "kill -9 $$": {Signal: syscall.SIGKILL}, "kill -15 $$": {Signal: syscall.SIGTERM},
		} {
			p := shell(t, r, script)
			got := p.Wait()
			if got.Code != want.Code || got.Signal != want.Signal || got.Unknown || got.At.IsZero() {
				t.Errorf("%s: %+v", script, got)
			}
			p.Close()
		}
	})
}

func TestTheWholeTreeIsSeenAndKilled(t *testing.T) {
	bothWays(t, func(t *testing.T, r *Runner) {
		for name, script := range map[string]string{
			"a child":                    "sleep 1000 & exec sleep 1001",
			"a child in its own session": "setsid sleep 1000 & exec sleep 1001",
			"a daemon":                   "(setsid sleep 1000 & ) ; exec sleep 1001",
			"one that ignores SIGTERM":   "(trap '' TERM; setsid sleep 1000) & exec sleep 1001",
		} {
			p := shell(t, r, script)
			eventually(t, name+" appears", func() bool { return members(t, p) >= 2 })
			if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			p.Wait()
			if members(t, p) == 0 {
				t.Errorf("%s: not seen once the leader is dead", name)
			}
			if _, err := p.KillTree(); err != nil {
				t.Error(err)
			}
			eventually(t, name+" is gone", func() bool { return members(t, p) == 0 })
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Errorf("a signal to nobody: %v", err)
			}
			p.Close()
		}
	})
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	r, err := NewRunner()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text := t.TempDir() + "/text"
	if err := os.WriteFile(text, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Spec{
		"binary /no/such":       {Command: []string{"/no/such"}},
		"binary no-such-thing":  {Command: []string{"no-such-thing"}, Env: []string{"PATH=/bin"}},
		"dir /no/such":          {Command: []string{"/bin/true"}, Dir: "/no/such"},
		"user no-such-user":     {Command: []string{"/bin/true"}, User: "no-such-user"},
		"is a directory":        {Command: []string{"/tmp"}},
		"not executable":        {Command: []string{"/etc/passwd"}},
		"not a program":         {Command: []string{text}},
		"the command is empty;": {},
	} {
		s.Output = os.Stderr
		_, err := r.Start(s)
		var se *StartError
		if !errors.As(err, &se) || !se.Config || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOrphansAreReapedAndLeadersAreNot starts many workers that leave orphans
// behind and end at once, and asks each for its exit code.
func TestOrphansAreReapedAndLeadersAreNot(t *testing.T) {
	bothWays(t, func(t *testing.T, r *Runner) {
		var wg sync.WaitGroup
		gate := make(chan struct{}, 20)
		for i := range 200 {
			wg.Add(1)
			gate <- struct{}{}
			go func() {
				defer func() { <-gate; wg.Done() }()
				p := shell(t, r, "(setsid true &) ; exit "+strconv.Itoa(i%200))
				if e := p.Wait(); e.Unknown || e.Code != i%200 {
					t.Errorf("worker %d: %+v", i, e)
				}
				p.Close()
			}()
		}
		wg.Wait()
		eventually(t, "all orphans are reaped", func() bool {
			table, err := readTable()
			if err != nil {
				t.Fatal(err)
			}
			for _, st := range table {
				if st.ppid == os.Getpid() && st.state == 'Z' {
					r.poke <- struct{}{}
					return false
				}
			}
			return true
		})
	})
}

func TestWaitingTakesNoThreadAndLeaksNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, r *Runner) {
		fds := func() int { d, _ := os.ReadDir("/proc/self/fd"); return len(d) }
		threads := func() int { d, _ := os.ReadDir("/proc/self/task"); return len(d) }
		before, threadsBefore := fds(), threads()
		var wg sync.WaitGroup
		procs := make([]*Proc, 100)
		for i := range procs {
			procs[i] = shell(t, r, "exec sleep 1000")
			wg.Add(1)
			go func() { defer wg.Done(); procs[i].Wait() }()
		}
		if more := threads() - threadsBefore; more > 20+2*runtime.GOMAXPROCS(0) {
			t.Errorf("%d threads for 100 waiters", more)
		}
		for _, p := range procs {
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		for _, p := range procs {
			p.Close()
		}
		eventually(t, "every descriptor is closed", func() bool { return fds() <= before })
	})
}
