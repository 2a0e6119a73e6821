package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// visitor moves threads into a group and back.
type visitor interface {
	goIn(tid int) error
	wayBack(tid int) (func() error, error)
}

// visited is how a visit ended: with an error, or with a panic of the caller's f.
type visited struct {
	err      error
	panicked any
}

// onVisit runs f on a thread that is in the group meanwhile. Only that thread is:
// Go starts no thread from a locked one, and what other threads fork is born where
// they are. A panic of f goes on in the caller, after the way back.
func onVisit(v visitor, f func() error) error {
	done := make(chan visited, 1)
	go visitGroup(v, f, done)
	r := <-done
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

func visitGroup(v visitor, f func() error, done chan<- visited) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	if tid == unix.Getpid() {
		// Not the first thread: the kernel charges the memory of a whole process where
		// that one is, and looks there for whom to kill. Held here, it is not taken again.
		inner := make(chan visited, 1)
		go visitGroup(v, f, inner)
		done <- <-inner
		runtime.UnlockOSThread()
		return
	}

	back, err := v.wayBack(tid)
	if err != nil {
		runtime.UnlockOSThread()
		done <- visited{err: fmt.Errorf("find the way back: %w", err)}
		return
	}
	r := visited{err: errors.New("the start was given up")} // runtime.Goexit in f leaves it so
	defer func() {
		r.panicked = recover()
		if err := back(); err != nil {
			// The thread stays locked, and so ends with this goroutine.
			r.err = errors.Join(r.err, fmt.Errorf("thread %d does not leave the cgroup and is given up: %w", tid, err))
		} else {
			runtime.UnlockOSThread()
		}
		done <- r
	}()
	if err := v.goIn(tid); err != nil {
		r.err = fmt.Errorf("move a thread into the cgroup: %w", err)
		return
	}
	r.err = f()
}

func sortedKeys(m map[int]bool) []int { return slices.Sorted(maps.Keys(m)) }
