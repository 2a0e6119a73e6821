package messages

// RestartPolicy says which ends of a process are followed by a new attempt.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "always"     // whatever the exit was
	RestartOnFailure RestartPolicy = "on-failure" // unless it exited 0 by itself
	RestartNever     RestartPolicy = "never"
)

// WorkerSpec is the desired form of one worker, with every default filled in
// and replicas already unfolded. Two equal specs need no restart between them.
// The yaml and json keys are the configuration's own.
type WorkerSpec struct {
	Name        WorkerID          `yaml:"name" json:"name"`
	Command     []string          `yaml:"command" json:"command"`
	Engine      string            `yaml:"engine" json:"engine"`
	Replicas    int               `yaml:"replicas" json:"replicas,omitempty"`
	GPU         GPUSpec           `yaml:"gpu" json:"gpu"`
	Port        PortSpec          `yaml:"port" json:"port"`
	Listen      string            `yaml:"listen" json:"listen"`
	Env         map[string]string `yaml:"env" json:"env,omitempty"`
	Dir         string            `yaml:"dir" json:"dir,omitempty"`
	User        string            `yaml:"user" json:"user,omitempty"`
	Restart     RestartSpec       `yaml:"restart" json:"restart"`
	Ready       ReadySpec         `yaml:"ready" json:"ready"`
	Heartbeat   HeartbeatSpec     `yaml:"heartbeat" json:"heartbeat"`
	Health      HealthSpec        `yaml:"health" json:"health"`
	Progress    ProgressSpec      `yaml:"progress" json:"progress"`
	Limits      LimitsSpec        `yaml:"limits" json:"limits"`
	Nice        int               `yaml:"nice" json:"nice,omitempty"`
	OOMScoreAdj int               `yaml:"oom_score_adj" json:"oom_score_adj,omitempty"`
	Stop        StopSpec          `yaml:"stop" json:"stop"`
	Logs        LogsSpec          `yaml:"logs" json:"logs"`
	IdleTimeout Duration          `yaml:"idle_timeout" json:"idle_timeout"`
	DependsOn   []string          `yaml:"depends_on" json:"depends_on,omitempty"`
	Model       string            `yaml:"model" json:"model,omitempty"`
	Prepare     []string          `yaml:"prepare" json:"prepare,omitempty"`
	Priority    int               `yaml:"priority" json:"priority"`
	Labels      map[string]string `yaml:"labels" json:"labels,omitempty"`

	// Base is the name before replicas were unfolded ("chat" for chat-2);
	// depends_on may name either. Not a configuration key.
	Base string `yaml:"-" json:"-"`
}

// GPUSpec asks for devices; in configuration it may also be the word none.
type GPUSpec struct {
	Count   int      `yaml:"count" json:"count"`
	VRAM    Size     `yaml:"vram" json:"vram,omitempty"`
	Devices []string `yaml:"devices" json:"devices,omitempty"`
}

// PortSpec is "auto" (a lease from the range), "none", or a fixed number.
type PortSpec string

// Who binds a worker's port.
const (
	ListenPort   = "port"   // the worker does
	ListenSocket = "socket" // hive does, and passes the socket on
)

// RestartSpec is the restart policy and its numbers.
type RestartSpec struct {
	Policy      RestartPolicy `yaml:"policy" json:"policy"`
	Backoff     BackoffSpec   `yaml:"backoff" json:"backoff"`
	MaxRestarts int           `yaml:"max_restarts" json:"max_restarts"`
	Window      Duration      `yaml:"window" json:"window"`
	StableAfter Duration      `yaml:"stable_after" json:"stable_after"`
	SlowRetry   Duration      `yaml:"slow_retry" json:"slow_retry"`
}

// BackoffSpec is the delay before a restart: initial * factor^n, at most max,
// each time spread by +-jitter (a fraction).
type BackoffSpec struct {
	Initial Duration `yaml:"initial" json:"initial"`
	Max     Duration `yaml:"max" json:"max"`
	Factor  float64  `yaml:"factor" json:"factor"`
	Jitter  float64  `yaml:"jitter" json:"jitter"`
}

// ReadySpec says how hive learns that a worker is ready. With no rule a worker
// of engine exec is ready once it has lived for Settle.
type ReadySpec struct {
	HTTP    string   `yaml:"http" json:"http,omitempty"`
	TCP     bool     `yaml:"tcp" json:"tcp,omitempty"`
	Log     string   `yaml:"log" json:"log,omitempty"`
	Notify  bool     `yaml:"notify" json:"notify,omitempty"`
	Command []string `yaml:"command" json:"command,omitempty"`
	Settle  Duration `yaml:"settle" json:"settle"`
	Stall   Duration `yaml:"stall" json:"stall"`
	Timeout Duration `yaml:"timeout" json:"timeout"`
}

// HeartbeatSpec is the heartbeat's period and how many may be missed.
type HeartbeatSpec struct {
	Interval Duration `yaml:"interval" json:"interval"`
	Misses   int      `yaml:"misses" json:"misses"`
}

// HealthSpec is the probe that backs the heartbeat up.
type HealthSpec struct {
	HTTP     string   `yaml:"http" json:"http,omitempty"`
	Interval Duration `yaml:"interval" json:"interval"`
	Timeout  Duration `yaml:"timeout" json:"timeout"`
	Failures int      `yaml:"failures" json:"failures"`
}

// ProgressSpec is the watchdog over work in flight.
type ProgressSpec struct {
	Stall Duration `yaml:"stall" json:"stall"`
}

// LimitsSpec bounds what one worker may use; zero means no limit.
type LimitsSpec struct {
	Memory   Size    `yaml:"memory" json:"memory,omitempty"`
	CPUs     float64 `yaml:"cpus" json:"cpus,omitempty"`
	CPUSet   string  `yaml:"cpuset" json:"cpuset,omitempty"`
	PIDs     int     `yaml:"pids" json:"pids,omitempty"`
	NoFile   uint64  `yaml:"nofile" json:"nofile,omitempty"`
	Core     Size    `yaml:"core" json:"core,omitempty"`
	AS       Size    `yaml:"as" json:"as,omitempty"`
	MemLock  Size    `yaml:"memlock" json:"memlock,omitempty"`
	Required bool    `yaml:"required" json:"required,omitempty"`
}

// StopSpec is how a worker is ended.
type StopSpec struct {
	Signal string   `yaml:"signal" json:"signal"`
	Drain  Duration `yaml:"drain" json:"drain"`
	Grace  Duration `yaml:"grace" json:"grace"`
}

// LogsSpec bounds the log files kept for one worker: Files archives of Size. What
// comes faster than Rate bytes a second, when that is set, is not archived.
type LogsSpec struct {
	Size  Size `yaml:"size" json:"size"`
	Files int  `yaml:"files" json:"files"`
	Rate  Size `yaml:"rate" json:"rate,omitempty"`
}
