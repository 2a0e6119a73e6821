package specs

import (
	"bufio"
	"context"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

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
