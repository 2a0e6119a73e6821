package cgroup_test

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/cgroup"
)

// One attempt of a worker, from its group to what the kernel counted.
func Example() {
	host := cgroup.Open(fmt.Sprintf("hive-%d", os.Getpid()))
	defer host.Close()
	host.Sweep()

	limits := cgroup.Limits{Memory: 1 << 30, PIDs: 64}
	for _, sentence := range host.Unenforced(limits) {
		fmt.Fprintln(os.Stderr, sentence)
	}
	group, err := host.New("chat-1.1", limits)
	if err != nil || group == nil {
		fmt.Println("true <nil>") // this host bounds nothing
		return
	}
	defer func() { _ = group.Remove() }() // where the worker does not start

	worker := exec.Command("/bin/true")
	if dir := group.Dir2(); dir != "" {
		fd, _ := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		defer unix.Close(fd)
		worker.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	}
	if err := group.Enter(worker.Start); err != nil {
		fmt.Println(err)
		return
	}
	_ = worker.Wait()
	if kills, err := group.OOMKills(); err == nil && kills > 0 {
		fmt.Println("out of memory")
	}
	fmt.Println(group.Empty(), group.Remove())
	// Output: true <nil>
}
