package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
)

// life serves one worker that moves on by one status each time it is asked.
func (f *fakeHive) life(name string, steps ...messages.WorkerStatus) {
	var n atomic.Int64
	f.HandleFunc("GET /v1/workers/"+name, func(w http.ResponseWriter, _ *http.Request) {
		i := int(n.Add(1)) - 1
		s := steps[min(i, len(steps)-1)]
		s.Name = messages.WorkerID(name)
		reply(w, 200, s)
	})
}

func TestExitCodesAndErrors(t *testing.T) {
	f := newFakeHive(t)
	f.answer("POST /v1/workers/chat-1/resume", 409, map[string]any{"title": "Conflict", "status": 409, "code": "illegal_transition",
		"detail": "worker chat-1 is idle and cannot go to idle by resume; it is not draining", "request_id": "r1"})
	f.answer("POST /v1/workers", 422, map[string]any{"title": "Unprocessable", "status": 422, "code": "invalid", "detail": "the worker is not valid",
		"errors": []messages.Problem{{Path: "restart.policy", Message: "no such policy"}, {Line: 3, Path: "gpu", Message: "too many"}}})
	f.answer("GET /v1/pools", 500, map[string]any{"title": "Internal error", "status": 500, "request_id": "r2"})
	f.answer("GET /v1/workers", 401, map[string]any{"title": "Unauthorized", "status": 401, "detail": "a token is needed"})
	f.HandleFunc("GET /v1/workers/html", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); _, _ = w.Write([]byte("<html>")) })

	var all strings.Builder
	for _, c := range []struct {
		code int
		args []string
	}{
		{exitRefused, []string{"resume", "chat-1"}},
		{exitRefused, []string{"run", "x", "--", "true"}},
		{exitRefused, []string{"pools"}},
		{exitRefused, []string{"ps"}},
		{exitRefused, []string{"show", "html"}},
		{exitRefused, []string{"stop", "gone-1", "gone-2"}},
		{exitUsage, []string{"nonsense"}},
		{exitUsage, []string{"ps", "--nonsense"}},
		{exitUsage, []string{"stop"}},
		{exitUsage, []string{"stop", "Chat"}},
		{exitUsage, []string{"ps", "-o", "xml"}},
		{exitUsage, []string{"logs", "a", "b"}},
		{exitUsage, []string{"wait", "--for", "lunch", "chat-1"}},
		{exitUsage, []string{"run", "x", "true"}},
		{exitUsage, []string{"run", "x", "--gpu", "many", "--", "true"}},
		{exitUsage, []string{"run", "spawn", "--", "true"}},
		{exitUsage, []string{"stop", "--drain", "-1s", "chat-1"}},
		{exitUsage, []string{"ps", "--url", "ftp://x"}},
		{exitUnreachable, []string{"ps", "--url", "unix:///nonexistent/hive.sock"}},
		{exitUnreachable, []string{"ps", "--url", "127.0.0.1:1"}},
	} {
		r := f.hive(t, c.args...)
		if r.code != c.code || r.out != "" {
			t.Errorf("hive %v: exit %d, want %d: %+v", c.args, r.code, c.code, r)
		}
		all.WriteString("$ hive " + strings.Join(c.args, " ") + "\n" + r.err)
	}
	golden(t, "errors.txt", all.String())
}

func TestDataDirIsFound(t *testing.T) {
	t.Chdir(t.TempDir())
	r := runCLI(t, nil, "ps")
	if r.code != exitUnreachable || !strings.Contains(r.err, "hive-data") || !strings.Contains(r.err, `start one with "hive up"`) {
		t.Errorf("%+v", r)
	}
	if r := runCLI(t, map[string]string{"HIVE_DATA_DIR": "./elsewhere"}, "ps"); !strings.Contains(r.err, "elsewhere") {
		t.Errorf("HIVE_DATA_DIR: %+v", r)
	}
	if err := os.WriteFile("other.yaml", []byte("data_dir: ./third\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := runCLI(t, nil, "ps", "-c", "other.yaml"); !strings.Contains(r.err, "third") {
		t.Errorf("-c: %+v", r)
	}
	if r := runCLI(t, nil, "ps", "-c", "missing.yaml"); r.code != exitConfig {
		t.Errorf("a missing file: %+v", r)
	}
	demo := config.SocketPath(demoDataDir)
	if err := os.MkdirAll(filepath.Dir(demo), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(demo, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := runCLI(t, nil, "ps"); !strings.Contains(r.err, "hive-demo") {
		t.Errorf("the demo was not found: %+v", r)
	}
}

func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("hive.yaml", []byte("workers:\n  - name: chat\n    command: [/bin/true]\n    restart: {policy: sometimes}\n    nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runCLI(t, nil, "check")
	if r.code != exitConfig || r.err != "" || !strings.Contains(r.out, "hive.yaml:4:") || !strings.Contains(r.out, "hive.yaml:5:") {
		t.Errorf("%+v", r)
	}
	var report checkReport
	if r := runCLI(t, nil, "check", "-o", "json"); json.Unmarshal([]byte(r.out), &report) != nil || report.OK || len(report.Problems) < 2 {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile("good.yaml", []byte("workers:\n  - name: chat\n    command: [/nonexistent/engine]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := runCLI(t, nil, "check", "good.yaml"); r.code != exitOK || !strings.Contains(r.out, "warning: ") {
		t.Errorf("%+v", r)
	}
	if r := runCLI(t, nil, "check", "--strict", "good.yaml"); r.code != exitRefused {
		t.Errorf("%+v", r)
	}
	if r := runCLI(t, nil, "schema"); r.code != exitOK || !json.Valid([]byte(r.out)) {
		t.Errorf("schema: exit %d %s", r.code, r.err)
	}
}

func TestProblemLine(t *testing.T) {
	p := messages.Problem{File: "hive.yaml", Line: 12, Column: 5, Path: "workers[0].restart.policy", Message: "no such policy"}
	if got, want := problemLine(p, ""), "hive.yaml:12:5: workers[0].restart.policy: no such policy"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRunPostsOnlyWhatWasSaid(t *testing.T) {
	f := newFakeHive(t)
	f.answer("POST /v1/workers", 201, messages.WorkerStatus{Name: "chat", State: messages.Pending, Reason: "waits for a device"})
	r := f.hive(t, "run", "--gpu", "2", "--vram", "18GiB", "--port", "auto", "--restart", "never", "--env", "A=b=c", "--label", "k=v",
		"--dir", "/srv", "--engine", "vllm", "chat", "--", "vllm", "serve", "--port", "${PORT}")
	if r.code != 0 || r.out != "chat pending: waits for a device\n" {
		t.Fatalf("%+v", r)
	}
	want := `POST /v1/workers {"command":["vllm","serve","--port","${PORT}"],"dir":"/srv","engine":"vllm","env":{"A":"b=c"},` +
		`"gpu":{"count":2,"vram":"18GiB"},"labels":{"k":"v"},"name":"chat","port":"auto","restart":{"policy":"never"}}`
	if asked := f.asked(); asked[0] != want {
		t.Errorf("posted\n%s\nwant\n%s", asked[0], want)
	}
}

func TestStopSendsItsTimes(t *testing.T) {
	f := newFakeHive(t)
	f.answer("POST /v1/workers/{name}/stop", 202, messages.WorkerStatus{Name: "a", State: messages.Draining})
	f.life("a", messages.WorkerStatus{State: messages.Busy}, messages.WorkerStatus{State: messages.Stopping}, messages.WorkerStatus{State: messages.Stopped})
	f.life("b", messages.WorkerStatus{State: messages.Idle}, messages.WorkerStatus{State: messages.Stopped})
	r := f.hive(t, "stop", "--drain", "5s", "--grace", "2s", "--wait", "a", "b")
	if r.code != 0 || r.out != "a stopped\nb stopped\n" {
		t.Errorf("%+v", r)
	}
	if asked := f.asked(); !slices.Contains(asked, `POST /v1/workers/b/stop {"drain":"5s","grace":"2s"}`) {
		t.Errorf("%q", asked)
	}
}

func TestRestartWaitsForTheNextAttempt(t *testing.T) {
	f := newFakeHive(t)
	f.answer("POST /v1/workers/a/restart", 202, messages.WorkerStatus{Name: "a", State: messages.Idle, Attempt: 4})
	f.life("a", messages.WorkerStatus{State: messages.Idle, Attempt: 4}, messages.WorkerStatus{State: messages.Idle, Attempt: 4},
		messages.WorkerStatus{State: messages.Loading, Attempt: 5}, messages.WorkerStatus{State: messages.Idle, Attempt: 5})
	if r := f.hive(t, "restart", "--wait", "-o", "json", "a"); r.code != 0 || !strings.Contains(r.out, `"attempt": 5`) {
		t.Errorf("%+v", r)
	}
}

func TestWait(t *testing.T) {
	broken := messages.WorkerStatus{State: messages.Crashloop, Since: clock, Reason: "model /m is missing"}
	for _, c := range []struct {
		name, goal string
		steps      []messages.WorkerStatus
		code       int
		want       string
	}{
		{"ready by busy", "ready", []messages.WorkerStatus{{State: messages.Loading}, {State: messages.Busy}}, 0, "w busy\n"},
		{"crashloop is for good", "ready", []messages.WorkerStatus{{State: messages.Loading}, broken}, 1, "model /m is missing"},
		{"crashloop wanted", "crashloop", []messages.WorkerStatus{{State: messages.Loading}, broken}, 0, "w crashloop\n"},
		{"failed and nothing follows", "ready", []messages.WorkerStatus{{State: messages.Failed, Since: clock, Reason: "policy never"}}, 1,
			"worker w is in failed and did not become ready: policy never"},
		{"a failed attempt is followed by another", "idle",
			[]messages.WorkerStatus{{State: messages.Failed}, {State: messages.Backoff}, {State: messages.Idle}}, 0, "w idle\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeHive(t)
			f.life("w", c.steps...)
			r := f.hive(t, "wait", "--for="+c.goal, "w")
			if r.code != c.code || !strings.Contains(r.out+r.err, c.want) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestWaitSeesAStateThatPasses(t *testing.T) {
	f := newFakeHive(t)
	to := messages.Backoff
	f.stream("7", true, messages.Event{Seq: 8, Type: messages.WorkerState, Worker: "w", To: &to})
	f.life("w", messages.WorkerStatus{State: messages.Loading})
	if r := f.hive(t, "wait", "--for=backoff", "w"); r.code != 0 {
		t.Errorf("%+v", r)
	}
}

func TestWaitGivesUp(t *testing.T) {
	f := newFakeHive(t)
	f.life("w", messages.WorkerStatus{State: messages.Loading, Progress: &messages.Progress{Value: 0.5}})
	r := f.hive(t, "wait", "--timeout", "200ms", "w")
	if r.code != exitRefused || !strings.Contains(r.err, "worker w is loading 50% and was not ready after 200ms") {
		t.Errorf("%+v", r)
	}
}

func TestRmWaitsUntilGone(t *testing.T) {
	f := newFakeHive(t)
	f.answer("DELETE /v1/workers/w", 202, messages.WorkerStatus{Name: "w", State: messages.Stopping})
	var n atomic.Int64
	f.HandleFunc("GET /v1/workers/w", func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			reply(w, 200, messages.WorkerStatus{Name: "w", State: messages.Stopping})
			return
		}
		reply(w, 404, map[string]any{"title": "Not found", "status": 404, "detail": "no such worker"})
	})
	if r := f.hive(t, "rm", "--wait", "w"); r.code != 0 || r.out != "w removed\n" {
		t.Errorf("%+v", r)
	}
}

func TestPlanAndReload(t *testing.T) {
	f := newFakeHive(t)
	f.answer("POST /v1/reload", 200, messages.Plan{Start: []messages.WorkerID{"new"}, Stop: []messages.WorkerID{"old"},
		Restart: []messages.Change{{Worker: "chat", Keys: []string{"command", "env"}}}, Update: []messages.Change{{Worker: "x", Keys: []string{"labels"}}},
		Unchanged: []messages.WorkerID{"a", "b"}, Notes: []string{"listen needs a new start of hive"}})
	r := f.hive(t, "plan")
	golden(t, "plan.txt", r.out)
	if r := f.hive(t, "reload"); !strings.Contains(r.out, "4 workers changed, 2 unchanged") {
		t.Errorf("%+v", r)
	}
	if asked := f.asked(); asked[0] != "POST /v1/reload?dry_run=true" || asked[1] != "POST /v1/reload" {
		t.Errorf("%q", asked)
	}
}

func TestDownShowsProgressAndEnds(t *testing.T) {
	f := newFakeHive(t)
	watched, posted := make(chan struct{}), make(chan struct{})
	f.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(lastEventHeader, "1")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		close(watched)
		<-posted
		_, _ = w.Write([]byte("data: {\"seq\":2,\"type\":\"hive.stop_progress\",\"done\":37,\"total\":100}\n\n"))
		w.(http.Flusher).Flush()
		// Nothing listens any more; open answers end, as at a real end.
		f.server.Listener.Close()
	})
	f.HandleFunc("POST /v1/shutdown", func(w http.ResponseWriter, _ *http.Request) {
		<-watched
		w.Header().Set("Connection", "close")
		reply(w, 202, map[string]any{})
		close(posted)
	})
	f.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	r := f.hive(t, "down", "--now")
	if r.code != 0 || !strings.HasSuffix(r.out, "hive stopped\n") {
		t.Errorf("%+v", r)
	}
	if !slices.Contains(f.asked(), `POST /v1/shutdown {"now":true}`) {
		t.Errorf("%q", f.asked())
	}
}

func TestStates(t *testing.T) {
	defer func(old func(string) ([]byte, error)) { stateMachine = old }(stateMachine)
	stateMachine = func(format string) ([]byte, error) { return []byte(`{"format":"` + format + `"}`), nil }
	if r := runCLI(t, nil, "states", "-o", "mermaid"); r.out != "{\"format\":\"mermaid\"}\n" {
		t.Errorf("%+v", r)
	}
}

func TestDoctorReads(t *testing.T) {
	if major, minor := kernelVersion("6.18.3-fc-v1"); major != 6 || minor != 18 {
		t.Error(major, minor)
	}
	if major, minor := kernelVersion("nonsense"); major != 0 || minor != 0 {
		t.Error(major, minor)
	}
	text := "4:memory:/box\n3:cpu,cpuacct:/c\n0::/user.slice\n"
	for which, want := range map[string]string{"0::": "/user.slice", "memory": "/box", "cpu": "/c", "pids": "/"} {
		if got := ownGroup(text, which); got != want {
			t.Errorf("ownGroup(%q) = %q, want %q", which, got, want)
		}
	}
	if r := runCLI(t, nil, "doctor", "-o", "json"); !json.Valid([]byte(r.out)) {
		t.Errorf("%+v", r)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	for _, c := range newRoot(newApp(os.Stdout, os.Stderr, func(string) string { return "" })).Commands() {
		switch c.Name() {
		case "help", "completion":
			continue
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("hive %s has no good short help", c.Name())
		}
		if c.Name() != "up" && c.Name() != "demo" && (c.Long == "" || c.Example == "") {
			t.Errorf("hive %s has no long help or no example", c.Name())
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{-1: "0s", 850 * time.Millisecond: "850ms", 192 * time.Second: "3m12s",
		5*time.Hour + 2*time.Minute: "5h2m", 220 * time.Hour: "9d4h"} {
		if got := age(d); got != want {
			t.Errorf("age(%s) = %q, want %q", d, got, want)
		}
	}
}
