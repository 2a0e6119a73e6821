package metrics

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/rbee-hive/hive/messages"
)

// View is the published view the gauges are read from.
type View interface {
	Workers() []*messages.WorkerStatus
	Pools() []*messages.PoolStatus
}

// Set is the metrics of one hive. It is safe for concurrent use.
type Set struct {
	view View
	hive *vm.Set // pools and the API

	mu      sync.Mutex // guards workers
	workers map[messages.WorkerID]*vm.Set
}

// New makes a set over a view.
func New(view View) *Set {
	return &Set{view: view, hive: vm.NewSet(), workers: map[messages.WorkerID]*vm.Set{}}
}

// of is a worker's own set, so that its series go with it.
func (s *Set) of(id messages.WorkerID) *vm.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.workers[id]
	if w == nil {
		w = vm.NewSet()
		s.workers[id] = w
	}
	return w
}

func worker(name string, e messages.Event, more ...string) string {
	out := fmt.Sprintf("%s{worker=%q,pool=%q", name, e.Worker, e.Pool)
	for i := 0; i+1 < len(more); i += 2 {
		out += fmt.Sprintf(",%s=%q", more[i], more[i+1])
	}
	return out + "}"
}

// Observe counts an event. It is cheap and never blocks: a hook of the journal.
func (s *Set) Observe(e messages.Event) {
	if e.Worker == "" {
		return
	}
	switch e.Type {
	case messages.WorkerRemoved:
		s.mu.Lock()
		delete(s.workers, e.Worker)
		s.mu.Unlock()
	case messages.WorkerExited:
		w := s.of(e.Worker)
		w.GetOrCreateCounter(worker(WorkerExits, e, "cause", string(e.Cause))).Inc()
		w.GetOrCreateHistogram(worker(WorkerDetect, e)).Update(float64(e.Took))
	case messages.WorkerReady:
		s.of(e.Worker).GetOrCreateHistogram(worker(WorkerReadyTime, e)).Update(float64(e.Took))
	case messages.WorkerRestarting:
		s.of(e.Worker).GetOrCreateHistogram(worker(WorkerBackoff, e)).Update(float64(e.Took))
	case messages.WorkerRefused:
		s.of(e.Worker).GetOrCreateCounter(worker(WorkerInvalid, e)).Inc()
	case messages.WorkerPhase:
		s.of(e.Worker).GetOrCreateHistogram(worker(WorkerStop, e, "phase", e.Phase)).Update(float64(e.Took))
	case messages.WorkerCrashloop:
		s.hive.GetOrCreateCounter(fmt.Sprintf("%s{pool=%q}", PoolCrashloops, e.Pool)).Inc()
	default:
	}
}

// ObserveAPI records one request by its route pattern.
func (s *Set) ObserveAPI(route string, code int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	s.hive.GetOrCreateHistogram(fmt.Sprintf("%s{route=%q,code=%q}", APIRequestSeconds, route, strconv.Itoa(code))).Update(took.Seconds())
}

// Write writes everything in the Prometheus text format.
func (s *Set) Write(w io.Writer) {
	now := time.Now()
	for _, st := range s.view.Workers() {
		label := fmt.Sprintf("{worker=%q,pool=%q", st.Name, st.Pool)
		for _, state := range messages.States() {
			v := uint64(0)
			if st.State == state {
				v = 1
			}
			vm.WriteGaugeUint64(w, fmt.Sprintf("%s%s,state=%q}", WorkerState, label, state), v)
		}
		vm.WriteGaugeUint64(w, WorkerInFlight+label+"}", uint64(max(st.InFlight, 0)))
		vm.WriteCounterUint64(w, WorkerRestarts+label+"}", uint64(st.Restarts.Total))
		if st.Progress != nil && (st.State == messages.Loading || st.State == messages.Pending) {
			vm.WriteGaugeFloat64(w, WorkerProgress+label+"}", st.Progress.Value)
		}
		st = st.Now(now)
		if !st.Heartbeat.At.IsZero() {
			vm.WriteGaugeFloat64(w, WorkerHeartbeat+label+"}", now.Sub(st.Heartbeat.At).Seconds())
		}
		if u := st.Resources; u.Processes > 0 {
			vm.WriteGaugeUint64(w, WorkerMemory+label+"}", u.MemoryBytes)
			vm.WriteCounterFloat64(w, WorkerCPU+label+"}", u.CPUSeconds)
			vm.WriteCounterUint64(w, WorkerIO+label+`,direction="read"}`, u.ReadBytes)
			vm.WriteCounterUint64(w, WorkerIO+label+`,direction="write"}`, u.WriteBytes)
		}
		if st.Live != nil {
			if r := st.Live.Read(); r.Beats > 0 {
				vm.WriteCounterUint64(w, WorkerBeats+label+"}", r.Beats)
			}
		}
		if st.Stats != nil {
			writeStats(w, label, st.Stats)
		}
	}
	for _, p := range s.view.Pools() {
		vm.WriteGaugeUint64(w, fmt.Sprintf("%s{pool=%q}", PoolCordoned, p.Name), one(p.Cordoned))
		vm.WriteGaugeUint64(w, fmt.Sprintf("%s{pool=%q}", PoolDegraded, p.Name), one(p.Degraded))
	}
	s.mu.Lock()
	sets := make([]*vm.Set, 0, len(s.workers))
	for _, set := range s.workers {
		sets = append(sets, set)
	}
	s.mu.Unlock()
	for _, set := range sets {
		set.WritePrometheus(w)
	}
	s.hive.WritePrometheus(w)
	vm.WriteProcessMetrics(w)
}

// writeStats writes what is known of a worker's work; what is not is left out.
func writeStats(w io.Writer, label string, s *messages.Stats) {
	for name, v := range map[string]*float64{WorkerTokenRate: s.TokensPerSecond, WorkerKVCache: s.KVCacheUsed, WorkerGPU: s.GPUUtilization} {
		if v != nil {
			vm.WriteGaugeFloat64(w, name+label+"}", *v)
		}
	}
	if s.QueueDepth != nil {
		vm.WriteGaugeUint64(w, WorkerQueue+label+"}", uint64(max(*s.QueueDepth, 0)))
	}
	if s.TokensTotal != nil {
		vm.WriteCounterFloat64(w, WorkerTokens+label+"}", *s.TokensTotal)
	}
	for q, ms := range map[string]*float64{"0.5": s.LatencyP50, "0.99": s.LatencyP99} {
		if ms != nil {
			vm.WriteGaugeFloat64(w, fmt.Sprintf("%s%s,quantile=%q}", WorkerRequest, label, q), *ms/1000)
		}
	}
	if s.Requests != nil && s.RequestSeconds != nil {
		vm.WriteCounterFloat64(w, WorkerRequest+"_sum"+label+"}", *s.RequestSeconds)
		vm.WriteCounterFloat64(w, WorkerRequest+"_count"+label+"}", *s.Requests)
	}
}

// NotifyRefused counts what a worker's notify socket got and hive did not take.
func (s *Set) NotifyRefused(id messages.WorkerID, reason string) {
	s.of(id).GetOrCreateCounter(fmt.Sprintf("%s{worker=%q,reason=%q}", WorkerNotify, id, reason)).Inc()
}

func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
