package runner

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// How long the runner waits for what must happen. Generous, because the specs
// share their host with other work; nothing passes by being slow.
const (
	startWithin = 30 * time.Second
	stateWithin = 20 * time.Second
	endWithin   = 30 * time.Second
	goneWithin  = 10 * time.Second
	poll        = 20 * time.Millisecond
)

// portsPerHive is how many ports one hive gets. Ranges lie below 32768, where
// Linux begins to give out ports by itself.
const (
	firstPort      = 20000
	portsPerHive   = 20
	portsPerRunner = 400
)

// markKey is the variable by which every process of a spec is found.
const markKey = "HIVE_SPECS_MARK"

var serial atomic.Int64

// Hive is one daemon under test.
type Hive struct {
	Bin        Binaries
	Dir        string // working directory, with hive.yaml in it
	DataDir    string
	ConfigPath string
	Socket     string
	FirstPort  int
	LastPort   int
	Mark       string
	As         *syscall.Credential // runs the daemon as another user; nil: as the runner's

	cmd      *exec.Cmd
	exited   chan struct{} // closed when the daemon has ended
	client   *http.Client
	follower *follower
	baseline []string
	orphaned bool // its processes outlive it on purpose: it was killed
}

var claims []*os.File

// claimBlock is the block of ports that this process holds until it ends: two
// suites at a time must not meet. The kernel frees the claim with the process.
var claimBlock = sync.OnceValue(func() int {
	const blocks = 30
	for i := range blocks {
		f, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("hive-specs-ports-%d.lock", i)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			continue // another user's
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			claims = append(claims, f) // stays open, and the claim with it
			return i
		}
		_ = f.Close()
	}
	panic(fmt.Sprintf("all %d blocks of ports are claimed in %s; end the other suites", blocks, os.TempDir()))
})

// New makes a hive that is not started yet, and takes care of its end.
func New(bin Binaries) *Hive {
	ginkgo.GinkgoHelper()
	dir, err := os.MkdirTemp("", "hs")
	Expect(err).NotTo(HaveOccurred())
	n := int(serial.Add(1))
	process := ginkgo.GinkgoParallelProcess()
	first := firstPort + claimBlock()*portsPerRunner + n*portsPerHive%portsPerRunner
	h := &Hive{Bin: bin, Dir: dir, DataDir: filepath.Join(dir, "data"), ConfigPath: filepath.Join(dir, "hive.yaml"),
		FirstPort: first, LastPort: first + portsPerHive - 1,
		Mark: fmt.Sprintf("specs-%d-%d-%d", os.Getpid(), process, n)}
	h.Socket = filepath.Join(h.DataDir, "hive.sock")
	h.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.Socket)
		}}}
	ginkgo.DeferCleanup(h.Finish)
	return h
}

// Up writes a configuration, starts a hive with it and waits until it answers.
// FAKE in the text stands for the path of fakeworker, MARK for the mark.
func Up(bin Binaries, settings, workers string) *Hive {
	ginkgo.GinkgoHelper()
	h := New(bin)
	h.Configure(settings, workers)
	h.Start()
	return h
}

var topKey = regexp.MustCompile(`(?m)^([a-z_]+):`)

// Configure writes hive.yaml: short times for everything, over which settings
// (top-level keys) go, then the list of workers.
func (h *Hive) Configure(settings, workers string) {
	ginkgo.GinkgoHelper()
	own := map[string]bool{}
	for _, m := range topKey.FindAllStringSubmatch(settings, -1) {
		own[m[1]] = true
	}
	var b strings.Builder
	for _, kv := range [][2]string{
		{"data_dir", h.DataDir},
		{"listen", "127.0.0.1:0"},
		{"ports", fmt.Sprintf("%d-%d", h.FirstPort, h.LastPort)},
		{"shutdown", "{drain: 500ms, grace: 2s}"},
		{"defaults", "{ready: {settle: 0s}, restart: {backoff: {initial: 50ms, max: 200ms}}}"},
	} {
		if !own[kv[0]] {
			fmt.Fprintf(&b, "%s: %s\n", kv[0], kv[1])
		}
	}
	b.WriteString(settings + "\n")
	if workers != "" {
		b.WriteString("workers:\n" + workers + "\n")
	}
	h.ConfigureRaw(b.String())
}

// ConfigureRaw writes hive.yaml as it is given, with FAKE and MARK replaced.
func (h *Hive) ConfigureRaw(text string) {
	ginkgo.GinkgoHelper()
	text = strings.NewReplacer("FAKE", h.Bin.Fake, "MARK", h.Mark, "DIR", h.Dir).Replace(text)
	Expect(os.WriteFile(h.ConfigPath, []byte(text), 0o600)).To(Succeed())
}

// environment is the runner's own without anything that points to another hive.
func (h *Hive) environment() []string {
	env := []string{markKey + "=" + h.Mark}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "HIVE_") && !strings.HasPrefix(kv, "PORT=") && !strings.HasPrefix(kv, "HOST=") {
			env = append(env, kv)
		}
	}
	return env
}

// Launch starts the daemon and does not wait for it.
func (h *Hive) Launch() {
	ginkgo.GinkgoHelper()
	Expect(h.Alive()).To(BeFalse(), "this hive runs already")
	log, err := os.OpenFile(h.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	Expect(err).NotTo(HaveOccurred())
	defer log.Close()
	h.cmd = exec.Command(h.Bin.Hive, "up", "-c", h.ConfigPath, "--log-level", "debug")
	h.cmd.Dir, h.cmd.Env = h.Dir, h.environment()
	h.cmd.Stdout, h.cmd.Stderr = log, log
	// Its own group, so that Ctrl-C on the specs reaches it only by Finish.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: h.As}
	if h.As != nil {
		for _, path := range []string{h.Dir, h.ConfigPath} {
			Expect(os.Chown(path, int(h.As.Uid), int(h.As.Gid))).To(Succeed())
		}
	}
	Expect(h.cmd.Start()).To(Succeed())
	cmd, exited := h.cmd, make(chan struct{})
	h.exited, h.orphaned = exited, false
	go func() {
		_ = cmd.Wait() // the state is read from cmd.ProcessState
		close(exited)
	}()
}

// Start starts the daemon and waits until it answers.
func (h *Hive) Start() {
	ginkgo.GinkgoHelper()
	h.Launch()
	Eventually(func(g Gomega) {
		if !h.Alive() {
			StopTrying("hive ended, exit code " + fmt.Sprint(h.cmd.ProcessState.ExitCode()) + ":\n" + h.Log()).Now()
		}
		r, err := h.try(http.MethodGet, "/readyz", "", nil)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(r.Status).To(Equal(http.StatusOK))
	}).WithTimeout(startWithin).WithPolling(poll).Should(Succeed())
	h.follower = follow(h)
}

// PID is the daemon's.
func (h *Hive) PID() int { return h.cmd.Process.Pid }

// Alive reports whether the daemon has been started and has not ended.
func (h *Hive) Alive() bool {
	if h.exited == nil {
		return false
	}
	select {
	case <-h.exited:
		return false
	default:
		return true
	}
}

// Signal sends the daemon a signal.
func (h *Hive) Signal(s syscall.Signal) {
	ginkgo.GinkgoHelper()
	Expect(h.cmd.Process.Signal(s)).To(Succeed())
}

// Exit waits for the daemon's end and returns its exit code; -1 after a signal.
func (h *Hive) Exit() int {
	ginkgo.GinkgoHelper()
	Eventually(h.exited).WithTimeout(endWithin).Should(BeClosed(), "hive did not end")
	return h.cmd.ProcessState.ExitCode()
}

// Stop ends the daemon in order and returns its exit code.
func (h *Hive) Stop() int {
	ginkgo.GinkgoHelper()
	h.Signal(syscall.SIGTERM)
	return h.Exit()
}

// Kill9 kills the daemon as the kernel would, and leaves its workers alone.
func (h *Hive) Kill9() {
	ginkgo.GinkgoHelper()
	h.Signal(syscall.SIGKILL)
	h.Exit()
	h.orphaned = true
}

// Log is everything the daemon has written so far, of all its starts.
func (h *Hive) Log() string {
	b, _ := os.ReadFile(h.logPath())
	return string(b)
}

func (h *Hive) logPath() string { return filepath.Join(h.Dir, "hive.log") }
