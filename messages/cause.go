package messages

// Cause says in one word why an attempt ended.
type Cause string

// The causes. Exactly one is given to each ended attempt.
const (
	CauseNone            Cause = ""
	CauseClean           Cause = "clean"            // exit code 0, unasked
	CauseErrorExit       Cause = "error_exit"       // any other exit code, unasked
	CauseSignal          Cause = "signal"           // killed by a signal hive did not send
	CauseOOM             Cause = "oom"              // killed at its memory limit or by the kernel
	CauseCUDAOOM         Cause = "cuda_oom"         // device memory exhausted
	CausePortInUse       Cause = "port_in_use"      // could not bind its port
	CauseConfig          Cause = "config"           // bad flag, model, binary, dir or user missing
	CauseReadyTimeout    Cause = "ready_timeout"    // not ready within ready.timeout
	CauseLoadStalled     Cause = "load_stalled"     // no progress for ready.stall
	CauseHeartbeatLost   Cause = "heartbeat_lost"   // missed heartbeats
	CauseHealthFailed    Cause = "health_failed"    // failed health probes
	CauseProgressStalled Cause = "progress_stalled" // work in flight and no sign of progress
	CauseGPULost         Cause = "gpu_lost"         // its device is gone or sick
	CausePrepareFailed   Cause = "prepare_failed"   // the prepare command failed
	CauseStoppedByUser   Cause = "stopped_by_user"  // a person or an orchestrator asked
	CauseEvicted         Cause = "evicted"          // made room for another worker
	CauseShutdown        Cause = "hive_shutdown"    // hive ended
	CauseUnknown         Cause = "unknown"          // could not be found out; said openly
)

// Causes lists all causes, for metrics and documentation.
func Causes() []Cause {
	return []Cause{CauseClean, CauseErrorExit, CauseSignal, CauseOOM, CauseCUDAOOM, CausePortInUse, CauseConfig,
		CauseReadyTimeout, CauseLoadStalled, CauseHeartbeatLost, CauseHealthFailed, CauseProgressStalled,
		CauseGPULost, CausePrepareFailed, CauseStoppedByUser, CauseEvicted, CauseShutdown, CauseUnknown}
}

// Permanent reports whether retrying fast cannot help.
func (c Cause) Permanent() bool { return c == CauseConfig }
