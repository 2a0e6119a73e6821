package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// grove is hive's own folder in the cgroup v2 hierarchy. Each tree is born into
// a leaf of it, which no fork, session or cleared environment can leave: its
// list of processes is the exact truth. It limits nothing. Hosts without a
// writable cgroup2 mount have none, and trees are found in /proc alone.
// Source: cgroup v2 guide, "Processes" and cgroup.kill (Linux 5.14).
type grove struct {
	dir string

	mu     sync.Mutex // guards the two below
	births uint64
	free   []string // empty leaves, to be used again
}

// leaf is the folder of one tree, open for clone3.
type leaf struct {
	dir string
	fd  int
}

// plantGrove returns nil where the host gives no cgroup2 folder to write.
func plantGrove() *grove {
	mount := cgroup2Mount()
	own, err := os.ReadFile("/proc/self/cgroup")
	if mount == "" || err != nil {
		return nil
	}
	path := ""
	for _, l := range strings.Split(string(own), "\n") {
		if p, ok := strings.CutPrefix(l, "0::"); ok {
			path = p
		}
	}
	if path == "" {
		return nil
	}
	base := filepath.Join(mount, path)
	sweepOld(base)
	g := &grove{dir: filepath.Join(base, "hive-"+strconv.Itoa(os.Getpid()))}
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil
	}
	return g
}

// sweepOld removes the empty folders of hives that were killed.
func sweepOld(base string) {
	old, _ := filepath.Glob(filepath.Join(base, "hive-[0-9]*"))
	for _, d := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(d), "hive-"))
		if err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		leaves, _ := filepath.Glob(filepath.Join(d, "*", "cgroup.procs"))
		for _, l := range leaves {
			_ = unix.Rmdir(filepath.Dir(l)) // refused while anything lives in it
		}
		_ = unix.Rmdir(d)
	}
}

func cgroup2Mount() string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		pre, post, ok := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(pre); ok && strings.HasPrefix(post, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	return ""
}

// take gives the leaf for a new tree, an empty one of an ended tree if there is
// any: making and removing a cgroup costs as much as starting a process. ok is
// false when the host refuses.
func (g *grove) take() (l leaf, ok bool) {
	if g == nil {
		return leaf{}, false
	}
	g.mu.Lock()
	if n := len(g.free); n > 0 {
		l.dir, g.free = g.free[n-1], g.free[:n-1]
		g.mu.Unlock()
	} else {
		g.births++
		l.dir = filepath.Join(g.dir, strconv.FormatUint(g.births, 10))
		g.mu.Unlock()
		if err := os.Mkdir(l.dir, 0o755); err != nil {
			return leaf{}, false
		}
	}
	fd, err := unix.Open(l.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.give(l.dir, false)
		return leaf{}, false
	}
	l.fd = fd
	return l, true
}

// freeLeaves bounds how many empty leaves are kept for later.
const freeLeaves = 64

// give takes back the leaf of an ended tree. One that is spent, not empty after
// all, or not needed is removed, which the kernel refuses while anything lives in it.
func (g *grove) give(dir string, spent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); !spent && err == nil && len(b) == 0 && len(g.free) < freeLeaves {
		g.free = append(g.free, dir)
		return
	}
	_ = unix.Rmdir(dir)
}

func (g *grove) close() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, dir := range g.free {
		_ = unix.Rmdir(dir)
	}
	g.free = nil
	_ = unix.Rmdir(g.dir)
}

// inLeaf lists the living processes of a leaf. It is empty only when the kernel's
// own list is: a listed process that has died by the time it is looked at may have
// left a child that the list did not hold yet.
func (p *Proc) inLeaf() ([]Member, error) {
	return p.listed(func() ([]int, error) {
		b, err := os.ReadFile(filepath.Join(p.leaf, "cgroup.procs"))
		if err != nil {
			return nil, fmt.Errorf("read the cgroup of process %d: %w", p.pid, err)
		}
		var pids []int
		for _, f := range bytes.Fields(b) {
			if pid, err := strconv.Atoi(string(f)); err == nil {
				pids = append(pids, pid)
			}
		}
		return pids, nil
	}, readStat)
}

func (p *Proc) listed(list func() ([]int, error), read func(int) (stat, error)) ([]Member, error) {
	var doubtful []Member
	for range listRounds {
		pids, err := list()
		if err != nil || len(pids) == 0 {
			return nil, err
		}
		var living []Member
		doubtful = doubtful[:0]
		for _, pid := range pids {
			st, err := read(pid)
			if err != nil || st.dead() {
				doubtful = append(doubtful, Member{PID: pid, Command: st.comm, start: st.start})
				continue
			}
			living = append(living, Member{PID: pid, Command: st.comm, InGroup: st.pgid == p.pid, start: st.start})
		}
		if len(living) > 0 {
			return living, nil
		}
	}
	return doubtful, nil // the kernel goes on listing them: not over yet
}

// killLeaf kills everything in a leaf in one stroke; false where the kernel
// cannot (before 5.14). The leaf is never used again: on Linux 6.18 whatever is
// cloned into a cgroup that was once killed so is killed at birth.
func (p *Proc) killLeaf() bool {
	p.spent.Store(true)
	return os.WriteFile(filepath.Join(p.leaf, "cgroup.kill"), []byte("1"), 0) == nil
}
