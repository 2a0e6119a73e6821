package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what one process of a tree has used since it began.
type Usage struct {
	PID   int
	Start uint64 // clock ticks since boot; with PID its identity
	CPU   time.Duration
	Read  int64 // bytes it has read: by calls, or from disk by page faults, whichever is more
	Write int64 // bytes it has written by calls
	RSS   int64 // bytes resident
}

// Usage reads what each living process of the tree has used. What the reader may
// not see stays 0. Source: proc_pid_stat(5), proc_pid_io(5).
func (p *Proc) Usage() []Usage {
	members, err := p.Survivors()
	if err != nil {
		return nil
	}
	all := make([]Usage, 0, len(members))
	for _, m := range members {
		u := Usage{PID: m.PID, Start: m.start}
		if cpu, rss, ok := times(m.PID); ok {
			u.CPU, u.RSS = cpu, rss
		}
		u.Read, u.Write = inOut(m.PID)
		all = append(all, u)
	}
	return all
}

// userHz is the unit of times in /proc: the kernel shows 1/100 s to user space
// on every architecture that Go runs on. Source: time(7).
const userHz = 100

func times(pid int) (cpu time.Duration, rss int64, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 22 {
		return 0, 0, false
	}
	num := func(i int) int64 { n, _ := strconv.ParseInt(string(f[i]), 10, 64); return n }
	return time.Duration(num(11)+num(12)) * time.Second / userHz, num(21) * int64(os.Getpagesize()), true
}

func inOut(pid int) (read, written int64) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/io")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, _ := strconv.ParseInt(v, 10, 64)
		switch k {
		case "rchar", "read_bytes":
			read = max(read, n)
		case "wchar":
			written = n
		}
	}
	return read, written
}

// Owns reports whether pid belongs to the tree. The answer is as of now: the
// caller must have reason to believe that pid has not been used again since.
func (p *Proc) Owns(pid int) bool {
	if pid == p.pid {
		return !p.ended()
	}
	if p.leaf != "" {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		if err != nil {
			return false
		}
		home := filepath.Join(filepath.Base(filepath.Dir(p.leaf)), filepath.Base(p.leaf))
		for line := range strings.Lines(string(b)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				return strings.HasSuffix(path, "/"+home) || strings.Contains(path, "/"+home+"/")
			}
		}
		return false
	}
	members, err := p.Survivors()
	if err != nil {
		return false
	}
	for _, m := range members {
		if m.PID == pid {
			return true
		}
	}
	return false
}
