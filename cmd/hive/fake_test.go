package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rbee-hive/hive/messages"
)

var update = flag.Bool("update", false, "write the golden files anew")

// clock is the moment all golden outputs are seen from.
var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fakeHive plays the HTTP API on a unix socket. Its state is guarded by mu.
type fakeHive struct {
	*http.ServeMux
	server *httptest.Server
	socket string

	mu       sync.Mutex
	requests []string // "POST /v1/workers/chat-1/stop?x=y BODY"
}

func newFakeHive(t *testing.T) *fakeHive {
	t.Helper()
	dir, err := os.MkdirTemp("", "hive") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fakeHive{ServeMux: http.NewServeMux(), socket: filepath.Join(dir, "hive.sock")}
	f.answer("/", 404, map[string]any{"title": "Not found", "status": 404, "code": "unknown_worker", "detail": "no such worker; \"hive ps\" lists them"})
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		line := r.Method + " " + r.URL.RequestURI()
		if len(body) > 0 {
			line += " " + string(body)
		}
		f.mu.Lock()
		f.requests = append(f.requests, line)
		f.mu.Unlock()
		f.ServeMux.ServeHTTP(w, r)
	}))
	f.server.Listener = l
	f.server.Start()
	t.Cleanup(func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

// asked returns the requests so far.
func (f *fakeHive) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.requests...)
}

// answer serves v as JSON at a pattern of http.ServeMux.
func (f *fakeHive) answer(pattern string, status int, v any) {
	f.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { reply(w, status, v) })
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	if status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// stream serves events as hive does, and holds the stream open when told to.
func (f *fakeHive) stream(last string, hold bool, events ...messages.Event) {
	f.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if last != "" {
			w.Header().Set(lastEventHeader, last)
		}
		w.WriteHeader(http.StatusOK)
		fmt.Fprint(w, ": hello\n\n")
		for _, e := range events {
			b, _ := json.Marshal(e)
			fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Type, b)
		}
		w.(http.Flusher).Flush()
		if hold {
			<-r.Context().Done()
		}
	})
}

// result is what one command line did.
type result struct {
	code     int
	out, err string
}

// hive runs a command line against the fake.
func (f *fakeHive) hive(t *testing.T, args ...string) result {
	t.Helper()
	return runCLI(t, map[string]string{"HIVE_URL": "unix://" + f.socket}, args...)
}

// runCLI runs a command line with an environment, in one second of a day when
// nobody waits long.
func runCLI(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	a := newApp(&out, &errOut, func(key string) string { return env[key] })
	a.now = func() time.Time { return clock }
	a.tick = 5 * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	code := a.execute(ctx, args)
	if ctx.Err() != nil {
		t.Errorf("hive %v did not end", args)
	}
	return result{code, out.String(), errOut.String()}
}

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs\n--- got\n%s--- want\n%s", path, got, want)
	}
}

// sampleWorkers is a hive on an ordinary bad day.
func sampleWorkers() []messages.WorkerStatus {
	beat := messages.Seconds(2.5)
	next := clock.Add(4 * time.Second)
	code := 1
	return []messages.WorkerStatus{
		{Name: "chat-1", State: messages.Busy, Since: clock.Add(-8 * time.Second), PID: 4711, Attempt: 1, Pool: "gpu-0",
			GPUs: []string{"GPU-aaaa"}, Port: 7100, URL: "http://127.0.0.1:7100", Model: "/models/a.gguf", Engine: "llama-server",
			InFlight: 2, Heartbeat: messages.Heartbeat{Kind: "synthetic", AgeSeconds: &beat}, Restarts: messages.Restarts{Max: 5},
			Resources: messages.Resources{MemoryBytes: 3 << 30, CPUSeconds: 75, Unenforced: []string{"cpuset"}},
			Labels:    map[string]string{"model": "llama", "tier": "a"}, Command: []string{"llama-server", "-m", "/models/a b.gguf"},
			StartedAt: clock.Add(-2 * time.Hour), ReadyAt: clock.Add(-2*time.Hour + 31*time.Second), Source: "file"},
		{Name: "chat-2", State: messages.Loading, Since: clock.Add(-20 * time.Second), PID: 4712, Attempt: 2, Pool: "gpu-1", Port: 7101,
			Progress: &messages.Progress{Stage: "weights", Value: 0.424, Source: "log"}, Restarts: messages.Restarts{Total: 1, InWindow: 1, Max: 5},
			StartedAt: clock.Add(-20 * time.Second)},
		{Name: "embed", State: messages.Backoff, Since: clock.Add(-500 * time.Millisecond), Attempt: 3, Pool: "cpu",
			Reason:   "exit code 1: \x1b[31mcannot read\x1b[0m the model; next attempt in 4s",
			Restarts: messages.Restarts{Total: 2, InWindow: 2, Max: 5, NextAt: &next},
			LastExit: &messages.LastExit{Cause: messages.CauseErrorExit, Detail: "exit code 1", Attempt: 3, Code: &code, At: clock.Add(-500 * time.Millisecond),
				UptimeSeconds: 1.25, LogTail: []string{"loading", "error: cannot read the model"}}},
	}
}
