package specs

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// memoryAvailable is what the kernel says it could give now, in MiB.
func memoryAvailable() int {
	GinkgoHelper()
	f, err := os.Open("/proc/meminfo")
	Expect(err).NotTo(HaveOccurred())
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	Fail("/proc/meminfo names no MemAvailable")
	return 0
}

func asksMemory(mib int) string { return fmt.Sprintf("limits: {memory: %dMiB}", mib) }

var _ = Describe("a worker that does not fit", func() {
	It("stays pending with the reason, and starts when there is room", func() {
		h := up(worker("a", "", asksMemory(1<<30)))
		w := h.WaitFor("a", "held", func(w messages.WorkerStatus) bool { return w.Held })
		Expect(w.State).To(Equal(messages.Pending))
		Expect(w.Reason).To(And(ContainSubstring("limits.memory"), ContainSubstring("TiB")))
		Expect(w.Attempt).To(BeZero())
		r := h.API(http.MethodPatch, "/v1/workers/a", `{"limits":{"memory":"64MiB"}}`)
		Expect(r.Status).To(Equal(http.StatusOK), r.Body)
		h.WaitState("a", messages.Idle)
	})

	It("is started in its turn: a small one does not overtake a large one that waits", func() {
		half := memoryAvailable() * 6 / 10
		h := up(worker("first", "", asksMemory(half)))
		h.WaitState("first", messages.Idle)
		create(h, "large", half)
		h.WaitFor("large", "held", func(w messages.WorkerStatus) bool { return w.Held })
		create(h, "small", 16)
		w := h.WaitFor("small", "held", func(w messages.WorkerStatus) bool { return w.Held })
		Expect(w.Reason).To(ContainSubstring("behind worker large"))
		Consistently(func() messages.State { return h.Worker("small").State }).Should(Equal(messages.Pending))
		h.Accept(messages.VerbStop, "first")
		h.WaitState("large", messages.Idle)
		h.WaitState("small", messages.Idle)
	})

	It("is refused with 503, Retry-After and the reason when the caller does not want to wait", func() {
		h := up("")
		body := fmt.Sprintf(`{"name":"a","command":[%q],"limits":{"memory":"1024TiB"}}`, h.Bin.Fake)
		r := h.API(http.MethodPost, "/v1/workers?wait=no", body)
		Expect(r.Status).To(Equal(http.StatusServiceUnavailable), r.Body)
		Expect(r.Header.Get("Retry-After")).NotTo(BeEmpty())
		Expect(r.Body).To(And(ContainSubstring("no_room"), ContainSubstring("limits.memory")))
		Eventually(h.Workers).Should(BeEmpty(), "a worker that was refused is not kept")
		r = h.API(http.MethodPost, "/v1/workers?wait=no", fmt.Sprintf(`{"name":"b","command":[%q]}`, h.Bin.Fake))
		Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
		h.WaitState("b", messages.Idle)
	})
})

func create(h *runner.Hive, name string, mib int) {
	GinkgoHelper()
	r := h.API(http.MethodPost, "/v1/workers", fmt.Sprintf(`{"name":%q,"command":[%q],"limits":{"memory":"%dMiB"}}`, name, h.Bin.Fake, mib))
	Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
}

var _ = Describe("a full disk", Label("root"), func() {
	It("stops new starts and nothing else, is said, and is got over", func() {
		if os.Geteuid() != 0 {
			Skip("needs root, to mount a small tmpfs")
		}
		h := runner.New(bin)
		disk := filepath.Join(h.Dir, "disk")
		Expect(os.Mkdir(disk, 0o755)).To(Succeed())
		Expect(syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64m")).To(Succeed())
		DeferCleanup(func() {
			Eventually(func() error { return syscall.Unmount(disk, syscall.MNT_DETACH) }).Should(Succeed())
		})
		h.DataDir = filepath.Join(disk, "data")
		h.Socket = filepath.Join(h.DataDir, "hive.sock")
		h.Configure("", worker("a", "--log-lines 200")+worker("b", "", "restart: {backoff: {initial: 50ms}}"))
		h.Start()
		a := h.WaitState("a", messages.Idle)
		h.WaitState("b", messages.Idle)
		fill(filepath.Join(disk, "stuffing"))
		r := h.API(http.MethodPost, "/v1/workers", fmt.Sprintf(`{"name":"c","command":[%q]}`, h.Bin.Fake))
		Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
		w := h.WaitFor("c", "held", func(w messages.WorkerStatus) bool { return w.Held })
		Expect(w.Reason).To(And(ContainSubstring("disk"), ContainSubstring("data_dir")))
		Expect(runner.Kill(h.Worker("b").PID)).To(Succeed())
		h.WaitFor("b", "held", func(w messages.WorkerStatus) bool { return w.Held })
		Expect(h.Worker("a").PID).To(Equal(a.PID), "what runs goes on")
		Expect(h.Worker("a").State).To(Equal(messages.Idle))
		Expect(os.Remove(filepath.Join(disk, "stuffing"))).To(Succeed())
		h.WaitState("c", messages.Idle)
		h.WaitAttempt("b", 2, messages.Idle)
		Eventually(func() string { return h.Get("/v1/workers/a/logs?tail=1").Body }).ShouldNot(BeEmpty())
		Expect(h.Stop()).To(BeZero())
	})
})

// fill writes until the disk has no room.
func fill(path string) {
	GinkgoHelper()
	f, err := os.Create(path)
	Expect(err).NotTo(HaveOccurred())
	defer f.Close()
	block := []byte(strings.Repeat("x", 1<<20))
	for err == nil {
		_, err = f.Write(block)
	}
	Expect(err).To(MatchError(syscall.ENOSPC))
}

func nobody() *syscall.Credential { return &syscall.Credential{Uid: 65534, Gid: 65534} }

var _ = Describe("hive as an ordinary user", Label("root"), func() {
	It("works, and says what it cannot hold", func() {
		if os.Geteuid() != 0 {
			Skip("needs root, to become nobody; without root every spec is this one")
		}
		h := runner.New(bin)
		h.As = nobody()
		h.Configure("", worker("a", "--callbacks --notify", readyByHealth)+worker("b", "--crash-after 100ms --crash-attempts 1")+
			worker("c", "--grandchild --daemonize-child --mark MARK", "stop: {grace: 200ms}")+
			worker("d", "", "user: root")+worker("e", "", "nice: -5"))
		h.Start()
		h.WaitState("a", messages.Idle)
		h.WaitAttempt("b", 2, messages.Idle)
		h.WaitState("c", messages.Idle)
		for name, word := range map[string]string{"d": "root", "e": "nice -5"} {
			w := h.WaitState(name, messages.Crashloop)
			Expect(w.LastExit.Cause).To(Equal(messages.CauseConfig), name)
			Expect(w.Reason).To(ContainSubstring(word), name)
		}
		r := h.CLI("doctor")
		Expect(r.Stdout).To(ContainSubstring("user"), r.Stderr)
		h.Accept(messages.VerbStop, "c")
		h.WaitState("c", messages.Stopped)
		Expect(h.Stop()).To(BeZero())
		Expect(h.Strays()).To(BeEmpty())
	})
})
