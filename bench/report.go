package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// row is one line of the table. Plain is NaN-free: hasPlain says whether there
// is a plain loop to compare with.
type row struct {
	what     string
	unit     string
	hive     float64
	plain    float64
	hasPlain bool
	target   target
}

// target is the bound a number is held to. The zero value is no bound.
type target struct {
	limit   float64
	atLeast bool // the number shall be at least limit, not at most
	ofPlain bool // limit is a multiple of the plain loop's number
	set     bool
}

func atMost(limit float64) target     { return target{limit: limit, set: true} }
func atLeast(limit float64) target    { return target{limit: limit, atLeast: true, set: true} }
func timesPlain(limit float64) target { return target{limit: limit, ofPlain: true, set: true} }

func (t target) text(unit string) string {
	switch {
	case !t.set:
		return "none"
	case t.ofPlain:
		return fmt.Sprintf("≤ %s × plain", number(t.limit))
	case t.atLeast:
		return fmt.Sprintf("≥ %s %s", number(t.limit), unit)
	}
	return fmt.Sprintf("≤ %s %s", number(t.limit), unit)
}

func (r row) met() string {
	limit := r.target.limit
	if r.target.ofPlain {
		limit *= r.plain
	}
	switch {
	case !r.target.set:
		return ""
	case r.target.atLeast && r.hive >= limit, !r.target.atLeast && r.hive <= limit:
		return "yes"
	}
	return "**no**"
}

// report writes the whole page as markdown.
func report(w io.Writer, rows []row) {
	fmt.Fprintf(w, "# What hive costs\n\n")
	fmt.Fprintf(w, "Made by `make bench BENCH=-write`; scenarios and their sizes are in [bench/](../bench). One run on one machine: read the ratio to the\n")
	fmt.Fprintf(w, "plain loop (fork, exec and wait in Go, nothing else, same run) before the number.\n\n")
	fmt.Fprintf(w, "- machine: %s, %d cores, %s\n", cpuModel(), runtime.NumCPU(), memory())
	fmt.Fprintf(w, "- kernel: %s\n- Go: %s %s/%s\n- date: %s\n\n", kernel(), runtime.Version(), runtime.GOOS, runtime.GOARCH, time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(w, "| what | unit | hive | plain loop | ratio | target | met |\n|---|---|---:|---:|---:|---|---|\n")
	for _, r := range rows {
		plain, ratio := "", ""
		if r.hasPlain {
			plain = number(r.plain)
			if r.plain > 0 {
				ratio = number(r.hive / r.plain)
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", r.what, r.unit, number(r.hive), plain, ratio, r.target.text(r.unit), r.met())
	}
}

// number prints three digits that mean something.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0:
		return "-" + number(-v)
	case v == float64(int64(v)), v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// quantile returns the q-quantile of d in milliseconds; d must not be empty.
func quantile(d []time.Duration, q float64) float64 {
	s := slices.Sorted(slices.Values(d))
	return ms(s[min(int(q*float64(len(s))), len(s)-1)])
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "processor not named by the kernel"
}

func memory() string {
	var si syscall.Sysinfo_t
	if err := syscall.Sysinfo(&si); err != nil {
		return "memory unknown"
	}
	return fmt.Sprintf("%.0f GiB of memory", float64(si.Totalram)*float64(si.Unit)/(1<<30))
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return "Linux " + strings.TrimSpace(string(b))
}
