package metrics

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rbee-hive/hive/messages"
)

type view struct{ workers []*messages.WorkerStatus }

func (v *view) Workers() []*messages.WorkerStatus { return v.workers }
func (v *view) Pools() []*messages.PoolStatus {
	return []*messages.PoolStatus{{Name: "cpu", Cordoned: true}}
}

func TestAWorkerTakesItsSeriesAlong(t *testing.T) {
	v := &view{workers: []*messages.WorkerStatus{{Name: "a", Pool: "cpu", State: messages.Busy, InFlight: 3}}}
	s := New(v)
	for _, e := range []messages.Event{
		{Type: messages.WorkerExited, Cause: messages.CauseOOM, Took: 0.002}, {Type: messages.WorkerReady, Took: 1.5},
		{Type: messages.WorkerRefused}, {Type: messages.WorkerPhase, Phase: "term", Took: 0.1}, {Type: messages.WorkerRestarting, Took: 2},
	} {
		e.Worker, e.Pool = "a", "cpu"
		s.Observe(e)
	}
	s.ObserveAPI("/v1/workers", 200, time.Millisecond)
	var b bytes.Buffer
	s.Write(&b)
	for _, want := range []string{
		`hive_worker_state{worker="a",pool="cpu",state="busy"} 1`, `hive_worker_state{worker="a",pool="cpu",state="idle"} 0`,
		`hive_worker_in_flight{worker="a",pool="cpu"} 3`, `hive_worker_exits_total{worker="a",pool="cpu",cause="oom"} 1`,
		`hive_worker_invalid_transitions_total{worker="a",pool="cpu"} 1`, `hive_worker_stop_seconds_count{worker="a",pool="cpu",phase="term"} 1`,
		`hive_worker_time_to_ready_seconds_sum{worker="a",pool="cpu"} 1.5`, `hive_pool_cordoned{pool="cpu"} 1`,
		`hive_api_request_seconds_count{route="/v1/workers",code="200"} 1`, `process_resident_memory_bytes`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %s", want)
		}
	}
	v.workers = nil
	s.Observe(messages.Event{Type: messages.WorkerRemoved, Worker: "a", Pool: "cpu"})
	b.Reset()
	s.Write(&b)
	if strings.Contains(b.String(), `worker="a"`) {
		t.Error("the removed worker left series behind")
	}
}
