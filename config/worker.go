package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// The engines hive knows. The ones in serverEngines answer /health over HTTP.
const (
	EngineExec     = "exec" // any process
	EngineHTTP     = "http" // any HTTP server
	EngineHive     = "hive" // speaks the worker contract
	EngineLlama    = "llama-server"
	EngineVLLM     = "vllm"
	EngineTGI      = "tgi"
	EngineSGLang   = "sglang"
	EngineRbee     = "rbee"
	healthPath     = "/health"
	rbeeBeat       = 30 * time.Second // how often an rbee worker beats by itself
	rbeeIdle       = 5 * time.Minute  // an rbee worker leaves when unused this long
	maxReplicas    = 1000
	workerExpected = "a map with at least name and command"
)

var (
	engines       = []string{EngineExec, EngineHTTP, EngineHive, EngineLlama, EngineVLLM, EngineTGI, EngineSGLang, EngineRbee}
	serverEngines = []string{EngineLlama, EngineVLLM, EngineTGI, EngineSGLang}
)

// DefaultWorker is a worker of which nothing is written, before any defaults
// section. Drain and grace follow c.Shutdown; c may be nil.
func DefaultWorker(c *Config) messages.WorkerSpec {
	shutdown := Default().Shutdown
	if c != nil {
		shutdown = c.Shutdown
	}
	return messages.WorkerSpec{
		Engine: EngineExec,
		Listen: messages.ListenPort,
		Port:   "auto",
		Restart: messages.RestartSpec{
			Policy:      messages.RestartOnFailure,
			Backoff:     messages.BackoffSpec{Initial: dur(time.Second), Max: dur(time.Minute), Factor: 2, Jitter: 0.25},
			MaxRestarts: 5,
			Window:      dur(10 * time.Minute),
			StableAfter: dur(10 * time.Minute),
			SlowRetry:   dur(5 * time.Minute),
		},
		Ready:     messages.ReadySpec{Settle: dur(time.Second), Stall: dur(2 * time.Minute), Timeout: dur(30 * time.Minute)},
		Heartbeat: messages.HeartbeatSpec{Interval: dur(5 * time.Second), Misses: 3},
		Health:    messages.HealthSpec{Interval: dur(30 * time.Second), Timeout: dur(2 * time.Second), Failures: 3},
		Progress:  messages.ProgressSpec{Stall: dur(2 * time.Minute)},
		Stop:      messages.StopSpec{Signal: "SIGTERM", Drain: shutdown.Drain, Grace: shutdown.Grace},
		Logs:      messages.LogsSpec{Size: 10 << 20, Files: 5},
	}
}

// ParseWorker reads one worker, in YAML or JSON, as strictly as the file and
// over the same defaults (those of c, which may be nil), and unfolds replicas.
// Whether other workers have these names, and whether what depends_on names
// exists, is for the caller to say. The error is messages.Problems.
func ParseWorker(data []byte, c *Config) ([]messages.WorkerSpec, error) {
	s := &sink{}
	n := readBody(s, data)
	if n == nil && len(s.problems) == 0 {
		s.at(1, 1, "", "the body is empty; expected %s", workerExpected)
	}
	if n == nil {
		return nil, s.sorted()
	}
	own := DefaultWorker(c)
	d := decoder{sink: s}
	if !d.structWith(n, valueOf(&own), "", nil) {
		return nil, s.sorted()
	}
	s.form = slices.Clone(s.problems)
	spec := compose(n, c)
	checkWorker(s, &spec, place{tree: n, under: c.defaultsNode()}, false)
	if ps := s.sorted(); len(ps) > 0 {
		return nil, ps
	}
	return unfold(spec), nil
}

// PatchWorker applies a merge patch, in YAML or JSON, to a worker: maps are
// joined key by key, lists are replaced, null sets a key back to its default
// (for a key of env or labels: removes it). The name and the number of
// replicas cannot change. current is not modified. The error is
// messages.Problems.
func PatchWorker(current messages.WorkerSpec, data []byte, c *Config) (messages.WorkerSpec, error) {
	s := &sink{}
	n := readBody(s, data)
	if n == nil && len(s.problems) == 0 {
		return clone(current), nil
	}
	if n == nil {
		return current, s.sorted()
	}
	spec := clone(current)
	engine := spec.Engine
	back := compose(nil, c)
	d := decoder{sink: s, patch: true}
	if !d.structure(n, valueOf(&spec), valueOf(&back), "", nil) {
		return current, s.sorted()
	}
	s.form = slices.Clone(s.problems)
	w := place{tree: n, under: c.defaultsNode()}
	if line, col, path := w.find("name"); spec.Name != current.Name {
		s.at(line, col, path, "a worker's name cannot change; create worker %q and delete %s", spec.Name, current.Name)
	}
	if line, col, path := w.find("replicas"); spec.Replicas != current.Replicas {
		s.at(line, col, path, "replicas cannot change on one worker; create or delete workers, or edit the configuration and reload")
	}
	spec.Name, spec.Replicas, spec.Base = current.Name, current.Replicas, current.Base
	if spec.Engine != engine && !slices.Contains(serverEngines, spec.Engine) && slices.Contains(serverEngines, engine) {
		// The old engine's own path says nothing about the new one.
		if n.get("health").get("http") == nil && spec.Health.HTTP == healthPath {
			spec.Health.HTTP = ""
		}
		if n.get("ready").get("http") == nil && spec.Ready.HTTP == healthPath {
			spec.Ready.HTTP = ""
		}
	}
	if spec.Engine != engine {
		imply(&spec, n)
	} else {
		implyGPU(&spec, n)
	}
	checkWorker(s, &spec, w, false)
	if ps := s.sorted(); len(ps) > 0 {
		return current, ps
	}
	return spec, nil
}

// maxBody bounds a worker in YAML: the parser's time grows with the square of
// the number of keys. JSON is read in linear time and has no such bound.
const maxBody = 64 << 10

// readBody is readTree for a body of the API.
func readBody(s *sink, data []byte) *node {
	if len(data) > maxBody && !json.Valid(data) {
		s.at(1, 1, "", "the body is not valid JSON, and as YAML it is longer than %s; send valid JSON", messages.Size(maxBody))
		return nil
	}
	return readTree(s, data)
}

func (c *Config) defaultsNode() *node {
	if c == nil {
		return nil
	}
	return c.defaults
}

// compose decodes a worker over the defaults. What does not fit keeps its
// default; it has been reported where it stands.
func compose(own *node, c *Config) messages.WorkerSpec {
	spec := DefaultWorker(c)
	tree := overlay(c.defaultsNode(), own)
	if tree == nil {
		return spec
	}
	d := decoder{sink: &sink{}}
	d.structWith(tree, valueOf(&spec), "", nil)
	imply(&spec, tree)
	return spec
}

// imply fills in what follows from other keys, where tree does not say it.
func imply(spec *messages.WorkerSpec, tree *node) {
	implyGPU(spec, tree)
	if slices.Contains(serverEngines, spec.Engine) {
		r := spec.Ready
		if tree.get("ready").get("http") == nil && r.HTTP == "" && !r.TCP && r.Log == "" && !r.Notify && len(r.Command) == 0 {
			spec.Ready.HTTP = healthPath
		}
		if tree.get("health").get("http") == nil && spec.Health.HTTP == "" {
			spec.Health.HTTP = healthPath
		}
	}
	if spec.Engine == EngineRbee && tree.get("heartbeat").get("interval") == nil {
		spec.Heartbeat.Interval = dur(rbeeBeat)
	}
	if spec.Engine == EngineRbee && tree.get("health").get("http") == nil && spec.Health.HTTP == "" {
		spec.Health.HTTP = healthPath
	}
	if spec.Engine == EngineRbee && tree.get("idle_timeout") == nil && spec.IdleTimeout == 0 {
		spec.IdleTimeout = dur(rbeeIdle)
	}
}

// implyGPU makes "gpu: {}" and "gpu: {vram: 1GiB}" ask for one device.
func implyGPU(spec *messages.WorkerSpec, tree *node) {
	g := tree.get("gpu")
	if g == nil || g.kind != kindMap {
		return
	}
	if g.get("count") == nil && spec.GPU.Count == 0 {
		spec.GPU.Count = 1
	}
	if spec.GPU.Count == 0 && g.get("vram") == nil && g.get("devices") == nil {
		spec.GPU = messages.GPUSpec{}
	}
}

// unfold makes chat-1, chat-2 of a chat with two replicas. With none or one
// the worker keeps its name. Replicas is 0 afterwards, so that changing the
// number restarts none of those that stay.
func unfold(spec messages.WorkerSpec) []messages.WorkerSpec {
	count, base := spec.Replicas, string(spec.Name)
	spec.Replicas, spec.Base = 0, base
	if count <= 1 {
		return []messages.WorkerSpec{spec}
	}
	out := make([]messages.WorkerSpec, count)
	for i := range out {
		out[i] = clone(spec)
		out[i].Name = messages.WorkerID(fmt.Sprintf("%s-%d", base, i+1))
	}
	return out
}

// clone copies spec with its maps and lists.
func clone(spec messages.WorkerSpec) messages.WorkerSpec {
	spec.Command = slices.Clone(spec.Command)
	spec.GPU.Devices = slices.Clone(spec.GPU.Devices)
	spec.Env = maps.Clone(spec.Env)
	spec.Ready.Command = slices.Clone(spec.Ready.Command)
	spec.DependsOn = slices.Clone(spec.DependsOn)
	spec.Prepare = slices.Clone(spec.Prepare)
	spec.Labels = maps.Clone(spec.Labels)
	return spec
}

// fillDefaults keeps the defaults section and checks it on its own.
func (c *Config) fillDefaults(s *sink, n *node) {
	if n == nil || n.kind == kindNull {
		return
	}
	spec := DefaultWorker(c)
	before := len(s.problems)
	d := decoder{sink: s}
	if !d.structWith(n, valueOf(&spec), "defaults", nil) {
		return
	}
	s.form = append(s.form, s.problems[before:]...)
	if name := n.get("name"); name != nil {
		s.at(name.line, name.col, "defaults.name", "a default cannot name a worker; write the name under workers")
	}
	c.defaults = n
	imply(&spec, n)
	checkWorker(s, &spec, place{path: "defaults", tree: n}, true)
}

// group is one entry of workers and what it unfolds to.
type group struct {
	base  string
	deps  []string
	specs []messages.WorkerSpec
	at    place
}

// fillWorkers decodes and checks the workers section.
func (c *Config) fillWorkers(s *sink, n *node) {
	if n == nil || n.kind == kindNull {
		return
	}
	d := decoder{sink: s}
	if n.kind != kindList {
		d.wrong(n, "workers", "a list of workers, each beginning with \"- name:\"")
		return
	}
	c.places = map[messages.WorkerID]place{}
	var groups []group
	for i, item := range n.items {
		at := place{path: joinIndex("workers", i), tree: item, under: c.defaults}
		own := DefaultWorker(c)
		before := len(s.problems)
		if !d.structWith(item, valueOf(&own), at.path, nil) {
			continue
		}
		s.form = append(s.form, s.problems[before:]...)
		spec := compose(item, c)
		if item.get("name") == nil {
			spec.Name = "" // not one from the defaults
		}
		checkWorker(s, &spec, at, false)
		g := group{base: string(spec.Name), deps: spec.DependsOn, at: at}
		if spec.Replicas >= 0 && spec.Replicas <= maxReplicas {
			g.specs = unfold(spec)
		}
		for _, u := range g.specs {
			c.places[u.Name] = at
		}
		groups = append(groups, g)
	}
	checkNames(s, groups)
	checkDependencies(s, groups)
	for _, g := range groups {
		c.Workers = append(c.Workers, g.specs...)
	}
}
