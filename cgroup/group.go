package cgroup

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Group is the cgroup of one attempt. It is safe for concurrent use.
type Group struct {
	leaf
	attempt string
}

// leaf is one group in a hierarchy of one version.
type leaf interface {
	dir2() string
	enter(f func() error) error
	oomKills() (uint64, error)
	peak() (uint64, error)
	usage() (Usage, error)
	pids() ([]int, error)
	remove() error
}

// Usage is what a group uses.
type Usage struct {
	Memory    uint64        // bytes now, the page cache of its files included
	CPU       time.Duration // CPU time so far
	Throttled time.Duration // time so far that its CPU limit kept it from running, summed over CPUs
}

// Dir2 is the cgroup2 folder to clone the process into, "" when the limits are v1's.
func (g *Group) Dir2() string { return g.dir2() }

// Enter runs f, which starts the process. On v1 it does so on a thread that has
// been moved into the group and is moved back afterwards, so that the process is
// born there: no moment exists in which it runs outside. f therefore runs in
// another goroutine, and must start the process itself. With v2 it just runs f,
// and the clone goes into Dir2.
//
// An error that comes after f has started the process (see errors.Is with f's
// own) means that hive's thread could not be moved back, or that the CPU limit,
// which on v1 is laid on only once hive's thread has left, was refused.
func (g *Group) Enter(f func() error) error {
	if err := g.enter(f); err != nil {
		return fmt.Errorf("start in the cgroup of %s: %w", g.attempt, err)
	}
	return nil
}

// OOMKills counts the processes of the group that the kernel killed for want of
// memory, its own or the host's. The kernel raises the count before it sends the
// signal, so that after the exit zero and more than zero are certain; the number
// may be one too low where v2 has killed several at once.
func (g *Group) OOMKills() (uint64, error) { return g.oomKills() }

// Peak is the most memory the group has used, in bytes.
func (g *Group) Peak() (uint64, error) { return g.peak() }

// Usage is what the group uses.
func (g *Group) Usage() (Usage, error) { return g.usage() }

// Empty tells whether nothing runs in the group, or it has been removed.
func (g *Group) Empty() bool {
	pids, err := g.pids()
	return errors.Is(err, os.ErrNotExist) || err == nil && len(pids) == 0
}

// removeWithin bounds how long Remove waits for what is already dying.
const removeWithin = 2 * time.Second

// Remove removes the group of an ended attempt; its counters are gone then. It
// waits a little for the end of processes that are still in the group, and is
// ErrBusy when they live on. To remove it twice is no error.
func (g *Group) Remove() error {
	deadline := time.Now().Add(removeWithin)
	for {
		err := g.remove()
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		pids, listErr := g.pids()
		switch {
		case errors.Is(listErr, os.ErrNotExist):
			return nil
		case len(pids) == 0 && time.Now().Before(deadline):
			continue // it emptied between the two looks
		case len(pids) == 0:
			return fmt.Errorf("remove the cgroup of %s: %w", g.attempt, err)
		}
		for _, pid := range pids {
			if pid == os.Getpid() || !ended(pid, deadline) {
				return fmt.Errorf("remove the cgroup of %s: %w: %v", g.attempt, ErrBusy, pids)
			}
		}
	}
}

// ended waits for the end of a process; false when it outlives the deadline.
func ended(pid int, deadline time.Time) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return true // gone already, which the next look at the group confirms
	}
	defer unix.Close(fd)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n > 0 {
			return true
		}
	}
}
