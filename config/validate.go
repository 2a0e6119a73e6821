package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// Signals are the names stop.signal takes.
var Signals = []string{"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGABRT", "SIGWINCH", "SIGALRM", "SIGPIPE", "SIGCONT"}

var (
	policies   = []string{string(messages.RestartAlways), string(messages.RestartOnFailure), string(messages.RestartNever)}
	nodeNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)
	deviceRE   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:._/-]*$`)
	labelRE    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
	hostRE     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
)

// checker reports problems of one object at the place it is written.
type checker struct {
	*sink
	place
}

// bad reports rel, unless it could not even be read.
func (k checker) bad(rel, format string, args ...any) {
	line, col, path := k.find(rel)
	if !k.shadowed(path) && !k.shadowed(join(k.path, rel)) {
		k.at(line, col, path, format, args...)
	}
}

func (k checker) oneOf(rel, word string, allowed []string) {
	if !slices.Contains(allowed, word) {
		k.bad(rel, "%q is not known here; %s", word, instead(word, allowed))
	}
}

func (k checker) notNegative(rel string, n int) {
	if n < 0 {
		k.bad(rel, "%d is negative; write 0 or more", n)
	}
}

func (k checker) positive(rel string, d messages.Duration) {
	if d <= 0 {
		k.bad(rel, "must be longer than 0; write a duration such as 10s")
	}
}

// checkSettings checks everything of c but its workers.
func checkSettings(s *sink, c *Config, at place) {
	k := checker{s, at}
	if at.tree.get("name") != nil && !nodeNameRE.MatchString(c.Name) {
		k.bad("name", "%q cannot name a node; use letters, digits, dots and dashes", c.Name)
	}
	if strings.TrimSpace(c.DataDir) == "" || strings.ContainsRune(c.DataDir, 0) {
		k.bad("data_dir", "is not a path; write one such as ./hive-data")
	}
	if problem := checkListen(c.Listen); problem != "" {
		k.bad("listen", "%s", problem)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		k.bad("tls", "cert and key belong together; write both or neither")
	} else if c.TLS.ClientCA != "" && c.TLS.Cert == "" {
		k.bad("tls", "client_ca needs cert and key; write them too")
	}
	if _, _, problem := parseRange(c.Ports); problem != "" {
		k.bad("ports", "%s", problem)
	}
	if u := c.Rbee.QueenCallbackURL; u != "" && !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
		k.bad("rbee.queen_callback_url", "%q is not a URL; write one such as http://127.0.0.1:8080", u)
	}
	if len(c.Rbee.WorkerCommand) > 0 && c.Rbee.WorkerCommand[0] == "" {
		k.bad("rbee.worker_command[0]", "is empty; the first word of a command is the program")
	}
	k.oneOf("on_exit", c.OnExit, []string{OnExitStop, OnExitKeep})
	k.oneOf("orphans", c.Orphans, []string{OrphansAdopt, OrphansKill, OrphansLeave})
	k.notNegative("pool.max_crashloops", c.Pool.MaxCrashloops)
	k.positive("pool.window", c.Pool.Window)
	k.oneOf("pool.escalation", c.Pool.Escalation, []string{EscalationIsolate, EscalationRestart})
	if c.GPU.Fake < 0 || c.GPU.Fake > 64 {
		k.bad("gpu.fake", "%d is out of bounds; fake pools are 0 to 64", c.GPU.Fake)
	}
	k.oneOf("gpu.placement", c.GPU.Placement, []string{PlacementSpread, PlacementPack})
}

// checkListen says what is wrong with a listen address.
func checkListen(s string) string {
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Sprintf("%q is not an address; write host:port, such as 127.0.0.1:7070 or [::1]:7070", s)
	}
	if p, err := strconv.Atoi(port); err != nil || p < 0 || p > 65535 {
		return fmt.Sprintf("port %q is out of bounds; write 1 to 65535, or 0 for a free one", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !hostRE.MatchString(host) {
		return fmt.Sprintf("host %q is not an address or a host name", host)
	}
	return ""
}

// checkWorker checks one worker before it is unfolded. With isDefaults the
// spec is the defaults section, which need not be whole.
func checkWorker(s *sink, w *messages.WorkerSpec, at place, isDefaults bool) {
	k := checker{s, at}
	if !isDefaults {
		k.identity(w)
	}
	k.notNegative("replicas", w.Replicas)
	if w.Replicas > maxReplicas {
		k.bad("replicas", "%d replicas are too many; the most is %d", w.Replicas, maxReplicas)
	}
	k.oneOf("engine", w.Engine, engines)
	k.resources(w)
	k.restart(w.Restart)
	k.probes(w)
	k.oneOf("stop.signal", w.Stop.Signal, Signals)
	if w.Logs.Size < 4096 {
		k.bad("logs.size", "%s is too small; a log file holds at least 4KiB", w.Logs.Size)
	}
	if w.Logs.Files < 0 || w.Logs.Files > 1000 {
		k.bad("logs.files", "%d is out of bounds; keep 0 to 1000 files", w.Logs.Files)
	}
	k.words(w)
	k.macros(w, isDefaults)
}

// identity checks the name and the command.
func (k checker) identity(w *messages.WorkerSpec) {
	name := string(w.Name)
	unfolded := name
	if w.Replicas > 1 {
		unfolded = fmt.Sprintf("%s-%d", name, w.Replicas)
	}
	switch {
	case name == "":
		k.bad("name", "a worker needs a name of the form %s", messages.NamePattern)
	case !messages.ValidName(name):
		k.bad("name", "%q cannot name a worker; a name is %s", name, messages.NamePattern)
	case !messages.ValidName(unfolded):
		k.bad("name", "%q is too long for its replicas; %s may have 63 characters at most", name, unfolded)
	case messages.ReservedName(name):
		k.bad("name", "%q is a word of the API and cannot name a worker; choose another", name)
	}
	if len(w.Command) == 0 {
		k.bad("command", "a worker needs a command, a list such as [llama-server, -m, /models/a.gguf]")
	} else if w.Command[0] == "" {
		k.bad("command[0]", "is empty; the first word of a command is the program")
	}
	if len(w.Prepare) > 0 && w.Prepare[0] == "" {
		k.bad("prepare[0]", "is empty; the first word of a command is the program")
	}
}

// resources checks devices, port and limits.
func (k checker) resources(w *messages.WorkerSpec) {
	g := w.GPU
	switch {
	case g.Count < 0 || g.Count > 64:
		k.bad("gpu.count", "%d is out of bounds; a worker has 0 to 64 devices", g.Count)
	case g.Count == 0 && (g.VRAM > 0 || len(g.Devices) > 0):
		k.bad("gpu.count", "0 devices were asked for, with vram or devices beside it; raise count or write gpu: none")
	case len(g.Devices) > 0 && g.Count > len(g.Devices):
		k.bad("gpu.count", "%d devices were asked for, but devices allows only %d", g.Count, len(g.Devices))
	}
	for i, d := range g.Devices {
		switch {
		case !deviceRE.MatchString(d):
			k.bad(joinIndex("gpu.devices", i), "%q is not a device; write its UUID as nvidia-smi -L prints it", d)
		case slices.Contains(g.Devices[:i], d):
			k.bad(joinIndex("gpu.devices", i), "device %s is listed twice; remove one", d)
		}
	}
	if p, fixed := fixedPort(w.Port); fixed {
		if p < 1 || p > 65535 {
			k.bad("port", "%d is out of bounds; ports are 1 to 65535", p)
		} else if w.Replicas > 1 {
			k.bad("port", "%d replicas cannot share port %d; write port: auto", w.Replicas, p)
		}
	} else {
		k.oneOf("port", string(w.Port), []string{"auto", "none", "a number"})
	}
	k.oneOf("listen", w.Listen, []string{messages.ListenPort, messages.ListenSocket})
	if w.Listen == messages.ListenSocket {
		if w.Port == "none" {
			k.bad("listen", "a socket needs a port, and port is none; write port: auto or a number")
		}
		if w.Ready.TCP {
			k.bad("ready.tcp", "with listen: socket the port takes connections before the worker does; use ready.http, log or notify")
		}
	}
	if w.Limits.CPUs < 0 {
		k.bad("limits.cpus", "%g is negative; write 0 for no limit", w.Limits.CPUs)
	}
	k.notNegative("limits.pids", w.Limits.PIDs)
	if w.Nice < -20 || w.Nice > 19 {
		k.bad("nice", "%d is out of bounds; write -20 (first) to 19 (last)", w.Nice)
	}
	if w.OOMScoreAdj < -1000 || w.OOMScoreAdj > 1000 {
		k.bad("oom_score_adj", "%d is out of bounds; write -1000 (never) to 1000 (first)", w.OOMScoreAdj)
	}
	if problem := checkCPUSet(w.Limits.CPUSet); problem != "" {
		k.bad("limits.cpuset", "%s", problem)
	}
}

// fixedPort returns the number in a port that is neither auto nor none.
func fixedPort(p messages.PortSpec) (int, bool) {
	n, err := strconv.Atoi(string(p))
	return n, err == nil
}

// checkCPUSet says what is wrong with a list such as "0-3,8".
func checkCPUSet(s string) string {
	if s == "" {
		return ""
	}
	for part := range strings.SplitSeq(s, ",") {
		a, b, ok := strings.Cut(part, "-")
		if !ok {
			b = a
		}
		first, err1 := strconv.ParseUint(a, 10, 16)
		last, err2 := strconv.ParseUint(b, 10, 16)
		if err1 != nil || err2 != nil {
			return fmt.Sprintf("%q is not a list of CPUs; write numbers and ranges, such as 0-3,8", s)
		}
		if first > last {
			return fmt.Sprintf("range %s of CPUs runs backwards; write %d-%d", part, last, first)
		}
	}
	return ""
}

func (k checker) restart(r messages.RestartSpec) {
	k.oneOf("restart.policy", string(r.Policy), policies)
	if r.Backoff.Max < r.Backoff.Initial {
		k.bad("restart.backoff.max", "%s is shorter than initial (%s); raise max or lower initial", r.Backoff.Max, r.Backoff.Initial)
	}
	if r.Backoff.Factor < 1 || r.Backoff.Factor > 1000 {
		k.bad("restart.backoff.factor", "%g is out of bounds; a delay grows by a factor of 1 to 1000", r.Backoff.Factor)
	}
	if r.Backoff.Jitter < 0 || r.Backoff.Jitter > 1 {
		k.bad("restart.backoff.jitter", "%g is out of bounds; jitter is a fraction, 0 to 1", r.Backoff.Jitter)
	}
	k.notNegative("restart.max_restarts", r.MaxRestarts)
	k.positive("restart.window", r.Window)
}

// probes checks ready, heartbeat and health.
func (k checker) probes(w *messages.WorkerSpec) {
	for rel, path := range map[string]string{"ready.http": w.Ready.HTTP, "health.http": w.Health.HTTP} {
		if path != "" && (path[0] != '/' || strings.ContainsAny(path, " \t\r\n\x00")) {
			k.bad(rel, "%q is not a path of the worker's own server; write one such as /health", path)
		}
		if path != "" && w.Port == "none" {
			k.bad(rel, "a probe needs a port, and port is none; write port: auto or remove the probe")
		}
	}
	if w.Ready.TCP && w.Port == "none" {
		k.bad("ready.tcp", "a probe needs a port, and port is none; write port: auto or remove the probe")
	}
	if _, err := regexp.Compile(w.Ready.Log); err != nil {
		k.bad("ready.log", "is not a regular expression (%v); put a backslash before characters meant as they are", err)
	}
	if len(w.Ready.Command) > 0 && w.Ready.Command[0] == "" {
		k.bad("ready.command[0]", "is empty; the first word of a command is the program")
	}
	k.positive("ready.timeout", w.Ready.Timeout)
	k.positive("heartbeat.interval", w.Heartbeat.Interval)
	if w.Heartbeat.Misses < 1 {
		k.bad("heartbeat.misses", "%d is too few; allow 1 or more", w.Heartbeat.Misses)
	}
	k.positive("health.interval", w.Health.Interval)
	k.positive("health.timeout", w.Health.Timeout)
	if w.Health.Failures < 1 {
		k.bad("health.failures", "%d is too few; allow 1 or more", w.Health.Failures)
	}
}

// words checks env, labels, depends_on and that nothing holds a zero byte,
// which no argument or variable can.
func (k checker) words(w *messages.WorkerSpec) {
	for key, value := range w.Env {
		switch {
		case key == "" || strings.ContainsAny(key, "=\x00"):
			k.bad(joinKey("env", key), "%q cannot name a variable; a name has no = and is not empty", key)
		case strings.ContainsRune(value, 0):
			k.bad(joinKey("env", key), "the value holds a zero byte; no variable can")
		}
	}
	for key := range w.Labels {
		if !labelRE.MatchString(key) {
			k.bad(joinKey("labels", key), "%q cannot name a label; use letters, digits, dots, dashes and slashes", key)
		}
	}
	for i, dep := range w.DependsOn {
		if w.Name != "" && dep == string(w.Name) && k.path == "" {
			k.bad(joinIndex("depends_on", i), "worker %s cannot wait for itself; remove it", dep)
		}
	}
	for rel, list := range map[string][]string{"command": w.Command, "prepare": w.Prepare, "ready.command": w.Ready.Command} {
		for i, word := range list {
			if strings.ContainsRune(word, 0) {
				k.bad(joinIndex(rel, i), "holds a zero byte; no argument can")
			}
		}
	}
	for rel, path := range map[string]string{"dir": w.Dir, "user": w.User, "model": w.Model} {
		if strings.ContainsRune(path, 0) {
			k.bad(rel, "holds a zero byte; remove it")
		}
	}
}
