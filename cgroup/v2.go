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

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

// v2 is the ground of a cgroup2 subtree that hive may write.
type v2 struct {
	base    string   // the folder given to hive
	name    string   // hive's folder in it
	given   []string // controllers that the groups have
	enabled []string // those of them that hive switched on in base
	moved   bool     // hive moved itself from base into its own folder
}

// self is the folder of hive's own process, where it had to leave base.
const self = "self"

// openV2 is nil where no subtree with a controller can be written, and says why.
func openV2(name string, mine map[string]place, why map[string]string) ground {
	p, mounted := mine[""]
	if !mounted {
		return nil
	}
	v := &v2{base: p.dir(), name: name}
	if above := filepath.Dir(v.base); p.path != "/" && !delegated(v.base) && delegated(above) {
		v.base = above // systemd's DelegateSubgroup=: what is given begins above hive
	}
	if err := v.open(why); err != nil {
		for _, key := range keys {
			if why[key] == "" && slices.Contains(words(v.base, "cgroup.controllers"), controllers[key]) {
				why[key] = err.Error()
			}
		}
		return nil
	}
	return v
}

// delegated tells whether systemd has given a folder away. Source: systemd's
// CGROUP_DELEGATION page, user.delegate.
func delegated(dir string) bool {
	for _, mark := range []string{"user.delegate", "trusted.delegate"} {
		var b [8]byte
		if n, err := unix.Getxattr(dir, mark, b[:]); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

// open makes hive's folder and gives it controllers.
func (v *v2) open(why map[string]string) error {
	var offered []string
	for _, c := range words(v.base, "cgroup.controllers") {
		if slices.ContainsFunc(keys, func(k string) bool { return controllers[k] == c }) {
			offered = append(offered, c)
		}
	}
	if len(offered) == 0 {
		return errors.New("no controller") // Open has the words for each
	}
	if err := writable(v.base, "cgroup.procs", "cgroup.subtree_control"); err != nil {
		return fmt.Errorf("%s cannot be written (%w); run hive as root, or give hive a subtree of its own: systemd-run -p Delegate=yes", v.base, err)
	}
	if err := os.Mkdir(v.dir(), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w; allow hive to make folders in its cgroup", err)
	}
	if err := v.stepAside(offered); err != nil {
		_ = v.undo()
		return err
	}
	before := words(v.base, "cgroup.subtree_control")
	for _, c := range offered {
		err := enable(v.base, c)
		if err == nil && !slices.Contains(before, c) {
			v.enabled = append(v.enabled, c)
		}
		if err == nil {
			err = enable(v.dir(), c)
		}
		if err != nil {
			note(why, c, fmt.Sprintf("the %s controller cannot be switched on in %s (%v); let nothing but hive use that cgroup", c, v.base, err))
			continue
		}
		v.given = append(v.given, c)
	}
	if len(v.given) == 0 {
		_ = v.undo()
		return errors.New("no controller could be switched on")
	}
	return nil
}

func note(why map[string]string, controller, sentence string) {
	for _, key := range keys {
		if controllers[key] == controller {
			why[key] = sentence
		}
	}
}

// stepAside moves hive out of base where its presence forbids base controllers
// for its folders. The root cgroup, which alone has no cgroup.type, may hold both.
func (v *v2) stepAside(offered []string) error {
	if _, err := os.Stat(filepath.Join(v.base, "cgroup.type")); err != nil {
		return nil
	}
	if len(notIn(offered, words(v.base, "cgroup.subtree_control"))) == 0 {
		return nil
	}
	me := strconv.Itoa(os.Getpid())
	inside := words(v.base, "cgroup.procs")
	switch {
	case len(inside) == 0:
		return nil
	case len(inside) > 1 || inside[0] != me:
		return fmt.Errorf("hive shares %s with %d other processes; start it in a cgroup of its own: systemd-run -p Delegate=yes", v.base, len(notIn(inside, []string{me})))
	}
	if err := os.Mkdir(filepath.Join(v.dir(), self), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w; allow hive to make folders in its cgroup", err)
	}
	if err := put(filepath.Join(v.dir(), self), "cgroup.procs", me); err != nil {
		return fmt.Errorf("hive cannot move itself (%w); give it that cgroup whole: systemd-run -p Delegate=yes", err)
	}
	v.moved = true
	return nil
}

func notIn(these, those []string) []string {
	return slices.DeleteFunc(slices.Clone(these), func(s string) bool { return slices.Contains(those, s) })
}

// words reads a file of a cgroup folder; none when it cannot be read.
func words(dir, file string) []string {
	b, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.Fields(string(b))
}

func put(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

func enable(dir, controller string) error {
	if slices.Contains(words(dir, "cgroup.subtree_control"), controller) {
		return nil
	}
	return put(dir, "cgroup.subtree_control", "+"+controller)
}

func (v *v2) dir() string { return filepath.Join(v.base, v.name) }

func (v *v2) can(key string) bool { return slices.Contains(v.given, controllers[key]) }

func (v *v2) cpus() string { return strings.Join(words(v.base, "cpuset.cpus.effective"), ",") }

func (v *v2) folders() []string { return []string{v.dir()} }

// plant uses base as the library's mount, so that it touches nothing above.
func (v *v2) plant(name string, l Limits) (leaf, error) {
	r := &cgroup2.Resources{}
	if l.asks(Memory) {
		most, whole := l.memory(), true
		r.Memory = &cgroup2.Memory{Max: &most, OOMGroup: &whole}
	}
	if l.asks(CPUs) || l.asks(CPUSet) {
		r.CPU = &cgroup2.CPU{Cpus: l.CPUSet}
	}
	if l.asks(CPUs) {
		quota, length := l.quota(), uint64(period)
		r.CPU.Max = cgroup2.NewCPUMax(&quota, &length)
	}
	if l.asks(PIDs) {
		r.Pids = &cgroup2.Pids{Max: int64(l.PIDs)}
	}
	m, err := cgroup2.NewManager(v.base, filepath.Join("/", v.name, name), r)
	if err != nil {
		return nil, err
	}
	one := &leaf2{dir: filepath.Join(v.dir(), name), control: m, memory: v.can(Memory)}
	if _, err := os.Stat(filepath.Join(one.dir, "memory.swap.max")); l.asks(Memory) && err == nil {
		none := int64(0)
		if err := m.Update(&cgroup2.Resources{Memory: &cgroup2.Memory{Swap: &none}}); err != nil {
			_ = unix.Rmdir(one.dir)
			return nil, err
		}
	}
	return one, nil
}

func (v *v2) find(group func(string) (place, bool)) leaf {
	p, ok := group("")
	if !ok {
		return nil
	}
	m, err := cgroup2.Load(p.path, cgroup2.WithMountpoint(p.point))
	if err != nil {
		return nil
	}
	_, err = os.Stat(filepath.Join(p.dir(), "memory.events"))
	return &leaf2{dir: p.dir(), control: m, memory: err == nil}
}

// close leaves everything as it is when a group still holds processes: they
// outlive hive, and their limits with them.
func (v *v2) close() error {
	inside, _ := os.ReadDir(v.dir())
	for _, e := range inside {
		if e.IsDir() && e.Name() != self {
			prune(filepath.Join(v.dir(), e.Name()))
			if _, err := os.Stat(filepath.Join(v.dir(), e.Name())); err == nil {
				return fmt.Errorf("%s: %w", v.dir(), ErrBusy)
			}
		}
	}
	return v.undo()
}

// undo takes back what open did, in the only order that the kernel allows.
func (v *v2) undo() error {
	for _, c := range v.given {
		_ = put(v.dir(), "cgroup.subtree_control", "-"+c)
	}
	for _, c := range v.enabled {
		_ = put(v.base, "cgroup.subtree_control", "-"+c) // refused while another hive needs it
	}
	if v.moved {
		if err := put(v.base, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
			return fmt.Errorf("move hive back to %s: %w", v.base, err)
		}
		v.moved = false
	}
	prune(v.dir())
	if _, err := os.Stat(v.dir()); err == nil {
		return fmt.Errorf("%s: %w", v.dir(), ErrBusy)
	}
	return nil
}

// leaf2 is a group of cgroup2.
type leaf2 struct {
	dir     string
	control *cgroup2.Manager
	memory  bool // memory is accounted
}

func (l *leaf2) dir2() string { return l.dir }

func (l *leaf2) enter(f func() error) error { return f() }

func (l *leaf2) oomKills() (uint64, error) {
	if !l.memory {
		return 0, ErrUnknown
	}
	m, err := l.control.StatFiltered(cgroup2.StatMemoryEvents)
	if err != nil {
		return 0, err
	}
	if m.GetMemoryEvents() == nil { // what the library says of a folder that is gone
		return 0, fmt.Errorf("read memory.events of %s: %w", l.dir, os.ErrNotExist)
	}
	// A group that is killed whole has its first victim counted twice, or once
	// where that was quick to die. Source: Linux, oom_kill_process.
	killed, wholes := m.GetMemoryEvents().GetOomKill(), m.GetMemoryEvents().GetOomGroupKill()
	if wholes > 0 && killed > 1 {
		killed = max(1, killed-min(killed, wholes))
	}
	return killed, nil
}

// peak needs Linux 5.19. Source: cgroup v2 guide, memory.peak.
func (l *leaf2) peak() (uint64, error) {
	if !l.memory {
		return 0, ErrUnknown
	}
	b, err := os.ReadFile(filepath.Join(l.dir, "memory.peak"))
	if errors.Is(err, os.ErrNotExist) {
		if _, gone := os.Stat(l.dir); gone == nil {
			return 0, fmt.Errorf("memory.peak needs Linux 5.19: %w", ErrUnknown)
		}
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

func (l *leaf2) usage() (Usage, error) {
	if _, err := os.Stat(l.dir); err != nil {
		return Usage{}, err // the library takes a missing file for zero
	}
	m, err := l.control.StatFiltered(cgroup2.StatCPU | cgroup2.StatMemory)
	if err != nil {
		return Usage{}, err
	}
	return Usage{
		Memory:    m.GetMemory().GetUsage(),
		CPU:       time.Duration(m.GetCPU().GetUsageUsec()) * time.Microsecond,
		Throttled: time.Duration(m.GetCPU().GetThrottledUsec()) * time.Microsecond,
	}, nil
}

func (l *leaf2) pids() ([]int, error) {
	all, err := l.control.Procs(true)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range all {
		pids = append(pids, int(p))
	}
	return pids, nil
}

func (l *leaf2) remove() error { return l.control.Delete() }
