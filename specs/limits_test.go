package specs

import (
	"fmt"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/cgroup"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// holds skips where this host cannot hold a limit.
func holds(key string) {
	GinkgoHelper()
	host := cgroup.Open(fmt.Sprintf("hive-%d", os.Getpid()))
	defer func() { _ = host.Close() }()
	if ok, why := host.Can(key); !ok {
		Skip("this host does not hold limits." + key + ": " + why)
	}
}

// cpuUsed is the processor time of a process so far, by the kernel's account.
func cpuUsed(pid int) time.Duration {
	GinkgoHelper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	Expect(err).NotTo(HaveOccurred())
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):]))
	var user, system int64
	_, err = fmt.Sscan(f[12]+" "+f[13], &user, &system)
	Expect(err).NotTo(HaveOccurred())
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

var _ = Describe("a worker at its limit of memory", Label("root"), func() {
	It("is killed by the kernel for cause oom, with the limit, the peak and advice, and is restarted within its budget", func() {
		holds(cgroup.Memory)
		h := up(worker("eater", "--leak-memory 400MiB/s", "limits: {memory: 64MiB}", "restart: {max_restarts: 1, slow_retry: 0s}") + worker("other", ""))
		e := h.WaitEvent("eater ended", exited("eater", 1))
		Expect(e.Cause).To(Equal(messages.CauseOOM))
		Expect(e.Reason).To(And(ContainSubstring("64.0 MiB"), ContainSubstring("peak"), ContainSubstring("raise limits.memory")))
		h.WaitEvent("a second attempt", exited("eater", 2))
		w := h.WaitState("eater", messages.Crashloop)
		Expect(w.LastExit.OOMKilled).To(BeTrue())
		Expect(w.LastExit.Signal).To(Equal("SIGKILL"))
		Expect(h.Worker("other").Attempt).To(BeEquivalentTo(1))
		n, _ := h.Metric("hive_worker_exits_total", `worker="eater"`, `cause="oom"`)
		Expect(n).To(BeEquivalentTo(2))
	})

	It("is not called out of memory when a person killed it", func() {
		holds(cgroup.Memory)
		h := up(worker("a", "", "limits: {memory: 256MiB}", neverAgain))
		w := h.WaitState("a", messages.Idle)
		Expect(runner.Kill(w.PID)).To(Succeed())
		w = h.WaitState("a", messages.Failed)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseSignal))
		Expect(w.LastExit.OOMKilled).To(BeFalse())
	})
})

var _ = Describe("a worker at its other limits", Label("root"), func() {
	It("forks no further than limits.pids", func() {
		holds(cgroup.PIDs)
		h := up("  - {name: bomb, command: [sh, -c, 'i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; sleep 1000'], port: none, limits: {pids: 20}}")
		h.WaitState("bomb", messages.Idle)
		Eventually(func() string { return h.Get("/v1/workers/bomb/logs").Body }).Should(ContainSubstring("fork"))
		Expect(len(h.Strays())).To(BeNumerically("<=", 20))
		h.Do(messages.VerbKill, "bomb")
		h.WaitFor("bomb", "ended", func(w messages.WorkerStatus) bool { return w.PID == 0 })
		Eventually(h.Strays).Should(BeEmpty())
	})

	It("computes no more than limits.cpus, within a tenth", func() {
		holds(cgroup.CPUs)
		h := up("  - {name: spin, command: [sh, -c, 'while :; do :; done'], port: none, limits: {cpus: 0.25}}")
		w := h.WaitState("spin", messages.Idle)
		before, began := cpuUsed(w.PID), time.Now()
		Eventually(func() time.Duration { return cpuUsed(w.PID) - before }).WithTimeout(time.Minute).Should(BeNumerically(">", time.Second))
		share := float64(cpuUsed(w.PID)-before) / float64(time.Since(began))
		Expect(share).To(BeNumerically("<", 0.25*1.1)) // a busy host gives less, never more
	})

	It("runs on the CPUs of limits.cpuset", func() {
		holds(cgroup.CPUSet)
		h := up(worker("a", "", `limits: {cpuset: "0"}`))
		w := h.WaitState("a", messages.Idle)
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.PID))
		Expect(err).NotTo(HaveOccurred())
		Expect(string(b)).To(MatchRegexp(`Cpus_allowed_list:\s+0\n`))
	})

	It("says which CPUs there are when limits.cpuset names others", func() {
		holds(cgroup.CPUSet)
		h := up(worker("a", "", `limits: {cpuset: "900"}`))
		w := h.WaitState("a", messages.Crashloop)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseConfig))
		Expect(w.Reason).To(ContainSubstring("900"))
	})

	It("leaves no cgroup behind", func() {
		holds(cgroup.Memory)
		h := up(worker("a", "--crash-after 0s --crash-attempts 20", "limits: {memory: 256MiB, pids: 64}", `restart: {max_restarts: 100, backoff: {initial: 1ms, max: 1ms}}`))
		h.WaitAttempt("a", 21, messages.Idle)
		pid := h.PID()
		Expect(h.Stop()).To(BeZero())
		Expect(groupsOf(pid)).To(BeEmpty())
	})
})

// groupsOf lists the cgroup folders of a hive.
func groupsOf(pid int) (found []string) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"} {
		if _, err := os.Stat(fmt.Sprintf("%s/hive-%d", root, pid)); err == nil {
			found = append(found, root)
		}
	}
	return found
}

var _ = Describe("a limit that this host cannot hold", Label("root"), func() {
	It("is stated in the status, and refused with limits.required", func() {
		if os.Geteuid() != 0 {
			Skip("needs root, to become nobody")
		}
		h := runner.New(bin)
		h.As = nobody()
		h.Configure("", worker("a", "", "limits: {memory: 64MiB}")+worker("b", "", "limits: {memory: 64MiB, required: true}"))
		h.Start()
		w := h.WaitState("a", messages.Idle)
		Expect(w.Resources.Unenforced).To(ContainElement(ContainSubstring("limits.memory is not enforced")))
		w = h.WaitState("b", messages.Crashloop)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseConfig))
		Expect(w.Reason).To(ContainSubstring("limits.required"))
	})
})
