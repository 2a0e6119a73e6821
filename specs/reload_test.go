package specs

import (
	"net/http"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("a reload", func() {
	var h *runner.Hive
	var keep, change, gone messages.WorkerStatus

	BeforeEach(func() {
		h = up(worker("keep", "") + worker("change", "") + worker("gone", ""))
		keep, change, gone = h.WaitState("keep", messages.Idle), h.WaitState("change", messages.Idle), h.WaitState("gone", messages.Idle)
		h.Configure("", worker("keep", "")+worker("change", "--say hello")+worker("new", ""))
	})

	// applied expects the difference to have been made, and nothing else.
	applied := func() {
		GinkgoHelper()
		h.WaitState("new", messages.Idle)
		h.WaitAttempt("change", change.Attempt+1, messages.Idle)
		Eventually(func() int { return h.API(http.MethodGet, "/v1/workers/gone", "").Status }).Should(Equal(http.StatusNotFound))
		Expect(runner.Exists(gone.PID)).To(BeFalse())
		Expect(h.Worker("keep").PID).To(Equal(keep.PID), "an unchanged worker keeps its process")
		Expect(h.Worker("keep").Since).To(Equal(keep.Since))
	}

	It("by SIGHUP starts, stops and restarts what differs, and leaves the rest its process", func() {
		h.Signal(syscall.SIGHUP)
		applied()
		h.WaitEvent("reloaded", func(e messages.Event) bool { return e.Type == messages.HiveReloaded })
	})

	It("by hive reload does the same", func() {
		r := h.CLI("reload")
		Expect(r.Code).To(BeZero(), r.Stderr)
		applied()
	})

	It("by the API does the same and answers the difference", func() {
		var plan messages.Plan
		r := h.API(http.MethodPost, "/v1/reload", "")
		Expect(r.Status).To(Equal(http.StatusOK), r.Body)
		r.JSON(&plan)
		Expect(plan.Start).To(ConsistOf(messages.WorkerID("new")))
		Expect(plan.Stop).To(ConsistOf(messages.WorkerID("gone")))
		Expect(plan.Unchanged).To(ConsistOf(messages.WorkerID("keep")))
		Expect(plan.Restart).To(HaveLen(1))
		Expect(plan.Restart[0].Worker).To(BeEquivalentTo("change"))
		Expect(plan.Restart[0].Keys).To(ContainElement("command"))
		applied()
	})

	It("is shown by hive plan without being done", func() {
		r := h.CLI("plan")
		Expect(r.Stdout).To(And(ContainSubstring("new"), ContainSubstring("gone"), ContainSubstring("change")))
		for _, before := range []messages.WorkerStatus{keep, change, gone} {
			Expect(h.Worker(string(before.Name)).PID).To(Equal(before.PID))
		}
		Expect(h.API(http.MethodGet, "/v1/workers/new", "").Status).To(Equal(http.StatusNotFound))
	})

	It("of a file whose form is wrong changes nothing and tells every problem", func() {
		h.Configure("", "  - {name: a, comand: [x]}\n  - {name: B, command: [x]}")
		r := h.CLI("reload", "--data-dir", h.DataDir)
		Expect(r.Code).NotTo(BeZero())
		Expect(r.Stderr).To(And(ContainSubstring("comand"), ContainSubstring("B")))
		h.Signal(syscall.SIGHUP)
		Consistently(func() int { return len(h.Workers()) }).Should(Equal(3))
		for _, before := range []messages.WorkerStatus{keep, change, gone} {
			Expect(h.Worker(string(before.Name)).PID).To(Equal(before.PID))
		}
	})

	It("of the same file does nothing", func() {
		Expect(h.CLI("reload").Code).To(BeZero())
		applied()
		pids := map[string]int{}
		for _, w := range h.Workers() {
			pids[string(w.Name)] = w.PID
		}
		Expect(h.CLI("reload").Code).To(BeZero())
		for _, w := range h.Workers() {
			Expect(w.PID).To(Equal(pids[string(w.Name)]))
		}
	})

	It("changes settings that need no new process without one", func() {
		h.Configure("", worker("keep", "", "restart: {max_restarts: 9}", "stop: {grace: 7s}")+worker("change", "")+worker("gone", ""))
		Expect(h.CLI("reload").Code).To(BeZero())
		Eventually(func() int { return h.Worker("keep").Restarts.Max }).Should(Equal(9))
		Expect(h.Worker("keep").PID).To(Equal(keep.PID))
	})

	It("leaves workers that were made by the API alone", func() {
		r := h.API(http.MethodPost, "/v1/workers", `{"name":"mine","command":["sleep","1000"],"port":"none"}`)
		Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
		mine := h.WaitState("mine", messages.Idle)
		Expect(h.CLI("reload").Code).To(BeZero())
		applied()
		Expect(h.Worker("mine").PID).To(Equal(mine.PID))
	})
})
