package specs

import (
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
	"syscall"
)

// prepares is the key of a prepare command in shell.
func prepares(script string) string { return "prepare: [sh, -c, '" + script + "']" }

// untilGo makes a script wait for the file "go".
const untilGo = `while [ ! -e DIR/go ]; do sleep 0.05; done; `

// lines is what a file of the spec's folder holds, none when it is not there.
func lines(h *runner.Hive, name string) []string {
	b, _ := os.ReadFile(filepath.Join(h.Dir, name))
	return strings.Fields(string(b))
}

var _ = Describe("prepare", func() {
	It("runs before the first attempt: pending, with its progress in view and its output in the log", func() {
		h := up(worker("a", "", prepares(`echo fetching "$HIVE_WORKER"; printf "part  17%%\r"; printf "part  42%%\r"; `+untilGo+`echo fetched`)))
		w := h.WaitFor("a", "preparing", func(w messages.WorkerStatus) bool { return w.Progress != nil && w.Progress.Value == 0.42 })
		Expect(w.State).To(Equal(messages.Pending))
		Expect(w.Reason).To(Equal("preparing"))
		Expect(*w.Progress).To(Equal(messages.Progress{Stage: "preparing", Value: 0.42, Source: "log"}))
		Expect(w.Attempt).To(BeZero())
		Expect(w.PID).To(BeZero())
		Expect(ratio(h, "a")).To(Equal(0.42))
		Expect(told(h, "a", 0, "log").Progress.Stage).To(Equal("preparing"))
		h.WaitEvent("it prepares", runner.Of(messages.WorkerPreparing, "a"))
		Expect(h.Get("/v1/workers/a/logs").Body).To(ContainSubstring("fetching a"), "its output can be read while it runs")

		touch(h, "go")
		w = h.WaitState("a", messages.Idle)
		Expect(w.Attempt).To(BeEquivalentTo(1))
		Expect(w.Progress).To(BeNil())
		Expect(float64(h.WaitEvent("it has prepared", runner.Of(messages.WorkerPrepared, "a")).Took)).To(BeNumerically(">", 0))
		Expect(h.Path("a")).To(Equal([]messages.State{messages.Pending, messages.Starting, messages.Loading, messages.Idle}))
		Eventually(func() string { return h.Get("/v1/workers/a/logs?attempt=1").Body }).Should(MatchRegexp(`(?s)fetching a.*fetched.*fakeworker pid`))
	})

	It("that fails is prepare_failed, with a backoff, and is tried again", func() {
		h := up(worker("a", "", prepares(`echo no room on the moon; echo tried >> DIR/tries; exit 7`), waitsLong))
		e := h.WaitEvent("a failed", runner.Into("a", messages.Failed))
		Expect(e.Cause).To(Equal(messages.CausePrepareFailed))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CausePrepareFailed))
		Expect(w.LastExit.Detail).To(And(ContainSubstring("prepare exited with code 7"), ContainSubstring("hive logs a")))
		Expect(w.LastExit.LogTail).To(ContainElement("no room on the moon"))
		Expect(w.Restarts.NextAt).NotTo(BeNil())
		Expect(w.Attempt).To(BeZero())
		Expect(lines(h, "tries")).To(HaveLen(1))
		h.Accept(messages.VerbRestart, "a")
		Eventually(func() []string { return lines(h, "tries") }).Should(HaveLen(2))
	})

	It("that fails goes on to a crash loop within the allowance of the worker", func() {
		h := up(worker("a", "", prepares(`echo tried >> DIR/tries; exit 1`), "restart: {max_restarts: 2, slow_retry: 0s, backoff: {initial: 50ms, max: 50ms}}"))
		w := h.WaitState("a", messages.Crashloop)
		Expect(w.LastExit.Cause).To(Equal(messages.CausePrepareFailed))
		Expect(lines(h, "tries")).To(HaveLen(3))
	})

	It("that succeeds after a failure is followed by the first attempt", func() {
		h := up(worker("a", "", prepares(`[ -e DIR/tried ] || { touch DIR/tried; exit 1; }`)))
		Expect(h.WaitState("a", messages.Idle).Attempt).To(BeEquivalentTo(1))
		Expect(h.Path("a")[:4]).To(Equal([]messages.State{messages.Pending, messages.Failed, messages.Backoff, messages.Pending}))
	})

	It("that is killed says by which signal", func() {
		h := up(worker("a", "", prepares(`kill -KILL $$`), waitsLong))
		Expect(h.WaitState("a", messages.Backoff).LastExit.Detail).To(ContainSubstring("killed by signal 9"))
	})

	It("ends with all its processes when the worker is stopped meanwhile", func() {
		h := up(worker("a", "", prepares(`setsid sleep 1000 & sleep 1001 & `+untilGo), waitsLong))
		h.WaitFor("a", "preparing", func(w messages.WorkerStatus) bool { return w.Reason == "preparing" })
		Eventually(func() int { return len(h.Strays()) }).Should(BeNumerically(">=", 3))
		h.Accept(messages.VerbStop, "a")
		Expect(h.WaitState("a", messages.Stopped).Attempt).To(BeZero())
		Eventually(h.Strays).Should(BeEmpty())
		Expect(h.Find(runner.Into("a", messages.Failed))).To(BeEmpty(), "a stop is no failure")
	})

	It("runs once at a time, however often the worker is stopped and started", func() {
		h := up(worker("a", "", prepares(`mkdir DIR/lock || echo two >> DIR/twice; trap "" TERM; `+untilGo+`rmdir DIR/lock`)))
		h.WaitFor("a", "preparing", func(w messages.WorkerStatus) bool { return w.Reason == "preparing" })
		for range 5 {
			Eventually(func() error { return os.Remove(filepath.Join(h.Dir, "lock")) }).Should(Succeed())
			h.Accept(messages.VerbStop, "a")
			h.WaitState("a", messages.Stopped)
			h.Accept(messages.VerbStart, "a")
		}
		touch(h, "go")
		h.WaitState("a", messages.Idle)
		Expect(lines(h, "twice")).To(BeEmpty())
	})

	It("ends when hive does", func() {
		h := up(worker("a", "", prepares(`setsid sleep 1000 & `+untilGo)))
		Eventually(func() int { return len(h.Strays()) }).Should(BeNumerically(">=", 2))
		Expect(h.Stop()).To(BeZero())
		Eventually(h.Strays).Should(BeEmpty())
	})

	It("leaves none of its processes behind when it has ended", func() {
		h := up(worker("a", "", prepares(`setsid sleep 1000 & exit 0`)))
		w := h.WaitState("a", messages.Idle)
		Eventually(func() []runner.Proc { return h.Strays() }).Should(HaveLen(1))
		Expect(h.Strays()[0].PID).To(Equal(w.PID))
	})

	It("makes the model that it is for", func() {
		h := up(worker("a", "", prepares(`echo weights > DIR/model.gguf`), "model: DIR/model.gguf"))
		h.WaitState("a", messages.Idle)
	})

	It("that does not make the model is a failure in plain words", func() {
		h := up(worker("a", "", prepares(`true`), "model: DIR/model.gguf", waitsLong))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CausePrepareFailed))
		Expect(w.LastExit.Detail).To(And(ContainSubstring("exited with code 0"), ContainSubstring("model.gguf is still not there")))
		Expect(w.Attempt).To(BeZero())
	})

	It("is not run again when the worker crashes", func() {
		h := up(worker("a", "--crash-after 100ms --crash-attempts 2", prepares(`echo once >> DIR/runs`)))
		h.WaitAttempt("a", 3, messages.Idle)
		Expect(lines(h, "runs")).To(HaveLen(1))
		Expect(h.Find(runner.Of(messages.WorkerPrepared, "a"))).To(HaveLen(1))
	})

	It("keeps no device and no port from others", func() {
		h := runner.New(bin)
		h.Configure("gpu: {fake: 1}", worker("a", "", "gpu: {count: 1}", prepares(untilGo))+worker("b", "", "gpu: {count: 1}", readyByHealth))
		h.Start()
		h.WaitState("b", messages.Idle)
		Expect(h.Worker("a").Reason).To(Equal("preparing"))
		touch(h, "go")
		h.WaitState("a", messages.Idle)
	})

	It("that cannot be started is told in plain words", func() {
		h := up(worker("a", "", "prepare: [DIR/no-such-program]", waitsLong))
		w := h.WaitFor("a", "without a chance", func(w messages.WorkerStatus) bool { return w.LastExit != nil && w.PID == 0 })
		Expect(w.LastExit.Detail).To(ContainSubstring("no-such-program"))
	})
})

var _ = Describe("prepare on a disk that is nearly full", Label("root"), func() {
	var disk string
	BeforeEach(func() {
		if os.Geteuid() != 0 {
			Skip("needs root, to mount a small tmpfs")
		}
		var err error
		disk, err = os.MkdirTemp("", "hive-specs-disk")
		Expect(err).NotTo(HaveOccurred())
		Expect(syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=300m")).To(Succeed())
		DeferCleanup(func() {
			Eventually(func() error { return syscall.Unmount(disk, syscall.MNT_DETACH) }).Should(Succeed())
			Expect(os.Remove(disk)).To(Succeed())
		})
	})
	prepares := func(words string) string {
		return worker("a", "", "model: "+disk+"/model", "prepare: "+words, "restart: {backoff: {initial: 60s, max: 60s}}")
	}

	It("is not started when there is no room, and says so", func() {
		Expect(os.WriteFile(filepath.Join(disk, "stuffing"), make([]byte, 100<<20), 0o600)).To(Succeed())
		h := up(prepares("[touch, " + disk + "/model]"))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CausePrepareFailed))
		Expect(w.LastExit.Detail).To(And(ContainSubstring(disk), ContainSubstring("free"), ContainSubstring("make room")))
		Expect(filepath.Join(disk, "model")).NotTo(BeAnExistingFile())
	})

	It("is ended, with all its processes, when it fills the disk", func() {
		h := up(prepares(`[sh, -c, "dd if=/dev/zero of=` + disk + `/model bs=1M count=100 2>/dev/null; sleep 1000"]`))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CausePrepareFailed))
		Expect(w.LastExit.Detail).To(And(ContainSubstring("was ended"), ContainSubstring(disk)))
		Eventually(func() int { return len(h.Strays()) }).Should(BeZero())
	})
})
