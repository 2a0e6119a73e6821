package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Tuning is what the kernel is told about a process once it exists; its children
// inherit it. Zero leaves a value as hive's own.
type Tuning struct {
	NoFile, Core, AS, MemLock uint64 // RLIMIT_*, soft and hard
	Nice                      int    // -20 to 19
	OOMScoreAdj               int    // -1000 to 1000
}

// tune applies t. A failure is a *StartError that names what was refused.
// Source: prlimit(2), setpriority(2), proc_pid_oom_score_adj(5).
func (t Tuning) tune(pid int) error {
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{{"nofile", unix.RLIMIT_NOFILE, t.NoFile}, {"core", unix.RLIMIT_CORE, t.Core}, {"as", unix.RLIMIT_AS, t.AS}, {"memlock", unix.RLIMIT_MEMLOCK, t.MemLock}} {
		if l.value == 0 {
			continue
		}
		if err := unix.Prlimit(pid, l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}, nil); err != nil && !gone(err) {
			return refused(fmt.Sprintf("limits.%s of %d", l.name, l.value), err)
		}
	}
	if t.Nice != 0 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, pid, t.Nice); err != nil && !gone(err) {
			return refused(fmt.Sprintf("nice %d", t.Nice), err)
		}
	}
	if t.OOMScoreAdj != 0 {
		err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(t.OOMScoreAdj)), 0)
		if err != nil && !gone(err) {
			return refused(fmt.Sprintf("oom_score_adj %d", t.OOMScoreAdj), err)
		}
	}
	return nil
}

// gone: the process has ended already, and its end tells more.
func gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) }

func refused(what string, err error) error {
	hint := "correct the value"
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		hint = "hive's user may not set it; run hive as root, or drop it"
	}
	return &StartError{Config: true, Reason: fmt.Sprintf("the kernel refused %s: %v; %s", what, errno(err), hint), Err: err}
}
