// Package specs holds hive to its contract, on the built binaries and real
// processes. Labels: slow takes more than ten seconds, root needs root.
package specs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// within bounds what must happen; briefly is how long something must not.
const (
	within  = 20 * time.Second
	briefly = 300 * time.Millisecond
	poll    = 20 * time.Millisecond
)

var (
	bin      runner.Binaries
	baseline runner.Baseline
)

func TestSpecs(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "hive")
}

var _ = SynchronizedBeforeSuite(func() []byte {
	dir, err := os.MkdirTemp("", "hive-specs")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	Expect(os.Chmod(dir, 0o755)).To(Succeed()) // some specs run hive as another user
	b, err := runner.Build(dir)
	Expect(err).NotTo(HaveOccurred())
	text, err := json.Marshal(b)
	Expect(err).NotTo(HaveOccurred())
	return text
}, func(text []byte) {
	Expect(json.Unmarshal(text, &bin)).To(Succeed())
	SetDefaultEventuallyTimeout(within)
	SetDefaultEventuallyPollingInterval(poll)
	SetDefaultConsistentlyDuration(briefly)
	baseline = runner.MeasureBaseline(bin)
})

// up starts a hive with these workers and, over short default times, settings.
func up(workers string, settings ...string) *runner.Hive {
	GinkgoHelper()
	h := runner.Up(bin, strings.Join(settings, "\n"), workers)
	h.Against(baseline)
	return h
}

// worker is one entry of the list of workers: a fakeworker with these flags,
// and further keys, one per line. One whose habit shows when it gets a signal is
// ready only when it answers, since a signal before it listens ends any process.
func worker(name, flags string, keys ...string) string {
	signals := strings.Contains(flags, "--ignore-term") || strings.Contains(flags, "--slow-exit") || strings.Contains(flags, "--term-code")
	if signals && !slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, "ready:") }) {
		keys = append([]string{readyByHealth}, keys...)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n    command: [FAKE", name)
	for _, f := range strings.Fields(flags) {
		fmt.Fprintf(&b, ", %q", f)
	}
	b.WriteString("]\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "    %s\n", k)
	}
	return b.String()
}

// Keys that many workers of the specs have.
const (
	readyByHealth = `ready: {http: /health}`
	waitsLong     = `restart: {backoff: {initial: 60s, max: 60s}}`
	neverAgain    = `restart: {policy: never}`
	beats         = "--callbacks --heartbeat-every 50ms "
)

// exited matches the end of one attempt.
func exited(name string, a messages.Attempt) func(messages.Event) bool {
	return func(e messages.Event) bool { return runner.Of(messages.WorkerExited, name)(e) && e.Attempt == a }
}

// atTheFreezer puts a process where SIGKILL does not end it until it is thawed,
// which is as near as a spec can come to a process in the D state. It skips
// where the host has no such place.
//
// Source: the kernel's guide to the cgroup v1 freezer.
func atTheFreezer(pid int) (thaw func()) {
	GinkgoHelper()
	const root = "/sys/fs/cgroup/freezer"
	if os.Geteuid() != 0 {
		Skip("needs root, to freeze a process")
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		Skip("needs the cgroup v1 freezer at " + root + "; a frozen v2 group can be killed")
	}
	dir, err := os.MkdirTemp(root, "hive-specs-")
	if err != nil {
		Skip("needs a writable cgroup v1 freezer: " + err.Error())
	}
	write := func(file, text string) error { return os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600) }
	thaw = func() { _ = write("freezer.state", "THAWED") }
	DeferCleanup(func() {
		thaw()
		pids, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, left := range strings.Fields(string(pids)) {
			_ = os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte(left), 0o600) // it may have ended
		}
		Eventually(func() error { return os.Remove(dir) }).Should(Succeed())
	})
	Expect(write("cgroup.procs", fmt.Sprint(pid))).To(Succeed())
	Expect(write("freezer.state", "FROZEN")).To(Succeed())
	Eventually(func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "freezer.state"))
		return strings.TrimSpace(string(b))
	}).Should(Equal("FROZEN"))
	return thaw
}
