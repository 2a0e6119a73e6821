// Command bench measures what hive costs: how fast it replaces, starts and ends
// processes, what it takes while nothing happens, what it leaks and how fast it
// answers. Each number that a plain fork-and-wait loop can have too stands
// beside that loop's, taken in the same run on the same machine, so that the
// ratio means something where the number alone would not.
//
// Run it by "make bench"; with BENCH=-write the table goes to docs/bench.md.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// settings are the sizes of the scenarios.
type settings struct {
	hive    string        // path of the hive binary
	fake    string        // path of fakeworker
	workers int           // workers in the large hive
	kills   int           // crash cycles
	idle    time.Duration // how long the idle hive is watched
	load    time.Duration // how long each request load runs
}

// scenario is one hive that is started, measured and ended.
type scenario struct {
	name string
	run  func(settings) ([]row, error)
}

func main() {
	var s settings
	flag.StringVar(&s.hive, "hive", "bin/hive", "the hive binary to measure")
	flag.StringVar(&s.fake, "fake", "bin/fakeworker", "the fakeworker binary")
	flag.IntVar(&s.workers, "workers", 500, "workers in the large hive")
	flag.IntVar(&s.kills, "kills", 1000, "crash cycles")
	flag.DurationVar(&s.idle, "idle", 20*time.Second, "how long the idle hive is watched")
	flag.DurationVar(&s.load, "load", 5*time.Second, "how long each request load runs")
	only := flag.String("only", "", "run the scenarios whose name contains this")
	write := flag.Bool("write", false, "write the table to docs/bench.md")
	flag.Parse()
	if err := bench(s, *only, *write); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(s settings, only string, write bool) error {
	if _, err := os.Stat(s.hive); err != nil {
		return fmt.Errorf("find the hive binary: %w; run \"make build\" first", err)
	}
	scenarios := []scenario{
		{"kill and replace", killAndReplace},
		{"large hive", largeHive},
		{"stop obedient", stopObedient},
		{"stop stubborn", stopStubborn},
		{"notify heartbeats", notifyHeartbeats},
		{"http heartbeats", httpHeartbeats},
		{"missed heartbeat", missedHeartbeat},
		{"many timers", manyTimers},
	}
	var rows []row
	for i, sc := range scenarios {
		if !strings.Contains(sc.name, only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %d/%d %s\n", i+1, len(scenarios), sc.name)
		start := time.Now()
		got, err := sc.run(s)
		if err != nil {
			return fmt.Errorf("scenario %q: %w", sc.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench: %d/%d %s: done in %.1f s\n", i+1, len(scenarios), sc.name, time.Since(start).Seconds())
		rows = append(rows, got...)
	}
	var out bytes.Buffer
	report(&out, rows)
	if _, err := os.Stdout.Write(out.Bytes()); err != nil {
		return err
	}
	if write {
		return os.WriteFile("docs/bench.md", out.Bytes(), 0o644)
	}
	return nil
}
