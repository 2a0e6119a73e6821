package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rbee-hive/hive/messages"
)

// Config is one hive.yaml with every default filled in. It is not changed
// after Parse returns it, so it may be read from many goroutines.
type Config struct {
	Name     string   `yaml:"name"`     // of this node; the host name unless set
	DataDir  string   `yaml:"data_dir"` // store, ledger, socket and logs; relative to the working directory
	Listen   string   `yaml:"listen"`   // host:port of the API; "" serves the socket only
	Auth     Auth     `yaml:"auth"`
	TLS      TLS      `yaml:"tls"`
	Ports    string   `yaml:"ports"`   // leases for workers, "first-last"; see PortRange
	OnExit   string   `yaml:"on_exit"` // OnExitStop or OnExitKeep
	Shutdown Shutdown `yaml:"shutdown"`
	Pool     Pool     `yaml:"pool"`
	GPU      GPU      `yaml:"gpu"`
	Orphans  string   `yaml:"orphans"` // OrphansAdopt, OrphansKill or OrphansLeave
	Rbee     Rbee     `yaml:"rbee"`

	// Workers are the desired workers: defaults merged, replicas unfolded, in
	// the order of the file.
	Workers []messages.WorkerSpec `yaml:"-"`

	file     string                      // name for problems
	defaults *node                       // the defaults section, merged under each worker
	places   map[messages.WorkerID]place // where each worker is written
}

// Auth says who may use the API over TCP.
type Auth struct {
	TokenFile            string `yaml:"token_file"`              // file holding the bearer token; "" demands none
	ReadOnlyWithoutToken bool   `yaml:"read_only_without_token"` // reading needs no token
}

// TLS names the PEM files of the API's certificate; all empty means plain HTTP.
type TLS struct {
	Cert     string `yaml:"cert"`
	Key      string `yaml:"key"`
	ClientCA string `yaml:"client_ca"` // demand client certificates signed by this
}

// Rbee serves the orchestrator and the workers of rbee-hive.
type Rbee struct {
	WorkerCommand    []string `yaml:"worker_command"`     // starts a worker; its own flags are added
	QueenCallbackURL string   `yaml:"queen_callback_url"` // told of each ready worker
}

// Shutdown bounds how a worker is ended, where its own stop section does not.
type Shutdown struct {
	Drain messages.Duration `yaml:"drain"` // time for work in flight
	Grace messages.Duration `yaml:"grace"` // from the stop signal to SIGKILL
}

// Pool is the crash budget of one pool: more than MaxCrashloops crash loops
// within Window is followed by Escalation.
type Pool struct {
	MaxCrashloops int               `yaml:"max_crashloops"`
	Window        messages.Duration `yaml:"window"`
	Escalation    string            `yaml:"escalation"` // EscalationIsolate or EscalationRestart
}

// GPU is how devices are found and shared out.
type GPU struct {
	NVMLLibrary string        `yaml:"nvml_library"` // path of libnvidia-ml.so; "" searches
	Fake        int           `yaml:"fake"`         // pools without a driver, for trials; 0..64
	Margin      messages.Size `yaml:"margin"`       // bytes of VRAM kept free on each device
	Placement   string        `yaml:"placement"`    // PlacementSpread or PlacementPack
}

// The words of on_exit, pool.escalation, gpu.placement and orphans.
const (
	OnExitStop = "stop" // end every worker with hive
	OnExitKeep = "keep" // leave them running for the next hive

	EscalationIsolate = "isolate"
	EscalationRestart = "restart"

	PlacementSpread = "spread"
	PlacementPack   = "pack"

	OrphansAdopt = "adopt"
	OrphansKill  = "kill"
	OrphansLeave = "leave"
)

// maxFile bounds what is read, so that a wrong path cannot fill the memory.
const maxFile = 8 << 20

// Default is the configuration of an empty file.
func Default() Config {
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "hive"
	}
	return Config{
		Name:     name,
		DataDir:  "./hive-data",
		Listen:   "127.0.0.1:7070",
		Ports:    "7100-7199",
		OnExit:   OnExitStop,
		Shutdown: Shutdown{Drain: dur(30 * time.Second), Grace: dur(10 * time.Second)},
		Pool:     Pool{MaxCrashloops: 3, Window: dur(10 * time.Minute), Escalation: EscalationIsolate},
		GPU:      GPU{Margin: 512 << 20, Placement: PlacementSpread},
		Orphans:  OrphansAdopt,
	}
}

func dur(d time.Duration) messages.Duration { return messages.Duration(d) }

// Load reads the file at path. The error is messages.Problems when the form is
// wrong, and one plain sentence when the file cannot be read (it wraps the
// cause, so errors.Is(err, fs.ErrNotExist) works).
func Load(path string) (*Config, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("configuration %s does not exist; name another file with --config, or create it: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("configuration %s cannot be read; check the path and its permissions: %w", path, err)
	case info.IsDir():
		return nil, fmt.Errorf("configuration %s is a directory; name the file in it", path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("configuration %s is larger than %s; is it the right file?", path, messages.Size(maxFile))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration %s cannot be read; check its permissions: %w", path, err)
	}
	return Parse(path, data)
}

// Parse reads a configuration; name is the file's name for the problems. A nil
// error means that the form is right; a non-nil one is messages.Problems. An
// empty input is a valid configuration without workers.
func Parse(name string, data []byte) (*Config, error) {
	c := Default()
	c.file = name
	s := &sink{file: name}
	root := readTree(s, data)
	if root != nil {
		c.fill(s, root)
	}
	if ps := s.sorted(); len(ps) > 0 {
		return nil, ps
	}
	return &c, nil
}

// fill sets c from the tree and collects every problem.
func (c *Config) fill(s *sink, root *node) {
	var form struct {
		defaults, workers *node
	}
	d := decoder{sink: s}
	if !d.structWith(root, valueOf(c), "", map[string]**node{"defaults": &form.defaults, "workers": &form.workers}) {
		return
	}
	s.form = slices.Clone(s.problems)
	checkSettings(s, c, place{tree: root})
	c.fillDefaults(s, form.defaults)
	c.fillWorkers(s, form.workers)
}

// PortRange returns the first and last port of Ports, both included.
func (c *Config) PortRange() (first, last int) {
	first, last, _ = parseRange(c.Ports)
	return first, last
}

// parseRange reads "7100-7199" or a single port.
func parseRange(s string) (first, last int, problem string) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		b = a
	}
	first, err1 := strconv.Atoi(strings.TrimSpace(a))
	last, err2 := strconv.Atoi(strings.TrimSpace(b))
	switch {
	case err1 != nil || err2 != nil:
		return 0, 0, fmt.Sprintf("%q is not a port range; write first-last, such as 7100-7199", s)
	case first < 1 || last < 1 || first > 65535 || last > 65535:
		return 0, 0, fmt.Sprintf("port range %s is out of bounds; ports are 1 to 65535", s)
	case first > last:
		return 0, 0, fmt.Sprintf("port range %s runs backwards; write %d-%d", s, last, first)
	}
	return first, last, ""
}

// checkUTF8 reports the line of the first byte that is not UTF-8.
func checkUTF8(s *sink, data []byte) bool {
	line, col := 1, 1
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			s.at(line, col, "", "byte 0x%02x is not UTF-8; save the file as UTF-8", data[i])
			return false
		}
		if r == '\n' {
			line, col = line+1, 0
		}
		i, col = i+n, col+1
	}
	return true
}
