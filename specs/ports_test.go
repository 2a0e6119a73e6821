package specs

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("the port of a worker", func() {
	It("is waited for while another program holds it, which is named", func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = l.Close() })
		port := l.Addr().(*net.TCPAddr).Port
		h := up(worker("a", "", fmt.Sprintf("port: %d", port)))
		w := h.WaitFor("a", "held", func(w messages.WorkerStatus) bool { return w.Held })
		Expect(w.Reason).To(And(ContainSubstring(strconv.Itoa(port)), ContainSubstring("pid "+strconv.Itoa(os.Getpid()))))
		Expect(l.Close()).To(Succeed())
		Expect(h.WaitState("a", messages.Idle).Port).To(Equal(port))
	})

	It("is named with its holder when the worker could not bind it", func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = l.Close() })
		port := l.Addr().(*net.TCPAddr).Port
		h := up(worker("a", fmt.Sprintf("--port %d", port), "port: none", neverAgain))
		w := h.WaitFor("a", "ended", func(w messages.WorkerStatus) bool { return w.LastExit != nil })
		Expect(w.LastExit.Cause).To(Equal(messages.CausePortInUse), w.LastExit.Detail)
	})

	It("is not lost by 200 fast restarts", Label("slow"), func() {
		h := runner.New(bin)
		h.Configure(fmt.Sprintf("ports: %d-%d", h.FirstPort, h.FirstPort+1),
			worker("a", "--crash-after 0s --crash-attempts 200", `restart: {max_restarts: 1000, backoff: {initial: 0s, max: 0s}}`)+worker("b", ""))
		h.Start()
		b := h.WaitState("b", messages.Idle)
		var a messages.WorkerStatus
		Eventually(func() messages.Attempt {
			a = h.Worker("a")
			return a.Attempt
		}).WithTimeout(2 * time.Minute).Should(BeEquivalentTo(201))
		a = h.WaitState("a", messages.Idle)
		Expect([]int{a.Port, b.Port}).To(ConsistOf(h.FirstPort, h.FirstPort+1))
		Expect(h.Worker("b").PID).To(Equal(b.PID))
	})

	It("is passed on as a socket that outlives the attempt, so that callers wait instead of being refused", func() {
		h := runner.New(bin)
		script := filepath.Join(h.Dir, "activated.py")
		Expect(os.WriteFile(script, []byte(activated), 0o600)).To(Succeed())
		h.Configure("", "  - {name: a, command: [python3, "+script+"], listen: socket, ready: {http: /}, restart: {backoff: {initial: 500ms, max: 500ms}}}\n")
		h.Start()
		first := h.WaitState("a", messages.Idle)
		Expect(fetch(first.URL)).To(Equal(strconv.Itoa(first.PID)))
		Expect(runner.Kill(first.PID)).To(Succeed())
		h.WaitEvent("a ended", exited("a", 1))
		Expect(fetch(first.URL)).NotTo(Equal(strconv.Itoa(first.PID)), "the next attempt answers what was asked while there was none")
		h.WaitAttempt("a", 2, messages.Idle)
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
		_, err := http.Get(first.URL)
		Expect(err).To(MatchError(ContainSubstring("refused")))
	})
})

// activated is a server that takes its socket as systemd passes it.
const activated = `import http.server, os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
s = http.server.HTTPServer(("127.0.0.1", 0), H, bind_and_activate=False)
s.socket = socket.socket(fileno=3)
s.serve_forever()
`

func fetch(url string) string {
	GinkgoHelper()
	client := http.Client{Timeout: within}
	r, err := client.Get(url)
	Expect(err).NotTo(HaveOccurred())
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	Expect(err).NotTo(HaveOccurred())
	return strings.TrimSpace(string(b))
}

var _ = Describe("the limits that the kernel keeps for each process", func() {
	It("are set right after the start: nofile, core, nice, oom_score_adj", func() {
		h := up(worker("a", "", "limits: {nofile: 333, core: 4KiB}", "nice: 3", "oom_score_adj: 250"))
		w := h.WaitState("a", messages.Idle)
		read := func(file string) string {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", w.PID, file))
			Expect(err).NotTo(HaveOccurred())
			return string(b)
		}
		Expect(read("limits")).To(And(MatchRegexp(`Max open files +333 +333`), MatchRegexp(`Max core file size +4096 +4096`)))
		Expect(strings.TrimSpace(read("oom_score_adj"))).To(Equal("250"))
		stat := read("stat")
		Expect(strings.Fields(stat[strings.LastIndex(stat, ")"):])[17]).To(Equal("3"), "nice")
	})

	It("show in the status what the worker uses", func() {
		h := up(worker("a", ""))
		h.WaitState("a", messages.Idle)
		w := h.WaitFor("a", "measured", func(w messages.WorkerStatus) bool { return w.Resources.MemoryBytes > 0 })
		Expect(w.Resources.Processes).To(Equal(1))
		Eventually(func() float64 {
			v, _ := h.Metric("hive_worker_memory_bytes", `worker="a"`)
			return v
		}).Should(BeNumerically(">", 0))
	})
})
