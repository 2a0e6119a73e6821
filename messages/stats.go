package messages

// Stats is what is known of a worker's work, from its heartbeats or from its
// engine's own figures. A nil field is not known.
type Stats struct {
	InFlight        *int     `json:"in_flight,omitempty"`         // requests being worked on
	QueueDepth      *int     `json:"queue_depth,omitempty"`       // requests that wait
	TokensTotal     *float64 `json:"tokens_total,omitempty"`      // generated since the attempt began
	TokensPerSecond *float64 `json:"tokens_per_second,omitempty"` // as the worker measures it
	LatencyP50      *float64 `json:"latency_ms_p50,omitempty"`    // of whole requests, milliseconds
	LatencyP99      *float64 `json:"latency_ms_p99,omitempty"`
	KVCacheUsed     *float64 `json:"kv_cache_used,omitempty"` // 0 to 1
	MemoryBytes     *uint64  `json:"memory_bytes,omitempty"`
	GPUUtilization  *float64 `json:"gpu_utilization,omitempty"` // 0 to 1

	// Requests and RequestSeconds are the engine's counters of finished requests
	// and the time they took together; their growth gives the latency.
	Requests       *float64 `json:"requests_total,omitempty"`
	RequestSeconds *float64 `json:"request_seconds_total,omitempty"`
}
