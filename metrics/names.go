// Package metrics holds every metric hive shows: names, units and help texts
// here, the sources in set.go. Gauges are written from the published view at the
// moment of the scrape, so nothing stale remains and no actor is asked; counters
// and histograms are fed by events.
package metrics

// The metrics. Base units, as suffix.
const (
	WorkerState       = "hive_worker_state"                     // one-hot by state
	WorkerRestarts    = "hive_worker_restarts_total"            // new attempts after failures
	WorkerExits       = "hive_worker_exits_total"               // ended processes by cause
	WorkerReadyTime   = "hive_worker_time_to_ready_seconds"     // process made to ready
	WorkerDetect      = "hive_worker_crash_detect_seconds"      // pidfd woke hive to event published
	WorkerBackoff     = "hive_worker_backoff_seconds"           // delays chosen before a restart
	WorkerHeartbeat   = "hive_worker_heartbeat_age_seconds"     // since the last heartbeat
	WorkerBeats       = "hive_worker_heartbeats_total"          // its own, in this attempt
	WorkerInvalid     = "hive_worker_invalid_transitions_total" // inputs the state table refused
	WorkerInFlight    = "hive_worker_in_flight"                 // requests in flight
	WorkerQueue       = "hive_worker_queue_depth"               // requests that wait
	WorkerTokens      = "hive_worker_tokens_total"              // generated in this attempt
	WorkerTokenRate   = "hive_worker_tokens_per_second"         // as the worker or its engine measures it
	WorkerRequest     = "hive_worker_request_seconds"           // summary of whole requests, as the worker or its engine tells
	WorkerKVCache     = "hive_worker_kv_cache_used_ratio"       // 0 to 1
	WorkerMemory      = "hive_worker_memory_bytes"              // resident, of all its processes
	WorkerCPU         = "hive_worker_cpu_seconds_total"         // of its living processes
	WorkerIO          = "hive_worker_io_bytes_total"            // by direction
	WorkerGPU         = "hive_worker_gpu_utilization_ratio"     // as the worker tells, 0 to 1
	WorkerProgress    = "hive_worker_load_progress_ratio"       // of a load or a preparation, 0 to 1
	WorkerNotify      = "hive_worker_notify_refused_total"      // notify datagrams or words not taken, by reason
	WorkerStop        = "hive_worker_stop_seconds"              // by phase: drain, term, gone
	PoolCrashloops    = "hive_pool_crashloops_total"            // workers that went into crash loop
	PoolCordoned      = "hive_pool_cordoned"                    // 1 while closed for new starts
	PoolDegraded      = "hive_pool_degraded"                    // 1 while over its crash-loop budget
	APIRequestSeconds = "hive_api_request_seconds"              // by route and code
)
