package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// route is a visitor that only notes where it was.
type route struct {
	in, back int // thread ids
	goErr    error
	backErr  error
}

func (r *route) goIn(tid int) error { r.in = tid; return r.goErr }

func (r *route) wayBack(tid int) (func() error, error) {
	return func() error { r.back = tid; return r.backErr }, nil
}

func TestAVisitEndsWhereItBegan(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		r    route
		f    func() error
		want error
	}{
		"done":         {route{}, func() error { return nil }, nil},
		"f fails":      {route{}, func() error { return broken }, broken},
		"not let in":   {route{goErr: broken}, func() error { return nil }, broken},
		"not let back": {route{backErr: broken}, func() error { return nil }, broken},
	} {
		t.Run(name, func(t *testing.T) {
			if err := onVisit(&c.r, c.f); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if c.r.in == 0 || c.r.in != c.r.back || c.r.in == os.Getpid() {
				t.Errorf("thread %d went in and %d back; the process is %d", c.r.in, c.r.back, os.Getpid())
			}
		})
	}
}

func TestFRunsOnTheVisitingThread(t *testing.T) {
	r := &route{}
	if err := onVisit(r, func() error {
		if tid := unix.Gettid(); tid != r.in {
			return fmt.Errorf("on thread %d, and %d is in the group", tid, r.in)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestAThreadThatCannotGoBackEnds(t *testing.T) {
	r := &route{backErr: errors.New("no")}
	_ = onVisit(r, func() error { return nil })
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", r.in)); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("thread %d lives on", r.in)
		}
	}
}

func TestAPanicGoesOnInTheCaller(t *testing.T) {
	r := &route{}
	defer func() {
		if got := recover(); got != "oh" {
			t.Errorf("panicked with %v", got)
		}
		if r.back == 0 {
			t.Error("the thread was not taken back")
		}
	}()
	_ = onVisit(r, func() error { panic("oh") })
}

func TestAGivenUpStartIsAnError(t *testing.T) {
	r := &route{}
	if err := onVisit(r, func() error { runtime.Goexit(); return nil }); err == nil || r.back == 0 {
		t.Errorf("%v, back %d", err, r.back)
	}
}

func init() {
	if os.Getenv("CGROUP_TEST_ACT") == "lead" {
		runtime.LockOSThread() // main then runs on the first thread
	}
}

// lead visits from the first thread, as no test can be sure to.
func lead() int {
	r, done := &route{}, make(chan visited, 1)
	first := unix.Gettid() == os.Getpid()
	visitGroup(r, func() error { return nil }, done)
	if v := <-done; !first || v.err != nil || r.in == 0 || r.in == os.Getpid() || r.back != r.in {
		return 1
	}
	return 0
}

func TestTheFirstThreadStaysOutside(t *testing.T) {
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CGROUP_TEST_ACT=lead")
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}

// BenchmarkEnter is what a group costs beside the process started in it.
func BenchmarkEnter(b *testing.B) {
	h := Open(fmt.Sprintf("hive-%d", os.Getpid()))
	defer h.Close()
	for b.Loop() {
		g, err := h.New("bench", Limits{Memory: 64 << 20, CPUs: 1, PIDs: 64})
		if err != nil || g == nil {
			b.Skip(h.Can(Memory))
		}
		if err := g.Enter(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
		if err := g.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}
