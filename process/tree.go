package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Member is one living process of a tree.
type Member struct {
	PID     int
	Command string
	InGroup bool // still in the leader's process group
	start   uint64
}

type stat struct {
	pid, ppid, pgid, sid int
	threads              int
	state                byte
	start                uint64
	comm                 string
}

// readStat reads /proc/PID/stat. Source: proc_pid_stat(5); the command may hold
// blanks and brackets, so fields are counted from the last bracket.
func readStat(pid int) (stat, error) {
	// Plain system calls: a hive with 500 workers reads 500 of these at a time.
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stat{}, err
	}
	var buf [1024]byte
	n, err := unix.Read(fd, buf[:])
	_ = unix.Close(fd)
	if err != nil {
		return stat{}, err
	}
	b := buf[:n]
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("/proc/%d/stat has no command", pid)
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	num := func(i int) int { n, _ := strconv.Atoi(string(f[i])); return n }
	start, _ := strconv.ParseUint(string(f[19]), 10, 64)
	return stat{pid: pid, state: f[0][0], ppid: num(1), pgid: num(2), sid: num(3), threads: num(17), start: start, comm: string(b[open+1 : end])}, nil
}

// dead reports whether nothing of the process runs any more: a zombie whose
// other threads live on is not.
func (s stat) dead() bool { return (s.state == 'Z' || s.state == 'X') && s.threads <= 1 }

// table is one reading of /proc.
type table map[int]stat

// listRounds bounds how often a list of processes is read again because some of
// them went or came while they were looked at.
const listRounds = 10

// readTable reads /proc until a list of it holds nothing new: a process that dies
// after it was listed may have left a child that was not, and a tree must not
// look ended because of it. Whatever lives when it returns is in the table.
func readTable() (table, error) { return tabulate(listPIDs, readStat) }

func tabulate(list func() ([]int, error), read func(int) (stat, error)) (table, error) {
	t := table{}
	looked := map[int]bool{}
	for range listRounds {
		pids, err := list()
		if err != nil {
			return nil, err
		}
		fresh := false
		for _, pid := range pids {
			if looked[pid] {
				continue
			}
			looked[pid], fresh = true, true
			if st, err := read(pid); err == nil { // gone meanwhile: not there
				t[pid] = st
			}
		}
		if !fresh {
			break
		}
	}
	return t, nil
}

func listPIDs() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func marked(pid int, mark string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	return bytes.HasPrefix(b, []byte(mark+"\x00")) || bytes.Contains(b, []byte("\x00"+mark+"\x00"))
}

// members finds the living processes of p in t: its session and group, whoever
// descends from a member, and orphans (children of hive that are no leader) that
// carry its mark or were seen in the tree before.
func (p *Proc) members(t table, leaders map[int]*Proc) []Member {
	self := os.Getpid()
	in := map[int]bool{}
	for pid, st := range t {
		if st.sid == p.pid || st.pgid == p.pid || pid == p.pid && st.start == p.start {
			in[pid] = true
		} else if st.ppid == self && leaders[pid] == nil && !st.dead() && (p.runner.knew(pid, st.start) == p || marked(pid, p.mark)) {
			in[pid] = true
		}
	}
	for grew := true; grew; {
		grew = false
		for pid, st := range t {
			if !in[pid] && in[st.ppid] {
				in[pid], grew = true, true
			}
		}
	}
	var out []Member
	for pid := range in {
		st := t[pid]
		if st.dead() {
			continue
		}
		out = append(out, Member{PID: pid, Command: st.comm, InGroup: st.pgid == p.pid, start: st.start})
		p.runner.remember(pid, st.start, p)
	}
	return out
}

// Survivors lists the living processes of the tree, the leader included. The
// reading of /proc began after the call and may be shared with other callers.
func (p *Proc) Survivors() ([]Member, error) {
	if p.leaf != "" {
		return p.inLeaf()
	}
	t, err := p.runner.scan()
	if err != nil {
		return nil, fmt.Errorf("read /proc: %w", err)
	}
	return p.members(t, p.runner.leaders()), nil
}

// killRounds bounds the chase of a tree that forks while it is being killed.
const killRounds = 10

// KillTree sends SIGKILL to the group and to every descendant, wherever it has
// gone, until a reading of /proc shows no new one. It does not wait for their end.
func (p *Proc) KillTree() (int, error) {
	if p.leaf != "" {
		members, err := p.inLeaf()
		if err == nil && (len(members) == 0 || p.killLeaf()) {
			return len(members), nil
		}
	}
	killed := map[int]uint64{}
	for range killRounds {
		if !p.ended() { // the group first, in one stroke, before it can fork
			_ = p.Signal(unix.SIGKILL)
		}
		members, err := p.Survivors()
		if err != nil {
			return len(killed), err
		}
		fresh := false
		for _, m := range members {
			if s, ok := killed[m.PID]; ok && s == m.start {
				continue
			}
			killed[m.PID], fresh = m.start, true
			if err := killExactly(m.PID, m.start); err != nil && !errors.Is(err, unix.ESRCH) {
				return len(killed), fmt.Errorf("kill process %d (%s): %w", m.PID, m.Command, err)
			}
		}
		if !fresh {
			break
		}
	}
	return len(killed), nil
}

// killExactly kills pid only while it is the process that began at start: the
// pidfd is opened first, then compared, so a reused pid is never hit.
func killExactly(pid int, start uint64) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st, err := readStat(pid); err != nil || st.start != start {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

// Close forgets the process; call it once nothing of it lives.
func (p *Proc) Close() {
	p.runner.remove(p)
	if p.leaf != "" && p.own {
		p.runner.grove.give(p.leaf, p.spent.Load())
	}
}

// Strays lists children of hive that belong to no tree.
func (r *Runner) Strays() ([]Member, error) {
	t, err := r.scan()
	if err != nil {
		return nil, err
	}
	self, leaders := os.Getpid(), r.leaders()
	var out []Member
	for pid, st := range t {
		if st.ppid == self && leaders[pid] == nil && !st.dead() && r.knew(pid, st.start) == nil {
			out = append(out, Member{PID: pid, Command: st.comm, start: st.start})
		}
	}
	return out, nil
}

// KillEverything is the last net: it kills every tree and every stray child.
func (r *Runner) KillEverything() {
	for range killRounds {
		left := 0
		for _, p := range r.leaders() {
			n, _ := p.KillTree()
			left += n
		}
		strays, _ := r.Strays()
		for _, s := range strays {
			if killExactly(s.PID, s.start) == nil {
				left++
			}
		}
		if left == 0 {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (m Member) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d (%s)", m.PID, m.Command))
}
