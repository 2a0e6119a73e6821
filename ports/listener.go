package ports

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Listener finds who listens on a TCP port, by the socket's inode in
// /proc/net/tcp and the descriptors of all processes. Other users' descriptors
// can be read by root only; then ok is false.
// Source: proc_net_tcp(5); state 0A is TCP_LISTEN.
func Listener(port int) (pid int, command string, ok bool) {
	inodes := map[string]bool{}
	for _, f := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		collect(f, port, inodes)
	}
	if len(inodes) == 0 {
		return 0, "", false
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(link, "socket:[") {
			continue
		}
		if inodes[strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")] {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return pid, strings.TrimSpace(string(comm)), true
		}
	}
	return 0, "", false
}

func collect(file string, port int, into map[string]bool) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	want := fmt.Sprintf(":%04X", port)
	for s := bufio.NewScanner(f); s.Scan(); {
		c := strings.Fields(s.Text())
		if len(c) > 9 && c[3] == "0A" && strings.HasSuffix(c[1], want) {
			into[c[9]] = true
		}
	}
}

// Holder names who listens on port: "pid 123 (nginx)", or "an unknown process".
func Holder(port int) string {
	pid, command, ok := Listener(port)
	if !ok {
		return "an unknown process"
	}
	return fmt.Sprintf("pid %d (%s)", pid, command)
}
