package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// llamaServer is llama.cpp's HTTP server.
//
// Health: while the model loads it is 503 with {"error":{"code":503,"message":
// "Loading model","type":"unavailable_error"}}, then 200; no API key is asked.
// Source: ggml-org/llama.cpp 00dc8057, tools/server/README.md, GET /health.
//
// Figures: GET /metrics (with --metrics) and GET /slots (with --slots, since
// 2025 by default). Neither the health probe nor these take a slot, so they are
// not counted as requests. Both are answered by the thread that computes: a
// long prompt delays them, and a late answer is no sign of a fault.
// Source: the same README, GET /slots, GET /metrics.
//
// Sleep: with --sleep-idle-seconds an idle server unloads its model and any
// task loads it again. Exempt are /health, /props, /models and /metrics; /slots
// always wakes. Between the sleep's arrival (December 2025, "server: add
// auto-sleep after N seconds of idle") and August 2026 ("server: refactor sleep
// handling, allow access /metrics during sleep") /metrics woke it too and reset
// its idle timer. Hence: a command that asks for sleep is never asked for
// figures, /slots is asked only of a command that is seen not to ask for sleep,
// and /metrics alone is what may be asked blindly.
// Source: the same README, "Sleeping on Idle", and those two changes.
func llamaServer() Engine {
	metrics := Source{Path: "/metrics", Parse: parseLlamaMetrics, Optional: true}
	slots := Source{Path: "/slots", Parse: parseLlamaSlots, Optional: true}
	return Engine{
		Name:    "llama-server",
		Health:  "/health",
		Judge:   judgeLlama,
		Sources: []Source{metrics},
		Load:    loadLlama,
		rules:   slices.Concat(llamaRules, ggmlRules),
		sources: func(command []string, env map[string]string) []Source {
			switch {
			case asksForSleep(command, env):
				return nil
			case len(command) > 0 && path.Base(command[0]) == "llama-server":
				return []Source{metrics, slots}
			}
			return []Source{metrics}
		},
	}
}

// asksForSleep reports whether --sleep-idle-seconds, or a variable named for it,
// is anywhere in a command, a shell's script included.
func asksForSleep(command []string, env map[string]string) bool {
	for _, arg := range command {
		if strings.Contains(arg, "sleep-idle") || strings.Contains(arg, "SLEEP_IDLE") {
			return true
		}
	}
	for name := range env {
		if strings.Contains(name, "SLEEP_IDLE") {
			return true
		}
	}
	return false
}

func judgeLlama(code int, body []byte) Verdict {
	switch code {
	case 200:
		return Ready
	case 503:
		// {"error":{"message":...}} today, {"status":"loading model"} before mid 2024.
		var said struct {
			Status string `json:"status"`
			Error  struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		if len(body) <= maxBody && json.Unmarshal(body, &said) == nil &&
			(strings.EqualFold(said.Error.Message, "Loading model") || strings.EqualFold(said.Status, "loading model")) {
			return Loading
		}
	}
	return Broken
}

// parseLlamaMetrics reads GET /metrics. The rate is that of the time since the
// figures were last read, by hive or by another. kv_cache_usage_ratio was
// served until mid 2025.
func parseLlamaMetrics(body []byte) (messages.Stats, error) {
	e, err := parseExposition(body, "llamacpp:")
	if err != nil {
		return messages.Stats{}, err
	}
	return messages.Stats{
		InFlight:        count(e.sum("llamacpp:requests_processing")),
		QueueDepth:      count(e.sum("llamacpp:requests_deferred")),
		TokensTotal:     e.sum("llamacpp:tokens_predicted_total"),
		TokensPerSecond: e.sum("llamacpp:predicted_tokens_seconds"),
		KVCacheUsed:     e.ratio("llamacpp:kv_cache_usage_ratio"),
	}, nil
}

var errNotSlots = errors.New("the answer is not a list of slots")

// parseLlamaSlots reads GET /slots: in flight is the slots that are processing.
// Requests that wait for a slot are not told there.
func parseLlamaSlots(body []byte) (messages.Stats, error) {
	if len(body) > maxBody {
		return messages.Stats{}, errTooLarge
	}
	var slots []struct {
		IsProcessing *bool `json:"is_processing"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(body), &slots); err != nil {
		return messages.Stats{}, fmt.Errorf("%w: %w", errNotSlots, err)
	}
	if slots == nil {
		return messages.Stats{}, errNotSlots
	}
	busy := 0
	for _, s := range slots {
		if s.IsProcessing == nil {
			return messages.Stats{}, fmt.Errorf("%w: is_processing is missing", errNotSlots)
		}
		if *s.IsProcessing {
			busy++
		}
	}
	return messages.Stats{InFlight: &busy}, nil
}

// The lines that tell how far a load is. The dots are llama.cpp's progress, one
// for each percent of the weights on one line, which ends when all are read.
//
// Source: logs in reports to ggml-org/llama.cpp of September 2025 and March 2026,
// and to mozilla-ai/llamafile of April 2024 for the dots.
var (
	llamaDots    = regexp.MustCompile(`^\.{5,100}$`)
	llamaLoading = regexp.MustCompile(`^(?:\w+: loading model(?: '.*'|)$|load_tensors: loading model tensors)`)
	llamaWarming = regexp.MustCompile(`^\w+: warming up the model with an empty run`)
	llamaLoaded  = regexp.MustCompile(`^\w+: model loaded$`)
)

func loadLlama(line string) (messages.Progress, bool) {
	text := bare(line)
	switch {
	case llamaDots.MatchString(text):
		return loading("weights", float64(len(text))/100)
	case llamaLoading.MatchString(text):
		return loading("weights", 0)
	case llamaWarming.MatchString(text):
		return loading("warm-up", 0)
	case llamaLoaded.MatchString(text):
		return loading("loaded", 1)
	}
	return messages.Progress{}, false
}

// ggmlRules are ggml's words when a device's memory is exhausted. A failed CPU
// buffer is not among them: that is the host's memory.
//
// Source: logs in reports to ggml-org/llama.cpp of March 2026 (cudaMalloc,
// alloc_tensor_range, unable to allocate) and to ollama/ollama of 2024 (gallocr,
// CUDA error).
var ggmlRules = []rule{
	find(messages.CauseCUDAOOM, strong, "the GPU's memory is exhausted",
		`\w+: allocating [\d.]+ MiB on device \d+: (?:cuda|hip|musa)Malloc failed: out of memory`),
	find(messages.CauseCUDAOOM, strong, "the GPU's memory is exhausted",
		`(?:CUDA|ROCm|MUSA) error: out of memory`),
	find(messages.CauseCUDAOOM, weak, "a buffer does not fit into the GPU's memory",
		`\w+: (?:error loading model: unable to allocate|failed to allocate) (?:CUDA|ROCm|MUSA|Vulkan|SYCL)\d+ buffer`),
}

// llamaRules are llama-server's own words. "failed to load model" alone is not
// among them: it is said of exhausted memory as of a missing file.
//
// Source: ggml-org/llama.cpp, common/arg.cpp ("error: invalid argument", "error
// while handling argument"), ggml/src/gguf.cpp ("failed to open GGUF file",
// "invalid magic characters"), and logs in reports of 2025 and 2026 to it and to
// neavo/OneClickLLAMA (bind; the reason of a failed bind is not told).
var llamaRules = []rule{
	find(messages.CausePortInUse, strong, "it could not bind its port",
		`\w+: couldn't bind HTTP server socket, hostname: \S+, port: \d+`),
	find(messages.CauseConfig, strong, "the command line is not accepted",
		`error: invalid argument: \S|error while handling argument "`),
	find(messages.CauseConfig, strong, "the model file cannot be opened",
		`gguf_init_from_file\w*: failed to open GGUF file '`),
	find(messages.CauseConfig, strong, "the model file is not a GGUF file",
		`gguf_init_from_file\w*: invalid magic (?:characters|number)\b`),
	find(messages.CauseConfig, strong, "the model file is of a kind this build does not know",
		`\w+: error loading model: error loading model architecture: unknown model architecture: '`),
	find(messages.CauseConfig, strong, "the model file is damaged or not whole",
		`\w+: error loading model: tensor '.{1,200}' data is not within the file bounds`),
	find(messages.CauseConfig, weak, "the model file cannot be read",
		`\w+: error loading model: llama_model_loader: failed to load model from `),
}
