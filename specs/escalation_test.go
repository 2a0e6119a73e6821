package specs

import (
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// pool reads one pool.
func pool(h *runner.Hive, name string) messages.PoolStatus {
	GinkgoHelper()
	var list struct {
		Pools []messages.PoolStatus `json:"pools"`
	}
	h.Get("/v1/pools").JSON(&list)
	for _, p := range list.Pools {
		if string(p.Name) == name {
			return p
		}
	}
	Fail("no pool " + name)
	return messages.PoolStatus{}
}

var _ = Describe("a pool whose workers crash-loop", func() {
	const loops = `restart: {max_restarts: 0, slow_retry: 0s}`

	// loopers are n workers that go straight into a crash loop.
	loopers := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(worker(fmt.Sprintf("loop-%d", i), "--crash-after 0s", loops))
		}
		return b.String()
	}
	waitLoops := func(h *runner.Hive, n int) {
		GinkgoHelper()
		for i := range n {
			h.WaitState(fmt.Sprintf("loop-%d", i), messages.Crashloop)
		}
	}

	It("spends one of its own budget for each of them", func() {
		h := up(loopers(2), "pool: {max_crashloops: 3}")
		waitLoops(h, 2)
		Eventually(func() int { return pool(h, "cpu").Budget.Used }).Should(Equal(2))
		Expect(pool(h, "cpu").Budget.Max).To(Equal(3))
		Expect(pool(h, "cpu").Degraded).To(BeFalse())
	})

	It("is shown as degraded over its budget, and leaves healthy siblings untouched", func() {
		h := up(worker("good", "")+loopers(3), "pool: {max_crashloops: 2, escalation: isolate}")
		good := h.WaitState("good", messages.Idle)
		waitLoops(h, 3)
		Eventually(func() bool { return pool(h, "cpu").Degraded }).Should(BeTrue())
		h.WaitEvent("degraded", func(e messages.Event) bool { return e.Type == messages.PoolDegraded && e.Pool == "cpu" })
		Expect(pool(h, "cpu").Cordoned).To(BeFalse())
		now := h.Worker("good")
		Expect(now.PID).To(Equal(good.PID))
		Expect(now.State).To(Equal(messages.Idle))
	})

	It("spends nothing for a worker that cannot work on this host", func() {
		h := up("  - {name: a, command: [/no/such/engine]}")
		h.WaitState("a", messages.Crashloop)
		Consistently(func() int { return pool(h, "cpu").Budget.Used }).Should(BeZero())
	})

	It("is restarted once with all its workers where escalation is restart, and cordoned when that does not help", func() {
		h := up(worker("good", "")+loopers(2), "pool: {max_crashloops: 1, escalation: restart}")
		h.WaitAttempt("good", 2, messages.Idle)
		h.WaitEvent("the pool's restart", func(e messages.Event) bool { return e.Type == messages.PoolRestarted })
		h.WaitEvent("the pool's cordon", func(e messages.Event) bool { return e.Type == messages.PoolCordoned })
		Eventually(func() bool { return pool(h, "cpu").Cordoned }).Should(BeTrue())
		Expect(pool(h, "cpu").Reason).NotTo(BeEmpty())
		Expect(h.Find(func(e messages.Event) bool { return e.Type == messages.PoolRestarted })).To(HaveLen(1))
		Expect(h.Find(func(e messages.Event) bool { return e.Type == messages.PoolCordoned })).To(HaveLen(1))
	})

	It("starts nothing while a person has cordoned it, and starts what waits afterwards", func() {
		h := up(worker("a", ""))
		a := h.WaitState("a", messages.Idle)
		Expect(h.CLI("cordon", "cpu").Code).To(BeZero())
		Eventually(func() bool { return pool(h, "cpu").Cordoned }).Should(BeTrue())
		Expect(h.Worker("a").PID).To(Equal(a.PID), "a cordon ends nothing")
		h.Accept(messages.VerbRestart, "a")
		Expect(h.WaitState("a", messages.Pending).Reason).To(ContainSubstring("cordon"))
		Consistently(func() messages.State { return h.Worker("a").State }).Should(Equal(messages.Pending))
		Expect(h.CLI("uncordon", "cpu").Code).To(BeZero())
		h.WaitAttempt("a", 2, messages.Idle)
	})

	It("runs never two processes for one worker, however it is pushed", func() {
		h := up(worker("a", "--mark MARK --slow-exit 50ms", `restart: {max_restarts: 1000, backoff: {initial: 10ms, max: 10ms}}`))
		h.WaitState("a", messages.Idle)
		verbs := []messages.Verb{messages.VerbRestart, messages.VerbKill, messages.VerbStart, messages.VerbStop, messages.VerbReset, messages.VerbStart}
		for i := range 60 {
			h.Do(verbs[i%len(verbs)], "a") // refused or not, both are fine
			var workers []runner.Proc
			for _, p := range h.Strays() {
				if p.State != "Z" && strings.Contains(p.Command, "fakeworker") {
					workers = append(workers, p)
				}
			}
			Expect(len(workers)).To(BeNumerically("<=", 1), "%v", workers)
		}
	})
})
