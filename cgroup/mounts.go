package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// mount is one cgroup mount of /proc/self/mountinfo.
type mount struct {
	point       string   // where it is mounted
	root        string   // which folder of its hierarchy is mounted there
	controllers []string // of a v1 hierarchy; nil for cgroup2
}

// parseMounts reads the text of mountinfo and passes over whatever is no cgroup
// mount. Source: proc_pid_mountinfo(5).
func parseMounts(mountinfo string) []mount {
	var found []mount
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		m := mount{point: unescape(left[4]), root: unescape(left[3])}
		switch right[0] {
		case "cgroup":
			m.controllers = strings.Split(right[2], ",")
		case "cgroup2":
		default:
			continue
		}
		found = append(found, m)
	}
	return found
}

// unescape undoes mountinfo's \040 for a space and its like.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseOwn reads the text of a cgroup file of /proc: a path for each v1
// controller, and under "" that of cgroup2. Source: cgroups(7).
func parseOwn(text string) map[string]string {
	own := map[string]string{}
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		for _, controller := range strings.Split(parts[1], ",") {
			own[controller] = parts[2]
		}
	}
	return own
}

// place is where this process lies in one hierarchy.
type place struct {
	point string // the mount
	path  string // below the mount, "/" for the mount itself
}

func (p place) dir() string { return filepath.Join(p.point, p.path) }

// places finds this process in every hierarchy that it can see: by v1
// controller, and under "" in cgroup2. A container may see only a part of a
// hierarchy, and may lie outside that part.
func places(mounts []mount, own map[string]string) map[string]place {
	found := map[string]place{}
	for _, m := range mounts {
		controllers := m.controllers
		if controllers == nil {
			controllers = []string{""}
		}
		for _, c := range controllers {
			path, ok := own[c]
			if _, twice := found[c]; twice || !ok {
				continue
			}
			if rel, ok := below(m.root, path); ok {
				found[c] = place{m.point, rel}
			}
		}
	}
	return found
}

// below gives path as seen from root.
func below(root, path string) (string, bool) {
	if strings.HasPrefix(root, "/..") || strings.HasPrefix(path, "/..") {
		return "", false // outside the cgroup namespace
	}
	rel, err := filepath.Rel(root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return filepath.Join("/", rel), true
}

// maxCPU bounds the numbers of a CPU list; no kernel is built for more.
const maxCPU = 1 << 16

// parseCPUs reads a list such as "0-3,8" as the kernel does, in the order written.
// Source: cpuset(7), "List format".
func parseCPUs(list string) ([]int, error) {
	var cpus []int
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 32)
		last, err2 := strconv.ParseUint(to, 10, 32)
		if err1 != nil || err2 != nil || last >= maxCPU {
			return nil, fmt.Errorf("%q is not a list of CPUs, such as 0-3,8", list)
		}
		if first > last {
			return nil, fmt.Errorf("range %s of CPUs runs backwards", part)
		}
		if len(cpus)+int(last-first) >= maxCPU {
			return nil, fmt.Errorf("%q names more than %d CPUs", list, maxCPU)
		}
		for c := first; c <= last; c++ {
			cpus = append(cpus, int(c))
		}
	}
	return cpus, nil
}

// notAmong gives the wanted CPUs that are not offered.
func notAmong(wanted, offered []int) (missing []int) {
	have := map[int]bool{}
	for _, c := range offered {
		have[c] = true
	}
	for _, c := range wanted {
		if !have[c] {
			missing = append(missing, c)
		}
	}
	return missing
}
