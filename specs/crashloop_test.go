package specs

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("a worker that crashes again and again", func() {
	const loops = `restart: {max_restarts: 2, slow_retry: 0s, backoff: {initial: 10ms, max: 10ms}}`

	It("is in crashloop after more than max_restarts in the window, loudly", func() {
		h := up(worker("a", "--crash-after 0s", loops))
		w := h.WaitState("a", messages.Crashloop)
		Expect(w.Attempt).To(BeEquivalentTo(3), "the first attempt and two restarts")
		Expect(w.Restarts.Max).To(Equal(2))
		Expect(w.Reason).NotTo(BeEmpty())
		h.WaitEvent("crashloop", runner.Of(messages.WorkerCrashloop, "a"))
		Eventually(func() float64 {
			n, _ := h.Metric("hive_worker_state", `worker="a"`, `state="crashloop"`)
			return n
		}).Should(BeEquivalentTo(1))
		Eventually(func() float64 {
			n, _ := h.Metric("hive_pool_crashloops_total", `pool="cpu"`)
			return n
		}).Should(BeEquivalentTo(1))
	})

	It("waits for a person where slow_retry is 0", func() {
		h := up(worker("a", "--crash-after 0s", loops))
		w := h.WaitState("a", messages.Crashloop)
		Expect(w.Restarts.NextAt).To(BeNil())
		Consistently(func() messages.Attempt { return h.Worker("a").Attempt }).Should(Equal(w.Attempt))
	})

	It("is tried again every slow_retry, and stays in crashloop when that fails", func() {
		h := up(worker("a", "--crash-after 0s", `restart: {max_restarts: 1, slow_retry: 200ms, backoff: {initial: 10ms, max: 10ms}}`))
		h.WaitFor("a", "at its third slow retry", func(w messages.WorkerStatus) bool { return w.Attempt >= 5 })
		Expect(h.Find(runner.Of(messages.WorkerRestarting, "a"))).To(HaveLen(1), "no fast restart follows a slow one")
	})

	It("is started again by reset, with a fresh account", func() {
		h := up(worker("a", "--crash-after 0s --crash-unless DIR/mended", loops))
		w := h.WaitState("a", messages.Crashloop)
		Expect(os.WriteFile(filepath.Join(h.Dir, "mended"), nil, 0o600)).To(Succeed())
		r := h.CLI("reset", "a")
		Expect(r.Code).To(BeZero(), r.Stderr)
		again := h.WaitAttempt("a", w.Attempt+1, messages.Idle)
		Expect(again.Restarts.InWindow).To(BeZero())
	})

	It("costs its siblings nothing", func() {
		h := up(worker("a", "--crash-after 0s", loops) + worker("b", ""))
		b := h.WaitState("b", messages.Idle)
		h.WaitState("a", messages.Crashloop)
		Expect(h.Worker("b").PID).To(Equal(b.PID))
	})
})

var _ = Describe("a worker whose configuration cannot work on this host", func() {
	It("is not retried fast: straight to crashloop with the reason in plain words", func() {
		h := up("  - {name: a, command: [/no/such/engine]}\n" + worker("b", ""))
		w := h.WaitState("a", messages.Crashloop)
		Expect(w.Attempt).To(BeEquivalentTo(1))
		Expect(w.Reason).To(ContainSubstring("/no/such/engine"))
		Expect(h.Find(runner.Of(messages.WorkerRestarting, "a"))).To(BeEmpty())
		h.WaitState("b", messages.Idle)
	})
})
