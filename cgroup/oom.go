package cgroup

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KernelKilled tells whether the kernel's log says that the OOM killer ended pid
// after since, and in which words. It is for processes without a group of their
// own; Group.OOMKills is exact. False where the log cannot be read, where it no
// longer reaches back so far, and in a container with pids of its own, since the
// log has the host's. Source: the kernel's ABI document of /dev/kmsg.
func KernelKilled(pid int, since time.Time) (bool, string) {
	if !hostPIDs() {
		return false, ""
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, ""
	}
	defer unix.Close(fd)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return false, ""
	}
	earliest := time.Duration(now.Nano()) - time.Since(since) - logSkew

	found := ""
	record := make([]byte, 16<<10) // twice the longest record
	for {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EPIPE): // EPIPE: overwritten meanwhile
			continue
		case err != nil || n == 0: // EAGAIN: the end
			return found != "", found
		}
		if at, message, ok := parseRecord(string(record[:n])); ok && at >= earliest {
			if victim, ok := parseVictim(message); ok && victim == pid && (found == "" || !strings.HasPrefix(message, "oom-kill:")) {
				found = message
			}
		}
	}
}

// logSkew is how far the log's clock, which nothing corrects, may be behind.
const logSkew = 2 * time.Second

// hostPIDs tells whether this process has the host's pids. The number is that of
// the kernel's first pid namespace. Source: Linux, PROC_PID_INIT_INO.
func hostPIDs() bool {
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns == "pid:[4026531836]"
}

// parseRecord reads one record of /dev/kmsg: its time since boot and its message.
// Those that programs have written, which may say anything, are not ok: the
// kernel alone can be facility 0.
func parseRecord(record string) (at time.Duration, message string, ok bool) {
	prefix, rest, found := strings.Cut(record, ";")
	fields := strings.Split(prefix, ",")
	if !found || len(fields) < 3 {
		return 0, "", false
	}
	priority, err := strconv.ParseUint(fields[0], 10, 32)
	micros, err2 := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || err2 != nil || priority>>3 != 0 || micros < 0 || micros > int64(1<<63-1)/int64(time.Microsecond) {
		return 0, "", false
	}
	message, _, _ = strings.Cut(rest, "\n") // continued by KEY=value lines
	return time.Duration(micros) * time.Microsecond, message, true
}

// parseVictim finds whom the OOM killer ended, in one of its two lines:
//
//	oom-kill:constraint=CONSTRAINT_NONE,...,task=vllm,pid=4711,uid=0
//	Out of memory: Killed process 4711 (vllm) total-vm:...
//
// The second may begin with "Memory cgroup out of memory". A process name may
// hold anything, so the pid is looked for before it in the second, and from the
// end in the first. Source: Linux, mm/oom_kill.c.
func parseVictim(message string) (pid int, ok bool) {
	var digits string
	if rest, found := strings.CutPrefix(message, "oom-kill:"); found {
		i := strings.LastIndex(rest, ",pid=")
		if i < 0 {
			return 0, false
		}
		digits, _, _ = strings.Cut(rest[i+len(",pid="):], ",")
	} else {
		before, rest, found := strings.Cut(message, ": Killed process ")
		if !found || !strings.HasPrefix(before, "Out of memory") && before != "Memory cgroup out of memory" {
			return 0, false
		}
		digits, _, _ = strings.Cut(rest, " ")
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	return int(n), err == nil && n > 0
}
