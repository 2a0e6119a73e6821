package hive

import (
	"fmt"
	"testing"
	"time"

	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
)

// BenchmarkLaunch is what the making of an attempt's process costs, by part.
func BenchmarkLaunch(b *testing.B) {
	cfg, err := config.Parse("bench.yaml", []byte(fmt.Sprintf("data_dir: %s\nlisten: 127.0.0.1:0\nworkers:\n  - {name: w, command: [sleep, '1000']}\n", b.TempDir())))
	if err != nil {
		b.Fatal(err)
	}
	spec := cfg.Workers[0]
	cfg.Workers = nil
	h, err := New(cfg, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer h.close()
	a := messages.Attempt(0)
	var expand, check, begin time.Duration
	for b.Loop() {
		a++
		t0 := time.Now()
		_, _, _ = config.Expand(spec, config.Vars{Port: 1, Host: workerHost, Attempt: a})
		t1 := time.Now()
		_ = config.WorkerHostProblems(spec)
		t2 := time.Now()
		h.environment(worker.Launch{Spec: spec, Attempt: a, Port: 1, Token: "x"}, nil)
		t3 := time.Now()
		p, err := h.Launch(worker.Launch{Spec: spec, Attempt: a, Port: 1, Token: "x"})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = p.KillTree()
		p.Wait()
		p.Close()
		h.LogEnd("w", a)
		b.StartTimer()
		expand, check, begin = expand+t1.Sub(t0), check+t2.Sub(t1), begin+t3.Sub(t2)
	}
	b.ReportMetric(float64(expand.Microseconds())/float64(b.N), "expand-us/op")
	b.ReportMetric(float64(check.Microseconds())/float64(b.N), "check-us/op")
	b.ReportMetric(float64(begin.Microseconds())/float64(b.N), "env-us/op")
}
