package runner

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
)

// Finish ends the hive and proves what holds after every spec: the daemon holds
// no descriptor of a worker that has ended, no process is left, no port of the
// range is bound, and the log tells of no data race and no panic. Everything is
// cleaned up in any case.
func (h *Hive) Finish() {
	ginkgo.GinkgoHelper()
	defer h.clear()
	if ginkgo.CurrentSpecReport().Failed() {
		h.dump()
		return
	}
	if h.cmd == nil {
		return
	}
	if h.Alive() {
		h.expectNoDescriptors()
		Expect(h.Stop()).To(Equal(0), "exit code after an orderly end\n%s", h.Log())
	}
	Expect(h.Log()).NotTo(ContainSubstring("WARNING: DATA RACE"))
	Expect(h.Log()).NotTo(ContainSubstring("an actor panicked"))
	if h.orphaned {
		return
	}
	Eventually(h.Strays).WithTimeout(goneWithin).WithPolling(poll).Should(BeEmpty(), "processes are left behind")
	Eventually(h.boundPorts).WithTimeout(goneWithin).WithPolling(poll).Should(BeEmpty(), "ports are still bound")
}

// Orphaned says that processes may be left: what hive cannot end is the subject.
func (h *Hive) Orphaned() { h.orphaned = true }

// expectNoDescriptors stops every worker and compares what the daemon holds
// with what it held when it had run none.
func (h *Hive) expectNoDescriptors() {
	ginkgo.GinkgoHelper()
	if h.baseline == nil {
		return
	}
	for _, w := range h.Workers() {
		// A failed one may be on its way to a restart.
		if !w.State.Settled() || w.State == messages.Failed {
			h.Do(messages.VerbStop, string(w.Name))
		}
	}
	Eventually(func() []messages.WorkerStatus {
		return slices.DeleteFunc(h.Workers(), func(w messages.WorkerStatus) bool { return w.State.Settled() })
	}).WithTimeout(stateWithin).WithPolling(poll).Should(BeEmpty(), "workers did not settle")
	Eventually(h.extraDescriptors).WithTimeout(goneWithin).WithPolling(poll).Should(BeEmpty(), "hive holds descriptors of ended workers")
}

// Baseline is what an idle hive holds open.
type Baseline []string

// MeasureBaseline starts a hive without workers and looks at its descriptors.
func MeasureBaseline(bin Binaries) Baseline {
	ginkgo.GinkgoHelper()
	h := Up(bin, "", "")
	h.Get("/v1/workers")
	return slices.Clone(h.descriptors())
}

// Against makes Finish compare the daemon's descriptors with the baseline.
func (h *Hive) Against(b Baseline) { h.baseline = b }

// extraDescriptors are those beyond the baseline, except the connections of the
// runner itself, of which there is one that follows the events.
func (h *Hive) extraDescriptors() []string {
	left := slices.Clone(h.baseline)
	var extra []string
	for _, d := range h.descriptors() {
		d = strings.ReplaceAll(d, h.Dir, "")
		if i := slices.IndexFunc(left, func(s string) bool { return kindOf(s) == kindOf(d) }); i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		extra = append(extra, d)
	}
	return extra
}

// kindOf makes the paths of two hives comparable: the last part of a path.
func kindOf(d string) string {
	if _, base, ok := cutLast(d, "/"); ok && strings.HasPrefix(d, "/") {
		return base
	}
	return d
}

// boundPorts are those of the range on which somebody listens.
func (h *Hive) boundPorts() []int {
	var bound []int
	for p := h.FirstPort; p <= h.LastPort; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			bound = append(bound, p)
			continue
		}
		_ = l.Close()
	}
	return bound
}

// dump tells what a failed spec left: the daemon's log and the processes.
func (h *Hive) dump() {
	ginkgo.AddReportEntry("configuration", fileText(h.ConfigPath), ginkgo.ReportEntryVisibilityFailureOrVerbose)
	ginkgo.AddReportEntry("hive's log", h.Log(), ginkgo.ReportEntryVisibilityFailureOrVerbose)
	var b strings.Builder
	for _, p := range h.Marked() {
		fmt.Fprintln(&b, p)
	}
	ginkgo.AddReportEntry("processes", b.String(), ginkgo.ReportEntryVisibilityFailureOrVerbose)
	if h.Alive() {
		if r, err := h.try(http.MethodGet, "/v1/workers", "", nil); err == nil {
			ginkgo.AddReportEntry("workers", r.Body, ginkgo.ReportEntryVisibilityFailureOrVerbose)
		}
	}
}

func fileText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// clear ends whatever is left and removes the folder.
func (h *Hive) clear() {
	// While the daemon lives its tree can be followed. More than one round, for a
	// process that forks while it is looked at.
	for range 3 {
		for _, p := range h.Strays() {
			_ = syscall.Kill(p.PID, syscall.SIGCONT)
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
	if h.Alive() {
		_ = h.cmd.Process.Kill()
		<-h.exited
	}
	for _, p := range h.Strays() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	_ = os.RemoveAll(h.Dir)
}
