package specs

import (
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// Keys of workers that are probed often, and whose work may not stand still.
const (
	probed    = `health: {http: /health, interval: 200ms, timeout: 1s, failures: 3}`
	mayNotLag = `progress: {stall: 1s}`
	works     = "--callbacks --heartbeat-every 200ms --in-flight 1 --tokens 50 "
)

// saying is a fakeworker that prints these lines and then ends with code 1.
func saying(name string, lines []string, keys ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n    command: [FAKE, --crash-after, 0s", name)
	for _, l := range lines {
		fmt.Fprintf(&b, ", --say, %q", l)
	}
	b.WriteString("]\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "    %s\n", k)
	}
	return b.String()
}

var _ = Describe("the health of a worker", func() {
	It("is probed: after three failures in a row it is health_failed, with what came", func() {
		h := up(worker("a", "--hang 1s", "ready: {tcp: true}", `health: {http: /health, interval: 200ms, timeout: 300ms, failures: 3}`, waitsLong))
		e := failedBy(h, "a", 1, messages.CauseHealthFailed)
		Expect(e.Reason).To(And(ContainSubstring("3 health probes in a row failed"), ContainSubstring("GET /health"), ContainSubstring("timeout")))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseHealthFailed))
		Expect(w.LastExit.Detail).To(Equal(e.Reason))
	})

	It("is told with the answer when that is not 2xx", func() {
		needs("python3")
		h := up("  - name: a\n    command: [python3, -m, http.server, '${PORT}', --bind, '${HOST}', --directory, DIR]\n" +
			"    ready: {tcp: true}\n    health: {http: /missing, interval: 200ms, timeout: 1s, failures: 3}\n    " + waitsLong)
		Expect(failedBy(h, "a", 1, messages.CauseHealthFailed).Reason).To(ContainSubstring("GET /missing answered 404"))
	})

	It("survives fewer failures than it is allowed", func() {
		h := up(gated("a", "", "exec FAKE", "ready: {settle: 0s}", `health: {http: /health, interval: 300ms, timeout: 1s, failures: 40}`))
		w := h.WaitState("a", messages.Idle) // nobody listens yet
		touch(h, "go")
		h.WaitFor("a", "answering", func(w messages.WorkerStatus) bool { return w.Heartbeat.Kind == messages.BeatSynthetic })
		Expect(h.Worker("a").PID).To(Equal(w.PID))
	})

	It("is of kind none, synthetic or native, by what tells of it", func() {
		h := up(worker("none", "") + worker("synthetic", "", readyByHealth, probed) + worker("native", beats, "engine: hive", probed))
		h.WaitState("none", messages.Idle)
		kind := func(name string) func() string {
			return func() string { return h.Worker(name).Heartbeat.Kind }
		}
		Eventually(kind("synthetic")).Should(Equal("synthetic"))
		Eventually(kind("native")).Should(Equal("native"))
		Consistently(kind("native")).Should(Equal("native"), "a probe does not outdo it")
		Expect(kind("none")()).To(Equal("none"))
		Expect(h.Worker("none").Heartbeat.AgeSeconds).To(BeNil())
		Expect(h.Worker("synthetic").Heartbeat.AgeSeconds).NotTo(BeNil())
	})
})

var _ = Describe("work in flight", func() {
	It("that stands still is progress_stalled, though heartbeats come and /health says 200", func() {
		h := up(worker("a", works+"--wedge-after 1s", "engine: hive", probed, mayNotLag, waitsLong))
		e := failedBy(h, "a", 1, messages.CauseProgressStalled)
		Expect(e.Reason).To(And(ContainSubstring("1 in flight"), ContainSubstring("no token (still "), ContainSubstring("no line of log"),
			ContainSubstring("% of a core"), ContainSubstring("meanwhile GET /health answered 200")))
		Expect(h.WaitState("a", messages.Backoff).LastExit.Detail).To(Equal(e.Reason))
	})

	It("that stands still is seen without heartbeats too, by the engine's own figures", func() {
		h := up(worker("a", "--in-flight 1 --tokens 50 --wedge-after 1s", "engine: llama-server", probed, "progress: {stall: 3s}", waitsLong))
		e := failedBy(h, "a", 1, messages.CauseProgressStalled)
		Expect(e.Reason).To(And(ContainSubstring("1 in flight"), ContainSubstring("meanwhile GET /health answered 200")))
	})

	It("that stands still is seen when no tokens are counted", func() {
		h := up(mute("a", "engine: hive", mayNotLag, waitsLong))
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":3`)
		Expect(failedBy(h, "a", 1, messages.CauseProgressStalled).Reason).To(And(ContainSubstring("3 in flight"), ContainSubstring("no token count is known")))
	})

	It("that stands still is not hidden by the lines which hive's own probes leave in the log", func() {
		h := up(worker("a", works+"--access-log --wedge-after 1s", "engine: hive", probed, mayNotLag, waitsLong))
		h.WaitState("a", messages.Busy)
		Eventually(func() string { return h.Get("/v1/workers/a/logs").Body }).Should(ContainSubstring(`"GET /health HTTP/1.1"`))
		failedBy(h, "a", 1, messages.CauseProgressStalled)
	})

	DescribeTable("that moves is left alone,", func(flags string) {
		h := up(worker("a", "--callbacks --heartbeat-every 200ms --in-flight 1 "+flags, "engine: hive", probed, mayNotLag))
		w := h.WaitState("a", messages.Busy)
		Consistently(func() int { return h.Worker("a").PID }).WithTimeout(4 * time.Second).Should(Equal(w.PID))
		Expect(h.Find(runner.Into("a", messages.Failed))).To(BeEmpty())
		setInFlight(h, "a", 0)
	},
		Entry("by its tokens", "--tokens 50"),
		Entry("by the lines of its log", "--log-lines 20"),
	)

	It("that takes a processor is left alone, though it says nothing", func() {
		h := up(gated("a", "", "while [ ! -e DIR/done ]; do i=$((i+1)); done; exec sleep 1000", "engine: hive", mayNotLag))
		touch(h, "go")
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":1`)
		Consistently(func() messages.State { return h.Worker("a").State }).WithTimeout(3 * time.Second).Should(Equal(messages.Busy))
		touch(h, "done")
		failedBy(h, "a", 1, messages.CauseProgressStalled)
	})

	It("must be there: nobody is stalled who has nothing to do", func() {
		h := up(worker("a", "--callbacks --heartbeat-every 200ms", "engine: hive", probed, mayNotLag))
		w := h.WaitState("a", messages.Idle)
		Consistently(func() int { return h.Worker("a").PID }).WithTimeout(3 * time.Second).Should(Equal(w.PID))
		Expect(h.Find(runner.Into("a", messages.Failed))).To(BeEmpty())
	})
})

var _ = Describe("an idle timeout", func() {
	It("stops a worker that nobody uses, with cause evicted, and nothing follows", func() {
		h := up(worker("a", "", "idle_timeout: 500ms", "restart: {policy: always}"))
		w := h.WaitState("a", messages.Stopped)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseEvicted))
		idle, stopping := h.WaitEvent("a is idle", runner.Into("a", messages.Idle)), h.WaitEvent("a is stopping", runner.Into("a", messages.Stopping))
		Expect(stopping.Reason).To(ContainSubstring("idle_timeout (500ms)"))
		Expect(stopping.At.Sub(idle.At)).To(BeNumerically(">=", 490*time.Millisecond))
		Expect(h.WaitEvent("a stopped", runner.Into("a", messages.Stopped)).Cause).To(Equal(messages.CauseEvicted))
		Consistently(func() messages.State { return h.Worker("a").State }).Should(Equal(messages.Stopped))
		h.Accept(messages.VerbStart, "a")
		h.WaitFor("a", "started again", func(w messages.WorkerStatus) bool { return w.Attempt == 2 && w.PID != 0 })
	})

	It("is not put off by probes, heartbeats and queries", func() {
		h := up(worker("a", beats, readyByHealth, "idle_timeout: 1s", `health: {http: /health, interval: 100ms, timeout: 1s, failures: 30}`))
		asks(h, "/v1/workers/a")
		w := h.WaitState("a", messages.Stopped)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseEvicted))
	})

	It("leaves a busy worker alone, and begins again when its work is done", func() {
		h := up(mute("a", "engine: hive", "idle_timeout: 4s"))
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":1`)
		Consistently(func() messages.State { return h.Worker("a").State }).WithTimeout(6 * time.Second).Should(Equal(messages.Busy))
		takes(h, w, "heartbeat", `,"in_flight":0`)
		Expect(h.WaitState("a", messages.Stopped).LastExit.Cause).To(Equal(messages.CauseEvicted))
		all := h.Find(runner.Into("a", messages.Idle))
		Expect(all).To(HaveLen(2))
		stopping := h.WaitEvent("a is stopping", runner.Into("a", messages.Stopping))
		Expect(stopping.At.Sub(all[1].At)).To(BeNumerically(">=", 3900*time.Millisecond), "the clock began anew")
	})

	It("does not run while a worker loads", func() {
		h := up(mute("a", "engine: hive", "idle_timeout: 300ms"))
		w := h.WaitState("a", messages.Loading)
		Consistently(func() messages.State { return h.Worker("a").State }).WithTimeout(time.Second).Should(Equal(messages.Loading))
		takes(h, w, "ready", "")
		h.WaitState("a", messages.Stopped)
	})
})

var _ = Describe("the last words of a worker", func() {
	DescribeTable("tell the cause of its end,", func(engine string, lines []string, cause messages.Cause, words string) {
		h := up(saying("a", lines, "engine: "+engine, waitsLong))
		e := h.WaitEvent("its exit", exited("a", 1))
		Expect(e.Cause).To(Equal(cause))
		Expect(e.Reason).To(ContainSubstring(words))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(cause))
		Expect(w.LastExit.Detail).To(And(ContainSubstring("exited with code 1"), ContainSubstring(words)))
		n, _ := h.Metric("hive_worker_exits_total", `worker="a"`, fmt.Sprintf("cause=%q", cause))
		Expect(n).To(BeEquivalentTo(1))
	},
		Entry("torch's memory, under vLLM", "vllm", []string{"(EngineCore_DP0 pid=88) Traceback (most recent call last):",
			"(EngineCore_DP0 pid=88) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB",
			"RuntimeError: Engine core initialization failed. See root cause above."}, messages.CauseCUDAOOM, "the GPU's memory is exhausted"),
		Entry("torch's memory, of an engine that hive does not know", "exec", []string{
			"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"}, messages.CauseCUDAOOM, "the GPU's memory is exhausted"),
		Entry("a port in use, in Python", "exec", []string{"OSError: [Errno 98] Address already in use"}, messages.CausePortInUse, "the port is in use"),
		Entry("nothing that hive knows", "exec", []string{"no luck today"}, messages.CauseErrorExit, "exited with code 1"),
	)

	It("tell of a port in use", func() {
		h := up(worker("a", "--bind-fail", waitsLong))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CausePortInUse))
		Expect(w.LastExit.Detail).To(ContainSubstring("address already in use"))
	})

	DescribeTable("send a worker whose command line is wrong straight to crashloop,", func(engine, line string) {
		h := up(saying("a", []string{line}, "engine: "+engine))
		w := h.WaitState("a", messages.Crashloop)
		Expect(w.Attempt).To(BeEquivalentTo(1), "it was not tried again")
		Expect(w.LastExit.Cause).To(Equal(messages.CauseConfig))
		Expect(w.Reason).To(ContainSubstring("the command line is not accepted"))
		Expect(h.WaitEvent("the crash loop", runner.Of(messages.WorkerCrashloop, "a")).Cause).To(Equal(messages.CauseConfig))
		Expect(h.Find(runner.Of(messages.WorkerRestarting, "a"))).To(BeEmpty())
	},
		Entry("of llama-server", "llama-server", "error: invalid argument: --n-gpu-layer"),
		Entry("of vLLM", "vllm", "vllm serve: error: unrecognized arguments: --tensor-parallel"),
	)

	It("are not read when hive itself ended it", func() {
		h := up("  - name: a\n    command: [FAKE, --say, 'torch.OutOfMemoryError: CUDA out of memory.', --term-code, '1']\n    " + readyByHealth)
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a")
		Expect(h.WaitState("a", messages.Stopped).LastExit.Cause).To(Equal(messages.CauseStoppedByUser))
	})
})
