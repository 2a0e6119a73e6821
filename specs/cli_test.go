package specs

import (
	"encoding/json"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("the command line", func() {
	Context("without a hive", func() {
		It("ends with 3 and says what to do", func() {
			h := runner.New(bin)
			for _, args := range [][]string{{"ps"}, {"stop", "a"}, {"events"}, {"logs", "a"}, {"down"}} {
				r := h.CLI(args...)
				Expect(r.Code).To(Equal(3), "%v: %s", args, r.Stderr)
				Expect(r.Stdout).To(BeEmpty())
				Expect(r.Stderr).To(ContainSubstring("hive up"), "%v", args)
			}
		})

		It("ends with 2 for a wrong usage", func() {
			h := runner.New(bin)
			for _, args := range [][]string{{"nonsense"}, {"ps", "--nonsense"}, {"stop"}, {"wait", "--for=nonsense", "a"}, {"ps", "-o", "xml"}} {
				Expect(h.CLI(args...).Code).To(Equal(2), "%v", args)
			}
		})

		It("answers what needs no hive", func() {
			h := runner.New(bin)
			for _, args := range [][]string{{"version"}, {"help"}, {"states"}, {"completion", "bash"}, {"doctor"}} {
				r := h.CLI(args...)
				Expect(r.Code).To(BeZero(), "%v: %s", args, r.Stderr)
				Expect(r.Stdout).NotTo(BeEmpty())
			}
		})
	})

	Context("with a hive", func() {
		var h *runner.Hive

		BeforeEach(func() {
			h = up(worker("a", "--say hello", readyByHealth))
			h.WaitState("a", messages.Idle)
		})

		It("ends with 1 when hive refuses, in one sentence", func() {
			for _, args := range [][]string{{"resume", "a"}, {"stop", "nobody"}, {"show", "nobody"}, {"logs", "nobody"}} {
				r := h.CLI(args...)
				Expect(r.Code).To(Equal(1), "%v: %s", args, r.Stderr)
				Expect(strings.Count(strings.TrimSpace(r.Stderr), "\n")).To(BeZero(), r.Stderr)
			}
		})

		It("prints JSON everywhere with -o json", func() {
			for _, args := range [][]string{{"ps"}, {"show", "a"}, {"states"}, {"version"}, {"plan"}, {"check", "hive.yaml"}, {"gpus"}, {"doctor"}} {
				r := h.CLI(append(args, "-o", "json")...)
				Expect(r.Code).To(BeZero(), "%v: %s", args, r.Stderr)
				Expect(json.Valid([]byte(r.Stdout))).To(BeTrue(), "%v: %s", args, r.Stdout)
			}
		})

		It("lists and shows workers", func() {
			Expect(h.CLI("ps").Stdout).To(And(ContainSubstring("a"), ContainSubstring("idle")))
			Expect(h.CLI("show", "a").Stdout).To(And(ContainSubstring("idle"), ContainSubstring(itoa(h.Worker("a").PID))))
			Expect(h.CLI("logs", "a").Stdout).To(ContainSubstring("hello"))
			Expect(h.CLI("events").Stdout).To(ContainSubstring("worker.ready"))
		})

		It("carries out verbs and waits for them", func() {
			Expect(h.CLI("stop", "--wait", "a").Code).To(BeZero())
			Expect(h.Worker("a").State).To(Equal(messages.Stopped))
			Expect(h.CLI("start", "--wait", "a").Code).To(BeZero())
			Expect(h.Worker("a").State).To(Equal(messages.Idle))
			Expect(h.CLI("restart", "--wait", "a").Code).To(BeZero())
			Expect(h.Worker("a").Attempt).To(BeEquivalentTo(3))
			Expect(h.CLI("wait", "--for=idle", "a").Code).To(BeZero())
			Expect(h.CLI("kill", "--wait", "a").Code).To(BeZero())
		})

		It("runs and removes a worker", func() {
			r := h.CLI("run", "b", "--", "sleep", "1000")
			Expect(r.Code).To(BeZero(), r.Stderr)
			h.WaitState("b", messages.Idle)
			r = h.CLI("rm", "b")
			Expect(r.Code).To(BeZero(), r.Stderr)
			Eventually(func() int { return h.API(http.MethodGet, "/v1/workers/b", "").Status }).Should(Equal(http.StatusNotFound))
		})
	})
})
