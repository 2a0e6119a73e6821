package engine

import (
	"slices"

	"github.com/rbee-hive/hive/messages"
)

// sglang is the SGLang runtime's server.
//
// Health: GET /health is 503 while it starts and while it ends, and when no
// token came within its own 20 seconds; the answer does not say which. Unless
// SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION is false it lets an idle server
// compute one token and looks for it after a second, so an answer takes a
// second even when all is well; a busy server is spared. That token is not in
// the token and request counters (log_metrics=False); the gauge of running
// requests could show it for that moment, so do not read the figures while a
// probe is under way.
// Source: sgl-project/sglang, python/sglang/srt/entrypoints/http_server.py,
// health_generate; managers/scheduler.py, process_input_requests.
//
// Figures: GET /metrics, served with --enable-metrics. With
// --enable-metrics-for-all-schedulers each rank of one replica reports the same
// requests; replicas differ in dp_rank. So values are added over dp_rank alone.
// Source: sgl-project/sglang 44cedc2b, python/sglang/srt/observability/
// metrics_collector.py (SchedulerMetricsCollector, TokenizerMetricsCollector),
// and 00ae9c15, python/sglang/srt/metrics/collector.py, its earlier home.
func sglang() Engine {
	return Engine{
		Name:    "sglang",
		Health:  "/health",
		Judge:   judgeSGLang,
		Sources: []Source{{Path: "/metrics", Parse: parseSGLang, Optional: true}},
		Load:    loadShards,
		rules:   slices.Concat(torchRules, bindRules, usageRules, hubRules, sglangRules),
	}
}

func judgeSGLang(code int, _ []byte) Verdict {
	switch code {
	case 200:
		return Ready
	case 503:
		return Loading
	}
	return Broken
}

func parseSGLang(body []byte) (messages.Stats, error) {
	e, err := parseExposition(body, "sglang:")
	if err != nil {
		return messages.Stats{}, err
	}
	const replica = "dp_rank"
	stats := messages.Stats{
		InFlight:        count(e.sumOver("sglang:num_running_reqs", replica)),
		QueueDepth:      count(e.sumOver("sglang:num_queue_reqs", replica)),
		TokensTotal:     e.sum("sglang:generation_tokens_total"),
		TokensPerSecond: e.sumOver("sglang:gen_throughput", replica),
		KVCacheUsed:     e.ratio("sglang:token_usage"),
	}
	e.latency("sglang:e2e_request_latency_seconds", &stats)
	return stats, nil
}

// sglangRules are SGLang's own words when the device's memory is exhausted.
//
// Source: sgl-project/sglang, python/sglang/srt/model_executor (the memory
// pool's "Not enough memory", the graph runner's "Capture cuda graph failed").
var sglangRules = []rule{
	find(messages.CauseCUDAOOM, strong, "no GPU memory is left for the KV cache",
		`RuntimeError: Not enough memory\. Please try to increase --mem-fraction-static`),
	find(messages.CauseCUDAOOM, strong, "the GPU's memory is exhausted while CUDA graphs are captured",
		`Exception: Capture cuda graph failed: (?:CUDA out of memory|CUDA error: out of memory)`),
}
