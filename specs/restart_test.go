package specs

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("the cause of an end", func() {
	DescribeTable("is one word",
		func(flags string, cause messages.Cause, keys ...string) {
			h := up(worker("a", flags, append(keys, neverAgain)...))
			e := h.WaitEvent("a ended", exited("a", 1))
			Expect(e.Cause).To(Equal(cause))
			w := h.WaitFor("a", "ended", func(w messages.WorkerStatus) bool { return w.State.Settled() && w.LastExit != nil })
			Expect(w.LastExit.Cause).To(Equal(cause))
		},
		Entry("clean for exit code 0, unasked", "--crash-after 50ms --exit-code 0", messages.CauseClean),
		Entry("error_exit for any other exit code", "--crash-after 50ms --exit-code 3", messages.CauseErrorExit),
		Entry("signal for a segmentation fault", "--crash-after 50ms --signal-self SIGSEGV", messages.CauseSignal),
		Entry("signal for a SIGKILL of somebody else", "--crash-after 50ms --signal-self SIGKILL", messages.CauseSignal),
		Entry("ready_timeout for a load that takes longer than it may", "--load 60s", messages.CauseReadyTimeout,
			"ready: {http: /health, timeout: 300ms}"),
	)

	It("names the signal", func() {
		h := up(worker("a", "--crash-after 50ms --signal-self SIGABRT", neverAgain))
		w := h.WaitState("a", messages.Failed)
		Expect(w.LastExit.Signal).To(Equal("SIGABRT"))
	})

	It("is config when the binary is missing", func() {
		h := up("  - {name: a, command: [/no/such/engine]}")
		Expect(h.WaitState("a", messages.Crashloop).LastExit.Cause).To(Equal(messages.CauseConfig))
	})

	It("is stopped_by_user when a person asked, however the process took it", func() {
		h := up(worker("a", "--term-code 9") + worker("b", "--ignore-term", "stop: {grace: 100ms}"))
		for _, name := range []string{"a", "b"} {
			h.WaitState(name, messages.Idle)
			h.Accept(messages.VerbStop, name)
			Expect(h.WaitState(name, messages.Stopped).LastExit.Cause).To(Equal(messages.CauseStoppedByUser), name)
		}
	})

	It("is hive_shutdown when hive ended", func() {
		h := up(worker("a", "--slow-exit 100ms"))
		h.WaitState("a", messages.Idle)
		Expect(h.Stop()).To(BeZero())
		e := h.WaitEvent("a ended", exited("a", 1))
		Expect(e.Cause).To(Equal(messages.CauseShutdown))
	})
})

var _ = Describe("a worker whose process dies", func() {
	It("is noticed by waiting on the process, and not by looking now and then", func() {
		h := up(worker("a", "", `restart: {max_restarts: 50, backoff: {initial: 20ms, max: 20ms}}`))
		quick := 0
		const rounds = 10
		for i := range rounds {
			w := h.WaitAttempt("a", messages.Attempt(i+1), messages.Idle)
			Expect(runner.Kill(w.PID)).To(Succeed())
			killed := time.Now()
			e := h.WaitEvent("the exit", exited("a", w.Attempt))
			if e.At.Sub(killed) <= 100*time.Millisecond {
				quick++
			}
		}
		// Most, not all, and not 10 ms, which make bench measures: a busy host delays any process.
		Expect(quick).To(BeNumerically(">", rounds/2), "%d of %d exits were seen within 100 ms", quick, rounds)
	})

	It("comes back after the backoff with a new attempt number and a new process", func() {
		h := up(worker("a", "", readyByHealth))
		first := h.WaitState("a", messages.Idle)
		Expect(runner.Kill(first.PID)).To(Succeed())
		second := h.WaitAttempt("a", 2, messages.Idle)
		Expect(second.PID).NotTo(Equal(first.PID))
		Expect(second.Restarts.Total).To(Equal(1))
		Expect(second.Restarts.InWindow).To(Equal(1))
		h.WaitEvent("a restart with its delay", func(e messages.Event) bool {
			return runner.Of(messages.WorkerRestarting, "a")(e) && e.Took > 0
		})
		path := h.Path("a")
		Expect(path[4:]).To(Equal([]messages.State{messages.Failed, messages.Backoff, messages.Pending, messages.Starting, messages.Loading, messages.Idle}))
	})

	It("waits twice as long each time, up to a maximum, give or take a quarter", func() {
		h := up(worker("a", "--crash-after 0s",
			`restart: {max_restarts: 4, slow_retry: 0s, backoff: {initial: 100ms, factor: 2, max: 300ms, jitter: 0.25}}`))
		h.WaitState("a", messages.Crashloop)
		var delays []float64
		for _, e := range h.Find(runner.Of(messages.WorkerRestarting, "a")) {
			delays = append(delays, float64(e.Took))
		}
		Expect(delays).To(HaveLen(4))
		for i, want := range []float64{0.1, 0.2, 0.3, 0.3} {
			Expect(delays[i]).To(BeNumerically("~", want, want*0.26), "delay %d", i+1)
		}
	})

	It("leaves nothing of the old attempt behind, before the new one starts", func() {
		h := up(worker("a", "--grandchild --daemonize-child --mark MARK", readyByHealth))
		first := h.WaitState("a", messages.Idle)
		Eventually(h.Strays).Should(HaveLen(3))
		old := h.Strays()
		Expect(runner.Kill(first.PID)).To(Succeed())
		h.WaitAttempt("a", 2, messages.Idle)
		for _, p := range old {
			Expect(runner.Exists(p.PID)).To(BeFalse(), "%s of attempt 1 lives", p)
		}
		Expect(h.Find(runner.Of(messages.WorkerLeftover, "a"))).NotTo(BeEmpty(), "what outlived the main process is told")
	})

	It("keeps its port for the next attempt to bind", func() {
		h := up(worker("a", "--grandchild", readyByHealth))
		first := h.WaitState("a", messages.Idle)
		Expect(runner.Kill(first.PID)).To(Succeed())
		h.WaitAttempt("a", 2, messages.Idle)
	})
})

var _ = Describe("the restart policy", func() {
	DescribeTable("decides what follows an exit",
		func(policy, code string, again bool) {
			h := up(worker("a", "--crash-after 100ms --crash-attempts 1 --exit-code "+code,
				`restart: {policy: `+policy+`, backoff: {initial: 20ms, max: 20ms}}`))
			h.WaitEvent("the first exit", exited("a", 1))
			if again {
				h.WaitAttempt("a", 2, messages.Idle)
				return
			}
			w := h.WaitFor("a", "settled", func(w messages.WorkerStatus) bool { return w.State.Settled() })
			Expect(w.PID).To(BeZero())
			Consistently(func() messages.Attempt { return h.Worker("a").Attempt }).Should(BeEquivalentTo(1))
		},
		Entry("always restarts after exit code 0", "always", "0", true),
		Entry("always restarts after exit code 1", "always", "1", true),
		Entry("on-failure does not after exit code 0", "on-failure", "0", false),
		Entry("on-failure restarts after exit code 1", "on-failure", "1", true),
		Entry("never does not after exit code 0", "never", "0", false),
		Entry("never does not after exit code 1", "never", "1", false),
	)

	It("does not count a restart that a person asked for", func() {
		h := up(worker("a", ""))
		first := h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbRestart, "a")
		second := h.WaitAttempt("a", 2, messages.Idle)
		Expect(second.PID).NotTo(Equal(first.PID))
		Expect(second.Restarts.InWindow).To(BeZero())
	})
})

var _ = Describe("the restart account", func() {
	const spec = `restart: {max_restarts: 3, slow_retry: 0s, stable_after: 400ms, backoff: {initial: 20ms, max: 20ms}}`

	It("is forgotten after stable_after in idle", func() {
		h := up(worker("a", "", spec))
		// Twice as many crashes as the window may hold, each after a stable time.
		for i := range 6 {
			w := h.WaitAttempt("a", messages.Attempt(i+1), messages.Idle)
			Eventually(func() time.Duration { return time.Since(w.ReadyAt) }).Should(BeNumerically(">", 500*time.Millisecond))
			Expect(runner.Kill(w.PID)).To(Succeed())
		}
		Expect(h.WaitAttempt("a", 7, messages.Idle).Restarts.InWindow).To(BeNumerically("<=", 1))
	})

	It("is not forgotten by being ready alone", func() {
		h := up(worker("a", "--crash-on-ready", spec, "ready: {log: server is listening}"))
		Expect(h.WaitState("a", messages.Crashloop).Attempt).To(BeEquivalentTo(4))
	})

	It("is not forgotten sooner than three times the load time", func() {
		h := up(worker("a", "--load 500ms --crash-after 1400ms", spec, readyByHealth))
		// Ready for some 0.9 s: longer than stable_after, shorter than 3 × 0.5 s.
		Expect(h.WaitState("a", messages.Crashloop).Attempt).To(BeEquivalentTo(4))
	})
})
