package specs

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("a worker that depends on others", func() {
	It("is started when those are idle, in a chain", func() {
		h := up(worker("c", "", "depends_on: [b]") + worker("b", "--load 100ms", readyByHealth, "depends_on: [a]") + worker("a", "--load 100ms", readyByHealth))
		h.WaitState("c", messages.Idle)
		ready := func(name string) messages.Event {
			return h.WaitEvent(name+" is ready", runner.Into(name, messages.Idle))
		}
		begun := func(name string) messages.Event {
			return h.WaitEvent(name+" starts", runner.Into(name, messages.Starting))
		}
		Expect(begun("b").Seq).To(BeNumerically(">", ready("a").Seq))
		Expect(begun("c").Seq).To(BeNumerically(">", ready("b").Seq))
	})

	It("waits for all replicas of a name", func() {
		h := up(worker("a", "--load 200ms", readyByHealth, "replicas: 3") + worker("b", "", "depends_on: [a]"))
		h.WaitState("b", messages.Idle)
		for _, name := range []string{"a-1", "a-2", "a-3"} {
			Expect(h.Worker(name).State).To(Equal(messages.Idle))
		}
	})

	It("stays pending while a dependency cannot start", func() {
		h := up("  - {name: a, command: [/no/such/engine]}\n" + worker("b", "", "depends_on: [a]"))
		h.WaitState("a", messages.Crashloop)
		Consistently(func() messages.State { return h.Worker("b").State }).Should(Equal(messages.Pending))
		Eventually(func() string { return h.Worker("b").Reason }).Should(ContainSubstring("depends on a, which is crashloop"))
	})

	It("keeps running when a dependency dies later", func() {
		h := up(worker("a", "") + worker("b", "", "depends_on: [a]"))
		b := h.WaitState("b", messages.Idle)
		Expect(runner.Kill(h.Worker("a").PID)).To(Succeed())
		h.WaitAttempt("a", 2, messages.Idle)
		Expect(h.Worker("b").PID).To(Equal(b.PID))
	})
})
