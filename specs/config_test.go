package specs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// refused starts a hive with a configuration that it must not take, and returns
// what it says.
func refused(text string) string {
	GinkgoHelper()
	h := runner.New(bin)
	h.ConfigureRaw(text)
	h.Launch()
	Expect(h.Exit()).To(Equal(78), h.Log())
	Expect(filepath.Join(h.DataDir, "hive.lock")).NotTo(BeAnExistingFile(), "a refused file leaves no trace")
	check := h.CLI("check", h.ConfigPath)
	Expect(check.Code).To(Equal(78), "hive check says the same: %s", check.Stdout+check.Stderr)
	return h.Log()
}

var _ = Describe("a configuration whose form is wrong", func() {
	DescribeTable("is refused whole, with exit code 78 and the line",
		func(text string, words ...string) {
			said := refused("data_dir: DIR/data\nlisten: 127.0.0.1:0\n" + text)
			for _, w := range words {
				Expect(said).To(ContainSubstring(w))
			}
			Expect(said).NotTo(ContainSubstring("goroutine "), "no stack for a user's mistake")
		},
		Entry("an unknown key, with the nearest name", "workers:\n  - name: a\n    comand: [sleep]", "comand", "command", "5"),
		Entry("an unknown key at the top", "worker: []", "worker", "workers", "3"),
		Entry("no YAML at all", "workers: [", "3"),
		Entry("a tab for indentation", "workers:\n\t- name: a", "4"),
		Entry("a duration without a unit", "shutdown: {drain: 30}", "30", "3"),
		Entry("a negative duration", "shutdown: {drain: -1s}", "-1s"),
		Entry("a port range that runs backwards", "ports: 7199-7100", "7199"),
		Entry("a port out of bounds", "ports: 7100-70000", "70000"),
		Entry("two workers of one name", "workers:\n  - {name: a, command: [sleep]}\n  - {name: a, command: [sleep]}", "a"),
		Entry("a bad name", "workers:\n  - {name: Chat_1, command: [sleep]}", "Chat_1"),
		Entry("a reserved name", "workers:\n  - {name: spawn, command: [sleep]}", "spawn"),
		Entry("no command", "workers:\n  - {name: a}", "command"),
		Entry("a command that is a string", "workers:\n  - {name: a, command: sleep 10}", "command"),
		Entry("an unknown policy", "workers:\n  - {name: a, command: [sleep], restart: {policy: allways}}", "allways", "always"),
		Entry("an unknown macro", "workers:\n  - {name: a, command: [sleep, '${PROT}']}", "PROT"),
		Entry("a dependency on nothing", "workers:\n  - {name: a, command: [sleep], depends_on: [b]}", "b"),
		Entry("dependencies in a circle", "workers:\n  - {name: a, command: [sleep], depends_on: [b]}\n  - {name: b, command: [sleep], depends_on: [a]}", "a", "b"),
		Entry("bytes that are not UTF-8", "name: \"\xff\xfe\"", "UTF-8"),
	)

	It("is reported with every problem at once", func() {
		said := refused("data_dir: DIR/data\nlisten: 127.0.0.1:0\nports: 9-1\nfoo: 1\nworkers:\n  - name: a\n    command: [sleep]\n    restart: {policy: maybe}\n    bar: 2\n")
		for _, w := range []string{"9-1", "foo", "maybe", "bar", "3", "4", "8", "9"} {
			Expect(said).To(ContainSubstring(w))
		}
	})

	It("is refused when there is no such file, with its name", func() {
		h := runner.New(bin)
		r := h.CLI("up", "-c", "no-such.yaml")
		Expect(r.Code).To(Equal(78))
		Expect(r.Stderr).To(ContainSubstring("no-such.yaml"))
	})
})

var _ = Describe("a configuration whose form is right", func() {
	DescribeTable("always starts: what is missing puts that worker into crashloop with cause config, and the others run",
		func(keys, missing string) {
			h := up("  - name: bad\n" + keys + "\n" + worker("good", ""))
			w := h.WaitState("bad", messages.Crashloop)
			Expect(w.LastExit.Cause).To(Equal(messages.CauseConfig))
			Expect(w.Reason).To(ContainSubstring(missing))
			h.WaitState("good", messages.Idle)
			check := h.CLI("check", h.ConfigPath)
			Expect(check.Code).To(BeZero())
			Expect(check.Stdout + check.Stderr).To(ContainSubstring(missing))
		},
		Entry("a binary", "    command: [no-such-engine]", "no-such-engine"),
		Entry("a binary with a path", "    command: [/no/such/engine]", "/no/such/engine"),
		Entry("a directory", "    command: [sleep, '1000']\n    dir: /no/such/dir", "/no/such/dir"),
		Entry("a model", "    command: [sleep, '1000']\n    model: /no/such.gguf", "/no/such.gguf"),
		Entry("a user", "    command: [sleep, '1000']\n    user: no-such-user", "no-such-user"),
	)

	It("may have no workers, and nothing in it", func() {
		h := up("")
		Expect(h.Workers()).To(BeEmpty())
	})

	It("unfolds replicas", func() {
		h := up(worker("a", "", "replicas: 3"))
		for i := range 3 {
			h.WaitState(fmt.Sprintf("a-%d", i+1), messages.Idle)
		}
		Expect(h.Workers()).To(HaveLen(3))
	})

	It("gives a worker its environment, its folder and the contract's variables", func() {
		h := up(worker("a", "--port ${PORT}", "env: {COLOUR: red, HIVE_WORKER: forged}", "dir: DIR"))
		w := h.WaitState("a", messages.Idle)
		Expect(runner.Environment(w.PID, "COLOUR")).To(Equal("red"))
		Expect(runner.Environment(w.PID, "HIVE_WORKER")).To(Equal("a"), "the contract's variables win")
		Expect(runner.Environment(w.PID, "HIVE_ATTEMPT")).To(Equal("1"))
		Expect(runner.Environment(w.PID, "PORT")).To(Equal(itoa(w.Port)))
		Expect(runner.Environment(w.PID, "HOST")).To(Equal("127.0.0.1"))
		Expect(runner.Environment(w.PID, "HIVE_URL")).To(HavePrefix("http://"))
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", w.PID))
		Expect(err).NotTo(HaveOccurred())
		Expect(cwd).To(Equal(h.Dir))
	})

	It("never shows an environment value in a status, an event or the log", func() {
		h := up(worker("a", "", "env: {SECRET: sesame-open}"))
		w := h.WaitState("a", messages.Idle)
		token := runner.Environment(w.PID, "HIVE_TOKEN")
		all := h.Get("/v1/workers/a").Body + h.Get("/v1/workers").Body + h.Log() + h.Get("/metrics").Body
		Expect(all).NotTo(ContainSubstring("sesame-open"))
		Expect(all).NotTo(ContainSubstring(token))
	})
})

var _ = Describe("a second hive on one data directory", func() {
	It("ends with exit code 75, says who holds it, and disturbs nothing", func() {
		h := up(worker("a", ""))
		w := h.WaitState("a", messages.Idle)
		r := h.CLI("up", "-c", h.ConfigPath)
		Expect(r.Code).To(Equal(75), r.Stderr)
		Expect(r.Stderr).To(ContainSubstring(itoa(h.PID())))
		Expect(strings.Count(strings.TrimSpace(r.Stderr), "\n")).To(BeZero(), "one sentence: %s", r.Stderr)
		Expect(h.Worker("a").PID).To(Equal(w.PID))
	})

	It("takes over when the first has died, however it died", func() {
		h := up("")
		h.Kill9()
		h.Start()
		h.Against(baseline)
	})
})
