package specs

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// loads waits until a load has come this far by that source.
func loads(h *runner.Hive, name, source string, value float64) messages.WorkerStatus {
	GinkgoHelper()
	return h.WaitFor(name, "on its way by "+source, func(w messages.WorkerStatus) bool {
		return w.Progress != nil && w.Progress.Source == source && w.Progress.Value >= value
	})
}

// ratio is what the metrics tell of a load; -1 for nothing.
func ratio(h *runner.Hive, name string) float64 {
	GinkgoHelper()
	v, found := h.Metric("hive_worker_load_progress_ratio", `worker="`+name+`"`)
	if !found {
		return -1
	}
	return v
}

// told waits for an event of progress by that source.
func told(h *runner.Hive, name string, a messages.Attempt, source string) messages.Event {
	GinkgoHelper()
	return h.WaitEvent("progress by "+source, func(e messages.Event) bool {
		return runner.Of(messages.WorkerProgress, name)(e) && e.Attempt == a && e.Progress != nil && e.Progress.Source == source
	})
}

var _ = Describe("the progress of a load", func() {
	It("is the worker's own word where there is one", func() {
		h := up(mute("a", "engine: hive"))
		w := h.WaitState("a", messages.Loading)
		Expect(ratio(h, "a")).To(BeEquivalentTo(-1))
		takes(h, w, "progress", `,"value":0.42,"stage":"weights"`)
		w = loads(h, "a", "native", 0.42)
		Expect(w.Progress.Stage).To(Equal("weights"))
		Expect(told(h, "a", 1, "native").Progress.Value).To(Equal(0.42))
		Expect(ratio(h, "a")).To(Equal(0.42))
		takes(h, w, "progress", `,"value":0.2,"stage":"weights"`)
		Expect(h.Worker("a").Progress.Value).To(Equal(0.42), "it does not go back")
		takes(h, w, "ready", "")
		Expect(h.WaitState("a", messages.Idle).Progress).To(BeNil())
		Expect(ratio(h, "a")).To(BeEquivalentTo(-1))
	})

	DescribeTable("is what the engine's log tells", func(engine, lines string, stage string, value float64) {
		h := up(gated("a", lines, "exec FAKE", "engine: "+engine))
		w := loads(h, "a", "log", value)
		Expect(w.State).To(Equal(messages.Loading))
		Expect(w.Progress.Stage).To(Equal(stage))
		Expect(w.Progress.Value).To(BeNumerically("~", value, 0.001))
		Expect(told(h, "a", 1, "log").Progress.Value).To(BeNumerically(">", 0))
		Expect(ratio(h, "a")).To(BeNumerically("~", value, 0.001))
		touch(h, "go")
		h.WaitState("a", messages.Idle)
	},
		Entry("of vLLM", "vllm", `echo "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:03,  1.0s/it]"; `+
			`echo "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:02<00:02,  1.0s/it]"; `, "weights", 0.5),
		Entry("of vLLM, drawn over itself", "vllm", `printf "Loading safetensors checkpoint shards:  25%% Completed | 1/4 [00:01<00:03,  1.0s/it]\r"; `+
			`printf "Loading safetensors checkpoint shards:  75%% Completed | 3/4 [00:02<00:02,  1.0s/it]\r"; `, "weights", 0.75),
		Entry("of llama-server", "llama-server", `echo "load_tensors: loading model tensors, this can take a while... (mmap = true)"; `+
			`echo "............................................................"; `, "weights", 0.6),
	)

	It("is what it has read of its model, where its log tells nothing", func() {
		h := runner.New(bin)
		model := filepath.Join(h.Dir, "model")
		Expect(os.Mkdir(model, 0o700)).To(Succeed())
		for _, part := range []string{"one", "two"} {
			Expect(os.WriteFile(filepath.Join(model, part), make([]byte, 16<<20), 0o600)).To(Succeed())
		}
		// tail reads to the end of its file and stays, so that what it has read can be seen.
		h.Configure("", gated("a", "tail -c +1 -f DIR/model/one >/dev/null & ", "tail -c +1 -f DIR/model/two >/dev/null & wait",
			"model: DIR/model", "port: none", `ready: {log: never}`))
		h.Start()
		w := loads(h, "a", "bytes", 0.5)
		Expect(w.Progress.Value).To(BeNumerically("<", 0.6))
		Expect(told(h, "a", 1, "bytes").Progress.Value).To(BeNumerically(">", 0.09))
		Expect(ratio(h, "a")).To(BeNumerically("~", 0.55, 0.06))
		touch(h, "go")
		Expect(loads(h, "a", "bytes", 0.98).Progress.Value).To(BeNumerically("<", 1), "only readiness is the end")
	})

	It("is the time of the load before, where nothing else is known", func() {
		h := up(gated("a", "", "exec FAKE", readyByHealth))
		h.WaitState("a", messages.Loading)
		touch(h, "go")
		first := h.WaitState("a", messages.Idle)
		Expect(h.Find(runner.Of(messages.WorkerProgress, "a"))).To(BeEmpty())
		Expect(os.Remove(filepath.Join(h.Dir, "go"))).To(Succeed())
		Expect(runner.Kill(first.PID)).To(Succeed())
		h.WaitAttempt("a", 2, messages.Loading)
		w := loads(h, "a", "history", 0.5)
		Expect(w.State).To(Equal(messages.Loading))
		told(h, "a", 2, "history")
		Expect(ratio(h, "a")).To(And(BeNumerically(">=", 0.5), BeNumerically("<", 1)))
		touch(h, "go")
		h.WaitState("a", messages.Idle)
	})

	It("is never a guess once the worker has spoken", func() {
		h := up(gated("a", `echo "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:02<00:02,  1.0s/it]"; `, "exec sleep 1000",
			"engine: vllm", readyByNotify))
		w := loads(h, "a", "log", 0.5)
		takes(h, w, "progress", `,"value":0.1`)
		Expect(h.Worker("a").Progress.Source).To(Equal("native"))
		touch(h, "go")
		Consistently(func() string { return h.Worker("a").Progress.Source }).Should(Equal("native"))
	})
})
