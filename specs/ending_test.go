package specs

import (
	"net/http"
	"os/exec"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("stopping a worker", func() {
	It("drains first: work in flight may finish, and drain ends early when it has", func() {
		h := up(worker("a", beats+"--in-flight 1 --refuse-drain", readyByHealth, "stop: {drain: 60s, grace: 5s}"))
		w := h.WaitState("a", messages.Busy)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Draining)
		Consistently(func() bool { return runner.Exists(w.PID) }).Should(BeTrue())
		setInFlight(h, "a", 0)
		h.WaitState("a", messages.Stopped)
		Expect(h.Worker("a").LastExit.Signal).To(BeEmpty(), "it exited by itself")
	})

	It("tells the worker to drain in the answer to its heartbeat", func() {
		h := up(worker("a", beats+"--in-flight 1", readyByHealth, "stop: {drain: 60s, grace: 5s}"))
		h.WaitState("a", messages.Busy)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
	})

	It("waits for work no longer than the drain time", func() {
		h := up(worker("a", beats+"--in-flight 1 --refuse-drain", readyByHealth, "stop: {drain: 300ms, grace: 5s}"))
		h.WaitState("a", messages.Busy)
		begun := time.Now()
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
		Expect(time.Since(begun)).To(BeNumerically(">=", 300*time.Millisecond))
	})

	It("sends SIGTERM and lets the process exit in its own way", func() {
		h := up(worker("a", "--term-code 7"))
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a")
		Expect(h.WaitState("a", messages.Stopped).LastExit.Code).To(HaveValue(Equal(7)))
	})

	It("sends another signal where stop.signal says so", func() {
		h := up("  - name: a\n    command: [sh, -c, 'trap \"exit 42\" USR1; while :; do sleep 0.05; done']\n    stop: {signal: SIGUSR1, grace: 5s}")
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a")
		Expect(h.WaitState("a", messages.Stopped).LastExit.Code).To(HaveValue(Equal(42)))
	})

	It("sends the signal to the whole group, not to the leader alone", func() {
		h := up("  - name: a\n    command: [sh, -c, 'sleep 1000 & sleep 1001 & wait']\n    stop: {grace: 20s}")
		h.WaitState("a", messages.Idle)
		Eventually(h.Strays).Should(HaveLen(3))
		begun := time.Now()
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
		Expect(h.Strays()).To(BeEmpty())
		Expect(time.Since(begun)).To(BeNumerically("<", 15*time.Second), "the children did not wait for the end of the grace")
	})

	It("kills what ignores SIGTERM after the grace, and not before", func() {
		h := up(worker("a", "--ignore-term", "stop: {grace: 400ms}"))
		h.WaitState("a", messages.Idle)
		begun := time.Now()
		h.Accept(messages.VerbStop, "a")
		w := h.WaitState("a", messages.Stopped)
		Expect(w.LastExit.Signal).To(Equal("SIGKILL"))
		Expect(time.Since(begun)).To(BeNumerically(">=", 400*time.Millisecond))
	})

	It("takes other times from the request", func() {
		h := up(worker("a", "--ignore-term", "stop: {grace: 60s}"))
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a", `{"grace":"100ms"}`)
		h.WaitState("a", messages.Stopped)
	})

	DescribeTable("kills the whole tree",
		func(flags string, processes int) {
			h := up(worker("a", flags+" --mark MARK", readyByHealth, "stop: {grace: 200ms}"))
			h.WaitState("a", messages.Idle)
			Eventually(h.Strays).Should(HaveLen(processes))
			h.Accept(messages.VerbStop, "a")
			h.WaitState("a", messages.Stopped)
			Expect(h.Strays()).To(BeEmpty(), "stopped means that nothing is left")
		},
		Entry("a grandchild in its own session that holds the port", "--grandchild", 2),
		Entry("a daemon that was forked twice", "--daemonize-child", 2),
		Entry("a daemon with an empty environment", "--daemonize-child --clear-env", 2),
		Entry("all of them, while they hold the output open", "--grandchild --daemonize-child --clear-env --hold-stdout", 3),
		Entry("all of them, around a leader that ignores SIGTERM", "--grandchild --daemonize-child --ignore-term", 3),
	)

	It("is over only when the port is free", func() {
		h := up(worker("a", "--grandchild", readyByHealth, "stop: {grace: 200ms}"))
		url := h.WaitState("a", messages.Idle).URL
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
		_, err := http.Get(url + "/health")
		Expect(err).To(MatchError(ContainSubstring("refused")))
	})

	It("tells how long each phase took, in events and in a metric", func() {
		h := up(worker("a", beats, readyByHealth))
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
		h.WaitEvent("a phase", func(e messages.Event) bool { return runner.Of(messages.WorkerPhase, "a")(e) && e.Phase != "" })
		Expect(h.Get("/metrics").Body).To(ContainSubstring("hive_worker_stop_seconds"))
	})

	It("is done at once by kill", func() {
		h := up(worker("a", beats+"--in-flight 1 --ignore-term --grandchild", readyByHealth, "stop: {drain: 60s, grace: 60s}"))
		h.WaitState("a", messages.Busy)
		h.Accept(messages.VerbKill, "a")
		Expect(h.WaitState("a", messages.Stopped).LastExit.Signal).To(Equal("SIGKILL"))
		Expect(h.Strays()).To(BeEmpty())
	})

	It("works while the worker loads", func() {
		h := up(worker("a", "--load 60s", readyByHealth))
		h.WaitState("a", messages.Loading)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
	})

	It("leaves the processes of other people alone", func() {
		other := exec.Command("sleep", "1000")
		Expect(other.Start()).To(Succeed())
		DeferCleanup(func() {
			Expect(other.Process.Kill()).To(Succeed())
			_ = other.Wait() // it was killed
		})
		h := up(worker("a", "--grandchild --daemonize-child --clear-env"))
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbKill, "a")
		h.WaitState("a", messages.Stopped)
		Expect(runner.Exists(other.Process.Pid)).To(BeTrue())
	})

	It("leaves no zombie", func() {
		h := up(worker("a", "--zombies 3 --grandchild --daemonize-child"))
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbKill, "a")
		h.WaitState("a", messages.Stopped)
		Eventually(func() string {
			out, _ := exec.Command("ps", "--no-headers", "-o", "stat,pid,args", "--ppid", itoa(h.PID())).Output()
			return strings.TrimSpace(string(out))
		}).Should(BeEmpty(), "children of hive are left")
	})
})
