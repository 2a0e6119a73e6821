package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a process holds at one moment.
type usage struct {
	cpu        time.Duration // user and system time so far
	rss        int64         // resident memory in bytes
	threads    int
	fds        int
	zombies    int // children that ended and were not waited for
	goroutines int // -1 where hive's metrics do not say
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that hive runs on. Source: proc_pid_stat(5), time(7).
const clockTick = 10 * time.Millisecond

func (d *daemon) usage() (usage, error) {
	pid := d.cmd.Process.Pid
	u := usage{goroutines: -1}
	f, err := statFields(strconv.Itoa(pid))
	if err != nil {
		return u, err
	}
	// Field numbers of proc_pid_stat(5), less the two before the state.
	utime, stime, threads, rss := f[11], f[12], f[17], f[21]
	u.cpu = time.Duration(utime+stime) * clockTick
	u.threads = int(threads)
	u.rss = rss * int64(os.Getpagesize())
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return u, err
	}
	u.fds = len(fds)
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return u, err
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if s := strings.Fields(rest); len(s) > 1 && s[0] == "Z" && s[1] == strconv.Itoa(pid) {
			u.zombies++
		}
	}
	u.goroutines = d.goroutines()
	return u, nil
}

// statFields returns the numbers of /proc/PID/stat from the state on; the state
// itself, a letter, reads as 0.
func statFields(pid string) ([]int64, error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return nil, err
	}
	// The name in parentheses may hold blanks and parentheses: cut after the last.
	words := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(words) < 22 {
		return nil, fmt.Errorf("/proc/%s/stat has only %d fields", pid, len(words))
	}
	out := make([]int64, len(words))
	for i, w := range words {
		out[i], _ = strconv.ParseInt(w, 10, 64)
	}
	return out, nil
}

// goroutines reads go_goroutines from hive's own metrics, -1 when it is not there.
func (d *daemon) goroutines() int {
	resp, err := d.client.Get("http://hive/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return -1
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				return -1
			}
			return n
		}
	}
	return -1
}
