package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// What limits are called, as in the configuration.
const (
	Memory = "memory"
	CPUs   = "cpus"
	CPUSet = "cpuset"
	PIDs   = "pids"
)

var keys = []string{Memory, CPUs, CPUSet, PIDs}

// controllers names the kernel's controller behind each limit.
var controllers = map[string]string{Memory: "memory", CPUs: "cpu", CPUSet: "cpuset", PIDs: "pids"}

var (
	// ErrBusy means that a group that still holds processes cannot be removed.
	ErrBusy = errors.New("the cgroup still holds processes")
	// ErrUnknown means that this host does not account what was asked for.
	ErrUnknown = errors.New("not accounted on this host")
	// ErrCPUSet means that a CPU list is malformed, or names CPUs that hive does not have.
	ErrCPUSet = errors.New("wrong cpuset")
)

// Limits bounds one attempt; zero means no limit.
type Limits struct {
	Memory uint64  // bytes, swap included
	CPUs   float64 // CPU time, in CPUs; at least 0.01 is given
	CPUSet string  // CPUs allowed, such as "0-3,8"
	PIDs   int     // processes and threads
}

func (l Limits) asks(key string) bool {
	switch key {
	case Memory:
		return l.Memory > 0
	case CPUs:
		return l.CPUs > 0
	case CPUSet:
		return l.CPUSet != ""
	case PIDs:
		return l.PIDs > 0
	}
	return false
}

// only drops what cannot be enforced.
func (l Limits) only(can func(string) bool) Limits {
	if !can(Memory) {
		l.Memory = 0
	}
	if !can(CPUs) {
		l.CPUs = 0
	}
	if !can(CPUSet) {
		l.CPUSet = ""
	}
	if !can(PIDs) {
		l.PIDs = 0
	}
	return l
}

func (l Limits) memory() int64 { return int64(min(l.Memory, math.MaxInt64)) }

// period is the kernel's own, and leastQuota the smallest share of it that the
// kernel takes, both in microseconds. Source: cgroup v2 guide, cpu.max;
// sched-bwc, "Management".
const (
	period     = 100_000
	leastQuota = 1_000
)

func (l Limits) quota() int64 {
	return int64(math.Round(min(max(l.CPUs*period, leastQuota), math.MaxInt32)))
}

// ground is a part of the kernel's cgroup tree where hive may plant groups.
type ground interface {
	can(key string) bool
	cpus() string // the CPUs that hive itself may use, "" when not known
	folders() []string
	plant(name string, l Limits) (leaf, error)
	find(group func(controller string) (place, bool)) leaf // nil where there is none
	close() error
}

// Host is what this host can enforce, found once. It is safe for concurrent use.
type Host struct {
	name    string
	mode    string
	ground  ground // nil where nothing can be enforced
	why     map[string]string
	planted atomic.Uint64
}

// Open finds out what this host can enforce. name is the folder of this hive,
// hive-<pid>, so that Sweep knows whether it is still needed. Open never fails: a
// host that gives nothing enforces nothing, and Can says why. On a v2 host it may
// move the whole process into a folder below its cgroup; see the package's words.
func Open(name string) *Host {
	h := &Host{name: name, mode: "none", why: map[string]string{}}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err := errors.Join(err, err2); err != nil {
		for _, key := range keys {
			h.why[key] = fmt.Sprintf("cgroups cannot be told (%v); mount /proc", err)
		}
		return h
	}
	mounts := parseMounts(string(mountinfo))
	mine := places(mounts, parseOwn(string(own)))
	h.mode = mode(mounts)

	if one := openV1(name, mine, h.why); one != nil {
		h.ground = one
	} else if two := openV2(name, mine, h.why); two != nil {
		h.ground = two
	}
	for _, key := range keys {
		if h.ground != nil && h.ground.can(key) {
			delete(h.why, key)
		} else if h.why[key] == "" {
			h.why[key] = lacking(h.mode, controllers[key])
		}
	}
	return h
}

// mode names what is mounted.
func mode(mounts []mount) string {
	var one, two bool
	for _, m := range mounts {
		two = two || m.controllers == nil
		for _, c := range controllers {
			one = one || slices.Contains(m.controllers, c)
		}
	}
	switch {
	case one && two:
		return "hybrid"
	case one:
		return "v1"
	case two:
		return "v2"
	}
	return "none"
}

func lacking(mode, controller string) string {
	switch mode {
	case "none":
		return "no cgroup hierarchy is mounted; mount -t cgroup2 none /sys/fs/cgroup"
	case "v2":
		return "the " + controller + " controller is not given to hive's cgroup; systemd-run -p Delegate=yes, or add +" +
			controller + " to cgroup.subtree_control of the folder above it"
	}
	return "the " + controller + " controller is not mounted; mount -t cgroup -o " + controller + " none /sys/fs/cgroup/" + controller
}

// Mode tells which cgroups are mounted: "v2", "v1", "hybrid" or "none".
func (h *Host) Mode() string { return h.mode }

// Can tells whether a limit (Memory, CPUs, CPUSet, PIDs) is enforced here, and if
// not, why and how to get it.
func (h *Host) Can(key string) (ok bool, why string) {
	if h.ground != nil && h.ground.can(key) {
		return true, ""
	}
	if why, known := h.why[key]; known {
		return false, why
	}
	return false, fmt.Sprintf("%q is no limit of a cgroup", key)
}

// Unenforced gives a sentence for each limit that is asked for and not enforced here.
func (h *Host) Unenforced(l Limits) []string {
	var all []string
	for _, key := range keys {
		if ok, why := h.Can(key); l.asks(key) && !ok {
			all = append(all, fmt.Sprintf("limits.%s is not enforced: %s", key, why))
		}
	}
	return all
}

// New makes the group of one attempt. It is nil when l asks for nothing that can
// be enforced here. The name is for people to read; a folder is never used twice.
func (h *Host) New(attempt string, l Limits) (*Group, error) {
	if h.ground == nil {
		return nil, nil
	}
	l = l.only(h.ground.can)
	if l == (Limits{}) {
		return nil, nil
	}
	if err := h.checkCPUs(l.CPUSet); err != nil {
		return nil, fmt.Errorf("cgroup of %s: %w", attempt, err)
	}
	leaf, err := h.ground.plant(h.fresh(attempt), l)
	if err != nil {
		return nil, fmt.Errorf("make the cgroup of %s: %w", attempt, err)
	}
	return &Group{leaf: leaf, attempt: attempt}, nil
}

// Adopt gives the group in which an earlier hive of this host started a process,
// nil when it has none. Its counters go on.
func (h *Host) Adopt(pid int) *Group {
	own, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	mountinfo, err2 := os.ReadFile("/proc/self/mountinfo")
	if h.ground == nil || err != nil || err2 != nil {
		return nil
	}
	lies := places(parseMounts(string(mountinfo)), parseOwn(string(own)))
	found := h.ground.find(func(controller string) (place, bool) {
		p := lies[controller]
		group, ok := groupOf(p.path)
		return place{p.point, group}, ok
	})
	if found == nil {
		return nil
	}
	return &Group{leaf: found, attempt: "process " + strconv.Itoa(pid)}
}

var planted = regexp.MustCompile(`^.*/hive-[0-9]+/w-[^/]+`)

// groupOf cuts from a path what lies below the group of an attempt: a worker may
// have made groups of its own.
func groupOf(path string) (string, bool) {
	group := planted.FindString(path)
	return group, group != ""
}

// checkCPUs finds CPUs that hive does not have: v1 refuses them without a word on
// which, v2 passes over them.
func (h *Host) checkCPUs(list string) error {
	wanted, err := parseCPUs(list)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCPUSet, err)
	}
	offered, err := parseCPUs(h.ground.cpus())
	if err != nil || len(offered) == 0 {
		return nil
	}
	if missing := notAmong(wanted, offered); len(missing) > 0 {
		return fmt.Errorf("%w: %q asks for CPU %d, and hive has %s", ErrCPUSet, list, missing[0], h.ground.cpus())
	}
	return nil
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9_.-]`)

// fresh gives a folder name that does not exist yet. It begins with w- so that no
// file of the kernel has it, as memory.max would.
func (h *Host) fresh(attempt string) string {
	for {
		name := "w-" + unfit.ReplaceAllString(attempt, "-") + "." + strconv.FormatUint(h.planted.Add(1), 10)
		if !slices.ContainsFunc(h.ground.folders(), func(dir string) bool {
			_, err := os.Lstat(filepath.Join(dir, name))
			return err == nil
		}) {
			return name
		}
	}
}

// Close removes hive's own folders, and on v2 takes hive back to where it was.
// Groups that still hold processes stay, with their limits: they outlive hive.
func (h *Host) Close() error {
	if h.ground == nil {
		return nil
	}
	return h.ground.close()
}

// Sweep removes the empty folders that dead hives left beside this one's.
func (h *Host) Sweep() {
	if h.ground == nil {
		return
	}
	for _, own := range h.ground.folders() {
		others, _ := filepath.Glob(filepath.Join(filepath.Dir(own), "hive-[0-9]*"))
		for _, dir := range others {
			pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "hive-"))
			if err != nil || dir == own || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				continue
			}
			prune(dir)
		}
	}
}

// prune removes a cgroup folder and those in it, as far as they are empty: the
// kernel refuses the others.
func prune(dir string) {
	inside, _ := os.ReadDir(dir)
	for _, e := range inside {
		if e.IsDir() {
			prune(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}

// writable tells why files of a cgroup folder cannot be written, or nothing.
func writable(dir string, files ...string) error {
	for _, f := range append([]string{""}, files...) {
		if err := unix.Faccessat(unix.AT_FDCWD, filepath.Join(dir, f), unix.W_OK, unix.AT_EACCESS); err != nil {
			return err
		}
	}
	return nil
}
