package cgroup

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const hybridMounts = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/4f /sys/fs/cgroup/memory ro,nosuid shared:7 master:2 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
42 31 0:39 / /mnt/with\040space rw - cgroup cgroup rw,pids
43 31 0:40 / /mnt/broken rw
`

func TestMountsAreReadFromMountinfo(t *testing.T) {
	got := parseMounts(hybridMounts)
	want := []mount{
		{"/sys/fs/cgroup/cpu,cpuacct", "/", []string{"rw", "cpu", "cpuacct"}},
		{"/sys/fs/cgroup/memory", "/docker/4f", []string{"rw", "memory"}},
		{"/sys/fs/cgroup/unified", "/", nil},
		{"/mnt/with space", "/", []string{"rw", "pids"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestOwnPathsAreReadPerController(t *testing.T) {
	got := parseOwn("9:name=systemd:/init.scope\n4:memory:/docker/4f/a:b\n1:cpu,cpuacct:/x\n0::/user.slice\nrubbish\n3:pids:relative\n")
	want := map[string]string{"name=systemd": "/init.scope", "memory": "/docker/4f/a:b", "cpu": "/x", "cpuacct": "/x", "": "/user.slice"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestPlacesAreWhereTheMountShowsThem(t *testing.T) {
	for _, c := range []struct {
		root, own, dir string
		seen           bool
	}{
		{"/", "/", "/m", true},
		{"/", "/a/b", "/m/a/b", true},
		{"/docker/4f", "/docker/4f", "/m", true},
		{"/docker/4f", "/docker/4f/hive", "/m/hive", true},
		{"/docker/4f", "/docker/4f2", "", false},
		{"/docker/4f", "/", "", false},
		{"/", "/../other", "", false},
		{"/../..", "/", "", false},
	} {
		p, seen := places([]mount{{"/m", c.root, []string{"memory"}}}, map[string]string{"memory": c.own})["memory"]
		if seen != c.seen || seen && p.dir() != c.dir {
			t.Errorf("root %s, own %s: %v %v, want %s", c.root, c.own, p.dir(), seen, c.dir)
		}
	}
}

func TestGroupsAreRecognisedByTheirPath(t *testing.T) {
	for path, want := range map[string]string{
		"/hive-1/w-a.1":                       "/hive-1/w-a.1",
		"/unit/hive-12/w-chat-1.7/inner/x":    "/unit/hive-12/w-chat-1.7",
		"/hive-1/w-a.1/hive-2/w-b.2/c":        "/hive-1/w-a.1/hive-2/w-b.2",
		"/hive-1/self":                        "",
		"/hive-x/w-a.1":                       "",
		"/":                                   "",
		"/hive-1/w-a.1/hive-2/self/somewhere": "/hive-1/w-a.1",
	} {
		if got, ok := groupOf(path); got != want || ok != (want != "") {
			t.Errorf("%s: %q %v, want %q", path, got, ok, want)
		}
	}
}

func TestModeNamesWhatIsMounted(t *testing.T) {
	one, two, other := mount{controllers: []string{"rw", "memory"}}, mount{}, mount{controllers: []string{"rw", "freezer"}}
	for want, mounts := range map[string][]mount{
		"none": {other}, "v1": {other, one}, "v2": {two, other}, "hybrid": {one, two},
	} {
		if got := mode(mounts); got != want {
			t.Errorf("%v is %s, want %s", mounts, got, want)
		}
	}
}

func TestCPUListsAreReadAsTheKernelDoes(t *testing.T) {
	for list, want := range map[string][]int{
		"": nil, "0": {0}, "0-3,8": {0, 1, 2, 3, 8}, "5,1": {5, 1}, "1,3\n": {1, 3},
	} {
		got, err := parseCPUs(list)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v %v, want %v", list, got, err, want)
		}
	}
	for _, bad := range []string{"a", "2 - 2", "1-", "-1", "3-0", "1,,2", "0-65536", "99999999999", "0-65535,0"} {
		if got, err := parseCPUs(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func FuzzCPUList(f *testing.F) {
	for _, s := range []string{"0-3,8", "", "1,2", "3-0", "-", "0-65535,0-65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cpus, err := parseCPUs(s)
		if err != nil {
			return
		}
		if len(cpus) > maxCPU {
			t.Fatalf("%d CPUs", len(cpus))
		}
		for _, c := range cpus {
			if c < 0 || c >= maxCPU {
				t.Fatalf("CPU %d", c)
			}
		}
	})
}

func FuzzMounts(f *testing.F) {
	f.Add(hybridMounts, "0::/a\n4:memory:/docker/4f\n")
	f.Add(`1 2 3 \ / r - cgroup2 a b`, "0::/..\n")
	f.Fuzz(func(t *testing.T, mountinfo, own string) {
		for _, p := range places(parseMounts(mountinfo), parseOwn(own)) {
			if !strings.HasPrefix(p.path, "/") || strings.HasPrefix(p.path, "/..") && p.path[3:4] == "/" {
				t.Fatalf("%+v leads out of its mount", p)
			}
		}
	})
}

func TestQuotaKeepsWithinWhatTheKernelTakes(t *testing.T) {
	for cpus, want := range map[float64]int64{0.5: 50_000, 4: 400_000, 0.0001: 1_000, 1e12: 1<<31 - 1} {
		if got := (Limits{CPUs: cpus}).quota(); got != want {
			t.Errorf("%g CPUs are %d us of %d, want %d", cpus, got, period, want)
		}
	}
}

func TestRecordsOfTheKernelsLog(t *testing.T) {
	at, message, ok := parseRecord("3,1184,12345678,-,caller=T9;Out of memory: Killed process 7 (x)\n SUBSYSTEM=none\n")
	if !ok || at != 12345678*time.Microsecond || message != "Out of memory: Killed process 7 (x)" {
		t.Errorf("%v %q %v", at, message, ok)
	}
	for _, bad := range []string{"", ";", "3,1;x", "a,1,2,-;x", "3,1,-2,-;x", "11,1,2,-;Out of memory: Killed process 7 (x)"} {
		if _, _, ok := parseRecord(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestVictimsOfTheOOMKiller(t *testing.T) {
	for message, want := range map[string]int{
		"Out of memory: Killed process 4711 (vllm) total-vm:1kB, anon-rss:2kB, UID:0":                                                4711,
		"Memory cgroup out of memory: Killed process 12 (a: Killed process 13 (b) total-vm":                                          12,
		"Out of memory (oom_kill_allocating_task): Killed process 5 (sh) total-vm":                                                   5,
		"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=vllm,pid=99,uid=0": 99,
		"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task_memcg=/hive,task=x,pid=1,pid=100,uid=0":                           100,
		"oom_reaper: reaped process 4711 (vllm), now anon-rss:0kB":                                                                   0,
		"vllm invoked oom-killer: gfp_mask=0xcc0":                                                                                    0,
		"Out of memory: Killed process x (a)":                                                                                        0,
		"Out of memory: Killed process 0 (a)":                                                                                        0,
		"oom-kill:task=x,uid=0":                                                                                                      0,
		"hello: Killed process 5 (a)":                                                                                                0,
	} {
		got, ok := parseVictim(message)
		if got != want && want != 0 || ok != (want != 0) {
			t.Errorf("%q: %d %v, want %d", message, got, ok, want)
		}
	}
}

func FuzzKernelLog(f *testing.F) {
	f.Add("3,1184,12345678,-;Out of memory: Killed process 7 (x)\n")
	f.Add("6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,task=x,pid=99,uid=0")
	f.Fuzz(func(t *testing.T, record string) {
		at, message, ok := parseRecord(record)
		if !ok {
			return
		}
		if at < 0 || strings.Contains(message, "\n") {
			t.Fatalf("%v %q", at, message)
		}
		if pid, ok := parseVictim(message); ok && pid <= 0 {
			t.Fatalf("pid %d", pid)
		}
	})
}
