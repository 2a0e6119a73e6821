package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	stats "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// subsystem is a controller of v1 whose folders can be told.
type subsystem interface {
	cgroup1.Subsystem
	Path(string) string
}

// v1 is the ground of the hierarchies of cgroup v1. Every group is in those of
// memory and cpu, for their accounts; in pids and cpuset only when bounded there.
type v1 struct {
	name string
	home map[cgroup1.Name]string // hive's own path in each hierarchy
	subs []subsystem
}

// openV1 is nil where no v1 controller can be used, and then says why.
func openV1(name string, mine map[string]place, why map[string]string) ground {
	g := &v1{name: name, home: map[cgroup1.Name]string{}}
	makers := []struct {
		key string
		new func(root string) subsystem
	}{
		{Memory, newMemory},
		{CPUs, func(r string) subsystem { return cgroup1.NewCpu(r) }},
		{"", func(r string) subsystem { return cgroup1.NewCpuacct(r) }},
		{CPUSet, func(r string) subsystem { return cgroup1.NewCpuset(r) }},
		{PIDs, func(r string) subsystem { return cgroup1.NewPids(r) }},
	}
	for _, m := range makers {
		controller := controllers[m.key]
		if m.key == "" {
			controller = "cpuacct"
		}
		p, mounted := mine[controller]
		if !mounted {
			continue
		}
		// The library looks for a hierarchy in a folder called as its controller.
		root := filepath.Dir(p.point)
		if !same(filepath.Join(root, controller), p.point) {
			why[m.key] = fmt.Sprintf("the %s controller is mounted at %s; add a link %s to it", controller, p.point, filepath.Join(root, controller))
			continue
		}
		if err := writable(p.dir(), "tasks"); err != nil {
			why[m.key] = fmt.Sprintf("%s cannot be written (%v); run hive as root, or give that folder and its tasks file to hive's user", p.dir(), err)
			continue
		}
		sub := m.new(root)
		g.subs = append(g.subs, sub)
		g.home[sub.Name()] = p.path
	}
	if !slices.ContainsFunc(keys, g.can) {
		return nil
	}
	return g
}

// newMemory makes a controller that does not read what a kernel may lack:
// kernel memory is never bounded here, and swap is not accounted everywhere.
func newMemory(root string) subsystem {
	without := []string{"kmem", "kmem.tcp"}
	if !swapAccounted(root) {
		without = append(without, "memsw")
	}
	return cgroup1.NewMemory(root, cgroup1.IgnoreModules(without...))
}

func swapAccounted(root string) bool {
	_, err := os.Stat(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(x, y)
}

func (g *v1) sub(name cgroup1.Name) subsystem {
	for _, s := range g.subs {
		if s.Name() == name {
			return s
		}
	}
	return nil
}

func (g *v1) can(key string) bool { return g.sub(cgroup1.Name(controllers[key])) != nil }

func (g *v1) cpus() string {
	s := g.sub(cgroup1.Cpuset)
	if s == nil {
		return ""
	}
	b, _ := os.ReadFile(filepath.Join(s.Path(g.home[cgroup1.Cpuset]), "cpuset.effective_cpus"))
	return strings.TrimSpace(string(b))
}

func (g *v1) folders() []string {
	var dirs []string
	for _, s := range g.subs {
		if dir := filepath.Join(s.Path(g.home[s.Name()]), g.name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (g *v1) close() error {
	var all []error
	for _, dir := range g.folders() {
		prune(dir)
		if _, err := os.Stat(dir); err == nil {
			all = append(all, fmt.Errorf("%s: %w", dir, ErrBusy))
		}
	}
	return errors.Join(all...)
}

// path tells the library where a group lies in each hierarchy.
func (g *v1) path(name string) cgroup1.Path {
	return func(sub cgroup1.Name) (string, error) {
		home, ok := g.home[sub]
		if !ok {
			return "", cgroup1.ErrControllerNotActive
		}
		return filepath.Join(home, g.name, name), nil
	}
}

func (g *v1) plant(name string, l Limits) (leaf, error) {
	one := &leaf1{path: g.path(name)}
	for _, s := range g.subs {
		switch s.Name() {
		case cgroup1.Pids:
			if l.asks(PIDs) {
				one.subs = append(one.subs, s)
			}
		case cgroup1.Cpuset:
			if l.asks(CPUSet) {
				one.subs = append(one.subs, s)
			}
		default:
			one.subs = append(one.subs, s)
		}
	}
	control, err := cgroup1.New(one.path, one.resources(l), cgroup1.WithHierarchy(one.hierarchy))
	if err != nil {
		for _, s := range one.subs {
			prune(one.dir(s))
		}
		return nil, err
	}
	one.control = control
	return one, nil
}

func (g *v1) find(group func(string) (place, bool)) leaf {
	one := &leaf1{path: func(sub cgroup1.Name) (string, error) {
		p, ok := group(string(sub))
		if !ok {
			return "", cgroup1.ErrControllerNotActive
		}
		return p.path, nil
	}}
	// The first one always is among a group's hierarchies. In those that are not, the
	// process lies wherever this hive does, maybe in the group of a hive around it.
	var name string
	for i, s := range g.subs {
		p, ok := group(string(s.Name()))
		called := filepath.Join(filepath.Base(filepath.Dir(p.path)), filepath.Base(p.path))
		if i == 0 {
			name = called
		}
		if ok && called == name {
			one.subs = append(one.subs, s)
		}
	}
	control, err := cgroup1.Load(one.path, cgroup1.WithHierarchy(one.hierarchy))
	if err != nil {
		return nil
	}
	one.control = control
	return one
}

// leaf1 is a group in some v1 hierarchies.
type leaf1 struct {
	path    cgroup1.Path
	subs    []subsystem
	control cgroup1.Cgroup
	eased   []eased
}

// eased is a limit that is less strict while hive's thread is in the group.
type eased struct {
	file, during, after string
	in                  bool // tightened before the thread leaves
}

func (l *leaf1) hierarchy() ([]cgroup1.Subsystem, error) {
	var all []cgroup1.Subsystem
	for _, s := range l.subs {
		all = append(all, s)
	}
	return all, nil
}

func (l *leaf1) dir(s subsystem) string {
	path, _ := l.path(s.Name())
	return s.Path(path)
}

// resources puts the limits into the library's words, and notes those that hive's
// thread must not feel. It would be throttled while it runs Go code, and hold up
// the garbage collector and every fork of hive: CPU time is bounded once it has
// left. It counts as one of the pids, and the worker gets that one only by the
// thread's leaving: the worker never has more than its limit.
func (l *leaf1) resources(want Limits) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: want.CPUSet}}
	for _, s := range l.subs {
		switch {
		case s.Name() == cgroup1.Memory && want.asks(Memory):
			bytes := want.memory()
			r.Memory = &specs.LinuxMemory{Limit: &bytes}
			if swapAccounted(filepath.Dir(s.Path("/"))) {
				r.Memory.Swap = &bytes
			}
		case s.Name() == cgroup1.Cpu && want.asks(CPUs):
			quota, length := want.quota(), uint64(period)
			r.CPU.Quota, r.CPU.Period = &quota, &length
			l.eased = append(l.eased, eased{filepath.Join(l.dir(s), "cpu.cfs_quota_us"), "-1", strconv.FormatInt(quota, 10), false})
		case s.Name() == cgroup1.Pids && want.asks(PIDs):
			most := int64(want.PIDs)
			r.Pids = &specs.LinuxPids{Limit: &most}
			l.eased = append(l.eased, eased{filepath.Join(l.dir(s), "pids.max"), strconv.FormatInt(most+1, 10), strconv.FormatInt(most, 10), true})
		}
	}
	return r
}

func (l *leaf1) dir2() string { return "" }

func (l *leaf1) enter(f func() error) error {
	for _, e := range l.eased {
		if err := os.WriteFile(e.file, []byte(e.during), 0); err != nil {
			return err
		}
	}
	err := onVisit(l, func() error { return errors.Join(f(), l.tighten(true)) })
	return errors.Join(err, l.tighten(false))
}

// tighten lays on the eased limits that are due while the thread is still in, or
// those that wait until it has left.
func (l *leaf1) tighten(in bool) (err error) {
	for _, e := range l.eased {
		if e.in == in {
			err = errors.Join(err, os.WriteFile(e.file, []byte(e.after), 0))
		}
	}
	return err
}

// goIn moves a thread into the group.
func (l *leaf1) goIn(tid int) error {
	return l.control.AddTask(cgroup1.Process{Pid: tid})
}

// wayBack notes where a thread is, and gives what takes it there again. The CPUs
// it may run on are noted too: a cpuset replaces them, coming and going.
func (l *leaf1) wayBack(tid int) (func() error, error) {
	b, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, err
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	from := places(parseMounts(string(mountinfo)), parseOwn(string(b)))
	home, err := cgroup1.Load(func(sub cgroup1.Name) (string, error) {
		p, ok := from[string(sub)]
		if !ok {
			return "", fmt.Errorf("no cgroup of %s to go back to", sub)
		}
		return p.path, nil
	}, cgroup1.WithHierarchy(l.hierarchy))
	if err != nil {
		return nil, err
	}
	var cpus unix.CPUSet
	bounded := slices.ContainsFunc(l.subs, func(s subsystem) bool { return s.Name() == cgroup1.Cpuset })
	if bounded {
		if err := unix.SchedGetaffinity(0, &cpus); err != nil {
			return nil, err
		}
	}
	return func() error {
		if err := home.AddTask(cgroup1.Process{Pid: tid}); err != nil {
			return err
		}
		if bounded {
			return unix.SchedSetaffinity(0, &cpus)
		}
		return nil
	}, nil
}

// memory reads the account of the memory controller.
func (l *leaf1) memory() (*stats.Metrics, error) {
	for _, s := range l.subs {
		if m, ok := s.(interface {
			Stat(string, *stats.Metrics) error
		}); ok && s.Name() == cgroup1.Memory {
			path, err := l.path(cgroup1.Memory)
			if err != nil {
				return nil, err
			}
			all := &stats.Metrics{}
			return all, m.Stat(path, all)
		}
	}
	return nil, ErrUnknown
}

func (l *leaf1) oomKills() (uint64, error) {
	m, err := l.memory()
	if err != nil {
		return 0, err
	}
	return m.GetMemoryOomControl().GetOomKill(), nil
}

func (l *leaf1) peak() (uint64, error) {
	m, err := l.memory()
	if err != nil {
		return 0, err
	}
	return m.GetMemory().GetUsage().GetMax(), nil
}

func (l *leaf1) usage() (Usage, error) {
	m, err := l.control.Stat()
	if err != nil {
		return Usage{}, err
	}
	return Usage{
		Memory:    m.GetMemory().GetUsage().GetUsage(),
		CPU:       time.Duration(m.GetCPU().GetUsage().GetTotal()),
		Throttled: time.Duration(m.GetCPU().GetThrottling().GetThrottledTime()),
	}, nil
}

// pids lists what runs in any of the hierarchies: a process can be moved out of
// one of them alone.
func (l *leaf1) pids() ([]int, error) {
	found := map[int]bool{}
	gone := 0
	for _, s := range l.subs {
		all, err := l.control.Processes(s.Name(), true)
		switch {
		case errors.Is(err, os.ErrNotExist):
			gone++
		case errors.Is(err, cgroup1.ErrCgroupDeleted):
			return nil, os.ErrNotExist
		case err != nil:
			return nil, err
		}
		for _, p := range all {
			found[p.Pid] = true
		}
	}
	if gone == len(l.subs) {
		return nil, os.ErrNotExist
	}
	return sortedKeys(found), nil
}

func (l *leaf1) remove() error {
	if err := l.control.Delete(); err != nil && !errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return err
	}
	return nil
}
