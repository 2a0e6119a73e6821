package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// finding is one thing this host can or cannot do, as it was just seen.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, limited (hive works with less) or missing (hive cannot run)
	Detail string `json:"detail"`
}

// What a finding means for hive.
const (
	statusOK      = "ok"
	statusLimited = "limited"
	statusMissing = "missing"
)

// The oldest kernel hive runs on; it is the first that can wait, signal and
// place a process without a race by its number.
const kernelMajor, kernelMinor = 5, 10

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show what this host can enforce, and what is missing",
		Long: `Look at this host and show what hive can do on it: kernel, rights, process handles,
limits, GPUs. Everything shown was tried or read now; nothing is changed. The exit
code is 1 when something is missing that hive cannot do without.`,
		Example: "  hive doctor\n  hive doctor -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			findings := examine()
			if a.json() {
				if err := a.writeJSON(map[string]any{"findings": findings}); err != nil {
					return err
				}
			} else {
				a.printf("%s", doctorTable(findings, a.term))
			}
			for _, f := range findings {
				if f.Status == statusMissing {
					return fmt.Errorf("hive cannot run on this host: %s: %s", f.Name, f.Detail)
				}
			}
			return nil
		},
	}
}

func doctorTable(findings []finding, term terminal) string {
	t := table{header: []string{"WHAT", "STATUS", "DETAIL"}}
	tints := map[string]colour{statusOK: green, statusLimited: yellow, statusMissing: red}
	for _, f := range findings {
		t.add(text(f.Name), cell{f.Status, tints[f.Status]}, text(f.Detail))
	}
	term.width = func() int { return 0 } // a cut detail is no advice
	return t.render(term)
}

// examine looks at the host. It changes nothing.
func examine() []finding {
	var un unix.Utsname
	release := ""
	if err := unix.Uname(&un); err == nil {
		release = unix.ByteSliceToString(un.Release[:])
	}
	major, minor := kernelVersion(release)
	return []finding{
		kernelFinding(release, major, minor),
		userFinding(os.Geteuid()),
		pidfdFinding(),
		exitInfoFinding(major, minor),
		subreaperFinding(),
		cgroupFinding("/sys/fs/cgroup", "/proc/self/cgroup"),
		filesFinding(),
		portsFinding("/proc/sys/net/ipv4/ip_local_port_range"),
		oomLogFinding("/dev/kmsg"),
		gpuFinding(),
	}
}

// kernelVersion reads "6.18.35-generic" as 6, 18; what it cannot read is 0.
func kernelVersion(release string) (major, minor int) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return 0, 0
	}
	digits := parts[1]
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	major, _ = strconv.Atoi(parts[0])
	minor, _ = strconv.Atoi(digits)
	return major, minor
}

func atLeast(major, minor, wantMajor, wantMinor int) bool {
	return major > wantMajor || major == wantMajor && minor >= wantMinor
}

func kernelFinding(release string, major, minor int) finding {
	f := finding{Name: "kernel", Status: statusOK, Detail: fmt.Sprintf("Linux %s, %s", release, runtime.GOARCH)}
	if !atLeast(major, minor, kernelMajor, kernelMinor) {
		f.Status = statusMissing
		f.Detail += fmt.Sprintf("; hive needs Linux %d.%d or newer", kernelMajor, kernelMinor)
	}
	return f
}

func userFinding(euid int) finding {
	if euid == 0 {
		return finding{"user", statusOK, "root: workers may run as other users"}
	}
	return finding{"user", statusLimited, fmt.Sprintf("uid %d, not root: a worker's \"user\" cannot be another, and limits need a delegated cgroup", euid)}
}

// pidfdFinding opens a handle on this very process. Source: pidfd_open(2).
func pidfdFinding() finding {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return finding{"pidfd", statusMissing, fmt.Sprintf("pidfd_open is refused (%v); a sandbox may forbid it, allow the system call", err)}
	}
	defer unix.Close(fd)
	return finding{"pidfd", statusOK, "the end of a process is seen at once"}
}

// exitInfoFinding tries PIDFD_GET_INFO (Linux 6.13), whose exit code exists
// from 6.15 on. Source: include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT.
func exitInfoFinding(major, minor int) finding {
	const name = "exit of adopted workers"
	lost := "the exit code of a worker adopted from an earlier hive can be unknown; "
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return finding{name, statusLimited, lost + "there is no pidfd"}
	}
	defer unix.Close(fd)
	if err := unix.IoctlPidfdInfo(fd, &unix.PidfdInfo{}); err != nil {
		return finding{name, statusLimited, lost + fmt.Sprintf("PIDFD_GET_INFO: %v; Linux 6.15 has it", err)}
	}
	if !atLeast(major, minor, 6, 15) {
		return finding{name, statusLimited, lost + "Linux 6.15 tells it"}
	}
	return finding{name, statusOK, "the exit code is told by the kernel"}
}

// subreaperFinding asks whether the subreaper attribute exists.
// Source: prctl(2), PR_GET_CHILD_SUBREAPER.
func subreaperFinding() finding {
	if _, err := getSubreaper(); err != nil {
		return finding{"subreaper", statusLimited, fmt.Sprintf("not available (%v): a worker's orphaned children are found by their mark only", err)}
	}
	return finding{"subreaper", statusOK, "orphaned children of workers come to hive"}
}

func filesFinding() finding {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return finding{"open files", statusLimited, fmt.Sprintf("the limit cannot be read: %v", err)}
	}
	return finding{"open files", statusOK, fmt.Sprintf("soft limit %d, hard limit %d", lim.Cur, lim.Max)}
}

// portsFinding tells from which ports the kernel serves outgoing connections:
// one of them may be taken at any moment. Source: ip(7), ip_local_port_range.
func portsFinding(file string) finding {
	const name = "ports of workers"
	b, err := os.ReadFile(file)
	var first, last int
	if err == nil {
		_, err = fmt.Sscan(string(b), &first, &last)
	}
	if err != nil {
		return finding{name, statusLimited, fmt.Sprintf("%s cannot be read: which ports the kernel gives to outgoing connections is not known", file)}
	}
	if first <= 7199 && last >= 7100 {
		return finding{name, statusLimited, fmt.Sprintf("the kernel gives %d-%d to outgoing connections, among them hive's default 7100-7199: choose `ports` outside", first, last)}
	}
	return finding{name, statusOK, fmt.Sprintf("choose `ports` outside %d-%d, which the kernel gives to outgoing connections", first, last)}
}

// oomLogFinding tells whether a kill by the host's own out-of-memory killer can
// be recognised.
func oomLogFinding(file string) finding {
	const name = "kernel log"
	if unix.Access(file, unix.R_OK) != nil {
		return finding{name, statusLimited, file + " cannot be read: when the whole host runs out of memory, the cause of a kill reads signal and not oom; run as root, or set kernel.dmesg_restrict=0"}
	}
	return finding{name, statusOK, "readable: a kill because the whole host ran out of memory is recognised"}
}

// gpuFinding looks for the driver's device node and for cgo, without loading
// the driver's library.
func gpuFinding() finding {
	const name = "NVIDIA GPUs"
	nodes, _ := filepath.Glob("/dev/nvidia[0-9]*")
	switch {
	case len(nodes) == 0:
		return finding{name, statusLimited, "no /dev/nvidia device: only the cpu pool"}
	case !readBuild().CGO:
		return finding{name, statusLimited, fmt.Sprintf("%s present, but this binary was built without cgo: only the cpu pool", count(len(nodes), "device"))}
	}
	return finding{name, statusOK, count(len(nodes), "device") + " present"}
}

// cgroupFinding tells the mode of the host's cgroups and whether this process
// may make groups. Source: cgroups(7), statfs(2) CGROUP2_SUPER_MAGIC.
func cgroupFinding(root, self string) finding {
	const name = "limits (cgroup)"
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return finding{name, statusLimited, fmt.Sprintf("%s cannot be read (%v): memory, cpu and pids limits are not held", root, err)}
	}
	own, _ := os.ReadFile(self)
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		dir := filepath.Join(root, ownGroup(string(own), "0::"))
		controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		switch {
		case err != nil:
			return finding{name, statusLimited, fmt.Sprintf("v2, but %s cannot be read: limits are not held", dir)}
		case unix.Access(dir, unix.W_OK) != nil:
			return finding{name, statusLimited, "v2, not delegated: run as root or under systemd with Delegate=yes for limits"}
		}
		return wantControllers(name, "v2", strings.Fields(string(controllers)))
	}
	mode := "v1"
	if err := unix.Statfs(filepath.Join(root, "unified"), &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		mode = "hybrid"
	}
	var writable []string
	for _, controller := range []string{"memory", "cpu", "pids", "cpuset"} {
		dir := filepath.Join(root, controller, ownGroup(string(own), controller))
		if !exists(dir) { // a container sees its own group as the root
			dir = filepath.Join(root, controller)
		}
		if exists(dir) && unix.Access(dir, unix.W_OK) == nil {
			writable = append(writable, controller)
		}
	}
	return wantControllers(name, mode, writable)
}

// wantControllers judges which limits can be held by the controllers there are.
func wantControllers(name, mode string, have []string) finding {
	var lacking []string
	for _, want := range []string{"memory", "cpu", "pids", "cpuset"} {
		if len(have) == 0 || !oneOf(have, want) {
			lacking = append(lacking, want)
		}
	}
	if len(lacking) > 0 {
		how := "mount their controllers under /sys/fs/cgroup, and run hive as root"
		if mode == "v2" {
			how = "give hive's cgroup these controllers: systemd-run -p Delegate=yes, or cgroup.subtree_control of the folder above"
		}
		return finding{name, statusLimited, fmt.Sprintf("%s without %s: these limits are not held; %s", mode, strings.Join(lacking, ", "), how)}
	}
	return finding{name, statusOK, mode + " with memory, cpu, pids and cpuset"}
}

// ownGroup finds this process's group in the text of /proc/self/cgroup: by the
// line's beginning "0::" for v2, else by the controller's name.
func ownGroup(text, which string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, which); ok && which == "0::" {
			return rest
		}
		parts := strings.SplitN(line, ":", 3)
		if len(parts) == 3 && parts[1] != "" && oneOf(strings.Split(parts[1], ","), which) {
			return parts[2]
		}
	}
	return "/"
}

// getSubreaper reads the attribute of this process.
func getSubreaper() (bool, error) {
	var on int32
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&on)), 0)
	if errno != 0 {
		return false, errno
	}
	return on != 0, nil
}
