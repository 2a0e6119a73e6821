package process

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

type ident struct {
	pid   int
	start uint64
}

// Runner starts processes and keeps hive's children in order. One per hive; safe
// for concurrent use.
type Runner struct {
	grove *grove // nil where the host gives no cgroup2 folder

	mu      sync.Mutex // guards the five below
	procs   map[int]*Proc
	known   map[ident]*Proc // members seen, by identity
	forking int
	later   bool // dead orphans were seen while a start was under way
	done    chan struct{}

	scanMu  sync.Mutex // guards the two below
	running *reading
	next    *reading

	chld chan os.Signal
	poke chan struct{}
	wg   sync.WaitGroup
}

type reading struct {
	done chan struct{}
	t    table
	err  error
}

// NewRunner makes hive the subreaper of its descendants and starts reaping the
// orphans among them. Source: PR_SET_CHILD_SUBREAPER(2const).
func NewRunner() (*Runner, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the parent of orphaned processes: %w; hive needs Linux 5.10 or newer", err)
	}
	r := &Runner{grove: plantGrove(), procs: map[int]*Proc{}, known: map[ident]*Proc{}, done: make(chan struct{}),
		chld: make(chan os.Signal, 1), poke: make(chan struct{}, 1)}
	signal.Notify(r.chld, syscall.SIGCHLD)
	r.wg.Add(1)
	go r.reap()
	return r, nil
}

// Close stops the reaper.
func (r *Runner) Close() {
	signal.Stop(r.chld)
	close(r.done)
	r.wg.Wait()
	r.grove.close()
}

func (r *Runner) spawning(d int) {
	r.mu.Lock()
	r.forking += d
	again := r.later && r.forking == 0
	if again {
		r.later = false
	}
	r.mu.Unlock()
	if again {
		select {
		case r.poke <- struct{}{}:
		default:
		}
	}
}

func (r *Runner) add(p *Proc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.procs[p.pid] = p
}

func (r *Runner) remove(p *Proc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.procs[p.pid] == p {
		delete(r.procs, p.pid)
	}
	for id, q := range r.known {
		if q == p {
			delete(r.known, id)
		}
	}
}

func (r *Runner) leaders() map[int]*Proc {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := make(map[int]*Proc, len(r.procs))
	for pid, p := range r.procs {
		m[pid] = p
	}
	return m
}

func (r *Runner) knew(pid int, start uint64) *Proc {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[ident{pid, start}]
}

func (r *Runner) remember(pid int, start uint64, p *Proc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[ident{pid, start}] = p
}

// scan returns a reading of /proc that began after the call; callers share one,
// so that a hundred workers that stop at once cost a few readings.
func (r *Runner) scan() (table, error) {
	r.scanMu.Lock()
	if r.next == nil {
		mine := &reading{done: make(chan struct{})}
		r.next = mine
		go r.read(mine, r.running)
	}
	wait := r.next
	r.scanMu.Unlock()
	<-wait.done
	return wait.t, wait.err
}

// read does the reading once the one before it is through.
func (r *Runner) read(mine, before *reading) {
	if before != nil {
		<-before.done
	}
	r.scanMu.Lock()
	r.running, r.next = mine, nil // who comes from now on waits for the next one
	r.scanMu.Unlock()
	mine.t, mine.err = readTable()
	close(mine.done)
}

// reapEvery bounds how often orphans are looked for while children end in masses.
const reapEvery = 20 * time.Millisecond

// reap collects dead orphans: children of hive that it did not start. A leader's
// status belongs to its own waiter and is never touched, nor is that of a process
// that is just being started.
func (r *Runner) reap() {
	defer r.wg.Done()
	for {
		select {
		case <-r.done:
			return
		case <-r.chld:
		case <-r.poke:
		}
		if r.deadOrphan() {
			if t, err := r.scan(); err == nil {
				r.collect(t)
			}
		}
		select {
		case <-r.done:
			return
		case <-time.After(reapEvery):
		}
	}
}

func (r *Runner) collect(t table) {
	self := os.Getpid()
	r.mu.Lock()
	defer r.mu.Unlock()
	for pid, st := range t {
		if st.ppid != self || st.state != 'Z' || r.procs[pid] != nil {
			continue
		}
		if r.forking > 0 {
			r.later = true // it may be the one being made; the start's end pokes us
			return
		}
		var ws syscall.WaitStatus
		if got, _ := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil); got != 0 { // 0: a dead leader whose threads live on
			delete(r.known, ident{pid, st.start})
		}
	}
}

// deadOrphan reports whether some dead child of hive may be an orphan. It peeks
// at one dead child without reaping it; a leader's own waiter takes it away in a
// moment, so a leader means to look again.
// Source: waitid(2), WNOWAIT.
func (r *Runner) deadOrphan() bool {
	for range 100 {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		pid := siginfoPID(&info)
		if err != nil || pid == 0 {
			return false
		}
		r.mu.Lock()
		leader := r.procs[pid] != nil
		r.mu.Unlock()
		if !leader {
			return true
		}
		select {
		case <-r.done:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// siginfoPID is si_pid of a SIGCHLD siginfo_t: the word after signo, errno, code
// and, on 64-bit machines, padding.
func siginfoPID(i *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(i), 16)))
}
