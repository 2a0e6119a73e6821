package specs

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// logText is everything under the folder of the logs.
func logText(h *runner.Hive) string {
	var b strings.Builder
	_ = filepath.WalkDir(filepath.Join(h.DataDir, "logs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			text, _ := os.ReadFile(path)
			b.Write(text)
		}
		return nil // what has gone meanwhile is not looked for
	})
	return b.String()
}

var _ = Describe("the log of a worker", func() {
	It("holds stdout and stderr, and shows the last lines on request", func() {
		h := up(worker("a", "--say on-stderr --say-ready on-stdout"))
		h.WaitState("a", messages.Idle)
		Eventually(func() string { return h.Get("/v1/workers/a/logs").Body }).Should(And(ContainSubstring("on-stderr"), ContainSubstring("on-stdout")))
		lines := strings.Split(strings.TrimSpace(h.Get("/v1/workers/a/logs?tail=1").Body), "\n")
		Expect(lines).To(Equal([]string{"on-stdout"}))
	})

	It("is kept per attempt", func() {
		h := up(worker("a", "--say attempt-${ATTEMPT} --crash-after 100ms --crash-attempts 1"))
		h.WaitAttempt("a", 2, messages.Idle)
		Expect(h.Get("/v1/workers/a/logs?attempt=1").Body).To(And(ContainSubstring("attempt-1"), Not(ContainSubstring("attempt-2"))))
		Eventually(func() string { return h.Get("/v1/workers/a/logs?attempt=2").Body }).Should(And(ContainSubstring("attempt-2"), Not(ContainSubstring("attempt-1"))))
		r := h.API(http.MethodGet, "/v1/workers/a/logs?attempt=99", "") // never ran
		Expect(r.Status).To(Equal(http.StatusNotFound), r.Body)
	})

	It("can be followed", func() {
		h := up(worker("a", "--log-lines 50"))
		h.WaitState("a", messages.Idle)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.Socket)
		}}}
		ctx, cancel := context.WithCancel(context.Background())
		DeferCleanup(cancel)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hive/v1/workers/a/logs?follow=true&tail=1", nil)
		Expect(err).NotTo(HaveOccurred())
		resp, err := client.Do(req)
		Expect(err).NotTo(HaveOccurred())
		var seen atomic.Int64
		go func() {
			defer resp.Body.Close()
			for s := bufio.NewScanner(resp.Body); s.Scan(); {
				seen.Add(1)
			}
		}()
		Eventually(seen.Load).Should(BeNumerically(">", 20))
		cancel()
	})

	It("is a file that does not depend on hive: its death neither blocks nor breaks a worker", func() {
		h := up(worker("a", "--log-lines 50"))
		w := h.WaitState("a", messages.Idle)
		Eventually(func() string { return logText(h) }).Should(ContainSubstring("line 3 "))
		h.Kill9()
		before := strings.Count(logText(h), "\n")
		Eventually(func() int { return strings.Count(logText(h), "\n") }).Should(BeNumerically(">", before+10), "the worker writes on")
		Expect(runner.Exists(w.PID)).To(BeTrue())
		Expect(logText(h)).To(ContainSubstring("line 1 of attempt 1"))
	})

	It("is readable by its owner alone", func() {
		h := up(worker("a", ""))
		h.WaitState("a", messages.Idle)
		Expect(filepath.WalkDir(filepath.Join(h.DataDir, "logs"), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			Expect(info.Mode().Perm()&0o007).To(BeZero(), path)
			return err
		})).To(Succeed())
	})

	It("is bounded in size", Label("slow"), func() {
		h := up("  - name: a\n    command: [sh, -c, 'while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done']\n" +
			"    logs: {size: 64KiB, files: 2}\n    port: none")
		h.WaitState("a", messages.Idle)
		size := func() (total int64) {
			_ = filepath.WalkDir(filepath.Join(h.DataDir, "logs"), func(_ string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					if info, err := d.Info(); err == nil {
						total += allocated(info)
					}
				}
				return nil // what has gone meanwhile is not looked for
			})
			return total
		}
		Eventually(size).Should(BeNumerically(">", 64<<10))
		h.Accept(messages.VerbStop, "a")
		h.WaitState("a", messages.Stopped)
		Eventually(size).Should(BeNumerically("<", 16<<20), "a writer at full speed is bounded, even if not to the byte")
	})
})

// numbered reads the files of an attempt in order and returns how many lines
// they hold; every line must be the number after the one before it.
func numbered(dir string, attempt int) (lines int, archives int) {
	GinkgoHelper()
	type part struct {
		path string
		end  int64
	}
	active := filepath.Join(dir, fmt.Sprintf("%d.log", attempt))
	names, err := filepath.Glob(active + ".*")
	Expect(err).NotTo(HaveOccurred())
	var parts []part
	for _, n := range names {
		end, err := strconv.ParseInt(n[len(active)+1:], 10, 64)
		Expect(err).NotTo(HaveOccurred(), n)
		parts = append(parts, part{n, end})
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.end, b.end) })
	from := int64(0)
	if len(parts) > 0 {
		from = parts[len(parts)-1].end
	}
	for _, p := range append(parts, part{path: active}) {
		f, err := os.Open(p.path)
		Expect(err).NotTo(HaveOccurred())
		if p.end == 0 {
			_, err = f.Seek(from, io.SeekStart)
			Expect(err).NotTo(HaveOccurred())
		}
		for text := bufio.NewScanner(f); text.Scan(); {
			lines++
			if text.Text() != strconv.Itoa(lines) {
				Fail(fmt.Sprintf("%s: line %d reads %q", p.path, lines, text.Text()))
			}
		}
		Expect(f.Close()).To(Succeed())
	}
	return lines, len(parts)
}

// unarchived is how many bytes of an attempt are in no archive yet.
func unarchived(dir string, attempt int) int64 {
	GinkgoHelper()
	active := filepath.Join(dir, fmt.Sprintf("%d.log", attempt))
	st, err := os.Stat(active)
	Expect(err).NotTo(HaveOccurred())
	names, err := filepath.Glob(active + ".*")
	Expect(err).NotTo(HaveOccurred())
	left := st.Size()
	for _, n := range names {
		end, err := strconv.ParseInt(n[len(active)+1:], 10, 64)
		Expect(err).NotTo(HaveOccurred(), n)
		left = min(left, st.Size()-end)
	}
	return left
}

var _ = Describe("the rotation of a log", Label("slow"), func() {
	It("loses no line of a worker that writes faster than 50 MB/s, nor its descriptor", func() {
		const last = 20_000_000 // 169 MB, which seq writes in a second or two
		h := up(fmt.Sprintf("  - {name: a, command: [sh, -c, 'seq 1 %d; sleep 1000'], port: none, logs: {size: 10MiB, files: 1000}}", last))
		w := h.WaitState("a", messages.Idle)
		out, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", w.PID))
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() string { return strings.TrimSpace(h.Get("/v1/workers/a/logs?tail=1").Body) }).
			WithTimeout(2 * time.Minute).Should(Equal(strconv.Itoa(last)))
		dir := filepath.Join(h.DataDir, "logs", "a")
		Eventually(func() int64 { return unarchived(dir, 1) }).WithTimeout(time.Minute).Should(BeNumerically("<", 10<<20), "rotation has caught up")
		lines, archives := numbered(dir, 1)
		Expect(archives).To(BeNumerically(">", 10))
		Expect(lines).To(Equal(last))
		still, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", w.PID))
		Expect(err).NotTo(HaveOccurred())
		Expect(still).To(Equal(out))
	})

	It("says what it dropped when the output is faster than logs.rate", func() {
		h := up("  - {name: a, command: [sh, -c, 'seq 1 3000000; sleep 1000'], port: none, logs: {size: 1MiB, files: 1000, rate: 100KiB}}")
		h.WaitState("a", messages.Idle)
		Eventually(func() string { return strings.TrimSpace(h.Get("/v1/workers/a/logs?tail=1").Body) }).
			WithTimeout(2 * time.Minute).Should(Equal("3000000"))
		Eventually(func() string { return logText(h) }).WithTimeout(time.Minute).WithPolling(time.Second).
			Should(MatchRegexp(`\[hive: \d+ lines \(.*\) were dropped here, the output is faster than logs.rate of 100KiB a second\]`))
	})
})
