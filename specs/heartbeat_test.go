package specs

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// failedBy waits for the first bad end of an attempt and expects its cause.
func failedBy(h *runner.Hive, name string, a messages.Attempt, cause messages.Cause) messages.Event {
	GinkgoHelper()
	e := h.WaitEvent("a bad end of "+name, func(e messages.Event) bool { return runner.Into(name, messages.Failed)(e) && e.Attempt == a })
	Expect(e.Cause).To(Equal(cause), e.Reason)
	return e
}

// asks sends GET a thousand times a second until the spec ends, and counts.
func asks(h *runner.Hive, path string) *atomic.Int64 {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.Socket)
	}}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	DeferCleanup(func() {
		cancel()
		<-ended
		client.CloseIdleConnections()
	})
	var answered atomic.Int64
	go func() {
		defer close(ended)
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hive"+path, nil)
			if err != nil {
				return
			}
			if resp, err := client.Do(req); err == nil {
				if resp.StatusCode == http.StatusOK {
					answered.Add(1)
				}
				_ = resp.Body.Close()
			}
		}
	}()
	return &answered
}

var _ = Describe("the heartbeats of a worker", func() {
	It("are demanded of engine hive: one that goes mute is failed by heartbeat_lost and restarted", func() {
		h := up(worker("a", beats+"--mute-after 1s", "engine: hive", quickBeats))
		h.WaitState("a", messages.Idle)
		e := failedBy(h, "a", 1, messages.CauseHeartbeatLost)
		Expect(e.Reason).To(And(ContainSubstring("no heartbeat for 600ms"), ContainSubstring("3 of one each 200ms")))
		ready := h.WaitEvent("a was ready", runner.Of(messages.WorkerReady, "a"))
		Expect(e.At.Sub(ready.At)).To(BeNumerically(">=", 600*time.Millisecond))
		h.WaitFor("a", "restarted", func(w messages.WorkerStatus) bool { return w.Attempt > 1 && w.PID != 0 })
		Expect(h.Worker("a").LastExit.Cause).To(Equal(messages.CauseHeartbeatLost))
	})

	It("are demanded of engine hive from ready on, even when none ever came", func() {
		h := up(mute("a", "engine: hive", quickBeats, waitsLong))
		ready(h, "a")
		failedBy(h, "a", 1, messages.CauseHeartbeatLost)
		Expect(h.WaitState("a", messages.Backoff).LastExit.Detail).To(ContainSubstring("no heartbeat"))
	})

	It("are not demanded while it loads", func() {
		h := up(mute("a", "engine: hive", quickBeats))
		w := h.WaitState("a", messages.Loading)
		takes(h, w, "heartbeat", "")
		Consistently(func() messages.State { return h.Worker("a").State }).WithTimeout(2 * time.Second).Should(Equal(messages.Loading))
	})

	It("alone count: a thousand status queries a second do not hide that they are missing", func() {
		h := up(mute("a", "engine: hive", quickBeats, waitsLong))
		answered := asks(h, "/v1/workers/a")
		Eventually(answered.Load).Should(BeNumerically(">", 10))
		ready(h, "a")
		at := answered.Load()
		failedBy(h, "a", 1, messages.CauseHeartbeatLost)
		Expect(answered.Load()-at).To(BeNumerically(">", 50), "it was asked for all the time")
	})

	It("are not demanded of a worker that never sent one", func() {
		h := up(worker("a", "", quickBeats))
		w := h.WaitState("a", messages.Idle)
		Consistently(func() int { return h.Worker("a").PID }).WithTimeout(2 * time.Second).Should(Equal(w.PID))
		Expect(h.Worker("a").Heartbeat.Kind).To(Equal(messages.BeatNone))
		Expect(h.Find(runner.Into("a", messages.Failed))).To(BeEmpty())
	})

	It("are demanded of any worker from its first one on", func() {
		h := up(mute("a", quickBeats, waitsLong))
		w := h.WaitState("a", messages.Idle)
		takes(h, w, "heartbeat", "")
		failedBy(h, "a", 1, messages.CauseHeartbeatLost)
	})

	It("are demanded from ready on of a worker that sent one while it loaded", func() {
		h := up(mute("a", quickBeats, readyByNotify, waitsLong))
		w := h.WaitState("a", messages.Loading)
		takes(h, w, "heartbeat", "")
		takes(h, w, "ready", "")
		failedBy(h, "a", 1, messages.CauseHeartbeatLost)
	})

	It("keep it alive, by notify as by HTTP", func() {
		slower := "heartbeat: {interval: 1s, misses: 3}"
		h := up(worker("a", beats, "engine: hive", slower) + worker("b", "--notify --heartbeat-every 50ms", readyByNotify, slower))
		for _, name := range []string{"a", "b"} {
			h.WaitState(name, messages.Idle)
			h.WaitFor(name, "heard", func(w messages.WorkerStatus) bool { return w.Heartbeat.Kind == messages.BeatNative })
		}
		Consistently(func() []messages.Event { return h.Find(runner.Into("a", messages.Failed)) }).WithTimeout(4 * time.Second).Should(BeEmpty())
		Expect(h.Find(runner.Into("b", messages.Failed))).To(BeEmpty())
		for _, name := range []string{`worker="a"`, `worker="b"`} {
			beats, _ := h.Metric("hive_worker_heartbeats_total", name)
			Expect(beats).To(BeNumerically(">", 3))
		}
	})

	It("are missed while its process is stopped, and it is ended all the same", func() {
		h := up(worker("a", beats, "engine: hive", quickBeats, "stop: {grace: 500ms}", waitsLong))
		w := h.WaitState("a", messages.Idle)
		Expect(signalTo(w.PID, "STOP")).To(Succeed())
		failedBy(h, "a", 1, messages.CauseHeartbeatLost)
		h.WaitState("a", messages.Backoff)
		Expect(runner.Exists(w.PID)).To(BeFalse())
	})

	It("have their age in the status and in the metrics", func() {
		h := up(mute("a", "engine: hive"))
		w := ready(h, "a")
		Expect(h.Worker("a").Heartbeat.AgeSeconds).To(BeNil())
		takes(h, w, "heartbeat", "")
		h.WaitFor("a", "aging", func(w messages.WorkerStatus) bool {
			return w.Heartbeat.Kind == messages.BeatNative && w.Heartbeat.AgeSeconds != nil && *w.Heartbeat.AgeSeconds > 0.2
		})
		age, found := h.Metric("hive_worker_heartbeat_age_seconds", `worker="a"`)
		Expect(found).To(BeTrue())
		Expect(age).To(BeNumerically(">", 0.2))
		takes(h, w, "heartbeat", "")
		Expect(float64(*h.Worker("a").Heartbeat.AgeSeconds)).To(BeNumerically("<", age+within.Seconds()))
	})
})

var _ = Describe("the figures of a heartbeat", func() {
	const figures = `,"in_flight":2,"queue_depth":5,"tokens_total":1234,"tokens_per_second":42.5,"latency_ms_p50":120,"latency_ms_p99":900,` +
		`"kv_cache_used":0.25,"memory_bytes":1048576,"gpu_utilization":0.75`

	It("are shown in the status, and those that are not told are not made up", func() {
		h := up(mute("a", "engine: hive"))
		w := ready(h, "a")
		Expect(h.Worker("a").Stats).To(BeNil())
		takes(h, w, "heartbeat", `,"queue_depth":5`)
		s := h.Worker("a").Stats
		Expect(s.QueueDepth).To(HaveValue(Equal(5)))
		Expect(s.TokensTotal).To(BeNil())
		takes(h, w, "heartbeat", `,"tokens_total":7`)
		s = h.Worker("a").Stats
		Expect(s.QueueDepth).To(HaveValue(Equal(5)), "what a heartbeat does not tell stays")
		Expect(s.TokensTotal).To(HaveValue(BeEquivalentTo(7)))
	})

	It("are metrics with the labels of the worker, in base units, and go with it", func() {
		h := up(mute("a", "engine: hive") + mute("b", "engine: hive"))
		w := ready(h, "a")
		ready(h, "b")
		takes(h, w, "heartbeat", figures)
		labels := []string{`worker="a"`, `pool="cpu"`}
		for name, want := range map[string]float64{
			"hive_worker_in_flight": 2, "hive_worker_queue_depth": 5, "hive_worker_tokens_total": 1234, "hive_worker_tokens_per_second": 42.5,
			"hive_worker_kv_cache_used_ratio": 0.25, "hive_worker_gpu_utilization_ratio": 0.75,
		} {
			got, found := h.Metric(name, labels...)
			Expect(found).To(BeTrue(), name)
			Expect(got).To(Equal(want), name)
		}
		for quantile, want := range map[string]float64{"0.5": 0.12, "0.99": 0.9} {
			got, found := h.Metric("hive_worker_request_seconds", append(labels, `quantile="`+quantile+`"`)...)
			Expect(found).To(BeTrue(), quantile)
			Expect(got).To(Equal(want), quantile)
		}
		_, found := h.Metric("hive_worker_queue_depth", `worker="b"`)
		Expect(found).To(BeFalse(), "b told none")

		h.API(http.MethodDelete, "/v1/workers/a", "")
		Eventually(func() string { return h.Get("/metrics").Body }).ShouldNot(ContainSubstring(`worker="a"`))
		Expect(h.Get("/metrics").Body).To(ContainSubstring(`worker="b"`))
	})

	It("end with the attempt", func() {
		h := up(mute("a", "engine: hive", waitsLong))
		w := ready(h, "a")
		takes(h, w, "heartbeat", figures)
		Expect(runner.Kill(w.PID)).To(Succeed())
		h.WaitState("a", messages.Backoff)
		Expect(h.Worker("a").InFlight).To(BeZero())
		Expect(h.Worker("a").Stats).To(BeNil())
		for _, name := range []string{"hive_worker_queue_depth", "hive_worker_tokens_total", "hive_worker_heartbeat_age_seconds"} {
			_, found := h.Metric(name, `worker="a"`)
			Expect(found).To(BeFalse(), name)
		}
	})

	It("of an engine that does not beat are read from the engine itself", func() {
		h := up(worker("a", "--in-flight 2 --tokens 100", "engine: llama-server"))
		h.WaitState("a", messages.Busy)
		w := h.WaitFor("a", "read", func(w messages.WorkerStatus) bool {
			return w.InFlight == 2 && w.Stats != nil && w.Stats.TokensTotal != nil && *w.Stats.TokensTotal > 0
		})
		Expect(w.Heartbeat.Kind).To(Equal(messages.BeatSynthetic))
	})
})

var _ = Describe("a hive that stood still for a while", func() {
	It("does not take its workers for dead, whose heartbeats it could not hear", func() {
		h := up(worker("a", "--notify --heartbeat-every 100ms", "engine: hive", "heartbeat: {interval: 500ms, misses: 3}"))
		w := h.WaitState("a", messages.Idle)
		h.Signal(syscall.SIGSTOP)
		Eventually(func() string {
			p, _ := runner.ReadProc(h.PID())
			return p.State
		}).Should(Equal("T"))
		begun := time.Now()
		Eventually(func() time.Duration { return time.Since(begun) }).Should(BeNumerically(">", 5*time.Second)) // far over its deadline
		h.Signal(syscall.SIGCONT)
		Consistently(func() messages.WorkerStatus { return h.Worker("a") }).WithTimeout(2 * time.Second).Should(
			And(HaveField("State", messages.Idle), HaveField("PID", w.PID)))
		Expect(runner.Freeze(w.PID)).To(Succeed()) // and still it notices one that is silent
		e := h.WaitEvent("a lost", func(e messages.Event) bool { return e.Cause == messages.CauseHeartbeatLost })
		Expect(e.Attempt).To(BeEquivalentTo(1))
	})
})
