package specs

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// mute is a worker that says nothing by itself, so that a spec can speak for it.
func mute(name string, keys ...string) string {
	all := append([]string{"command: [sleep, '1000']", "port: none"}, keys...)
	return fmt.Sprintf("  - name: %s\n    %s\n", name, strings.Join(all, "\n    "))
}

// calls sends a worker's callback with the token of its attempt; more goes into
// the body beside the attempt: `,"in_flight":3`.
func calls(h *runner.Hive, w messages.WorkerStatus, kind, more string) runner.Response {
	GinkgoHelper()
	token := runner.Environment(w.PID, "HIVE_TOKEN")
	Expect(token).NotTo(BeEmpty())
	return h.API(http.MethodPost, "/v1/workers/"+string(w.Name)+"/"+kind, fmt.Sprintf(`{"attempt":%d%s}`, w.Attempt, more), "Authorization", "Bearer "+token)
}

// answered is what hive says to a callback it takes.
type answered struct {
	State  messages.State `json:"state"`
	Drain  *bool          `json:"drain"`
	StopBy *time.Time     `json:"stop_by"`
}

// takes is calls for one that hive must take.
func takes(h *runner.Hive, w messages.WorkerStatus, kind, more string) answered {
	GinkgoHelper()
	r := calls(h, w, kind, more)
	Expect(r.Status).To(Equal(http.StatusOK), "%s: %s", kind, r.Body)
	var a answered
	r.JSON(&a)
	Expect(a.Drain).NotTo(BeNil())
	Expect(r.Body).To(And(ContainSubstring(`"state"`), ContainSubstring(`"stop_by"`)))
	return a
}

// ready brings a mute worker of engine hive to idle.
func ready(h *runner.Hive, name string) messages.WorkerStatus {
	GinkgoHelper()
	takes(h, h.WaitState(name, messages.Loading), "ready", "")
	return h.WaitState(name, messages.Idle)
}

var _ = Describe("a worker's callbacks", func() {
	const engineHive = "engine: hive"

	It("make it ready, tell its work and its progress, each with an answer", func() {
		h := up(mute("a", engineHive))
		w := h.WaitState("a", messages.Loading)

		a := takes(h, w, "progress", `,"value":0.42,"stage":"weights"`)
		Expect(a.State).To(Equal(messages.Loading))
		Expect(*h.Worker("a").Progress).To(Equal(messages.Progress{Stage: "weights", Value: 0.42, Source: "native"}))

		Expect(takes(h, w, "ready", "").State).To(Equal(messages.Idle))
		Expect(h.Worker("a").State).To(Equal(messages.Idle))
		Expect(h.Worker("a").Progress).To(BeNil())

		a = takes(h, w, "heartbeat", `,"in_flight":2`)
		Expect(a.State).To(Equal(messages.Busy))
		Expect(*a.Drain).To(BeFalse())
		Expect(a.StopBy).To(BeNil())
		Expect(h.Worker("a").InFlight).To(Equal(2))

		Expect(takes(h, w, "state", `,"state":"idle"`).State).To(Equal(messages.Idle))
		Expect(takes(h, w, "state", `,"state":"busy"`).State).To(Equal(messages.Busy))
		Expect(takes(h, w, "state", `,"state":"busy"`).State).To(Equal(messages.Busy), "said again, it changes nothing")
	})

	It("are taken by the worker's own words through the helper package", func() {
		h := up(worker("a", beats+"--load 500ms --in-flight 1", engineHive))
		w := h.WaitState("a", messages.Busy)
		Expect(w.Heartbeat.Kind).To(Equal(messages.BeatNative))
		h.WaitEvent("its own progress", func(e messages.Event) bool {
			return runner.Of(messages.WorkerProgress, "a")(e) && e.Progress.Source == "native"
		})
		setInFlight(h, "a", 0)
	})

	It("are refused with 401 without the token, with a wrong one, and with another worker's", func() {
		h := up(mute("a", engineHive) + mute("b", engineHive))
		h.WaitState("a", messages.Loading)
		other := h.WaitState("b", messages.Loading)
		for _, kind := range []string{"ready", "heartbeat", "progress", "state"} {
			body := map[string]string{"progress": `{"attempt":1,"value":0.5}`, "state": `{"attempt":1,"state":"idle"}`}[kind]
			if body == "" {
				body = `{"attempt":1}`
			}
			for _, header := range [][]string{nil, {"Authorization", "Bearer wrong"}, {"Authorization", "Bearer "},
				{"Authorization", "Bearer " + runner.Environment(other.PID, "HIVE_TOKEN")}} {
				r := h.API(http.MethodPost, "/v1/workers/a/"+kind, body, header...)
				Expect(r.Status).To(Equal(http.StatusUnauthorized), "%s with %v: %s", kind, header, r.Body)
				Expect(r.Problem().Code).To(Equal("unauthorized"))
			}
		}
		now := h.Worker("a")
		Expect(now.State).To(Equal(messages.Loading))
		Expect(now.Progress).To(BeNil())
		Expect(now.Heartbeat.Kind).To(Equal(messages.BeatNone))
	})

	It("are refused with 409 stale_attempt when they are of an old attempt", func() {
		h := up(mute("a", engineHive))
		old := ready(h, "a")
		token := runner.Environment(old.PID, "HIVE_TOKEN")
		Expect(runner.Kill(old.PID)).To(Succeed())
		h.WaitAttempt("a", 2, messages.Loading)
		for kind, more := range map[string]string{"ready": "", "heartbeat": `,"in_flight":3`, "progress": `,"value":0.9`, "state": `,"state":"busy"`} {
			r := h.API(http.MethodPost, "/v1/workers/a/"+kind, `{"attempt":1`+more+`}`, "Authorization", "Bearer "+token)
			Expect(r.Status).To(Equal(http.StatusConflict), "%s: %s", kind, r.Body)
			Expect(r.Problem().Code).To(Equal("stale_attempt"))
		}
		now := h.Worker("a")
		Expect(now.State).To(Equal(messages.Loading))
		Expect(now.Progress).To(BeNil())
	})

	It("are refused with 409 when they are of an attempt that has not been yet", func() {
		h := up(mute("a", engineHive))
		w := h.WaitState("a", messages.Loading)
		token := runner.Environment(w.PID, "HIVE_TOKEN")
		for kind, more := range map[string]string{"ready": "", "heartbeat": "", "progress": `,"value":0.9`, "state": `,"state":"busy"`} {
			r := h.API(http.MethodPost, "/v1/workers/a/"+kind, `{"attempt":2`+more+`}`, "Authorization", "Bearer "+token)
			Expect(r.Status).To(Equal(http.StatusConflict), "%s: %s", kind, r.Body)
		}
	})

	It("are refused with 409 naming both states when the table does not allow them", func() {
		h := up(mute("a", engineHive))
		w := h.WaitState("a", messages.Loading)
		for _, c := range []struct{ to, want string }{{"idle", "idle"}, {"busy", "busy"}, {"draining", "draining"}, {"stopped", "stopped"}} {
			r := calls(h, w, "state", fmt.Sprintf(`,"state":%q`, c.to))
			Expect(r.Status).To(Equal(http.StatusConflict), r.Body)
			Expect(r.Problem().Code).To(Equal("illegal_transition"))
			Expect(r.Problem().Detail).To(And(ContainSubstring("loading"), ContainSubstring(c.want)))
		}
		Expect(h.Worker("a").State).To(Equal(messages.Loading))
		Eventually(func() float64 {
			n, _ := h.Metric("hive_worker_invalid_transitions_total", `worker="a"`)
			return n
		}).Should(BeEquivalentTo(4))
	})

	It("count as life before ready, and do not make it ready", func() {
		h := up(mute("a", engineHive))
		w := h.WaitState("a", messages.Loading)
		Expect(takes(h, w, "heartbeat", `,"in_flight":1`).State).To(Equal(messages.Loading))
		Expect(h.Worker("a").Heartbeat.Kind).To(Equal(messages.BeatNative))
		Consistently(func() messages.State { return h.Worker("a").State }).Should(Equal(messages.Loading))
	})

	It("make it ready once: the second ready is refused with 409", func() {
		h := up(mute("a", engineHive))
		w := ready(h, "a")
		r := calls(h, w, "ready", "")
		Expect(r.Status).To(Equal(http.StatusConflict), r.Body)
		Expect(r.Problem().Code).To(Equal("illegal_transition"))
		Expect(r.Problem().Detail).To(ContainSubstring("idle"))
		Expect(h.Worker("a").Since).To(Equal(w.Since))
	})

	DescribeTable("are refused with 400 when their figures cannot be", func(kind, more, says string) {
		h := up(mute("a", engineHive))
		w := ready(h, "a")
		r := calls(h, w, kind, more)
		Expect(r.Status).To(Equal(http.StatusBadRequest), r.Body)
		Expect(r.Problem().Detail).To(ContainSubstring(says))
		now := h.Worker("a")
		Expect(now.State).To(Equal(messages.Idle))
		Expect(now.Heartbeat.Kind).To(Equal(messages.BeatNone))
	},
		Entry("negative in flight", "heartbeat", `,"in_flight":-1`, "in_flight"),
		Entry("negative queue", "heartbeat", `,"queue_depth":-1`, "queue_depth"),
		Entry("negative tokens", "heartbeat", `,"tokens_total":-0.5`, "tokens_total"),
		Entry("negative rate", "heartbeat", `,"tokens_per_second":-1`, "tokens_per_second"),
		Entry("negative latency", "heartbeat", `,"latency_ms_p99":-1`, "latency_ms_p99"),
		Entry("negative memory", "heartbeat", `,"memory_bytes":-1`, "memory_bytes"),
		Entry("a cache more than full", "heartbeat", `,"kv_cache_used":1.5`, "kv_cache_used"),
		Entry("a GPU used twice", "heartbeat", `,"gpu_utilization":2`, "gpu_utilization"),
		Entry("half a request", "heartbeat", `,"in_flight":0.5`, "in_flight"),
		Entry("an unknown field", "heartbeat", `,"inflight":1`, "inflight"),
		Entry("progress above 1", "progress", `,"value":1.1`, "value"),
		Entry("progress below 0", "progress", `,"value":-0.1`, "value"),
		Entry("no progress at all", "progress", ``, "value"),
		Entry("negative patience", "progress", `,"extend_seconds":-1`, "extend_seconds"),
		Entry("a state of no worker", "state", `,"state":"happy"`, "happy"),
		Entry("no state", "state", ``, "state"),
	)

	It("are refused with 400 without an attempt", func() {
		h := up(mute("a", engineHive))
		w := h.WaitState("a", messages.Loading)
		r := h.API(http.MethodPost, "/v1/workers/a/ready", `{}`, "Authorization", "Bearer "+runner.Environment(w.PID, "HIVE_TOKEN"))
		Expect(r.Status).To(Equal(http.StatusBadRequest), r.Body)
		Expect(r.Problem().Detail).To(ContainSubstring("attempt"))
	})

	It("are answered with drain and stop_by while it drains", func() {
		h := up(mute("a", engineHive, "stop: {drain: 60s, grace: 2s}"))
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":1`)
		before := time.Now()
		h.Accept(messages.VerbDrain, "a")
		h.WaitState("a", messages.Draining)
		a := takes(h, w, "heartbeat", `,"in_flight":1`)
		Expect(a.State).To(Equal(messages.Draining))
		Expect(*a.Drain).To(BeTrue())
		Expect(a.StopBy).NotTo(BeNil())
		Expect(*a.StopBy).To(BeTemporally("~", before.Add(60*time.Second), 20*time.Second))
		h.Accept(messages.VerbResume, "a")
		h.WaitState("a", messages.Busy)
		a = takes(h, w, "heartbeat", `,"in_flight":0`)
		Expect(*a.Drain).To(BeFalse())
		Expect(a.StopBy).To(BeNil())
	})

	It("let it drain by its own word", func() {
		h := up(mute("a", engineHive, "stop: {drain: 60s, grace: 2s}"))
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":1`)
		Expect(takes(h, w, "state", `,"state":"draining"`).State).To(Equal(messages.Draining))
		takes(h, w, "heartbeat", `,"in_flight":0`)
		h.WaitState("a", messages.Stopped)
	})

	It("never repeat the token, in no answer, event, status or log", func() {
		h := up(mute("a", engineHive))
		w := ready(h, "a")
		token := runner.Environment(w.PID, "HIVE_TOKEN")
		Expect(calls(h, w, "ready", "").Body).NotTo(ContainSubstring(token))
		Expect(h.Get("/v1/workers/a").Body).NotTo(ContainSubstring(token))
		Expect(fmt.Sprint(h.Events(0))).NotTo(ContainSubstring(token))
		Expect(h.Log()).NotTo(ContainSubstring(token))
	})
})

var _ = Describe("a draining worker", func() {
	const long = "stop: {drain: 60s, grace: 2s}"

	It("takes no new work, and ends when nothing is in flight any more", func() {
		h := up(mute("a", "engine: hive", long))
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":2`)
		Expect(h.Worker("a").Ready).To(BeTrue())
		h.Accept(messages.VerbDrain, "a")
		now := h.WaitState("a", messages.Draining)
		Expect(now.Ready).To(BeFalse())
		Expect(now.PID).To(Equal(w.PID))
		Expect(now.StopBy).NotTo(BeNil())
		takes(h, w, "heartbeat", `,"in_flight":1`)
		Expect(h.Worker("a").State).To(Equal(messages.Draining))
		Expect(h.Worker("a").InFlight).To(Equal(1))
		takes(h, w, "heartbeat", `,"in_flight":0`)
		Expect(h.WaitState("a", messages.Stopped).LastExit.Cause).To(Equal(messages.CauseStoppedByUser))
		Expect(h.Path("a")).To(ContainElements(messages.Draining, messages.Stopping, messages.Stopped))
	})

	It("ends at its deadline when its work does not", func() {
		h := up(mute("a", "engine: hive", "stop: {drain: 1s, grace: 2s}"))
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":1`)
		h.Accept(messages.VerbDrain, "a")
		h.WaitState("a", messages.Stopped)
		draining := h.WaitEvent("a drains", runner.Into("a", messages.Draining))
		stopping := h.WaitEvent("a is stopping", runner.Into("a", messages.Stopping))
		Expect(stopping.At.Sub(draining.At)).To(BeNumerically(">=", time.Second))
		Expect(stopping.Reason).To(ContainSubstring("drain time is over"))
	})

	It("works again after resume, and its deadline is forgotten", func() {
		h := up(mute("a", "engine: hive", "stop: {drain: 3s, grace: 2s}", "heartbeat: {interval: 60s, misses: 3}"))
		w := ready(h, "a")
		takes(h, w, "heartbeat", `,"in_flight":1`)
		h.Accept(messages.VerbDrain, "a")
		h.WaitState("a", messages.Draining)
		h.Accept(messages.VerbResume, "a")
		now := h.WaitState("a", messages.Busy)
		Expect(now.Ready).To(BeTrue())
		Expect(now.StopBy).To(BeNil())
		Consistently(func() messages.State { return h.Worker("a").State }).WithTimeout(4 * time.Second).Should(Equal(messages.Busy))
	})
})
