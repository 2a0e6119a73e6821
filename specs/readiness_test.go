package specs

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// signalTo sends a process a signal by its short name.
func signalTo(pid int, name string) error {
	return syscall.Kill(pid, map[string]syscall.Signal{"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}[name])
}

// touch makes a file in the spec's folder, for which a worker waits.
func touch(h *runner.Hive, name string) {
	GinkgoHelper()
	Expect(os.WriteFile(filepath.Join(h.Dir, name), nil, 0o600)).To(Succeed())
}

// gated is a worker in shell that waits for the file "go" before it does the rest.
func gated(name, before, after string, keys ...string) string {
	s := fmt.Sprintf("  - name: %s\n    command: [sh, -c, '%swhile [ ! -e DIR/go ]; do sleep 0.05; done; %s']\n", name, before, after)
	for _, k := range keys {
		s += "    " + k + "\n"
	}
	return s
}

var _ = Describe("a worker is ready", func() {
	DescribeTable("only when its rule holds,", func(rule, after string) {
		h := up(gated("a", "", after, rule))
		w := h.WaitState("a", messages.Loading)
		Consistently(func() messages.State { return h.Worker("a").State }).Should(Equal(messages.Loading))
		touch(h, "go")
		Expect(h.WaitState("a", messages.Idle).PID).To(Equal(w.PID))
		Expect(h.Path("a")).To(Equal([]messages.State{messages.Pending, messages.Starting, messages.Loading, messages.Idle}))
	},
		Entry("by HTTP", `ready: {http: /health}`, `exec FAKE`),
		Entry("by TCP", `ready: {tcp: true}`, `exec FAKE`),
		Entry("by a line of its log", `ready: {log: "^server is (up|listening)$"}`, `exec FAKE`),
		Entry("by a command", `ready: {command: [test, -e, DIR/go]}`, `exec FAKE`),
		Entry("by notify", readyByNotify, `exec FAKE --notify`),
		Entry("by callback", `engine: hive`, `exec FAKE --callbacks`),
	)

	It("by HTTP when the answer is 200, and not while it is 503", func() {
		h := up(worker("a", "--load 1s", readyByHealth))
		w := h.WaitState("a", messages.Idle)
		Expect(w.ReadyAt.Sub(w.StartedAt)).To(BeNumerically(">", 900*time.Millisecond))
	})

	It("by callback, whatever its engine", func() {
		h := up(mute("a", readyByNotify))
		ready(h, "a")
	})

	It("by a pattern that its log held before hive looked", func() {
		h := up("  - name: a\n    command: [sh, -c, 'echo model loaded; exec sleep 1000']\n    port: none\n    ready: {log: loaded}")
		h.WaitState("a", messages.Idle)
	})

	It("with no rule once it has lived for ready.settle", func() {
		h := up(mute("a", "ready: {settle: 500ms}"))
		w := h.WaitState("a", messages.Idle)
		Expect(w.ReadyAt.Sub(w.StartedAt)).To(BeNumerically(">=", 450*time.Millisecond))
	})

	It("and leaves nothing of the commands that ask whether it is", func() {
		h := up(mute("a", `ready: {command: [sh, -c, "sleep 1001 & sleep 1002 & exit 0"]}`))
		w := h.WaitState("a", messages.Idle)
		Eventually(func() []runner.Proc { return h.Strays() }).Should(HaveLen(1))
		Expect(h.Strays()[0].PID).To(Equal(w.PID))
	})
})

var _ = Describe("a load", func() {
	It("that moves is not cut by ready.stall", func() {
		h := up(worker("a", "--callbacks --load 4s", "engine: hive", "ready: {stall: 1s}"))
		w := h.WaitState("a", messages.Idle)
		Expect(w.Attempt).To(BeEquivalentTo(1))
		Expect(w.ReadyAt.Sub(w.StartedAt)).To(BeNumerically(">", 3*time.Second))
	})

	It("that writes lines to its log moves, when nothing better is known of it", func() {
		h := up(worker("a", "--load 4s", "ready: {http: /health, stall: 1s}"))
		Expect(h.WaitState("a", messages.Idle).Attempt).To(BeEquivalentTo(1))
	})

	It("that takes a processor moves, though it says nothing", func() {
		h := up("  - name: a\n    command: [sh, -c, 'i=0; while [ $i -lt 4000000 ] && [ ! -e DIR/go ]; do i=$((i+1)); done; exec sleep 1000']\n" +
			"    port: none\n    ready: {command: [test, -e, DIR/go], stall: 1s}\n    " + waitsLong)
		h.WaitState("a", messages.Loading)
		Consistently(func() messages.State { return h.Worker("a").State }).WithTimeout(3 * time.Second).Should(Equal(messages.Loading))
		touch(h, "go")
		h.WaitState("a", messages.Idle)
	})

	It("that stands still is load_stalled, and it is told how far it had come", func() {
		h := up(worker("a", "--callbacks --load 500ms --load-stall-at 0.6", "engine: hive", "ready: {stall: 1s}", waitsLong))
		e := failedBy(h, "a", 1, messages.CauseLoadStalled)
		Expect(e.Reason).To(And(ContainSubstring("ready.stall (1s)"), ContainSubstring("60 %"), ContainSubstring("native")))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseLoadStalled))
		Expect(w.LastExit.Detail).To(ContainSubstring("60 %"))
	})

	It("whose own word stands still is load_stalled, even when it chats on", func() {
		h := up(worker("a", "--callbacks --load 500ms --load-stall-at 0.6 --log-lines 20", "engine: hive", "ready: {stall: 1s}", waitsLong))
		failedBy(h, "a", 1, messages.CauseLoadStalled)
	})

	It("that repeats the same progress stands still", func() {
		h := up(mute("a", "engine: hive", "ready: {stall: 1s}", waitsLong))
		w := h.WaitState("a", messages.Loading)
		began := time.Now()
		Eventually(func() messages.State {
			if w.PID == h.Worker("a").PID {
				calls(h, w, "progress", `,"value":0.3`)
			}
			return h.Worker("a").State
		}).WithPolling(200 * time.Millisecond).Should(Equal(messages.Backoff))
		Expect(time.Since(began)).To(BeNumerically(">", 900*time.Millisecond))
		failedBy(h, "a", 1, messages.CauseLoadStalled)
	})

	It("that moves and never gets there is ready_timeout", func() {
		h := up(worker("a", "--callbacks --load 20s", "engine: hive", "ready: {stall: 2s, timeout: 3s}", waitsLong))
		e := failedBy(h, "a", 1, messages.CauseReadyTimeout)
		Expect(e.Reason).To(And(ContainSubstring("ready.timeout (3s)"), ContainSubstring("%")))
		Expect(h.WaitState("a", messages.Backoff).LastExit.Cause).To(Equal(messages.CauseReadyTimeout))
	})

	It("gets the time that it asks for, by callback, over both bounds", func() {
		h := up(mute("a", "engine: hive", "ready: {stall: 1s, timeout: 2s}", waitsLong))
		w := h.WaitState("a", messages.Loading)
		takes(h, w, "progress", `,"extend_seconds":60`)
		Consistently(func() messages.State { return h.Worker("a").State }).WithTimeout(4 * time.Second).Should(Equal(messages.Loading))
		takes(h, w, "ready", "")
		h.WaitState("a", messages.Idle)
	})

	It("that asked for time and does not use it ends when that is over", func() {
		h := up(mute("a", "engine: hive", "ready: {stall: 500ms, timeout: 60s}", waitsLong))
		w := h.WaitState("a", messages.Loading)
		takes(h, w, "progress", `,"extend_seconds":2`)
		began := time.Now()
		failedBy(h, "a", 1, messages.CauseLoadStalled)
		Expect(time.Since(began)).To(BeNumerically(">", 1900*time.Millisecond))
	})
})
