package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// decay performs, at their time, the habits that come with age.
func (w *process) decay() {
	if w.crashAfter > 0 {
		time.AfterFunc(w.crashAfter, func() { w.crash("after " + w.crashAfter.String()) })
	}
	if w.hang >= 0 {
		time.AfterFunc(w.hang, func() {
			fmt.Println("hanging")
			w.hanging.Store(true)
		})
	}
	if w.wedgeAfter >= 0 {
		time.AfterFunc(w.wedgeAfter, func() {
			fmt.Println("wedged")
			w.wedged.Store(true)
			w.beatSoon()
		})
	}
	if w.tokenRate > 0 {
		go w.generate()
	}
	if w.crashEvery > 0 {
		go func() {
			for range time.Tick(w.crashEvery) {
				if rand.Float64() < w.crashChance {
					w.crash("by chance")
				}
			}
		}()
	}
	if w.leakBytes > 0 {
		go w.leakMemory()
	}
	if w.logLines > 0 {
		go func() {
			for n := 1; ; n++ {
				if w.wedged.Load() {
					return
				}
				fmt.Printf("line %d of attempt %s\n", n, w.attempt)
				time.Sleep(time.Duration(float64(time.Second) / w.logLines))
			}
		}()
	}
}

// generate makes tokens twenty times a second while there is work.
func (w *process) generate() {
	const perSecond = 20
	var made float64
	for range time.Tick(time.Second / perSecond) {
		if w.wedged.Load() {
			return
		}
		if w.inFlight.Load() > 0 && !w.hanging.Load() {
			made += w.tokenRate / perSecond
			w.tokens.Store(int64(made))
		}
	}
}

// leakMemory takes touched memory twenty times a second.
func (w *process) leakMemory() {
	const perSecond = 20
	var kept [][]byte
	var total uint64
	for range time.Tick(time.Second / perSecond) {
		if total >= w.leakLimit {
			return
		}
		b := make([]byte, min(w.leakBytes/perSecond+1, w.leakLimit-total))
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
		kept = append(kept, b)
		total += uint64(len(kept[len(kept)-1]))
	}
}

// crash ends the process as the flags ask, unless they excuse it.
func (w *process) crash(why string) {
	if w.crashUnless != "" {
		if _, err := os.Stat(w.crashUnless); err == nil {
			return
		}
	}
	if n, err := strconv.ParseUint(w.attempt, 10, 64); err == nil && w.crashAttempts > 0 && n > w.crashAttempts {
		return
	}
	fmt.Fprintf(os.Stderr, "crashing %s\n", why)
	if w.signalSelf != "" {
		dieBy(unix.SignalNum(w.signalSelf))
	}
	os.Exit(w.exitCode)
}

// dieBy ends the process by sig. The Go runtime would turn SIGSEGV and others
// into its own exit code 2, so the kernel's default action is put back first.
func dieBy(sig syscall.Signal) {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) // no core files in the data directory
	var act [64]byte                                     // struct kernel_sigaction, all zero: SIG_DFL
	const setSize = 8                                    // sizeof(sigset_t) in the kernel. Source: rt_sigaction(2)
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act[0])), 0, setSize, 0, 0)
	_ = unix.Kill(os.Getpid(), sig)
	select {}
}
