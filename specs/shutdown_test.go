package specs

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

func itoa(n int) string { return strconv.Itoa(n) }

// waitIdle waits until every worker of the hive is idle.
func waitIdle(h *runner.Hive, n int) {
	GinkgoHelper()
	Eventually(func() int {
		idle := 0
		for _, w := range h.Workers() {
			if w.State == messages.Idle {
				idle++
			}
		}
		return idle
	}).WithTimeout(60 * time.Second).Should(Equal(n))
}

var _ = Describe("hive's own end", func() {
	It("ends all workers in parallel, with progress", func() {
		h := up(worker("a", "--slow-exit 1s", "replicas: 8", "stop: {grace: 20s}"))
		waitIdle(h, 8)
		begun := time.Now()
		Expect(h.Stop()).To(BeZero())
		Expect(time.Since(begun)).To(BeNumerically("<", 6*time.Second), "one after the other they need more than 8 s")
		last := h.WaitEvent("8/8 stopped", func(e messages.Event) bool { return e.Type == messages.HiveStopProgress && e.Done == 8 })
		Expect(last.Total).To(Equal(8))
		h.WaitEvent("stopping", func(e messages.Event) bool { return e.Type == messages.HiveStopping })
		Expect(h.Strays()).To(BeEmpty())
	})

	It("costs a hung worker its own grace, and no other worker's", func() {
		h := up(worker("hung", "--ignore-term", "stop: {grace: 2s}") + worker("good", "", "stop: {grace: 60s}"))
		waitIdle(h, 2)
		begun := time.Now()
		Expect(h.Stop()).To(BeZero())
		Expect(time.Since(begun)).To(And(BeNumerically(">=", 2*time.Second), BeNumerically("<", 8*time.Second)))
		good, hung := h.WaitEvent("good ended", exited("good", 1)), h.WaitEvent("hung ended", exited("hung", 1))
		Expect(hung.At.Sub(good.At)).To(BeNumerically(">", time.Second))
	})

	DescribeTable("is orderly after a signal", func(sig syscall.Signal) {
		h := up(worker("a", "--slow-exit 100ms"))
		h.WaitState("a", messages.Idle)
		h.Signal(sig)
		Expect(h.Exit()).To(BeZero())
		Expect(h.WaitEvent("a ended", exited("a", 1)).Cause).To(Equal(messages.CauseShutdown))
	},
		Entry("SIGTERM", syscall.SIGTERM),
		Entry("SIGINT", syscall.SIGINT),
	)

	It("kills now after a second signal", func() {
		h := up(worker("a", "--ignore-term", "stop: {grace: 120s}"))
		h.WaitState("a", messages.Idle)
		h.Signal(syscall.SIGTERM)
		h.WaitState("a", messages.Stopping)
		begun := time.Now()
		h.Signal(syscall.SIGTERM)
		Expect(h.Exit()).To(BeZero())
		Expect(time.Since(begun)).To(BeNumerically("<", 15*time.Second))
	})

	It("answers readyz with 503 meanwhile, and goes on answering", func() {
		h := up(worker("a", "--ignore-term", "stop: {grace: 5s}"))
		h.WaitState("a", messages.Idle)
		h.Signal(syscall.SIGTERM)
		Eventually(func() int { return h.API(http.MethodGet, "/readyz", "").Status }).Should(Equal(http.StatusServiceUnavailable))
		Expect(h.API(http.MethodGet, "/livez", "").Status).To(Equal(http.StatusOK))
		Expect(h.Worker("a").State).To(Equal(messages.Stopping))
		Expect(h.Exit()).To(BeZero())
	})

	It("starts nothing any more, not even what crashes meanwhile", func() {
		h := up(worker("slow", "--slow-exit 1s", "stop: {grace: 20s}") + worker("crash", "--term-code 1", `restart: {backoff: {initial: 1ms, max: 1ms}}`))
		waitIdle(h, 2)
		Expect(h.Stop()).To(BeZero())
		Expect(h.Find(func(e messages.Event) bool { return e.Attempt > 1 })).To(BeEmpty())
	})

	It("ends workers in every state", func() {
		h := up(worker("loading", "--load 60s", readyByHealth) + worker("busy", beats+"--in-flight 1 --refuse-drain", readyByHealth) +
			worker("backoff", "--crash-after 0s", waitsLong) + worker("crashloop", "--crash-after 0s", "restart: {max_restarts: 0, slow_retry: 0s}") +
			worker("pending", "", "depends_on: [loading]") + worker("failed", "--crash-after 0s", neverAgain) +
			worker("forks", "--grandchild --daemonize-child --clear-env --mark MARK", "stop: {grace: 200ms}"))
		for name, s := range map[string]messages.State{"loading": messages.Loading, "busy": messages.Busy, "backoff": messages.Backoff,
			"crashloop": messages.Crashloop, "pending": messages.Pending, "failed": messages.Failed, "forks": messages.Idle} {
			h.WaitState(name, s)
		}
		Expect(h.Stop()).To(BeZero())
		Expect(h.Strays()).To(BeEmpty())
	})

	It("is asked for by the API and by hive down, too", func() {
		h := up(worker("a", ""))
		h.WaitState("a", messages.Idle)
		Expect(h.API(http.MethodPost, "/v1/shutdown", "").Status).To(Equal(http.StatusAccepted))
		Expect(h.Exit()).To(BeZero())
		h.Start()
		h.WaitState("a", messages.Idle)
		r := h.CLI("down")
		Expect(r.Code).To(BeZero(), r.Stderr)
		Expect(h.Exit()).To(BeZero())
	})

	It("is not blocked by an unkillable worker", Label("root"), func() {
		h := up(worker("a", "", "stop: {grace: 100ms}") + worker("b", ""))
		w := h.WaitState("a", messages.Idle)
		thaw := atTheFreezer(w.PID)
		DeferCleanup(h.Orphaned)
		h.Signal(syscall.SIGTERM)
		Expect(h.Exit()).To(BeZero())
		Expect(h.Log()).To(ContainSubstring("survived SIGKILL"))
		Expect(runner.Exists(w.PID)).To(BeTrue())
		thaw()
		Eventually(func() bool { return runner.Exists(w.PID) }).Should(BeFalse(), "SIGKILL was sent and waits")
	})

	It("ends a hundred workers", Label("slow"), func() {
		h := runner.New(bin)
		h.Configure(fmt.Sprintf("ports: %d-%d", h.FirstPort, h.LastPort),
			"  - {name: a, command: [sleep, '1000'], port: none, replicas: 100}")
		h.Start()
		waitIdle(h, 100)
		Expect(h.Stop()).To(BeZero())
		h.WaitEvent("100/100 stopped", func(e messages.Event) bool {
			return e.Type == messages.HiveStopProgress && e.Done == 100 && e.Total == 100
		})
		Expect(strings.Contains(h.Log(), "panic")).To(BeFalse())
	})
})
