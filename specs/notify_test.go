package specs

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// Keys of workers that the specs speak for, and of those held to their heartbeats.
const (
	readyByNotify = `ready: {notify: true}`
	quickBeats    = `heartbeat: {interval: 200ms, misses: 3}`
)

// says makes a fakeworker send a datagram, and returns once hive has taken it.
func says(h *runner.Hive, name, words string) { saysAs(h, name, "self", words) }

func saysAs(h *runner.Hive, name, who, words string) {
	GinkgoHelper()
	var r *http.Response
	Eventually(func() (err error) { // it may not listen yet
		r, err = http.Post(h.Worker(name).URL+"/notify?as="+who, "", strings.NewReader(words))
		return err
	}).Should(Succeed())
	answer, err := io.ReadAll(r.Body)
	Expect(err).NotTo(HaveOccurred())
	Expect(r.Body.Close()).To(Succeed())
	Expect(r.StatusCode).To(Equal(http.StatusOK), string(answer))
}

// notTaken is how many datagrams and words of a worker hive did not take.
func notTaken(h *runner.Hive, name, reason string) func() float64 {
	return func() float64 {
		v, _ := h.Metric("hive_worker_notify_refused_total", fmt.Sprintf("worker=%q", name), fmt.Sprintf("reason=%q", reason))
		return v
	}
}

// socketOf is where a worker's notify socket lies.
func socketOf(h *runner.Hive, name string) string {
	return filepath.Join(h.DataDir, "notify", name+".sock")
}

// write sends a datagram from the specs' own process.
func write(path, words string) {
	GinkgoHelper()
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	Expect(err).NotTo(HaveOccurred())
	defer c.Close()
	_, err = c.Write([]byte(words))
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("a worker that speaks by notify", func() {
	It("is idle once it has said READY=1, and not before", func() {
		h := up(worker("a", "", readyByNotify))
		w := h.WaitState("a", messages.Loading)
		says(h, "a", "STATUS=nearly")
		Consistently(func() messages.State { return h.Worker("a").State }).Should(Equal(messages.Loading))
		says(h, "a", "READY=1")
		Expect(h.WaitState("a", messages.Idle).PID).To(Equal(w.PID))
		h.WaitEvent("a is ready", runner.Of(messages.WorkerReady, "a"))
	})

	It("is ready by the helper package's own words", func() {
		h := up(worker("a", "--notify", readyByNotify))
		h.WaitState("a", messages.Idle)
	})

	It("goes from idle to busy and back with X_HIVE_IN_FLIGHT", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "READY=1")
		h.WaitState("a", messages.Idle)
		says(h, "a", "X_HIVE_IN_FLIGHT=2")
		Expect(h.WaitState("a", messages.Busy).InFlight).To(Equal(2))
		says(h, "a", "X_HIVE_IN_FLIGHT=0")
		h.WaitState("a", messages.Idle)
	})

	It("is busy at once when it had work before it was ready", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "X_HIVE_IN_FLIGHT=1")
		Expect(h.Worker("a").State).To(Equal(messages.Loading))
		says(h, "a", "READY=1")
		h.WaitState("a", messages.Busy)
	})

	It("has its heartbeat by WATCHDOG=1", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "READY=1\nWATCHDOG=1")
		h.WaitState("a", messages.Idle)
		h.WaitFor("a", "heard", func(w messages.WorkerStatus) bool {
			return w.Heartbeat.Kind == messages.BeatNative && w.Heartbeat.AgeSeconds != nil
		})
	})

	It("shows its STATUS as what it said", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "STATUS=warming up the \x1b[31mcache")
		h.WaitFor("a", "quoted", func(w messages.WorkerStatus) bool { return w.Said == "warming up the [31mcache" })
	})

	It("shows X_HIVE_PROGRESS as its own, and each tenth of it as an event", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "X_HIVE_PROGRESS=0.42\nX_HIVE_STAGE=weights")
		w := h.WaitFor("a", "on its way", func(w messages.WorkerStatus) bool { return w.Progress != nil })
		Expect(*w.Progress).To(Equal(messages.Progress{Stage: "weights", Value: 0.42, Source: "native"}))
		e := h.WaitEvent("a's progress", runner.Of(messages.WorkerProgress, "a"))
		Expect(*e.Progress).To(Equal(*w.Progress))
		says(h, "a", "X_HIVE_PROGRESS=0.45\nX_HIVE_STAGE=weights")
		says(h, "a", "X_HIVE_PROGRESS=0.5\nX_HIVE_STAGE=weights")
		h.WaitEvent("its next tenth", func(e messages.Event) bool {
			return runner.Of(messages.WorkerProgress, "a")(e) && e.Progress.Value == 0.5
		})
		Expect(h.Find(runner.Of(messages.WorkerProgress, "a"))).To(HaveLen(2), "0.45 is no new tenth")
	})

	It("moves ready.timeout with EXTEND_TIMEOUT_USEC", func() {
		h := up(worker("a", "--load 4s --notify --extend 60s", "ready: {notify: true, timeout: 2s}"))
		w := h.WaitState("a", messages.Idle)
		Expect(w.Attempt).To(BeEquivalentTo(1))
		Expect(w.ReadyAt.Sub(w.StartedAt)).To(BeNumerically(">", 2e9))
	})

	It("is failed as it asks by WATCHDOG=trigger", func() {
		h := up(worker("a", "", readyByNotify, waitsLong))
		says(h, "a", "READY=1")
		h.WaitState("a", messages.Idle)
		r, err := http.Post(h.Worker("a").URL+"/notify", "", strings.NewReader("WATCHDOG=trigger"))
		if err == nil { // it may be ended before it has answered
			Expect(r.Body.Close()).To(Succeed())
		}
		Expect(h.WaitEvent("a failed", runner.Into("a", messages.Failed)).Cause).To(Equal(messages.CauseHealthFailed))
		w := h.WaitState("a", messages.Backoff)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseHealthFailed))
		Expect(w.LastExit.Detail).To(ContainSubstring("WATCHDOG=trigger"))
	})

	It("is spoken for by its children too, in sessions of their own", func() {
		h := up(worker("a", "", readyByNotify))
		saysAs(h, "a", "child", "READY=1")
		h.WaitState("a", messages.Idle)
		saysAs(h, "a", "child", "X_HIVE_IN_FLIGHT=3")
		Expect(h.WaitState("a", messages.Busy).InFlight).To(Equal(3))
		Expect(notTaken(h, "a", "stranger")()).To(BeZero())
	})

	It("is told where to speak by its environment", func() {
		h := up(worker("a", "", readyByNotify, quickBeats))
		w := h.WaitState("a", messages.Loading)
		Expect(runner.Environment(w.PID, "NOTIFY_SOCKET")).To(Equal(socketOf(h, "a")))
		Expect(runner.Environment(w.PID, "WATCHDOG_USEC")).To(Equal("600000"))
	})
})

var _ = Describe("a notify socket", func() {
	It("hears no stranger: nothing changes, it is counted, and told once", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "STATUS=mine")
		before := h.WaitFor("a", "quoted", func(w messages.WorkerStatus) bool { return w.Said == "mine" })
		for range 3 {
			write(socketOf(h, "a"), "READY=1\nSTATUS=theirs\nX_HIVE_IN_FLIGHT=9\nWATCHDOG=trigger")
		}
		says(h, "a", "X_HIVE_PROGRESS=0.1") // after which theirs have been heard as well
		Expect(notTaken(h, "a", "stranger")()).To(BeEquivalentTo(3))
		after := h.Worker("a")
		Expect(after.State).To(Equal(messages.Loading))
		Expect(after.PID).To(Equal(before.PID))
		Expect(after.Said).To(Equal("mine"))
		Expect(after.Heartbeat.Kind).To(Equal(messages.BeatNone))
		e := h.WaitEvent("a stranger", runner.Of(messages.WorkerStranger, "a"))
		Expect(e.PID).To(Equal(os.Getpid()))
		h.WaitEvent("the progress after it", runner.Of(messages.WorkerProgress, "a"))
		Expect(h.Find(runner.Of(messages.WorkerStranger, "a"))).To(HaveLen(1))
	})

	DescribeTable("ignores and counts, and stays open after,", func(reason, words string) {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", words)
		Eventually(notTaken(h, "a", reason)).Should(BeEquivalentTo(1))
		w := h.Worker("a")
		Expect(w.State).To(Equal(messages.Loading))
		Expect(w.InFlight).To(BeZero())
		Expect(w.Progress).To(BeNil())
		says(h, "a", "READY=1")
		Expect(h.WaitState("a", messages.Idle).PID).To(Equal(w.PID))
	},
		Entry("a word without =", "malformed", "READY"),
		Entry("bytes without sense", "malformed", "\x00\xff\xfe=\x01\nREADY\x00"),
		Entry("READY with another value", "malformed", "READY=0"),
		Entry("a number that is none", "malformed", "EXTEND_TIMEOUT_USEC=soon"),
		Entry("progress above 1", "malformed", "X_HIVE_PROGRESS=1.01"),
		Entry("progress below 0", "malformed", "X_HIVE_PROGRESS=-0.1"),
		Entry("progress that is no number", "malformed", "X_HIVE_PROGRESS=NaN"),
		Entry("a negative in flight", "malformed", "X_HIVE_IN_FLIGHT=-1"),
		Entry("an in flight beyond all bounds", "malformed", "X_HIVE_IN_FLIGHT=99999999999"),
		Entry("a datagram longer than 64 KiB", "malformed", "READY=1\nSTATUS="+strings.Repeat("x", 64<<10)),
		Entry("an unknown word", "unknown word", "COLOUR=red"),
	)

	It("tells of malformed words once an attempt, and takes the good ones beside them", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "X_HIVE_IN_FLIGHT=-1\nSTATUS=kept")
		says(h, "a", "X_HIVE_PROGRESS=7")
		h.WaitFor("a", "quoted", func(w messages.WorkerStatus) bool { return w.Said == "kept" })
		Expect(h.WaitEvent("malformed words", runner.Of(messages.WorkerMalformed, "a")).Reason).To(ContainSubstring("X_HIVE_IN_FLIGHT"))
		says(h, "a", "READY=1")
		h.WaitEvent("a is ready", runner.Of(messages.WorkerReady, "a"))
		Expect(h.Find(runner.Of(messages.WorkerMalformed, "a"))).To(HaveLen(1))
	})

	It("takes a datagram of 64 KiB, and of its status what can be shown", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "READY=1\nSTATUS="+strings.Repeat("x", 64<<10-len("READY=1\nSTATUS=")))
		h.WaitState("a", messages.Idle)
		h.WaitFor("a", "quoted", func(w messages.WorkerStatus) bool { return len(w.Said) == 256 })
	})

	It("takes no progress that goes back within a stage, and counts it", func() {
		h := up(worker("a", "", readyByNotify))
		says(h, "a", "X_HIVE_PROGRESS=0.5")
		says(h, "a", "X_HIVE_PROGRESS=0.3")
		Expect(notTaken(h, "a", "progress went back")()).To(BeEquivalentTo(1))
		w := h.WaitFor("a", "on its way", func(w messages.WorkerStatus) bool { return w.Progress != nil })
		Consistently(func() float64 { return h.Worker("a").Progress.Value }).Should(Equal(0.5), w.Reason)
		says(h, "a", "X_HIVE_PROGRESS=0.1\nX_HIVE_STAGE=graphs")
		h.WaitFor("a", "at its next stage", func(w messages.WorkerStatus) bool { return w.Progress.Value == 0.1 && w.Progress.Stage == "graphs" })
	})

	It("has the same path after a restart of the worker", func() {
		h := up(worker("a", "", readyByNotify))
		first := h.WaitState("a", messages.Loading)
		says(h, "a", "READY=1")
		h.WaitState("a", messages.Idle)
		Expect(runner.Kill(first.PID)).To(Succeed())
		second := h.WaitAttempt("a", 2, messages.Loading)
		Expect(runner.Environment(second.PID, "NOTIFY_SOCKET")).To(Equal(socketOf(h, "a")))
		says(h, "a", "READY=1")
		h.WaitState("a", messages.Idle)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
		h.Accept(messages.VerbStart, "a")
		h.WaitAttempt("a", 3, messages.Loading)
		says(h, "a", "READY=1")
		h.WaitAttempt("a", 3, messages.Idle)
	})

	It("has the same path after a restart of hive", func() {
		h := up(worker("a", "", readyByNotify))
		w := h.WaitState("a", messages.Loading)
		path := runner.Environment(w.PID, "NOTIFY_SOCKET")
		Expect(h.Stop()).To(BeZero())
		Expect(path).NotTo(BeAnExistingFile())
		h.Start()
		w = h.WaitState("a", messages.Loading)
		Expect(runner.Environment(w.PID, "NOTIFY_SOCKET")).To(Equal(path))
		says(h, "a", "READY=1")
		h.WaitState("a", messages.Idle)
	})

	It("has the same path after hive was killed", func() {
		h := up(worker("a", "", readyByNotify))
		old := h.WaitState("a", messages.Loading)
		path := runner.Environment(old.PID, "NOTIFY_SOCKET")
		h.Kill9()
		Expect(path).To(BeAnExistingFile(), "a worker that lives on keeps its way to the next hive")
		Expect(runner.Kill(old.PID)).To(Succeed())
		Eventually(func() bool { return runner.Exists(old.PID) }).Should(BeFalse())
		h.Start()
		w := h.WaitState("a", messages.Loading)
		Expect(runner.Environment(w.PID, "NOTIFY_SOCKET")).To(Equal(path))
		says(h, "a", "READY=1")
		h.WaitState("a", messages.Idle)
	})

	It("goes with the worker", func() {
		h := up(worker("a", "", readyByNotify))
		h.WaitState("a", messages.Loading)
		Expect(socketOf(h, "a")).To(BeAnExistingFile())
		h.API(http.MethodDelete, "/v1/workers/a", "")
		Eventually(func() bool { _, err := os.Lstat(socketOf(h, "a")); return os.IsNotExist(err) }).Should(BeTrue())
	})

	DescribeTable("lies elsewhere where its path would be too long for the kernel", func(length int) {
		h := runner.New(bin)
		h.DataDir = h.Dir + "/" + strings.Repeat("d", length-len(h.Dir)-1)
		h.Socket = config.SocketPath(h.DataDir)
		name := "a" + strings.Repeat("-long", 12)
		h.Configure("", worker(name, "", readyByNotify))
		h.Start()
		w := h.WaitState(name, messages.Loading)
		path := runner.Environment(w.PID, "NOTIFY_SOCKET")
		Expect(path).To(BeAnExistingFile())
		Expect(len(path)).To(BeNumerically("<=", 107))
		says(h, name, "READY=1")
		h.WaitState(name, messages.Idle)
	},
		Entry("for the name", 70),
		Entry("for the folder", 88),
		Entry("for the data directory", 120),
	)
})

var _ = Describe("an example of a worker", func() {
	DescribeTable("really runs as one and gets idle", func(file, tool, keys string) {
		needs(tool)
		path, err := filepath.Abs(filepath.Join("..", "examples", file))
		Expect(err).NotTo(HaveOccurred())
		h := up(fmt.Sprintf("  - name: a\n    command: [%s]\n    port: none\n    %s", path, keys))
		w := h.WaitState("a", messages.Idle)
		h.WaitFor("a", "beating by itself", func(w messages.WorkerStatus) bool { return w.Heartbeat.Kind == messages.BeatNative })
		Expect(notTaken(h, "a", "stranger")()).To(BeZero())
		h.Accept(messages.VerbStop, "a")
		w = h.WaitState("a", messages.Stopped)
		Expect(w.LastExit.Cause).To(Equal(messages.CauseStoppedByUser))
		Expect(w.LastExit.LogTail).To(BeEmpty(), "it has nothing to complain of")
	},
		Entry("in shell, by notify", "notify.sh", "perl", readyByNotify),
		Entry("in Python, by notify", "worker.py", "python3", readyByNotify),
		Entry("in Python, by HTTP", "worker_http.py", "python3", "engine: hive"),
	)
})
