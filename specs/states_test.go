package specs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// setInFlight makes a fakeworker with --callbacks say that it has work.
func setInFlight(h *runner.Hive, name string, n int) {
	GinkgoHelper()
	r, err := http.Post(fmt.Sprintf("%s/in-flight?n=%d", h.Worker(name).URL, n), "", nil)
	Expect(err).NotTo(HaveOccurred())
	Expect(r.Body.Close()).To(Succeed())
	Expect(r.StatusCode).To(Equal(http.StatusOK))
}

var _ = Describe("the state of a worker", func() {
	It("is pending while it waits for a dependency, and says for which", func() {
		h := up(worker("embed", "--load 60s", readyByHealth) + worker("chat", "", "depends_on: [embed]"))
		h.WaitState("embed", messages.Loading)
		w := h.WaitState("chat", messages.Pending)
		Expect(w.Reason).To(ContainSubstring("embed"))
		Expect(w.PID).To(BeZero())
		Expect(w.Attempt).To(BeZero())
	})

	It("is pending while it waits for a port, and says so", func() {
		h := runner.New(bin)
		h.Configure(fmt.Sprintf("ports: %d-%d", h.FirstPort, h.FirstPort),
			worker("a", "--port ${PORT}")+worker("b", "--port ${PORT}"))
		h.Start()
		var waiting messages.WorkerStatus
		Eventually(func() []messages.State {
			var states []messages.State
			for _, w := range h.Workers() {
				states = append(states, w.State)
				if w.State == messages.Pending {
					waiting = w
				}
			}
			return states
		}).Should(ConsistOf(messages.Idle, messages.Pending))
		Eventually(func() string { return h.Worker(string(waiting.Name)).Reason }).Should(ContainSubstring("port"))
	})

	It("is pending while it waits for a load slot, since a device loads one at a time", func() {
		h := up(worker("a", "--load 60s", readyByHealth, "gpu: {count: 1}")+
			worker("b", "--load 60s", readyByHealth, "gpu: {count: 1}"), "gpu: {fake: 1}")
		count := func(s messages.State) func() int {
			return func() int {
				return len(slices.DeleteFunc(h.Workers(), func(w messages.WorkerStatus) bool { return w.State != s }))
			}
		}
		Eventually(count(messages.Loading)).Should(Equal(1))
		Consistently(count(messages.Pending)).Should(Equal(1))
	})

	It("goes pending, starting, loading, idle, in this order", func() {
		h := up(worker("a", "--load 200ms", readyByHealth))
		h.WaitState("a", messages.Idle)
		h.WaitEvent("a is idle", runner.Into("a", messages.Idle))
		Expect(h.Path("a")).To(Equal([]messages.State{messages.Pending, messages.Starting, messages.Loading, messages.Idle}))
	})

	It("is loading while its process lives and is not ready", func() {
		h := up(worker("a", "--load 60s", readyByHealth))
		w := h.WaitState("a", messages.Loading)
		Expect(runner.Exists(w.PID)).To(BeTrue())
		Consistently(func() messages.State { return h.Worker("a").State }).Should(Equal(messages.Loading))
	})

	It("is idle when it is ready and nothing is in flight", func() {
		h := up(worker("a", "", readyByHealth))
		w := h.WaitState("a", messages.Idle)
		Expect(w.InFlight).To(BeZero())
		h.WaitEvent("a is ready", runner.Of(messages.WorkerReady, "a"))
	})

	It("goes from idle to busy and back with the work in flight", func() {
		h := up(worker("a", beats, readyByHealth))
		h.WaitState("a", messages.Idle)
		setInFlight(h, "a", 2)
		Expect(h.WaitState("a", messages.Busy).InFlight).To(Equal(2))
		setInFlight(h, "a", 0)
		h.WaitState("a", messages.Idle)
	})

	It("is draining while it takes no new work, and takes work again after resume", func() {
		h := up(worker("a", beats+"--in-flight 1 --refuse-drain", readyByHealth, "stop: {drain: 60s, grace: 1s}"))
		w := h.WaitState("a", messages.Busy)
		h.Accept(messages.VerbDrain, "a")
		h.WaitState("a", messages.Draining)
		h.Accept(messages.VerbResume, "a")
		Expect(h.WaitState("a", messages.Busy).PID).To(Equal(w.PID))
		setInFlight(h, "a", 0)
	})

	It("is stopping when it was told to end and has not", func() {
		h := up(worker("a", "--slow-exit 1s", "stop: {grace: 30s}"))
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a")
		Expect(h.Worker("a").State).To(Equal(messages.Stopping))
		h.WaitState("a", messages.Stopped)
	})

	It("is stopped when it ended on purpose, and stays so until it is started", func() {
		h := up(worker("a", ""))
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a")
		w := h.WaitState("a", messages.Stopped)
		Expect(w.PID).To(BeZero())
		Expect(w.LastExit.Cause).To(Equal(messages.CauseStoppedByUser))
		Consistently(func() messages.State { return h.Worker("a").State }).Should(Equal(messages.Stopped))
		h.Accept(messages.VerbStart, "a")
		h.WaitAttempt("a", 2, messages.Idle)
	})

	It("is failed when its attempt ended badly and nothing follows", func() {
		h := up(worker("a", "--crash-after 100ms", neverAgain))
		h.WaitState("a", messages.Failed)
		Consistently(func() messages.Attempt { return h.Worker("a").Attempt }).Should(BeEquivalentTo(1))
	})

	It("is backoff while it waits to restart, and says until when", func() {
		h := up(worker("a", "--crash-after 0s", waitsLong))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.Restarts.NextAt).NotTo(BeNil())
		Expect(w.PID).To(BeZero())
	})

	It("is unkillable when it survived SIGKILL, until it is gone at last", Label("root"), func() {
		h := up(worker("a", "--grandchild", "stop: {grace: 100ms}"))
		w := h.WaitState("a", messages.Idle)
		thaw := atTheFreezer(w.PID)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Unkillable)
		Expect(runner.Exists(w.PID)).To(BeTrue())
		thaw()
		h.WaitState("a", messages.Stopped)
	})
})

var _ = Describe("the rules between states", func() {
	It("lead from loading to idle by a ready signal alone", func() {
		h := up(worker("a", beats+"--load 60s", readyByHealth))
		h.WaitState("a", messages.Loading)
		for _, verb := range []messages.Verb{messages.VerbStart, messages.VerbResume, messages.VerbDrain} {
			Expect(h.Do(verb, "a").Status).To(Equal(http.StatusConflict), string(verb))
		}
		Expect(h.Worker("a").State).To(Equal(messages.Loading))
	})

	DescribeTable("lead from any live state to failed, which ends the attempt",
		func(s messages.State, flags string, prepare func(*runner.Hive)) {
			h := up(worker("a", flags, readyByHealth, waitsLong, "stop: {drain: 60s}"))
			if prepare != nil {
				prepare(h)
			}
			w := h.WaitState("a", s)
			Expect(runner.Kill(w.PID)).To(Succeed())
			e := h.WaitEvent("a failed", runner.Into("a", messages.Failed))
			Expect(*e.From).To(Equal(s))
			Expect(e.Attempt).To(Equal(w.Attempt))
			h.WaitFor("a", "without a process", func(w messages.WorkerStatus) bool { return w.PID == 0 && w.LastExit != nil })
		},
		Entry("loading", messages.Loading, "--load 60s", nil),
		Entry("idle", messages.Idle, "", nil),
		Entry("busy", messages.Busy, beats+"--in-flight 1", nil),
		Entry("draining", messages.Draining, beats+"--in-flight 1 --refuse-drain", func(h *runner.Hive) {
			h.WaitState("a", messages.Busy)
			h.Accept(messages.VerbDrain, "a")
		}),
	)

	It("refuse what is not in the table, name both states, count it and change nothing", func() {
		h := up(worker("a", ""))
		before := h.WaitState("a", messages.Idle)
		r := h.Do(messages.VerbResume, "a")
		Expect(r.Status).To(Equal(http.StatusConflict))
		Expect(r.Problem().Detail).To(ContainSubstring("is idle and cannot go to idle"))
		r = h.Do(messages.VerbStart, "a")
		Expect(r.Status).To(Equal(http.StatusConflict))
		Expect(r.Problem().Detail).To(And(ContainSubstring("idle"), ContainSubstring("pending")))
		Eventually(func() float64 {
			n, _ := h.Metric("hive_worker_invalid_transitions_total", `worker="a"`)
			return n
		}).Should(BeEquivalentTo(2))
		after := h.Worker("a")
		Expect(after.State).To(Equal(before.State))
		Expect(after.Since).To(Equal(before.Since))
		Expect(after.PID).To(Equal(before.PID))
	})

	It("are printed as JSON, text and Mermaid, and every change that happens is one of them", func() {
		h := up(worker("a", beats) + worker("b", "--crash-after 50ms", "restart: {max_restarts: 1, slow_retry: 0s}"))
		h.WaitState("a", messages.Idle)
		h.WaitState("b", messages.Crashloop)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)

		var table struct {
			States      []struct{ Name messages.State }
			Transitions []struct{ From, To messages.State }
		}
		h.Get("/v1/state-machine").JSON(&table)
		Expect(table.States).To(HaveLen(len(messages.States())))
		for _, e := range h.Find(func(e messages.Event) bool { return e.Type == messages.WorkerState }) {
			Expect(slices.ContainsFunc(table.Transitions, func(r struct{ From, To messages.State }) bool {
				return r.From == *e.From && r.To == *e.To
			})).To(BeTrue(), "%s is in no row of the table", e)
		}
		for _, r := range table.Transitions {
			Expect(r.From).NotTo(Equal(messages.Lost), "lost is known in a fleet view only")
			Expect(r.To).NotTo(Equal(messages.Lost), "lost is known in a fleet view only")
		}

		Expect(h.CLI("states").Stdout).To(And(ContainSubstring("loading"), ContainSubstring("unkillable")))
		Expect(h.CLI("states", "-o", "mermaid").Stdout).To(ContainSubstring("stateDiagram"))
		Expect(json.Valid([]byte(h.CLI("states", "-o", "json").Stdout))).To(BeTrue())
	})
})

var _ = Describe("an attempt", func() {
	It("has a number that every event of it carries and the worker's name outlives", func() {
		h := up(worker("a", "--crash-after 50ms --crash-attempts 2"))
		h.WaitAttempt("a", 3, messages.Idle)
		for a := messages.Attempt(1); a <= 2; a++ {
			Expect(h.WaitEvent("an exit", exited("a", a)).PID).NotTo(BeZero())
		}
	})

	It("is refused with 409 when it is not the current one", func() {
		h := up(worker("a", ""))
		first := h.WaitState("a", messages.Idle)
		old := runner.Environment(first.PID, "HIVE_TOKEN")
		Expect(old).NotTo(BeEmpty())
		Expect(runner.Kill(first.PID)).To(Succeed())
		second := h.WaitAttempt("a", 2, messages.Idle)
		r := h.API(http.MethodPost, "/v1/workers/a/heartbeat", `{"attempt":1,"in_flight":3}`, "Authorization", "Bearer "+old)
		Expect(r.Status).To(Equal(http.StatusConflict), r.Body)
		Expect(r.Problem().Detail).To(ContainSubstring("attempt"))
		Expect(h.Worker("a").State).To(Equal(messages.Idle))

		r = h.API(http.MethodPost, "/v1/workers/a/heartbeat", `{"attempt":2,"in_flight":3}`, "Authorization", "Bearer "+old)
		Expect(r.Status).To(Equal(http.StatusUnauthorized), "the token of an earlier attempt opens nothing")
		token := runner.Environment(second.PID, "HIVE_TOKEN")
		r = h.API(http.MethodPost, "/v1/workers/a/heartbeat", `{"attempt":2,"in_flight":3}`, "Authorization", "Bearer "+token)
		Expect(r.Status).To(BeNumerically("<", 300), r.Body)
		h.WaitState("a", messages.Busy)
	})
})

var _ = Describe("a status", func() {
	It("carries every documented field, before the first attempt too", func() {
		h := up(worker("a", "", readyByHealth, "labels: {model: m}") + worker("b", "", "depends_on: [c]") + worker("c", "--load 60s", readyByHealth))
		h.WaitState("a", messages.Idle)
		for _, name := range []string{"a", "b"} {
			var fields map[string]any
			h.Get("/v1/workers/" + name).JSON(&fields)
			for _, key := range []string{"name", "state", "since", "reason", "pid", "attempt", "pool", "gpus", "port", "url", "model", "progress",
				"heartbeat", "in_flight", "restarts", "last_exit", "resources", "labels"} {
				Expect(fields).To(HaveKey(key), name)
			}
			Expect(fields["restarts"]).To(And(HaveKey("total"), HaveKey("in_window"), HaveKey("max"), HaveKey("next_at")))
			Expect(fields["heartbeat"]).To(And(HaveKey("kind"), HaveKey("age_seconds")))
		}
		Expect(h.Worker("a").Labels).To(HaveKeyWithValue("model", "m"))
	})

	It("describes the last exit, with the end of the log", func() {
		h := up(worker("a", "--say last-words --crash-after 50ms --exit-code 7", waitsLong))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Code).To(HaveValue(Equal(7)))
		Expect(w.LastExit.Attempt).To(BeEquivalentTo(1))
		Expect(w.LastExit.LogTail).To(ContainElement("last-words"))
		Expect(w.LastExit.UptimeSeconds).To(BeNumerically(">", 0))
		Expect(w.LastExit.At).NotTo(BeZero())
		var raw struct {
			LastExit map[string]any `json:"last_exit"`
		}
		h.Get("/v1/workers/a").JSON(&raw)
		for _, key := range []string{"cause", "code", "signal", "core_dumped", "oom_killed", "at", "uptime_seconds", "log_tail"} {
			Expect(raw.LastExit).To(HaveKey(key))
		}
	})

	It("is seen at once when the process is killed from outside", func() {
		h := up(worker("a", "", waitsLong))
		w := h.WaitState("a", messages.Idle)
		Expect(syscall.Kill(w.PID, syscall.SIGKILL)).To(Succeed())
		w = h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Signal).To(Equal("SIGKILL"))
		Expect(w.LastExit.Code).To(BeNil())
	})
})
