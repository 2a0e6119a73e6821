package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Proc is a process as /proc shows it.
type Proc struct {
	PID, Parent, Group, Session int
	State                       string // R, S, D, Z …
	Command                     string
}

func (p Proc) String() string {
	return fmt.Sprintf("%7d parent %-7d group %-7d session %-7d %s %s", p.PID, p.Parent, p.Group, p.Session, p.State, p.Command)
}

// ReadProc looks at one process; ok is false when it is not there.
func ReadProc(pid int) (p Proc, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, false
	}
	// The name in parentheses may hold anything. Source: proc_pid_stat(5)
	_, rest, ok := cutLast(string(stat), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 4 {
		return p, false
	}
	p = Proc{PID: pid, State: f[0]}
	p.Parent, _ = strconv.Atoi(f[1])
	p.Group, _ = strconv.Atoi(f[2])
	p.Session, _ = strconv.Atoi(f[3])
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	p.Command = strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	return p, true
}

// Exists reports whether a process is there and is not a zombie.
func Exists(pid int) bool {
	p, ok := ReadProc(pid)
	return ok && p.State != "Z"
}

// Marked lists every process of the spec, the daemon among them: those that
// have the mark in their environment or the mark or the spec's folder on their
// command line, and the children of those (nginx overwrites its environment).
func (h *Hive) Marked() []Proc {
	all := map[int]Proc{}
	ours := map[int]bool{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, ok := ReadProc(pid)
		if !ok {
			continue
		}
		all[pid] = p
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if hasWord(string(env), markKey+"="+h.Mark) || hasWord(string(cmdline), h.Mark) || strings.Contains(string(cmdline), h.Dir+"/") {
			ours[pid] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, p := range all {
			if ours[p.Parent] && !ours[pid] {
				ours[pid], grown = true, true
			}
		}
	}
	var found []Proc
	for pid := range ours {
		found = append(found, all[pid])
	}
	slices.SortFunc(found, func(a, b Proc) int { return a.PID - b.PID })
	return found
}

// hasWord looks for a whole word of a list that is joined by zero bytes.
func hasWord(list, word string) bool {
	return strings.Contains("\x00"+list+"\x00", "\x00"+word+"\x00")
}

// Strays are the marked processes but the living daemon, and but the zombies
// that their living parent has yet to reap.
func (h *Hive) Strays() []Proc {
	var strays []Proc
	for _, p := range h.Marked() {
		if p.State != "Z" && (h.cmd == nil || p.PID != h.cmd.Process.Pid || !h.Alive()) {
			strays = append(strays, p)
		}
	}
	return strays
}

// Environment reads a variable of a running process.
func Environment(pid int, key string) string {
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for kv := range strings.SplitSeq(string(env), "\x00") {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			return v
		}
	}
	return ""
}

// Kill sends SIGKILL to a process of the spec.
func Kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// Freeze sends SIGSTOP: the process lives, and does nothing more.
func Freeze(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }

// descriptors lists what the daemon holds open, by kind, sorted by number.
func (h *Hive) descriptors() []string {
	dir := fmt.Sprintf("/proc/%d/fd", h.PID())
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			kind, _, _ := strings.Cut(target, ":[") // socket:[123] is a socket
			if strings.HasPrefix(target, "anon_inode") {
				kind = target
			}
			all = append(all, kind)
		}
	}
	return all
}
