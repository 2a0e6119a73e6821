package engine

import (
	"regexp"
	"slices"
	"strconv"

	"github.com/rbee-hive/hive/messages"
)

// vllm is vLLM's OpenAI-compatible server.
//
// Health: it listens only once the model is loaded; GET /health is then 200,
// and 503 when its engine has died, which it never outlives. It looks at a flag
// and sends nothing to the engine.
// Source: vllm-project/vllm, vllm/entrypoints/serve/instrumentator/health.py.
//
// Figures: GET /metrics, always served. Each data-parallel engine has its own
// label "engine", so values are added over label sets. The KV cache's gauge was
// named gpu_cache_usage_perc until 2025. Neither endpoint wakes an engine put to
// sleep.
// Source: vllm-project/vllm 005a810b, vllm/v1/metrics/loggers.py,
// PrometheusStatLogger.
func vllm() Engine {
	return Engine{
		Name:    "vllm",
		Health:  "/health",
		Judge:   judgeReady,
		Sources: []Source{{Path: "/metrics", Parse: parseVLLM}},
		Load:    loadShards,
		rules:   slices.Concat(torchRules, bindRules, usageRules, hubRules, vllmRules),
	}
}

func parseVLLM(body []byte) (messages.Stats, error) {
	e, err := parseExposition(body, "vllm:")
	if err != nil {
		return messages.Stats{}, err
	}
	stats := messages.Stats{
		InFlight:    count(e.sum("vllm:num_requests_running")),
		QueueDepth:  count(e.sum("vllm:num_requests_waiting")),
		TokensTotal: e.sum("vllm:generation_tokens_total"),
		KVCacheUsed: first(e.ratio("vllm:kv_cache_usage_perc"), e.ratio("vllm:gpu_cache_usage_perc")),
	}
	e.latency("vllm:e2e_request_latency_seconds", &stats)
	return stats, nil
}

// The progress bars of vLLM and of SGLang, whose loader is of the same origin.
// A bar may be written over itself on one line without carriage returns, so the
// last one counts.
//
// Source: logs in reports to vllm-project/vllm and sgl-project/sglang of 2025, and
// SGLang's notebooks ("Multi-thread loading shards").
var (
	shardBar = regexp.MustCompile(`(?:Loading [a-z]+ checkpoint shards|Multi-thread loading shards):\s+(\d{1,3})% Completed \| \d+/\d+ \[`)
	graphBar = regexp.MustCompile(`(?:Capturing CUDA graphs?[^:|]{0,60}|Capturing batches[^:|]{0,80}):\s+(\d{1,3})%\|`)
)

func loadShards(line string) (messages.Progress, bool) {
	text := bare(line)
	for _, bar := range []struct {
		stage   string
		pattern *regexp.Regexp
	}{{"weights", shardBar}, {"CUDA graphs", graphBar}} {
		found := bar.pattern.FindAllStringSubmatchIndex(text, -1)
		if len(found) == 0 || found[0][0] != 0 {
			continue
		}
		last := found[len(found)-1]
		percent, err := strconv.Atoi(text[last[2]:last[3]])
		if err != nil || percent > 100 {
			continue
		}
		return loading(bar.stage, float64(percent)/100)
	}
	return messages.Progress{}, false
}

// vllmRules are vLLM's own words when the device's memory cannot hold what it
// was told to take.
//
// Source: vllm-project/vllm, vllm/v1/worker/gpu_worker.py ("Free memory on
// device"), and the log in a report of November 2024 ("No available memory").
var vllmRules = []rule{
	find(messages.CauseCUDAOOM, strong, "too little of the GPU's memory is free at the start",
		`ValueError: Free memory on device .{0,80}on startup is less than desired GPU memory utilization`),
	find(messages.CauseCUDAOOM, strong, "no GPU memory is left for the KV cache",
		`ValueError: No available memory for the cache blocks\.`),
}
