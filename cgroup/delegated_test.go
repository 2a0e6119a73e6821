package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is set in the runs that TestInADelegatedCgroup starts.
const inside = "CGROUP_TEST_INSIDE"

// Everything again as a service of systemd would see it: in a cgroup2 folder that
// is given to hive, as root and as an ordinary user.
func TestInADelegatedCgroup(t *testing.T) {
	if os.Getenv(inside) != "" {
		t.Skip("this is the run inside")
	}
	h := open(t)
	need(t, h, Memory, CPUs, CPUSet, PIDs)
	two, ok := h.ground.(*v2)
	if !ok || os.Geteuid() != 0 {
		t.Skip("needs cgroup v2 and root")
	}
	for _, c := range []struct {
		name  string
		uid   uint32
		sub   string // systemd's DelegateSubgroup=
		tests string
	}{{"root", 0, "", native}, {"user", nobody, "", native}, {"subgroup", 0, "hive", "Hive|Eater|Born"}} {
		t.Run(c.name, func(t *testing.T) {
			given := filepath.Join(two.base, "given-"+c.name)
			run := filepath.Join(given, c.sub)
			if err := os.MkdirAll(run, 0o755); err != nil {
				t.Fatal(err)
			}
			defer prune(given)
			for _, f := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
				if err := os.Chown(filepath.Join(given, f), int(c.uid), int(c.uid)); err != nil {
					t.Fatal(err)
				}
			}
			if c.sub != "" {
				if err := unix.Setxattr(given, "trusted.delegate", []byte("1"), 0); err != nil {
					t.Skipf("cgroups take no attributes: %v", err)
				}
			}
			fd, err := unix.Open(run, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			again(t, c.tests, (*exec.Cmd).CombinedOutput, &syscall.SysProcAttr{
				UseCgroupFD: true, CgroupFD: fd,
				Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid},
			})
			if left := words(given, "cgroup.subtree_control"); len(left) > 0 {
				t.Errorf("%v are left switched on", left)
			}
			folders, _ := filepath.Glob(filepath.Join(given, "hive-*"))
			if len(folders) > 0 {
				t.Errorf("%v are left", folders)
			}
		})
	}
}

// native are the tests that use the host's cgroups.
const native = "Hive|Eater|Hand|Attempt|Spinner|CPUsAre|Bomb|OneProcess|Born|Outside|Group"

const nobody = 65534

// again runs tests of this package in another process.
func again(t *testing.T, tests string, run func(*exec.Cmd) ([]byte, error), attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command(exe, "-test.v", "-test.run", tests)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = attr
	out, err := run(cmd)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "cannot bound") {
		t.Errorf("limits are missing:\n%s", out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// The same with v1, whose folders belong to an ordinary user.
func TestInAUsersFoldersOfV1(t *testing.T) {
	if os.Getenv(inside) != "" {
		t.Skip("this is the run inside")
	}
	h := open(t)
	need(t, h, Memory, CPUs, CPUSet, PIDs)
	if _, ok := h.ground.(*v1); !ok || os.Geteuid() != 0 {
		t.Skip("needs cgroup v1 and root")
	}
	g := plant(t, h, Limits{Memory: 4 << 30, CPUs: 64, CPUSet: h.ground.cpus(), PIDs: 4096})
	one := g.leaf.(*leaf1)
	for _, s := range one.subs {
		for _, f := range []string{"", "cgroup.procs", "tasks"} {
			if err := os.Chown(filepath.Join(one.dir(s), f), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	again(t, native, func(cmd *exec.Cmd) ([]byte, error) {
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := g.Enter(cmd.Start); err != nil {
			return nil, err
		}
		err := cmd.Wait()
		return out.Bytes(), err
	}, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
}

// Hive leaves its cgroup to make room for controllers, and comes back.
func TestHiveStepsAsideAndComesBack(t *testing.T) {
	before, _ := os.ReadFile("/proc/self/cgroup")
	h := Open(fmt.Sprintf("hive-%d", os.Getpid()))
	need(t, h, Memory)
	during, _ := os.ReadFile("/proc/self/cgroup")
	two, ok := h.ground.(*v2)
	if moved := string(before) != string(during); moved != (ok && two.moved) {
		t.Errorf("from %sto %s", before, during)
	}
	if ok && two.moved && !strings.HasSuffix(strings.TrimSpace(string(during)), "/"+h.name+"/self") {
		t.Errorf("hive is in %s", during)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if after, _ := os.ReadFile("/proc/self/cgroup"); string(after) != string(before) {
		t.Errorf("from %sback to %s", before, after)
	}
}

func TestHiveDoesNotMoveOthers(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("needs a delegated cgroup; TestInADelegatedCgroup has one")
	}
	other := exec.Command("/bin/sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	h := open(t)
	if _, is := h.ground.(*v1); is {
		t.Skip("v1 moves nobody")
	}
	ok, why := h.Can(Memory)
	if two, is := h.ground.(*v2); is && !two.moved && !slices.Contains(words(two.base, "cgroup.procs"), fmt.Sprint(os.Getpid())) {
		t.Skip("hive was started below what is given to it, so nobody has to move")
	}
	if ok || !strings.Contains(why, "shares") || !strings.Contains(why, "Delegate=yes") {
		t.Errorf("%v %q", ok, why)
	}
	if g, err := h.New("x", Limits{Memory: 1 << 30}); g != nil || err != nil {
		t.Errorf("%v %v", g, err)
	}
}
