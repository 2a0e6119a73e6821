package main

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/rbee-hive/hive/messages"
)

var (
	// sleeper obeys every signal and uses nothing: what is measured is hive.
	sleeper = []string{"sleep", "1000"}
	// stubborn ignores SIGTERM, and so do the children it starts.
	stubborn = []string{"sh", "-c", `trap "" TERM; while :; do sleep 100; done`}
)

// section is the workers section for n replicas of command.
func section(command []string, n int) string {
	words := ""
	for i, w := range command {
		if i > 0 {
			words += ", "
		}
		words += fmt.Sprintf("%q", w)
	}
	return fmt.Sprintf("workers:\n  - {name: w, replicas: %d, command: [%s]}\n", n, words)
}

// killAndReplace kills one worker again and again with no backoff.
func killAndReplace(s settings) ([]row, error) {
	if err := warm(sleeper); err != nil {
		return nil, err
	}
	plain, err := plainKillAndReplace(sleeper, s.kills)
	if err != nil {
		return nil, err
	}
	d, err := launch(s, section(sleeper, 1))
	if err != nil {
		return nil, err
	}
	list, err := d.allIdle(1)
	if err != nil {
		return nil, d.fail(err)
	}
	stream, stop, err := d.events()
	if err != nil {
		return nil, d.fail(err)
	}
	// The first cycles fill pools and caches, which is no leak.
	if _, err = d.killCycles(list[0].Name, stream, min(50, s.kills)); err != nil {
		return nil, d.fail(err)
	}
	before, err := d.usage()
	if err != nil {
		return nil, d.fail(err)
	}
	c, err := d.killCycles(list[0].Name, stream, s.kills)
	if err != nil {
		return nil, d.fail(err)
	}
	after, err := d.usage()
	if err != nil {
		return nil, d.fail(err)
	}
	stop()
	if _, err := d.end(); err != nil {
		return nil, err
	}
	cycles := fmt.Sprintf("after %d crash cycles: ", s.kills)
	rows := []row{
		{what: "kill → its end is an event, p99", unit: "ms", hive: quantile(c.exited, .99), target: atMost(10)},
		{what: "kill → replacement started, p50", unit: "ms", hive: quantile(c.made, .5), plain: quantile(plain, .5), hasPlain: true, target: timesPlain(1.5)},
		{what: "kill → replacement started, p99", unit: "ms", hive: quantile(c.made, .99), plain: quantile(plain, .99), hasPlain: true, target: atMost(25)},
		{what: "kill → replacement known to a reader of /v1/events, p99", unit: "ms", hive: quantile(c.told, .99), target: atMost(20)},
		{what: cycles + "leaked descriptors", unit: "fd", hive: float64(after.fds - before.fds), target: atMost(0)},
		{what: cycles + "zombies", unit: "processes", hive: float64(after.zombies), target: atMost(0)},
		// The Go runtime keeps threads it once needed; more than a few is a leak.
		{what: cycles + "threads more", unit: "threads", hive: float64(after.threads - before.threads), target: atMost(4)},
		{what: cycles + "resident memory more", unit: "KiB", hive: float64(after.rss-before.rss) / 1024},
	}
	if before.goroutines >= 0 && after.goroutines >= 0 {
		rows = append(rows, row{what: cycles + "leaked goroutines", unit: "goroutines", hive: float64(after.goroutines - before.goroutines), target: atMost(0)})
	}
	return rows, nil
}

// cycles are the times from each kill: to the event of the end and to the new
// process, both by the events' own time, and to the moment at which this reader
// had the event of the new process.
type cycles struct{ exited, made, told []time.Duration }

// killCycles kills the worker n times; it returns with the worker idle.
func (d *daemon) killCycles(name messages.WorkerID, stream <-chan seen, n int) (c cycles, err error) {
	for range n {
		var w messages.WorkerStatus
		if err := d.get("/v1/workers/"+string(name), &w); err != nil {
			return c, err
		}
		if w.PID <= 1 {
			return c, fmt.Errorf("worker %s is %s and has no pid to kill", name, w.State)
		}
		t0 := time.Now()
		if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
			return c, fmt.Errorf("kill worker %s, pid %d: %w", name, w.PID, err)
		}
		for idle := false; !idle; {
			select {
			case e, ok := <-stream:
				switch {
				case !ok:
					return c, fmt.Errorf("the event stream ended")
				case e.Attempt == w.Attempt && e.Type == messages.WorkerExited:
					c.exited = append(c.exited, e.At.Sub(t0))
				case e.Attempt <= w.Attempt || e.Type != messages.WorkerState || e.To == nil:
				case *e.To == messages.Loading:
					c.made, c.told = append(c.made, e.At.Sub(t0)), append(c.told, e.read.Sub(t0))
				case *e.To == messages.Idle:
					idle = true
				}
			case <-time.After(patience):
				return c, fmt.Errorf("worker %s was not replaced within %s", name, patience)
			}
		}
	}
	return c, nil
}

// largeHive starts many workers, watches them do nothing, and reads their list.
func largeHive(s settings) ([]row, error) {
	if err := warm(sleeper); err != nil {
		return nil, err
	}
	cmds, plain, err := plainMany(sleeper, s.workers)
	if err != nil {
		return nil, err
	}
	plainEnd(cmds, syscall.SIGKILL, 0)

	empty, err := launch(s, "workers: []\n")
	if err != nil {
		return nil, err
	}
	boot := time.Since(empty.started)
	base, err := empty.usage()
	if err != nil {
		return nil, empty.fail(err)
	}
	if _, err := empty.end(); err != nil {
		return nil, err
	}

	d, err := launch(s, section(sleeper, s.workers))
	if err != nil {
		return nil, err
	}
	list, err := d.allIdle(s.workers)
	if err != nil {
		return nil, d.fail(err)
	}
	first, last := list[0].StartedAt, list[0].ReadyAt
	for _, w := range list {
		if w.StartedAt.Before(first) {
			first = w.StartedAt
		}
		if w.ReadyAt.After(last) {
			last = w.ReadyAt
		}
	}
	fmt.Fprintf(os.Stderr, "bench: watching %d idle workers for %s\n", s.workers, s.idle)
	before, err := d.usage()
	if err != nil {
		return nil, d.fail(err)
	}
	<-time.After(s.idle)
	after, err := d.usage()
	if err != nil {
		return nil, d.fail(err)
	}
	name := fmt.Sprintf("%d workers", s.workers)
	rows := []row{
		{what: "hive with no worker: start → API answers", unit: "ms", hive: ms(boot)},
		{what: name + " started, first process → last idle", unit: "ms", hive: ms(last.Sub(first)), plain: ms(plain), hasPlain: true, target: timesPlain(1.5)},
		{what: name + " started, from `hive up` on", unit: "ms", hive: ms(last.Sub(d.started)), plain: ms(plain), hasPlain: true},
		{what: name + " idle: CPU", unit: "% of a core", hive: 100 * (after.cpu - before.cpu).Seconds() / s.idle.Seconds(), target: atMost(1)},
		{what: name + " idle: memory of one more worker", unit: "KiB", hive: float64(after.rss-base.rss) / 1024 / float64(s.workers), target: atMost(60)},
		{what: "hive with no worker: memory", unit: "MiB", hive: float64(base.rss) / (1 << 20)},
	}
	for _, encoding := range []string{"gzip", "identity"} {
		fmt.Fprintf(os.Stderr, "bench: GET /v1/workers, %s, for %s\n", encoding, s.load)
		got, err := d.requests("/v1/workers", encoding, s.load)
		if err != nil {
			return nil, d.fail(err)
		}
		what := fmt.Sprintf("GET /v1/workers, %s, %s", name, encoding)
		rows = append(rows,
			row{what: fmt.Sprintf("%s (%d KiB)", what, got.body/1024), unit: "requests/s", hive: got.rate, target: atLeast(5000)},
			row{what: what + ", p99", unit: "ms", hive: quantile(got.took, .99)})
	}
	took, err := d.end()
	if err != nil {
		return nil, err
	}
	return append(rows, row{what: name + " ended with hive", unit: "ms", hive: ms(took)}), nil
}

// stopObedient ends a hundred workers that obey, by ending hive.
func stopObedient(s settings) ([]row, error) {
	return stopAll(s, sleeper, 100, atMost(500))
}

// stopStubborn ends twenty workers that ignore SIGTERM and have 2 s of grace.
func stopStubborn(s settings) ([]row, error) {
	return stopAll(s, stubborn, 20, atMost(2300))
}

func stopAll(s settings, command []string, n int, t target) ([]row, error) {
	if err := warm(command); err != nil {
		return nil, err
	}
	cmds, _, err := plainMany(command, n)
	if err != nil {
		return nil, err
	}
	<-time.After(trapTime)
	plain := plainEnd(cmds, syscall.SIGTERM, 2*time.Second)

	d, err := launch(s, section(command, n))
	if err != nil {
		return nil, err
	}
	if _, err := d.allIdle(n); err != nil {
		return nil, d.fail(err)
	}
	<-time.After(trapTime)
	took, err := d.end()
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%d obedient workers and hive ended", n)
	if len(command) > 2 {
		what = fmt.Sprintf("%d workers that ignore SIGTERM and hive ended, grace 2 s", n)
	}
	return []row{{what: what, unit: "ms", hive: ms(took), plain: ms(plain), hasPlain: true, target: t}}, nil
}

// trapTime gives twenty shells on a busy machine the time to set their traps; a
// shell that is told to end before that obeys, and would measure nothing.
const trapTime = 500 * time.Millisecond
