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
	WorkerInvalid     = "hive_worker_invalid_transitions_total" // inputs the state table refused
	WorkerInFlight    = "hive_worker_in_flight"                 // requests in flight
	WorkerStop        = "hive_worker_stop_seconds"              // by phase: drain, term, gone
	PoolCrashloops    = "hive_pool_crashloops_total"            // workers that went into crash loop
	PoolCordoned      = "hive_pool_cordoned"                    // 1 while closed for new starts
	PoolDegraded      = "hive_pool_degraded"                    // 1 while over its crash-loop budget
	APIRequestSeconds = "hive_api_request_seconds"              // by route and code
)
