package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// problems parses text, which must be refused.
func problems(t *testing.T, text string) messages.Problems {
	t.Helper()
	_, err := Parse("hive.yaml", []byte(text))
	var ps messages.Problems
	if !errors.As(err, &ps) || len(ps) == 0 {
		t.Fatalf("Parse gave %v, want problems, for:\n%s", err, text)
	}
	return ps
}

func list(ps messages.Problems) string {
	var out strings.Builder
	for _, p := range ps {
		out.WriteString("\n  " + p.String())
	}
	return out.String()
}

func TestFullExample(t *testing.T) {
	c, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Workers) != 3 || c.Workers[1].Name != "chat-1" || c.Workers[2].Name != "chat-2" || c.Workers[2].Base != "chat" {
		t.Fatalf("workers: %+v", c.Workers)
	}
	settings := *c
	settings.Workers, settings.file, settings.places, settings.defaults = nil, "", nil, nil
	want := Default()
	want.Name = "node-a"
	want.Auth.TokenFile = "./hive-data/api-token"
	want.TLS = TLS{Cert: "./tls/cert.pem", Key: "./tls/key.pem", ClientCA: "./tls/ca.pem"}
	if !reflect.DeepEqual(settings, want) {
		t.Errorf("settings differ from the defaults they spell out:\n got %+v\nwant %+v", settings, want)
	}
	chat := DefaultWorker(c)
	chat.Name, chat.Base, chat.Engine, chat.Dir, chat.User, chat.Model = "chat-2", "chat", EngineLlama, "/srv", "nobody", "/models/a.gguf"
	chat.Command = []string{"llama-server", "-m", "/models/a.gguf", "--host", "${HOST}", "--port", "${PORT}"}
	chat.GPU = messages.GPUSpec{Count: 1, VRAM: 18 << 30, Devices: []string{}}
	chat.Env = map[string]string{"HF_HOME": "/models"}
	chat.Ready.HTTP, chat.Ready.Command, chat.Health.HTTP = "/health", []string{}, "/health"
	chat.Limits = messages.LimitsSpec{Memory: 24 << 30, CPUs: 4, CPUSet: "0-3", PIDs: 512, NoFile: 65536}
	chat.DependsOn = []string{"embed"}
	chat.Prepare = []string{"hf", "download", "org/model", "a.gguf"}
	chat.Labels = map[string]string{"model": "llama-3-8b"}
	if got := c.Workers[2]; !reflect.DeepEqual(got, chat) {
		t.Errorf("chat-2:\n got %+v\nwant %+v", got, chat)
	}
}

func TestEmptyFileIsValid(t *testing.T) {
	for _, text := range []string{"", "\n\n", "# nothing yet\n", "---\n", "{}", "workers:\n", "workers: []", "\xef\xbb\xbfname: a\n"} {
		c, err := Parse("hive.yaml", []byte(text))
		if err != nil || len(c.Workers) != 0 {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if c.Listen != "127.0.0.1:7070" || c.Shutdown.Drain.D() != 30*time.Second {
			t.Errorf("%q: defaults are missing: %+v", text, c)
		}
	}
}

func TestLoadSaysWhatIsWrongWithTheFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("missing file: %v", err)
	}
	if _, err = Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("nmae: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var ps messages.Problems
	if _, err = Load(bad); !errors.As(err, &ps) || ps[0].File != bad || ps[0].Line != 1 {
		t.Errorf("bad file: %v", err)
	}
}

// worker is a correct file with extra keys under its one worker.
func worker(extra string) string {
	return "workers:\n  - name: w\n    command: [sleep, 60]\n    " + strings.ReplaceAll(extra, "\n", "\n    ") + "\n"
}

func TestEachProblem(t *testing.T) {
	tests := []struct {
		text, path string
		line       int
		message    string // a part
	}{
		// form
		{"listn: x", "listn", 1, `did you mean "listen"?`},
		{"zzzzzzzz: x", "zzzzzzzz", 1, "the keys here are name, data_dir"},
		{worker("restrat: {}"), "workers[0].restrat", 4, `unknown key "restrat"; did you mean "restart"?`},
		{worker("restart: {polcy: always}"), "workers[0].restart.polcy", 4, `did you mean "policy"?`},
		{"name: a\nname: b", "name", 2, "written twice, first on line 1"},
		{"{\"name\": \"a\",\n\"name\": \"b\"}", "name", 2, "written twice, first on line 1"},
		{worker("env: {A: 1, A: 2}"), "workers[0].env.A", 4, "written twice"},
		{"- a", "", 1, "expected a map"},
		{"workers: {a: b}", "workers", 1, "expected a list of workers"},
		{"workers: [3]", "workers[0]", 1, "expected a map"},
		{"shutdown: 30s", "shutdown", 1, "expected a map with keys such as drain, grace"},
		{"shutdown: {drain: 30}", "shutdown.drain", 1, `"30" is not a duration; write a number with its unit`},
		{"shutdown: {drain: [1]}", "shutdown.drain", 1, "expected a duration such as 30s, 5m or 1h; found a list"},
		{"shutdown: {drain: -3s}", "shutdown.drain", 1, "negative"},
		{"gpu: {margin: lots}", "gpu.margin", 1, "not a size"},
		{"gpu: {fake: two}", "gpu.fake", 1, `expected a whole number such as 3; found the text "two"`},
		{"gpu: {fake: 3000000000}", "gpu.fake", 1, "out of bounds"},
		{"auth: {read_only_without_token: yes}", "auth.read_only_without_token", 1, "expected true or false"},
		{"name: [a]", "name", 1, "expected text"},
		{worker("limits: {cpus: many}"), "workers[0].limits.cpus", 4, "expected a number such as 0.25"},
		{worker("limits: {cpus: .inf}"), "workers[0].limits.cpus", 4, "expected a number"},
		{worker("limits: {nofile: -1}"), "workers[0].limits.nofile", 4, "out of bounds"},
		{worker("gpu: some"), "workers[0].gpu", 4, "expected none, or a map"},
		{worker("env: [A=1]"), "workers[0].env", 4, "expected a map such as {KEY: value}"},
		{worker("env: {A: [1]}"), "workers[0].env.A", 4, "expected text, found a list"},
		{worker("env:\n  A:"), "workers[0].env.A", 5, "the value is missing"},
		{worker("depends_on: embed"), "workers[0].depends_on", 4, "write [embed]"},
		{"workers: [{name: w, command: sleep 60}]", "workers[0].command", 1, "a command is an argument list, never a shell line; write [sleep, 60]"},
		{"workers: [{name: w, command: 'a | b'}]", "workers[0].command", 1, "write [llama-server, -m, "},
		{"workers: [{name: w, command: [a, {b: c}]}]", "workers[0].command[1]", 1, "expected one word"},
		{"workers: [{name: w, command: [a, ~]}]", "workers[0].command[1]", 1, "this entry is empty"},
		{"name: !!str x", "name", 1, "tag"},
		{"name: *a", "name", 1, "names no anchor"},
		{"name: a\n---\nname: b", "", 3, "a second YAML document"},
		{"name: \"a\nb: [", "", 1, "this is not YAML"},
		{"name: a\n\tb: c", "", 2, "this is not YAML"},
		{"name: a\nlisten: \xff", "", 2, "not UTF-8"},
		{strings.Repeat("[", 5000), "", 1, "nested too deeply"},
		// settings
		{"name: 'a b'", "name", 1, "cannot name a node"},
		{"data_dir: ''", "data_dir", 1, "is not a path"},
		{"listen: localhost", "listen", 1, "write host:port"},
		{"listen: 127.0.0.1:99999", "listen", 1, "out of bounds"},
		{"listen: 'a b:80'", "listen", 1, "not an address or a host name"},
		{"tls: {cert: a}", "tls", 1, "belong together"},
		{"tls: {client_ca: a}", "tls", 1, "needs cert and key"},
		{"ports: 7199-7100", "ports", 1, "backwards; write 7100-7199"},
		{"ports: 0-70000", "ports", 1, "out of bounds"},
		{"ports: many", "ports", 1, "not a port range"},
		{"on_exit: kepe", "on_exit", 1, `did you mean "keep"?`},
		{"orphans: eat", "orphans", 1, "use one of adopt, kill, leave"},
		{"pool: {max_crashloops: -1}", "pool.max_crashloops", 1, "negative"},
		{"pool: {window: 0}", "pool.window", 1, "longer than 0"},
		{"pool: {escalation: explode}", "pool.escalation", 1, "use one of isolate, restart"},
		{"gpu: {fake: 65}", "gpu.fake", 1, "0 to 64"},
		{"gpu: {placement: random}", "gpu.placement", 1, "use one of spread, pack"},
		// workers
		{"workers:\n  - command: [a]", "workers[0].name", 2, "a worker needs a name"},
		{"workers:\n  - name: w", "workers[0].command", 2, "a worker needs a command"},
		{"workers: [{name: w, command: []}]", "workers[0].command", 1, "a worker needs a command"},
		{"workers: [{name: w, command: ['']}]", "workers[0].command[0]", 1, "first word"},
		{"workers: [{name: A_b, command: [a]}]", "workers[0].name", 1, "cannot name a worker"},
		{"workers: [{name: spawn, command: [a]}]", "workers[0].name", 1, "a word of the API"},
		{"workers: [{name: " + strings.Repeat("a", 62) + ", command: [a], replicas: 2}]", "workers[0].name", 1, "too long for its replicas"},
		{"workers:\n- {name: w, command: [a]}\n- {name: w, command: [a]}", "workers[1].name", 3, "taken by workers[0] on line 2"},
		{"workers:\n- {name: w, command: [a], replicas: 3}\n- {name: w-3, command: [a]}", "workers[1].name", 3, "also made by workers[0]"},
		{worker("replicas: -1"), "workers[0].replicas", 4, "negative"},
		{worker("replicas: 1001"), "workers[0].replicas", 4, "too many"},
		{worker("engine: lama-server"), "workers[0].engine", 4, `did you mean "llama-server"?`},
		{worker("restart: {policy: sometimes}"), "workers[0].restart.policy", 4, "use one of always, on-failure, never"},
		{worker("restart: {window: 0}"), "workers[0].restart.window", 4, "longer than 0"},
		{worker("restart: {max_restarts: -1}"), "workers[0].restart.max_restarts", 4, "negative"},
		{worker("restart: {backoff: {jitter: 2}}"), "workers[0].restart.backoff.jitter", 4, "0 to 1"},
		{worker("restart: {backoff: {factor: 0.5}}"), "workers[0].restart.backoff.factor", 4, "1 to 1000"},
		{worker("restart: {backoff: {initial: 5m}}"), "workers[0].restart.backoff.max", 4, "shorter than initial"},
		{worker("port: 70000"), "workers[0].port", 4, "1 to 65535"},
		{worker("port: any"), "workers[0].port", 4, "not known here"},
		{worker("port: 80\nreplicas: 2"), "workers[0].port", 4, "cannot share port 80"},
		{worker("stop: {signal: SIGTREM}"), "workers[0].stop.signal", 4, `did you mean "SIGTERM"?`},
		{worker("limits: {cpuset: 3-0}"), "workers[0].limits.cpuset", 4, "backwards"},
		{worker("limits: {cpuset: a}"), "workers[0].limits.cpuset", 4, "not a list of CPUs"},
		{worker("limits: {cpus: -1}"), "workers[0].limits.cpus", 4, "negative"},
		{worker("limits: {pids: -1}"), "workers[0].limits.pids", 4, "negative"},
		{worker("gpu: {count: -1}"), "workers[0].gpu.count", 4, "out of bounds"},
		{worker("gpu: {count: 0, vram: 1GiB}"), "workers[0].gpu.count", 4, "0 devices were asked for"},
		{worker("gpu: {count: 2, devices: [GPU-1]}"), "workers[0].gpu.count", 4, "allows only 1"},
		{worker("gpu: {devices: [GPU-1, GPU-1]}"), "workers[0].gpu.devices[1]", 4, "listed twice"},
		{worker("gpu: {devices: ['']}"), "workers[0].gpu.devices[0]", 4, "not a device"},
		{worker("ready: {log: '('}"), "workers[0].ready.log", 4, "not a regular expression"},
		{worker("ready: {http: health}"), "workers[0].ready.http", 4, "write one such as /health"},
		{worker("ready: {http: /health}\nport: none"), "workers[0].ready.http", 4, "port is none"},
		{worker("heartbeat: {misses: 0}"), "workers[0].heartbeat.misses", 4, "1 or more"},
		{worker("health: {failures: 0}"), "workers[0].health.failures", 4, "1 or more"},
		{worker("health: {timeout: 0s}"), "workers[0].health.timeout", 4, "longer than 0"},
		{worker("logs: {size: 1}"), "workers[0].logs.size", 4, "too small"},
		{worker("logs: {files: -1}"), "workers[0].logs.files", 4, "out of bounds"},
		{worker("env: {'A=B': 1}"), "workers[0].env[\"A=B\"]", 4, "cannot name a variable"},
		{worker("labels: {'a b': 1}"), "workers[0].labels[\"a b\"]", 4, "cannot name a label"},
		{worker("depends_on: [x, ww]"), "workers[0].depends_on[0]", 4, `no worker is named "x"`},
		{worker("depends_on: [w]"), "workers[0].depends_on", 4, "w -> w"},
		{"workers:\n- {name: a, command: [x], depends_on: [b]}\n- {name: b, command: [x], depends_on: [c-2]}\n- {name: c, replicas: 2, command: [x], depends_on: [a]}",
			"workers[0].depends_on", 2, "a -> b -> c -> a"},
		{"workers: [{name: w, command: [a, '${PROT}']}]", "workers[0].command[1]", 1, `unknown macro ${PROT}; did you mean "PORT"`},
		{"workers: [{name: w, command: [a, '${PORT']}]", "workers[0].command[1]", 1, "never closed"},
		{"workers: [{name: w, command: [a, '${env.}']}]", "workers[0].command[1]", 1, "does not name a variable"},
		{"workers: [{name: w, command: [a, '${MODEL}']}]", "workers[0].command[1]", 1, "no model"},
		{"workers: [{name: w, command: [a, '${PORT}'], port: none}]", "workers[0].command[1]", 1, "port is none"},
		{worker("env: {A: '${NOPE}'}"), "workers[0].env.A", 4, "unknown macro ${NOPE}"},
		// defaults
		{"defaults: {name: a}", "defaults.name", 1, "cannot name a worker"},
		{"defaults: {engine: x}", "defaults.engine", 1, "not known here"},
		{"defaults: 3", "defaults", 1, "expected a map"},
	}
	for _, tt := range tests {
		t.Run(tt.path+" "+tt.message, func(t *testing.T) {
			ps := problems(t, tt.text)
			if len(ps) > 1 && !strings.Contains(tt.text, "depends_on: [x, ww]") {
				t.Errorf("more than one problem:%s", list(ps))
			}
			p := ps[0]
			if p.File != "hive.yaml" || p.Path != tt.path || p.Line != tt.line || !strings.Contains(p.Message, tt.message) {
				t.Errorf("got %q line %d col %d: %s\nwant %q line %d: %s", p.Path, p.Line, p.Column, p.Message, tt.path, tt.line, tt.message)
			}
			if p.Column < 1 {
				t.Errorf("no column: %+v", p)
			}
		})
	}
}

func TestAllProblemsAtOnceInOrder(t *testing.T) {
	ps := problems(t, `listen: nowhere
ports: 9-8
defaults:
  restart: {backoff: {jitter: 7}}
workers:
  - name: One
    command: run me
    restrat: {}
  - name: two
    command: [a]
    restart:
      policy: alwys
      window: 10
    depends_on: [three]
`)
	var got []string
	for _, p := range ps {
		got = append(got, p.Path)
	}
	want := []string{"listen", "ports", "defaults.restart.backoff.jitter", "workers[0].name", "workers[0].command", "workers[0].restrat",
		"workers[1].restart.policy", "workers[1].restart.window", "workers[1].depends_on[0]"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v%s", got, want, list(ps))
	}
	for i, line := range []int{1, 2, 4, 6, 7, 8, 12, 13, 14} {
		if i < len(ps) && ps[i].Line != line {
			t.Errorf("%s: line %d, want %d", ps[i].Path, ps[i].Line, line)
		}
	}
	if ps[6].Column != 15 {
		t.Errorf("column %d of policy, want 15", ps[6].Column)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	ps := problems(t, strings.Repeat("a: b\n", 1200)+"listen: "+strings.Repeat("x", 5000))
	if len(ps) != maxProblems+1 || !strings.Contains(ps[maxProblems].Message, "more problems") {
		t.Errorf("%d problems, the last %v", len(ps), ps[len(ps)-1])
	}
	if ps = problems(t, "listen: "+strings.Repeat("x", 5000)); len(ps[0].Message) > maxMessage+3 {
		t.Errorf("a message of %d bytes", len(ps[0].Message))
	}
}

func TestNoEnvironmentValueIsQuoted(t *testing.T) {
	for _, extra := range []string{"env: {A: 'pw-secret ${1secret!}'}", "env: {A: 'secret${'}", "env: secret", "env: {A: {secret: secret}}", "env: {A: \"secret\\0\"}", "env: {A: '${env.1-secret}'}"} {
		for _, p := range problems(t, worker(extra)) {
			if strings.Contains(p.Message, "secret") {
				t.Errorf("%s: %s", extra, p.Message)
			}
		}
	}
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	c, err := Parse("", []byte(`
defaults: &d
  restart: {max_restarts: 9}
workers:
  - &base
    name: a
    command: &cmd [run, 1, 2.50, true, 0x10]
    env: &env {A: "1", B: 2}
  - <<: *base
    name: b
    env: {<<: *env, B: 3}
  - <<: [{name: never, dir: /tmp}, *d]
    name: c
    command: *cmd
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Workers[0].Command; !reflect.DeepEqual(got, []string{"run", "1", "2.50", "true", "0x10"}) {
		t.Errorf("command: %q", got)
	}
	b, cc := c.Workers[1], c.Workers[2]
	if b.Name != "b" || b.Command[0] != "run" || b.Env["A"] != "1" || b.Env["B"] != "3" {
		t.Errorf("b: %+v", b)
	}
	if cc.Dir != "/tmp" || cc.Command[2] != "2.50" || cc.Restart.MaxRestarts != 9 {
		t.Errorf("c: %+v", cc)
	}
}

func TestDefaultsAndImpliedValues(t *testing.T) {
	c, err := Parse("", []byte(`
shutdown: {drain: 1s, grace: 2s}
defaults:
  env: {A: 1, B: 1}
  gpu: {vram: 2GiB}
  stop: {grace: 9s}
  command: [default]
workers:
  - {name: a}
  - {name: b, gpu: none, env: {B: 2}}
  - {name: c, gpu: {}, engine: vllm, restart: {backoff: {max: 5s}}}
  - {name: d, gpu: {count: 3}, engine: rbee, health: }
  - {name: e, engine: tgi, ready: {log: up}, health: {http: ""}, replicas: 1}
`))
	if err != nil {
		t.Fatal(err)
	}
	w := c.Workers
	if w[0].GPU.Count != 1 || w[0].GPU.VRAM != 2<<30 || w[0].Stop.Drain.D() != time.Second || w[0].Stop.Grace.D() != 9*time.Second || w[0].Command[0] != "default" {
		t.Errorf("a: %+v", w[0])
	}
	if w[1].GPU.Count != 0 || w[1].GPU.VRAM != 0 || w[1].Env["A"] != "1" || w[1].Env["B"] != "2" {
		t.Errorf("b: %+v", w[1])
	}
	if w[2].GPU.Count != 1 || w[2].Ready.HTTP != "/health" || w[2].Health.HTTP != "/health" || w[2].Restart.Backoff.Max.D() != 5*time.Second || w[2].Restart.Backoff.Factor != 2 {
		t.Errorf("c: %+v", w[2])
	}
	if w[3].GPU.Count != 3 || w[3].IdleTimeout.D() != 5*time.Minute || w[3].Health.Failures != 3 {
		t.Errorf("d: %+v", w[3])
	}
	if w[4].Ready.HTTP != "" || w[4].Health.HTTP != "" || w[4].Name != "e" {
		t.Errorf("e: %+v", w[4])
	}
}

func TestReplicas(t *testing.T) {
	c, err := Parse("", []byte("workers:\n- {name: a, command: [x], replicas: 0}\n- {name: b, command: [x], replicas: 1}\n- {name: c, command: [x], replicas: 3, depends_on: [a, b]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, w := range c.Workers {
		names = append(names, string(w.Name)+"/"+w.Base)
	}
	if got := strings.Join(names, " "); got != "a/a b/b c-1/c c-2/c c-3/c" {
		t.Error(got)
	}
	c.Workers[2].Command[0] = "changed"
	if c.Workers[3].Command[0] != "x" {
		t.Error("replicas share a list")
	}
}
