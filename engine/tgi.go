package engine

import (
	"slices"

	"github.com/rbee-hive/hive/messages"
)

// tgi is Hugging Face's text-generation-inference.
//
// Health: its router listens only after the shards are loaded and warm; GET
// /health is then 200, and 503 when the shards do not answer. After a failed
// request it computes one token to find out; that batch goes to the shards past
// the queue and is in none of the figures.
// Source: huggingface/text-generation-inference db931fcf (v3.3.7 and later),
// router/src/server.rs, health; backends/v3/src/backend.rs, health;
// backends/v3/src/client/sharded_client.rs, model_health.
//
// Figures: GET /metrics on the server's own port, always served. A metric
// appears with its first value, so a server that has had no request gives none.
// Tokens and latency are counted when a request ends.
// Source: the same, docs/source/reference/metrics.md; router/src/server.rs,
// set_buckets_for_metric; backends/v3/src/queue.rs, tgi_queue_size.
//
// Its log tells no percentage of a load.
func tgi() Engine {
	return Engine{
		Name:    "tgi",
		Health:  "/health",
		Judge:   judgeReady,
		Sources: []Source{{Path: "/metrics", Parse: parseTGI}},
		Load:    noLoad,
		rules:   slices.Concat(torchRules, bindRules, usageRules, hubRules, tgiRules),
	}
}

func parseTGI(body []byte) (messages.Stats, error) {
	e, err := parseExposition(body, "tgi_")
	if err != nil {
		return messages.Stats{}, err
	}
	stats := messages.Stats{
		InFlight:    count(e.sum("tgi_batch_current_size")),
		QueueDepth:  count(e.sum("tgi_queue_size")),
		TokensTotal: e.sum("tgi_request_generated_tokens_sum"),
	}
	e.latency("tgi_request_duration", &stats)
	return stats, nil
}

// tgiRules are TGI's own words. "ShardCannotStart" is not among them: it is
// said whatever ended the shard.
//
// Source: db931fcf, launcher/src/main.rs, LauncherError (main prints its Debug
// form); server/text_generation_server/models/flash_causal_lm.py, warmup;
// backends/v3/src/lib.rs, V3Error.
var tgiRules = []rule{
	find(messages.CauseCUDAOOM, strong, "the GPU's memory does not hold the largest prompt allowed",
		`RuntimeError: Not enough memory to handle \d+ prefill tokens`),
	find(messages.CauseCUDAOOM, strong, "the GPU's memory does not hold the tokens asked for",
		"(?:Error: |Backend failed: )?Not enough memory to handle `max_total_tokens="),
	find(messages.CauseConfig, strong, "the command line is not accepted",
		`Error: ArgumentValidation\(`),
	find(messages.CauseConfig, strong, "more shards are asked for than there are GPUs",
		`Error: NotEnoughCUDADevices\(`),
}
