package messages

import "time"

// WorkerStatus is what hive tells of a worker. It is immutable once published.
// Times are RFC 3339 with fractions, durations seconds, sizes bytes.
type WorkerStatus struct {
	Name      WorkerID          `json:"name"`
	State     State             `json:"state"`
	Since     time.Time         `json:"since"`
	Reason    string            `json:"reason"`
	PID       int               `json:"pid"`
	Attempt   Attempt           `json:"attempt"`
	Pool      PoolID            `json:"pool"`
	GPUs      []string          `json:"gpus"`
	Port      int               `json:"port"`
	URL       string            `json:"url"`
	Model     string            `json:"model"`
	Engine    string            `json:"engine"`
	Progress  *Progress         `json:"progress"`
	Heartbeat Heartbeat         `json:"heartbeat"`
	InFlight  int               `json:"in_flight"`
	Held      bool              `json:"held,omitempty"` // pending, and its pool has said for what: Reason
	Ready     bool              `json:"ready"`          // takes new work: idle or busy
	Stats     *Stats            `json:"stats,omitempty"`
	Said      string            `json:"said,omitempty"` // its own words about itself, by notify
	Restarts  Restarts          `json:"restarts"`
	LastExit  *LastExit         `json:"last_exit"`
	Resources Resources         `json:"resources"`
	Labels    map[string]string `json:"labels"`
	Command   []string          `json:"command"`
	StartedAt time.Time         `json:"started_at,omitzero"`
	ReadyAt   time.Time         `json:"ready_at,omitzero"`
	StopBy    *time.Time        `json:"stop_by,omitempty"` // draining or stopping: when it is ended by force
	Source    string            `json:"source"`            // "file" or "api": who declared the worker

	Rests bool   `json:"-"` // nothing of it runs, and nothing soon will
	Live  *Pulse `json:"-"` // what has moved since; Now reads it
}

// Progress is how far a load has come: Value from 0 to 1.
type Progress struct {
	Stage  string  `json:"stage"`
	Value  float64 `json:"value"`
	Source string  `json:"source"`
}

// Heartbeat says by what hive knows that the worker lives: native (it beats
// itself), synthetic (hive probes it) or none (only its process is watched).
type Heartbeat struct {
	Kind       string   `json:"kind"`
	AgeSeconds *Seconds `json:"age_seconds"`
	// At is when the last one came; AgeSeconds is worked out from it on reading.
	At time.Time `json:"-"`
}

// Restarts is the worker's restart account.
type Restarts struct {
	Total    int        `json:"total"`     // over the worker's life
	InWindow int        `json:"in_window"` // failures inside the window as of the last change
	Max      int        `json:"max"`       // how many the window may hold
	NextAt   *time.Time `json:"next_at"`   // when the next attempt is due; null when none is planned
}

// LastExit describes the end of the last ended attempt.
type LastExit struct {
	Cause         Cause     `json:"cause"`
	Detail        string    `json:"detail"`
	Attempt       Attempt   `json:"attempt"`
	Code          *int      `json:"code"`   // exit code; null when a signal ended it
	Signal        string    `json:"signal"` // "SIGKILL"; empty when it exited
	CoreDumped    bool      `json:"core_dumped"`
	OOMKilled     bool      `json:"oom_killed"`
	At            time.Time `json:"at"`
	UptimeSeconds Seconds   `json:"uptime_seconds"`
	LogTail       []string  `json:"log_tail"`
}

// Resources is what the worker uses, and which of its limits this host holds.
type Resources struct {
	MemoryBytes uint64   `json:"memory_bytes"` // resident, of all its processes
	CPUSeconds  float64  `json:"cpu_seconds"`  // of its living processes
	ReadBytes   uint64   `json:"read_bytes"`
	WriteBytes  uint64   `json:"write_bytes"`
	Processes   int      `json:"processes"`
	Unenforced  []string `json:"unenforced"` // limits that this host cannot hold, and why
}

// PoolStatus is what hive tells of a pool. Immutable once published.
type PoolStatus struct {
	Name     PoolID     `json:"name"`
	Device   *Device    `json:"device"` // null for the cpu pool
	Cordoned bool       `json:"cordoned"`
	Degraded bool       `json:"degraded"`
	Reason   string     `json:"reason"`
	Health   string     `json:"health"`
	Ledger   Ledger     `json:"ledger"`
	Budget   Budget     `json:"budget"`
	Workers  []WorkerID `json:"workers"`
}

// Device is the hardware behind a pool.
type Device struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
	Fake bool   `json:"fake,omitempty"`
}

// Ledger is the account of a device's memory, in bytes.
type Ledger struct {
	Total   uint64    `json:"total"`
	Leased  uint64    `json:"leased"`
	Used    uint64    `json:"used"`
	Foreign []Foreign `json:"foreign"`
}

// Foreign is a process on the device that hive did not start.
type Foreign struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Bytes   uint64 `json:"bytes"`
}

// Budget is the pool's own restart intensity: crash loops in its window.
type Budget struct {
	Used          int     `json:"used"`
	Max           int     `json:"max"`
	WindowSeconds Seconds `json:"window_seconds"`
}
