package process

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// BenchmarkCycle is one crash: start, kill, see it, verify that nothing is left.
func BenchmarkCycle(b *testing.B) {
	r, err := NewRunner()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	null, _ := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	defer null.Close()
	var start, see, verify time.Duration
	for b.Loop() {
		t := time.Now()
		p, err := r.Start(Spec{Command: []string{"sleep", "1000"}, Env: os.Environ(), Output: null, MarkKey: "M", MarkValue: "1"})
		if err != nil {
			b.Fatal(err)
		}
		start += time.Since(t)
		t = time.Now()
		_ = p.Signal(syscall.SIGKILL)
		p.Wait()
		see += time.Since(t)
		t = time.Now()
		for {
			if m, _ := p.Survivors(); len(m) == 0 {
				break
			}
		}
		verify += time.Since(t)
		p.Close()
	}
	n := float64(b.N)
	b.ReportMetric(start.Seconds()*1e6/n, "µs-start")
	b.ReportMetric(see.Seconds()*1e6/n, "µs-see")
	b.ReportMetric(verify.Seconds()*1e6/n, "µs-verify")
}
