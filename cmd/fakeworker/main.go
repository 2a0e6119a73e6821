package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// process is the running worker. Its fields are set before the goroutines
// start; what changes later is atomic.
type process struct {
	habits
	started  time.Time
	attempt  string
	ready    atomic.Bool
	hanging  atomic.Bool
	wedged   atomic.Bool
	progress atomic.Int64 // of the load, in thousandths
	inFlight atomic.Int64
	tokens   atomic.Int64
	hive     contract
	beatNow  chan struct{} // a heartbeat is due before its time
}

func main() {
	h, err := parse(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "fakeworker: %v\n", err)
		os.Exit(2)
	}
	if h.role != "" {
		beOffspring(h)
		return
	}
	w := &process{habits: h, started: time.Now(), attempt: or(os.Getenv("HIVE_ATTEMPT"), "0"), hive: h.contract(), beatNow: make(chan struct{}, 1)}
	w.run()
}

// run lives the process's life; it ends by os.Exit or by a signal.
func (w *process) run() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	fmt.Printf("fakeworker pid %d attempt %s\n", os.Getpid(), w.attempt)
	for _, line := range w.say {
		fmt.Fprintln(os.Stderr, line)
	}
	listener := w.listen()
	w.spawnOffspring(listener)
	if w.crashAfter == 0 {
		w.crash("at once")
	}
	go w.decay()
	go w.becomeReady()
	for sig := range end {
		if w.ignoreTerm {
			fmt.Printf("ignoring %v\n", sig)
			continue
		}
		fmt.Printf("ending after %v\n", sig)
		time.Sleep(w.slowExit)
		os.Exit(w.termCode)
	}
}

// becomeReady loads, with progress, and is ready afterwards.
func (w *process) becomeReady() {
	const steps = 50
	w.tellLoading()
	began := time.Now()
	loads := w.load > 0 || w.loadStallAt >= 0
	for i := range steps {
		if !loads {
			break
		}
		done := float64(i) / steps
		w.progress.Store(int64(done * 1000))
		fmt.Printf("progress %.2f\n", done)
		w.tellProgress(done)
		if w.loadStallAt >= 0 && done >= w.loadStallAt {
			fmt.Println("load stalled")
			select {}
		}
		time.Sleep(time.Until(began.Add(w.load * time.Duration(i+1) / steps)))
	}
	w.progress.Store(1000)
	fmt.Println("progress 1.00")
	if loads {
		w.tellProgress(1)
	}
	w.inFlight.Store(w.habits.inFlight)
	w.ready.Store(true)
	fmt.Println(w.sayReady)
	if w.crashOnReady {
		w.crash("on ready")
	}
	w.tellReady()
}
