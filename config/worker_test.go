package config

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rbee-hive/hive/messages"
)

func TestParseWorker(t *testing.T) {
	c, err := Parse("", []byte("defaults: {env: {A: 1}}\nshutdown: {drain: 3s}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{
		"{\n\t\"name\": \"w\", \"command\": [\"a\", \"\\/b\", \"\\ud83d\\ude00\"], \"replicas\": 2, \"env\": {\"B\": \"2\"}}",
		"name: w\ncommand: [a, /b, \"\U0001f600\"]\nreplicas: 2\nenv: {B: 2}\n",
	} {
		specs, err := ParseWorker([]byte(body), c)
		if err != nil {
			t.Fatal(err)
		}
		w := specs[1]
		if len(specs) != 2 || w.Name != "w-2" || w.Base != "w" || w.Command[1] != "/b" || w.Command[2] != "\U0001f600" || w.Env["A"] != "1" || w.Env["B"] != "2" || w.Stop.Drain.D() != 3*time.Second {
			t.Errorf("%s: %+v", body, specs)
		}
	}
	if specs, err := ParseWorker([]byte(`{"name":"w","command":["a"],"depends_on":["elsewhere"]}`), nil); err != nil || specs[0].Restart.MaxRestarts != 5 {
		t.Errorf("without a configuration: %v %v", specs, err)
	}
}

func TestParseWorkerProblems(t *testing.T) {
	for body, want := range map[string]string{
		"":                              "the body is empty",
		"null":                          "the body is empty",
		strings.Repeat("a: b\n", 20000): "longer than 64KiB",
		"[]":                            "expected a map",
		"{\"name\":":                    "this is not YAML",
		`{"name":"w"}`:                  "needs a command",
		`{"name":"w","command":"a b"}`:  "never a shell line",
		`{"name":"w","command":["a"],"depends_on":["w"]}`:             "cannot wait for itself",
		"{\"name\":\"w\",\n \"comand\":[\"a\"], \"command\":[\"a\"]}": `line 2: unknown key "comand"; did you mean "command"?`,
	} {
		_, err := ParseWorker([]byte(body), nil)
		var ps messages.Problems
		if !errors.As(err, &ps) {
			t.Errorf("%q: %v", body, err)
			continue
		}
		if got := list(ps); !strings.Contains(strings.Replace(got, "comand: unknown", "unknown", 1), want) {
			t.Errorf("%q: %s, want %s", body, got, want)
		}
	}
}

func TestSpecSurvivesJSON(t *testing.T) {
	c, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range c.Workers {
		body, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseWorker(body, nil)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		again, err := json.Marshal(back[0])
		if err != nil || string(again) != string(body) {
			t.Errorf("%s\n became %s (%v)", body, again, err)
		}
	}
}

func TestPatchWorker(t *testing.T) {
	c, err := Parse("", []byte(`
defaults: {env: {D: 1}, restart: {max_restarts: 7}}
workers:
  - {name: w, command: [a, b], replicas: 2, env: {A: 1, B: 2}, restart: {max_restarts: 2, window: 1m}, gpu: {vram: 1GiB}, engine: vllm}
`))
	if err != nil {
		t.Fatal(err)
	}
	cur := c.Workers[0]
	before := clone(cur)
	tests := []struct {
		body string
		want func(*messages.WorkerSpec)
	}{
		{"", func(*messages.WorkerSpec) {}},
		{"{}", func(*messages.WorkerSpec) {}},
		{`{"name":"w-1","priority":3}`, func(w *messages.WorkerSpec) { w.Priority = 3 }},
		{`{"command":["c"]}`, func(w *messages.WorkerSpec) { w.Command = []string{"c"} }},
		{`{"env":{"A":null,"C":"3"}}`, func(w *messages.WorkerSpec) { w.Env = map[string]string{"B": "2", "C": "3", "D": "1"} }},
		{`{"restart":{"max_restarts":null}}`, func(w *messages.WorkerSpec) { w.Restart.MaxRestarts = 7 }},
		{`{"restart":{"backoff":{"max":"5s"}}}`, func(w *messages.WorkerSpec) { w.Restart.Backoff.Max = dur(5 * time.Second) }},
		{`{"restart":null}`, func(w *messages.WorkerSpec) { w.Restart = DefaultWorker(nil).Restart; w.Restart.MaxRestarts = 7 }},
		{`{"gpu":"none"}`, func(w *messages.WorkerSpec) { w.GPU = messages.GPUSpec{} }},
		{`{"gpu":{"count":0,"vram":0}}`, func(w *messages.WorkerSpec) { w.GPU = messages.GPUSpec{} }},
		{`{"gpu":{"count":0}}`, func(w *messages.WorkerSpec) { w.GPU = messages.GPUSpec{} }},
		{`{"gpu":{"count":2}}`, func(w *messages.WorkerSpec) { w.GPU.Count = 2 }},
		{`{"engine":"exec"}`, func(w *messages.WorkerSpec) { w.Engine, w.Ready.HTTP, w.Health.HTTP = "exec", "", "" }},
	}
	for _, tt := range tests {
		got, err := PatchWorker(cur, []byte(tt.body), c)
		if err != nil {
			t.Errorf("%s: %v", tt.body, err)
			continue
		}
		want := clone(before)
		tt.want(&want)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.body, got, want)
		}
	}
	for body, want := range map[string]string{
		`{"name":"other"}`:               "name cannot change",
		`{"replicas":5}`:                 "replicas cannot change",
		`{"restart":{"policy":"maybe"}}`: "not known here",
		`{"command":[]}`:                 "needs a command",
		`{"nope":1}`:                     "unknown key",
		`{"stop":{"drain":3}}`:           "not a duration",
	} {
		if _, err := PatchWorker(cur, []byte(body), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
	if !reflect.DeepEqual(cur, before) {
		t.Error("the current spec was changed")
	}
}

func TestExpand(t *testing.T) {
	spec := messages.WorkerSpec{Name: "w-1", Model: "/m", Command: []string{"${MODEL}x", "-p${PORT}:${HOST}", "$${PORT}", "$5 $$ {}", "${WORKER}/${ATTEMPT}"},
		Env: map[string]string{"G": "${GPU}", "H": "${env.HOME}/x"}}
	vars := Vars{Port: 7100, Host: "127.0.0.1", Attempt: 3, GPU: "GPU-a,GPU-b", LookupEnv: func(k string) (string, bool) { return "/root", k == "HOME" }}
	command, env, err := Expand(spec, vars)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/mx", "-p7100:127.0.0.1", "${PORT}", "$5 $$ {}", "w-1/3"}; !reflect.DeepEqual(command, want) {
		t.Errorf("command %q", command)
	}
	if want := map[string]string{"G": "GPU-a,GPU-b", "H": "/root/x"}; !reflect.DeepEqual(env, want) {
		t.Errorf("env %q", env)
	}
	spec.Env = map[string]string{"H": "${env.NOT_SET}"}
	if _, _, err = Expand(spec, vars); err == nil || !strings.Contains(err.Error(), "worker w-1, env.H: ${env.NOT_SET} is used, and NOT_SET is not set") {
		t.Errorf("unset variable: %v", err)
	}
	if _, _, err = Expand(messages.WorkerSpec{Command: []string{"${PORT}"}}, Vars{}); err == nil {
		t.Error("a port nobody has was expanded")
	}
}

func TestNeedsPort(t *testing.T) {
	for yaml, want := range map[string]bool{
		"":                              false,
		"port: none":                    false,
		"port: 80":                      true,
		"engine: llama-server\n":        true,
		"engine: hive\nport: none":      false,
		"env: {P: '${PORT}'}":           true,
		"env: {P: '$${PORT}'}":          false,
		"ready: {tcp: true}":            true,
		"ready: {http: /}":              true,
		"ready: {command: ['${PORT}']}": true,
		"health: {http: /}":             true,
		"command: [a, 'x=${PORT}']":     true,
	} {
		specs, err := ParseWorker([]byte("name: w\n"+map[bool]string{true: "", false: "command: [a]\n"}[strings.HasPrefix(yaml, "command")]+yaml), nil)
		if err != nil {
			t.Errorf("%s: %v", yaml, err)
		} else if got := NeedsPort(specs[0]); got != want {
			t.Errorf("%q: %v, want %v", yaml, got, want)
		}
	}
}

func TestRbeeHasTheDefaultsOfTheOldManager(t *testing.T) {
	c, err := Parse("hive.yaml", []byte("workers: [{name: a, command: [x], engine: rbee}, {name: b, command: [x], engine: rbee, idle_timeout: 1h, heartbeat: {interval: 2s}, health: {http: /alive}}]"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Workers[0], c.Workers[1]
	if a.IdleTimeout.D() != 5*time.Minute || a.Health.HTTP != "/health" || a.Health.Interval.D() != 30*time.Second || a.Health.Failures != 3 ||
		a.Heartbeat.Interval.D() != 30*time.Second || a.Ready.HTTP != "" {
		t.Errorf("%+v", a)
	}
	if b.IdleTimeout.D() != time.Hour || b.Heartbeat.Interval.D() != 2*time.Second || b.Health.HTTP != "/alive" {
		t.Errorf("what is written does not hold: %+v", b)
	}
}
