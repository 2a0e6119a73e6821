package specs

import (
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("the metrics", func() {
	value := func(h *runner.Hive, name string, labels ...string) func() float64 {
		return func() float64 {
			v, _ := h.Metric(name, labels...)
			return v
		}
	}

	It("show the state of each worker one-hot", func() {
		h := up(worker("a", ""))
		h.WaitState("a", messages.Idle)
		Eventually(value(h, "hive_worker_state", `worker="a"`, `state="idle"`)).Should(BeEquivalentTo(1))
		Expect(value(h, "hive_worker_state", `worker="a"`)()).To(BeEquivalentTo(1), "the sum over all states is one")
	})

	It("count restarts, and exits by cause", func() {
		h := up(worker("a", "--crash-after 50ms --crash-attempts 2 --exit-code 3"))
		h.WaitAttempt("a", 3, messages.Idle)
		Eventually(value(h, "hive_worker_restarts_total", `worker="a"`)).Should(BeEquivalentTo(2))
		Eventually(value(h, "hive_worker_exits_total", `worker="a"`, `cause="error_exit"`)).Should(BeEquivalentTo(2))
	})

	It("measure the time to ready, to the detection of a crash, and of the backoff", func() {
		h := up(worker("a", "--load 200ms", readyByHealth))
		w := h.WaitState("a", messages.Idle)
		Expect(runner.Kill(w.PID)).To(Succeed())
		h.WaitAttempt("a", 2, messages.Idle)
		for _, name := range []string{"hive_worker_time_to_ready_seconds", "hive_worker_crash_detect_seconds", "hive_worker_backoff_seconds"} {
			Expect(h.Get("/metrics").Body).To(ContainSubstring(name))
		}
	})

	It("show work in flight", func() {
		h := up(worker("a", beats+"--in-flight 3", readyByHealth))
		h.WaitState("a", messages.Busy)
		Eventually(value(h, "hive_worker_in_flight", `worker="a"`)).Should(BeEquivalentTo(3))
	})

	It("lose the series of a worker that is removed", func() {
		h := up(worker("a", ""))
		h.WaitState("a", messages.Idle)
		Expect(h.Get("/metrics").Body).To(ContainSubstring(`worker="a"`))
		h.API(http.MethodDelete, "/v1/workers/a", "")
		Eventually(func() string { return h.Get("/metrics").Body }).ShouldNot(ContainSubstring(`worker="a"`))
	})

	It("show hive itself", func() {
		body := up("").Get("/metrics").Body
		Expect(body).To(And(ContainSubstring("process_"), ContainSubstring("go_")))
		for line := range strings.SplitSeq(body, "\n") {
			Expect(line).NotTo(ContainSubstring("NaN"))
		}
	})
})
