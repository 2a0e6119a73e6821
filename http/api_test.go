package http_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	nethttp "net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"

	httpd "github.com/rbee-hive/hive/http"
	"github.com/rbee-hive/hive/journal"
	"github.com/rbee-hive/hive/messages"
)

// The secrets of the tests; no answer may ever show one.
const (
	apiToken  = "s3cret-api-token"
	callToken = "s3cret-call-token"
)

// hangBound is how long anything is waited for. Nothing takes that long unless it hangs.
const hangBound = 10 * time.Second

// fakeService plays a hive with the workers chat and embed in pool cpu.
type fakeService struct {
	mu      sync.Mutex // guards the rest
	workers []*messages.WorkerStatus
	version uint64
	fail    error // what every command answers
	boom    bool  // every command panics
	got     []any
	waiting chan *messages.WorkerStatus
}

func (*fakeService) Vouched(context.Context, messages.Callback) (*messages.WorkerStatus, error) {
	return nil, messages.ErrUnknownWorker
}

func (*fakeService) Rbee() httpd.Rbee { return httpd.Rbee{} }

func (f *fakeService) do(m any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, m)
	if f.boom {
		panic("boom with " + apiToken)
	}
	return f.fail
}

func (f *fakeService) set(err error, boom bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.boom = err, boom
}

func (f *fakeService) last() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.got) == 0 {
		return nil
	}
	return f.got[len(f.got)-1]
}

func (f *fakeService) Workers() []*messages.WorkerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.workers)
}

func (f *fakeService) Worker(id messages.WorkerID) (*messages.WorkerStatus, bool) {
	for _, w := range f.Workers() {
		if w.Name == id {
			return w, true
		}
	}
	return nil, false
}

func (f *fakeService) Pools() []*messages.PoolStatus {
	return []*messages.PoolStatus{{Name: "cpu", Health: "healthy", Workers: []messages.WorkerID{"chat", "embed"}}}
}

func (f *fakeService) Version() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version
}

func (f *fakeService) WaitFor(ctx context.Context, _ messages.WorkerID, _ func(*messages.WorkerStatus) bool) (*messages.WorkerStatus, error) {
	select {
	case st := <-f.waiting:
		return st, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fakeService) ParseWorker(body []byte) ([]messages.WorkerSpec, error) {
	var in struct {
		Name messages.WorkerID `json:"name"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Name == "" {
		return nil, messages.Problems{{Path: "name", Message: "is missing"}, {Path: "command", Message: "is missing"}}
	}
	return []messages.WorkerSpec{{Name: in.Name}}, nil
}

func (f *fakeService) PatchWorker(id messages.WorkerID, body []byte) (messages.WorkerSpec, error) {
	if _, ok := f.Worker(id); !ok {
		return messages.WorkerSpec{}, fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker)
	}
	if !json.Valid(body) {
		return messages.WorkerSpec{}, messages.Problems{{Path: "", Message: "not JSON"}}
	}
	return messages.WorkerSpec{Name: id}, nil
}

func (f *fakeService) status(id messages.WorkerID) *messages.WorkerStatus {
	if w, ok := f.Worker(id); ok {
		return w
	}
	return &messages.WorkerStatus{Name: id, State: messages.Pending, GPUs: []string{}}
}

func (f *fakeService) answer(id messages.WorkerID, m any) (*messages.WorkerStatus, error) {
	if err := f.do(m); err != nil {
		return nil, err
	}
	return f.status(id), nil
}

func (f *fakeService) Create(_ context.Context, s messages.WorkerSpec) (*messages.WorkerStatus, error) {
	return f.answer(s.Name, s)
}

func (f *fakeService) Change(_ context.Context, s messages.WorkerSpec) (*messages.WorkerStatus, error) {
	return f.answer(s.Name, s)
}

func (f *fakeService) Remove(_ context.Context, id messages.WorkerID) (*messages.WorkerStatus, error) {
	if _, ok := f.Worker(id); !ok {
		return nil, fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker)
	}
	return f.answer(id, id)
}

func (f *fakeService) Do(_ context.Context, m messages.DoWorker) (*messages.WorkerStatus, error) {
	if _, ok := f.Worker(m.Worker); !ok {
		return nil, fmt.Errorf("worker %s: %w", m.Worker, messages.ErrUnknownWorker)
	}
	return f.answer(m.Worker, m)
}

func (f *fakeService) Callback(_ context.Context, m messages.Callback, token string) (*messages.WorkerStatus, error) {
	if token != callToken {
		return nil, fmt.Errorf("worker %s: %w", m.Worker, httpd.ErrUnauthorized)
	}
	return f.answer(m.Worker, m)
}

func (f *fakeService) Cordon(_ context.Context, p messages.PoolID, on bool, reason string) error {
	if p != "cpu" {
		return fmt.Errorf("pool %s: %w", p, messages.ErrUnknownPool)
	}
	return f.do(messages.CordonPool{Pool: p, On: on, Reason: reason})
}

func (f *fakeService) Reload(_ context.Context, dry bool) (*messages.Plan, error) {
	return &messages.Plan{}, f.do(dry)
}

func (f *fakeService) Shutdown(now bool, reason string) {
	_ = f.do(messages.Shutdown{Now: now, Reason: reason})
}

func (f *fakeService) StateMachine(format string) ([]byte, error) {
	if format != "json" && format != "text" && format != "mermaid" {
		return nil, fmt.Errorf("no format is called %q", format)
	}
	return []byte("[]"), nil
}

type fakeLogs struct{}

func (fakeLogs) Attempts(messages.WorkerID) ([]messages.Attempt, error) {
	return []messages.Attempt{1, 2}, nil
}

func (fakeLogs) Tail(_ messages.WorkerID, a messages.Attempt, n int) ([]string, error) {
	return []string{fmt.Sprintf("attempt %d tail %d", a, n)}, nil
}

func (fakeLogs) Follow(ctx context.Context, _ messages.WorkerID, _ messages.Attempt, _ int, emit func([]byte) error) error {
	if err := emit([]byte("one\n")); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// api is a server under test with a client.
type api struct {
	*httpd.Server
	t       *testing.T
	service *fakeService
	journal *journal.Journal
	log     *bytes.Buffer
	client  *nethttp.Client
	dial    func() (net.Conn, error)
}

func serve(t *testing.T, l net.Listener, dial func() (net.Conn, error), with ...func(*httpd.Options)) *api {
	t.Helper()
	a := &api{t: t, journal: journal.New(8, time.Now), log: &bytes.Buffer{}, dial: dial, service: &fakeService{version: 7,
		waiting: make(chan *messages.WorkerStatus, 8), workers: []*messages.WorkerStatus{
			{Name: "chat", State: messages.Idle, Pool: "cpu", GPUs: []string{}, Attempt: 2, Labels: map[string]string{"model": "llama"},
				Heartbeat: messages.Heartbeat{Kind: "native", At: time.Now()}},
			{Name: "embed", State: messages.Loading, Pool: "gpu-0", GPUs: []string{}, Attempt: 1},
		}}}
	opt := httpd.Options{Service: a.service, Journal: a.journal, Logs: fakeLogs{}, Version: "v9", Token: apiToken,
		Metrics: func(w io.Writer) { _, _ = io.WriteString(w, "hive_up 1\n") },
		Log:     slog.New(slog.NewTextHandler(&guarded{w: a.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range with {
		f(&opt)
	}
	a.Server = httpd.New(opt)
	a.SetReady(true)
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	a.client = &nethttp.Client{Timeout: hangBound, Transport: &nethttp.Transport{DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dial() }}}
	t.Cleanup(func() {
		a.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), hangBound)
		defer cancel()
		if err := a.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		_ = l.Close()
		select {
		case err := <-served:
			_ = err // the listener is closed: any error will do
		case <-time.After(hangBound):
			t.Error("Serve did not return")
		}
	})
	return a
}

// guarded makes a writer safe for concurrent use.
type guarded struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Write(b)
}

func inMemory(t *testing.T, with ...func(*httpd.Options)) *api {
	l := fasthttputil.NewInmemoryListener()
	return serve(t, l, l.Dial, with...)
}

func onTCP(t *testing.T, with ...func(*httpd.Options)) *api {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, l, func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }, with...)
}

func onSocket(t *testing.T, with ...func(*httpd.Options)) *api {
	t.Helper()
	dir, err := os.MkdirTemp("", "hive") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, l, func() (net.Conn, error) { return net.Dial("unix", path) }, with...)
}

type result struct {
	*nethttp.Response
	body []byte
}

// ask sends a request; headers are "Name: value". The API token goes along unless
// an Authorization header is given.
func (a *api) ask(method, path, body string, headers ...string) result {
	a.t.Helper()
	req, err := nethttp.NewRequest(method, "http://hive"+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiToken)
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
		if v == "" {
			req.Header.Del(k)
		}
	}
	res, err := a.client.Do(req)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return result{res, b}
}

// isProblem checks an error's whole shape.
func (a *api) isProblem(r result, status int, code string) {
	a.t.Helper()
	var p struct {
		Type, Title, Code, Detail string
		Status                    int
		RequestID                 string `json:"request_id"`
		Errors                    []messages.Problem
	}
	if err := json.Unmarshal(r.body, &p); err != nil {
		a.t.Errorf("%d is no problem document: %q", r.StatusCode, r.body)
		return
	}
	if r.StatusCode != status || p.Status != status || p.Code != code {
		a.t.Errorf("got %d, status %d, code %q; want %d %q: %s", r.StatusCode, p.Status, p.Code, status, code, p.Detail)
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/problem+json" {
		a.t.Errorf("content type %q", ct)
	}
	if p.Type == "" || p.Title == "" || p.Detail == "" || p.Errors == nil {
		a.t.Errorf("incomplete: %s", r.body)
	}
	if id := r.Header.Get("X-Request-Id"); p.RequestID == "" || p.RequestID != id {
		a.t.Errorf("request id %q in the body, %q in the header", p.RequestID, id)
	}
	if bytes.Contains(r.body, []byte("s3cret")) {
		a.t.Errorf("a secret in an error: %s", r.body)
	}
}

func TestEveryRouteAnswers(t *testing.T) {
	a := inMemory(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		ctype, contains    string
	}{
		{"GET", "/livez", "", 200, "text/plain", "ok"},
		{"GET", "/readyz", "", 200, "text/plain", "ok"},
		{"GET", "/version", "", 200, "application/json", `"version":"v9"`},
		{"GET", "/metrics", "", 200, "text/plain", "hive_up 1"},
		{"GET", "/v1/workers", "", 200, "application/json", `"workers":[{"name":"chat"`},
		{"GET", "/v1/workers?state=loading", "", 200, "application/json", `"embed"`},
		{"GET", "/v1/workers?pool=nowhere", "", 200, "application/json", `{"workers":[]}`},
		{"GET", "/v1/workers?label=model=llama", "", 200, "application/json", `"chat"`},
		{"GET", "/v1/workers?label=model=other", "", 200, "application/json", `{"workers":[]}`},
		{"POST", "/v1/workers", `{"name":"new"}`, 201, "application/json", `"name":"new"`},
		{"GET", "/v1/workers/chat", "", 200, "application/json", `"age_seconds":`},
		{"PATCH", "/v1/workers/chat", `{"priority":1}`, 200, "application/json", `"name":"chat"`},
		{"DELETE", "/v1/workers/chat", "", 202, "application/json", `"name":"chat"`},
		{"GET", "/v1/workers/chat/logs?tail=3&attempt=2", "", 200, "text/plain", "attempt 2 tail 3"},
		{"GET", "/v1/pools", "", 200, "application/json", `"pools":[{"name":"cpu"`},
		{"POST", "/v1/pools/cpu/cordon", `{"reason":"mend"}`, 202, "application/json", `"name":"cpu"`},
		{"POST", "/v1/pools/cpu/uncordon", "", 202, "application/json", `"name":"cpu"`},
		{"GET", "/v1/state-machine", "", 200, "application/json", "[]"},
		{"GET", "/v1/state-machine?format=mermaid", "", 200, "text/plain", "[]"},
		{"POST", "/v1/reload?dry_run=true", "", 200, "application/json", `"start"`},
		{"POST", "/v1/shutdown", `{"now":true}`, 202, "application/json", "shutting down"},
	} {
		r := a.ask(c.method, c.path, c.body)
		if r.StatusCode != c.status || !strings.HasPrefix(r.Header.Get("Content-Type"), c.ctype) || !strings.Contains(string(r.body), c.contains) {
			t.Errorf("%s %s: %d %s %.200s", c.method, c.path, r.StatusCode, r.Header.Get("Content-Type"), r.body)
		}
		if r.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: no request id", c.method, c.path)
		}
	}
	if m, ok := a.service.last().(messages.Shutdown); !ok || !m.Now {
		t.Errorf("shutdown asked for: %+v", a.service.last())
	}
	for _, v := range messages.Verbs() {
		r := a.ask("POST", "/v1/workers/chat/"+string(v)+"?grace=3s", `{"drain":"90s"}`)
		m, ok := a.service.last().(messages.DoWorker)
		if r.StatusCode != 202 || !ok || m.Verb != v || m.Worker != "chat" || m.Drain == nil || *m.Drain != 90*time.Second || m.Grace == nil || *m.Grace != 3*time.Second {
			t.Errorf("%s: %d, asked for %+v", v, r.StatusCode, m)
		}
	}
	for kind, body := range map[string]string{"ready": `{"attempt":2}`, "heartbeat": `{"attempt":2,"in_flight":3}`, "progress": `{"attempt":2,"stage":"load","value":0.5}`} {
		r := a.ask("POST", "/v1/workers/chat/"+kind, body, "Authorization: Bearer "+callToken)
		if r.StatusCode != 200 || !strings.Contains(string(r.body), `"state":"idle"`) || !strings.Contains(string(r.body), `"drain":false`) {
			t.Errorf("%s: %d %s", kind, r.StatusCode, r.body)
		}
		if m, ok := a.service.last().(messages.Callback); !ok || m.Attempt != 2 || string(m.Kind) != kind {
			t.Errorf("%s: told %+v", kind, a.service.last())
		}
	}
	if r := a.ask("POST", "/v1/workers", `{"name":"new"}`); r.Header.Get("Location") != "/v1/workers/new" {
		t.Errorf("location %q", r.Header.Get("Location"))
	}
}

func TestEveryErrorHasItsShape(t *testing.T) {
	a := inMemory(t)
	for _, c := range []struct {
		method, path, body string
		fail               error
		status             int
		code               string
	}{
		{"GET", "/nowhere", "", nil, 404, "not_found"},
		{"GET", "/v1/workers/", "", nil, 404, "not_found"},
		{"PUT", "/v1/workers", "", nil, 405, "method_not_allowed"},
		{"DELETE", "/v1/pools", "", nil, 405, "method_not_allowed"},
		{"GET", "/v1/workers?state=odd", "", nil, 400, "bad_request"},
		{"GET", "/v1/workers/none", "", nil, 404, "unknown_worker"},
		{"PATCH", "/v1/workers/none", "{}", nil, 404, "unknown_worker"},
		{"DELETE", "/v1/workers/none", "", nil, 404, "unknown_worker"},
		{"POST", "/v1/workers/none/stop", "", nil, 404, "unknown_worker"},
		{"GET", "/v1/workers/none/logs", "", nil, 404, "unknown_worker"},
		{"GET", "/v1/workers/chat/logs?attempt=9", "", nil, 404, "unknown_attempt"},
		{"GET", "/v1/workers/chat/logs?tail=-1", "", nil, 400, "bad_request"},
		{"GET", "/v1/workers/chat/logs?tail=1000000000", "", nil, 400, "bad_request"},
		{"POST", "/v1/workers", `{"name":"chat"}`, nil, 409, "exists"},
		{"POST", "/v1/workers", `{"command":[]}`, nil, 422, "invalid"},
		{"POST", "/v1/workers", "", nil, 422, "invalid"},
		{"POST", "/v1/workers", `{"name":"new"}`, messages.ErrShuttingDown, 503, "shutting_down"},
		{"PATCH", "/v1/workers/chat", "{", nil, 422, "invalid"},
		{"POST", "/v1/workers/chat/resume", "", &messages.IllegalError{Worker: "chat", From: messages.Idle, Verb: "resume"}, 409, "illegal_transition"},
		{"POST", "/v1/workers/chat/stop", "", messages.ErrBusy, 503, "busy"},
		{"POST", "/v1/workers/chat/stop", `{"drian":"1s"}`, nil, 400, "bad_request"},
		{"POST", "/v1/workers/chat/stop", `{"drain":"1s"} {}`, nil, 400, "bad_request"},
		{"POST", "/v1/workers/chat/stop", `{"drain":"soon"}`, nil, 400, "bad_request"},
		{"POST", "/v1/workers/chat/stop?drain=soon", "", nil, 400, "bad_request"},
		{"POST", "/v1/workers/chat/stop", "{\"drain\":\"\xff\"}", nil, 400, "bad_encoding"},
		{"POST", "/v1/workers", "{\"name\":\"\xc3\x28\"}", nil, 400, "bad_encoding"},
		{"PATCH", "/v1/workers/chat", "\xff", nil, 400, "bad_encoding"},
		{"POST", "/v1/workers/chat/odd", "", nil, 404, "not_found"},
		{"POST", "/v1/pools/none/cordon", "", nil, 404, "unknown_pool"},
		{"POST", "/v1/pools/cpu/cordon", `{"why":1}`, nil, 400, "bad_request"},
		{"GET", "/v1/state-machine?format=odd", "", nil, 400, "bad_request"},
		{"GET", "/v1/events?since=x", "", nil, 400, "bad_request"},
		{"POST", "/v1/reload", "", messages.Problems{{Path: "workers", Message: "odd"}}, 422, "invalid"},
		{"POST", "/v1/reload", "", errors.New("no configuration file"), 409, "refused"},
		{"POST", "/v1/shutdown", `{"later":true}`, nil, 400, "bad_request"},
	} {
		a.service.set(c.fail, false)
		r := a.ask(c.method, c.path, c.body)
		t.Run(fmt.Sprintf("%s %s %q", c.method, c.path, c.body), func(t *testing.T) {
			b := *a
			b.t = t
			b.isProblem(r, c.status, c.code)
			if c.status == 503 && r.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if c.status == 405 && r.Header.Get("Allow") == "" {
				t.Error("no Allow")
			}
		})
	}
	a.service.set(nil, false)
	var p struct{ Errors []messages.Problem }
	if err := json.Unmarshal(a.ask("POST", "/v1/workers", "{}").body, &p); err != nil || len(p.Errors) != 2 {
		t.Errorf("all problems at once: %+v", p)
	}
}

func TestCallbackErrors(t *testing.T) {
	a := inMemory(t)
	own := "Authorization: Bearer " + callToken
	a.isProblem(a.ask("POST", "/v1/workers/chat/ready", `{"attempt":2}`, "Authorization: Bearer s3cret-forged"), 401, "unauthorized")
	a.isProblem(a.ask("POST", "/v1/workers/chat/ready", `{"attempt":2}`), 401, "unauthorized") // the API's token is no worker's
	a.isProblem(a.ask("POST", "/v1/workers/chat/ready", "", own), 400, "bad_request")
	a.isProblem(a.ask("POST", "/v1/workers/chat/ready", `{"attempt":-1}`, own), 400, "bad_request")
	a.isProblem(a.ask("POST", "/v1/workers/chat/heartbeat", `{"attempt":2,"in_flight":-1}`, own), 400, "bad_request")
	a.isProblem(a.ask("POST", "/v1/workers/chat/progress", `{"attempt":2,"value":1.5}`, own), 400, "bad_request")
	a.isProblem(a.ask("POST", "/v1/workers/chat/progress", `{"attempt":2}`, own), 400, "bad_request")
	a.service.set(&messages.StaleError{Worker: "chat", Got: 1, Current: 2}, false)
	a.isProblem(a.ask("POST", "/v1/workers/chat/heartbeat", `{"attempt":1}`, own), 409, "stale_attempt")
}

func TestTheToken(t *testing.T) {
	a := inMemory(t)
	for _, header := range []string{"Authorization: ", "Authorization: Bearer s3cret-wrong", "Authorization: Basic " + apiToken, "Authorization: " + apiToken + "x"} {
		for _, path := range []string{"/v1/workers", "/v1/events", "/v1/workers/chat", "/nowhere"} {
			r := a.ask("GET", path, "", header)
			a.isProblem(r, 401, "unauthorized")
			if r.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Error("no WWW-Authenticate")
			}
		}
		a.isProblem(a.ask("POST", "/v1/shutdown", "", header), 401, "unauthorized")
	}
	if a.service.last() != nil {
		t.Errorf("a command went through without a token: %v", a.service.last())
	}
	for _, path := range []string{"/livez", "/readyz", "/version", "/metrics"} {
		if r := a.ask("GET", path, "", "Authorization: "); r.StatusCode != 200 {
			t.Errorf("%s needs a token", path)
		}
	}
	readable := inMemory(t, func(o *httpd.Options) { o.ReadOnlyWithoutToken = true })
	if r := readable.ask("GET", "/v1/workers", "", "Authorization: "); r.StatusCode != 200 {
		t.Errorf("a read without a token: %d", r.StatusCode)
	}
	readable.isProblem(readable.ask("POST", "/v1/workers/chat/stop", "", "Authorization: "), 401, "unauthorized")
	socket := onSocket(t)
	if r := socket.ask("POST", "/v1/workers/chat/stop", "", "Authorization: "); r.StatusCode != 202 {
		t.Errorf("the socket asks for a token: %d", r.StatusCode)
	}
	open := inMemory(t, func(o *httpd.Options) { o.Token = "" })
	if r := open.ask("GET", "/v1/workers", "", "Authorization: "); r.StatusCode != 200 {
		t.Errorf("without a token set: %d", r.StatusCode)
	}
}

// TestOnlyTheCallbacksOfAWorkerGoWithoutTheToken: the exception is a route, not
// the end of a path.
func TestOnlyTheCallbacksOfAWorkerGoWithoutTheToken(t *testing.T) {
	a := inMemory(t)
	for _, path := range []string{"/nowhere/ready", "/v1/pools/ready", "/v1/heartbeat/progress"} {
		if r := a.ask("POST", path, "", "Authorization: "); r.StatusCode != 401 {
			t.Errorf("POST %s without a token: %d", path, r.StatusCode)
		}
	}
}

func TestTheList(t *testing.T) {
	a := inMemory(t)
	r := a.ask("GET", "/v1/workers", "")
	tag := r.Header.Get("ETag")
	if tag == "" || r.Header.Get("Vary") != "Accept-Encoding" {
		t.Fatalf("etag %q, vary %q", tag, r.Header.Get("Vary"))
	}
	if r := a.ask("GET", "/v1/workers", "", "If-None-Match: "+tag); r.StatusCode != 304 || len(r.body) != 0 || r.Header.Get("ETag") != tag {
		t.Errorf("unchanged: %d, %d bytes", r.StatusCode, len(r.body))
	}
	z := a.ask("GET", "/v1/workers", "", "Accept-Encoding: gzip")
	if z.Header.Get("Content-Encoding") != "gzip" {
		t.Fatal("not compressed")
	}
	zr, err := gzip.NewReader(bytes.NewReader(z.body))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	var list struct{ Workers []messages.WorkerStatus }
	if err != nil || json.Unmarshal(plain, &list) != nil || len(list.Workers) != 2 {
		t.Errorf("unzipped: %v %s", err, plain)
	}
	a.service.mu.Lock()
	a.service.version++
	a.service.workers = a.service.workers[:1]
	a.service.mu.Unlock()
	if r := a.ask("GET", "/v1/workers", "", "If-None-Match: "+tag); r.StatusCode != 200 || strings.Contains(string(r.body), "embed") {
		t.Errorf("changed: %d %s", r.StatusCode, r.body)
	}
}

func TestTheRequestID(t *testing.T) {
	a := inMemory(t)
	if r := a.ask("GET", "/nowhere", "", "X-Request-Id: mine-1"); r.Header.Get("X-Request-Id") != "mine-1" {
		t.Errorf("not taken: %q", r.Header.Get("X-Request-Id"))
	} else {
		a.isProblem(r, 404, "not_found")
	}
	first, second := a.ask("GET", "/livez", "").Header.Get("X-Request-Id"), a.ask("GET", "/livez", "").Header.Get("X-Request-Id")
	if len(first) < 16 || first == second {
		t.Errorf("made: %q, %q", first, second)
	}
	for _, odd := range []string{"with space", strings.Repeat("x", 129), "né"} {
		if got := a.ask("GET", "/livez", "", "X-Request-Id: "+odd).Header.Get("X-Request-Id"); got == odd || got == "" {
			t.Errorf("%q was answered with %q", odd, got)
		}
	}
}

func TestHead(t *testing.T) {
	a := inMemory(t)
	for _, path := range []string{"/livez", "/v1/workers", "/v1/workers/chat", "/v1/workers/chat/logs"} {
		full, head := a.ask("GET", path, ""), a.ask("HEAD", path, "")
		if head.StatusCode != 200 || len(head.body) != 0 || head.Header.Get("Content-Type") != full.Header.Get("Content-Type") {
			t.Errorf("HEAD %s: %d, %d bytes, %s", path, head.StatusCode, len(head.body), head.Header.Get("Content-Type"))
		}
	}
	if r := a.ask("HEAD", "/v1/workers/none", ""); r.StatusCode != 404 || len(r.body) != 0 {
		t.Errorf("HEAD of nothing: %d, %d bytes", r.StatusCode, len(r.body))
	}
	if r := a.ask("GET", "/livez", ""); string(r.body) != "ok\n" {
		t.Errorf("the connection is out of step after HEAD: %q", r.body)
	}
}

func TestTheLimits(t *testing.T) {
	for name, a := range map[string]*api{"tcp": onTCP(t), "socket": onSocket(t)} {
		t.Run(name, func(t *testing.T) {
			a.t = t
			const most = 1 << 20
			pad := func(n int) string { return `{"name":"new"}` + strings.Repeat(" ", n-len(`{"name":"new"}`)) }
			if r := a.ask("POST", "/v1/workers", pad(most)); r.StatusCode != 201 {
				t.Errorf("a body of 1 MiB: %d %s", r.StatusCode, r.body)
			}
			a.isProblem(a.ask("POST", "/v1/workers", pad(most+1)), 413, "too_large")
			a.isProblem(a.ask("GET", "/livez", "", "X-Long: "+strings.Repeat("x", 32<<10)), 431, "headers_too_large")
			if r := a.ask("GET", "/livez", ""); r.StatusCode != 200 {
				t.Errorf("afterwards: %d", r.StatusCode)
			}
		})
	}
}

func TestABrokenRequestIsAnswered(t *testing.T) {
	a := onTCP(t)
	c, err := a.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(hangBound))
	_, _ = io.WriteString(c, "NONSENSE\r\n\r\n")
	res, err := nethttp.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	a.isProblem(result{res, b}, 400, "bad_request")
}

func TestNotReady(t *testing.T) {
	a := inMemory(t)
	a.SetReady(false)
	r := a.ask("GET", "/readyz", "")
	a.isProblem(r, 503, "not_ready")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if r := a.ask("GET", "/livez", ""); r.StatusCode != 200 {
		t.Errorf("livez while not ready: %d", r.StatusCode)
	}
}

func TestAPanicOfTheServiceStaysInside(t *testing.T) {
	a := inMemory(t)
	a.service.set(nil, true)
	for _, c := range []string{"POST /v1/workers/chat/stop", "POST /v1/reload", "POST /v1/shutdown", "DELETE /v1/workers/chat"} {
		method, path, _ := strings.Cut(c, " ")
		r := a.ask(method, path, "")
		a.isProblem(r, 500, "internal")
		if bytes.Contains(r.body, []byte("boom")) {
			t.Errorf("the panic's words in the answer: %s", r.body)
		}
	}
	a.service.set(nil, false)
	if r := a.ask("POST", "/v1/workers/chat/stop", ""); r.StatusCode != 202 {
		t.Errorf("after the panic: %d", r.StatusCode)
	}
}

// stream opens a request whose answer does not end by itself.
func (a *api) stream(method, path, body string, headers ...string) (*nethttp.Response, *bufio.Scanner) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hangBound)
	a.t.Cleanup(cancel)
	req, err := nethttp.NewRequestWithContext(ctx, method, "http://hive"+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiToken)
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	res, err := (&nethttp.Client{Transport: a.client.Transport}).Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = res.Body.Close() })
	return res, bufio.NewScanner(res.Body)
}

// event reads one Server-Sent Event as "id type".
func event(t *testing.T, s *bufio.Scanner) string {
	t.Helper()
	var id, typ string
	for s.Scan() {
		line := s.Text()
		if v, ok := strings.CutPrefix(line, "id: "); ok {
			id = v
		}
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			typ = v
		}
		if line == "" && typ != "" {
			return strings.TrimSpace(id + " " + typ)
		}
	}
	t.Fatalf("the stream ended: %v", s.Err())
	return ""
}

func (a *api) emit(n int, w messages.WorkerID) {
	for range n {
		a.journal.Append(messages.Event{Type: messages.WorkerReady, Worker: w})
	}
}

func TestEventsResume(t *testing.T) {
	for name, a := range map[string]*api{"memory": inMemory(t), "tcp": onTCP(t), "socket": onSocket(t)} {
		t.Run(name, func(t *testing.T) {
			a.t = t
			a.emit(5, "chat")
			res, s := a.stream("GET", "/v1/events?since=1", "", "Last-Event-ID: 3") // the header wins: it is what a browser resumes with
			if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("X-Hive-Last-Event") != "5" {
				t.Errorf("%d %v", res.StatusCode, res.Header)
			}
			for _, want := range []string{"4 worker.ready", "5 worker.ready"} {
				if got := event(t, s); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			a.emit(1, "embed")
			if got := event(t, s); got != "6 worker.ready" {
				t.Errorf("live: %q", got)
			}
			_, only := a.stream("GET", "/v1/events?since=0&worker=embed", "")
			if got := event(t, only); got != "6 worker.ready" {
				t.Errorf("of one worker: %q", got)
			}
			_, live := a.stream("GET", "/v1/events", "")
			a.emit(1, "chat")
			if got := event(t, live); got != "7 worker.ready" {
				t.Errorf("from now on: %q", got)
			}
		})
	}
}

func TestEventsThatAreNoLongerKept(t *testing.T) {
	a := inMemory(t)
	a.emit(20, "chat") // the ring keeps 8
	_, s := a.stream("GET", "/v1/events?since=2", "")
	if got := event(t, s); got != "gap" {
		t.Errorf("got %q, want the gap to be told", got)
	}
	_, bad := a.stream("GET", "/v1/events?since=1", "", "Last-Event-ID: 20")
	a.emit(1, "chat")
	if got := event(t, bad); got != "21 worker.ready" {
		t.Errorf("resumed at the end: %q", got)
	}
	a.isProblem(a.ask("GET", "/v1/events", "", "Last-Event-ID: soon"), 400, "bad_request")
}

// TestASlowReaderIsCut: it gets what fits into the buffers on the way, then the
// gap, then the end; nobody waits for it.
func TestASlowReaderIsCut(t *testing.T) {
	a := onSocket(t)
	c, err := a.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: hive\r\n\r\n")
	r := bufio.NewReader(c)
	_ = c.SetDeadline(time.Now().Add(hangBound))
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatal(line, err)
	}
	// Far more than the buffers between the two hold; the ring keeps 8 events.
	start := time.Now()
	for range 200 {
		a.journal.Append(messages.Event{Type: messages.WorkerState, Reason: strings.Repeat("x", 64<<10)})
	}
	if took := time.Since(start); took > hangBound/2 {
		t.Errorf("a slow reader held the journal for %s", took)
	}
	ended := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		ended <- string(b)
	}()
	deadline := time.After(hangBound)
	for fed := 0; ; fed++ { // a reader that has caught up once is cut the second time it falls behind
		select {
		case all := <-ended:
			if n := strings.Count(all, "event: worker.state"); n >= 200 {
				t.Errorf("it got all %d events", n)
			}
			return
		case <-deadline:
			t.Fatal("the reader was not cut the second time it fell behind")
		default:
			for range 100 {
				a.journal.Append(messages.Event{Type: messages.WorkerState, Reason: "more"})
			}
		}
	}
}

func TestStreamsEndWithTheServer(t *testing.T) {
	a := onTCP(t)
	_, events := a.stream("GET", "/v1/events", "")
	_, logs := a.stream("GET", "/v1/workers/chat/logs?follow=true", "")
	if !logs.Scan() || logs.Text() != "one" {
		t.Fatalf("followed: %q", logs.Text())
	}
	ctx, cancel := context.WithTimeout(context.Background(), hangBound)
	defer cancel()
	if err := a.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	for events.Scan() {
	}
	for logs.Scan() {
	}
}

func TestCreateWaitsUntilReady(t *testing.T) {
	a := onTCP(t)
	a.service.waiting <- &messages.WorkerStatus{Name: "new", State: messages.Starting}
	a.service.waiting <- &messages.WorkerStatus{Name: "new", State: messages.Loading}
	a.service.waiting <- &messages.WorkerStatus{Name: "new", State: messages.Idle}
	res, s := a.stream("POST", "/v1/workers?wait=ready", `{"name":"new"}`)
	if res.StatusCode != 201 || res.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	var got []string
	for s.Scan() {
		var st messages.WorkerStatus
		if err := json.Unmarshal(s.Bytes(), &st); err != nil {
			t.Fatal(err)
		}
		got = append(got, st.State.String())
	}
	if strings.Join(got, " ") != "starting loading idle" {
		t.Errorf("streamed %v", got)
	}
}

func TestNoSecretInTheLog(t *testing.T) {
	l := fasthttputil.NewInmemoryListener()
	a := serve(t, l, l.Dial)
	a.ask("GET", "/v1/workers", "", "Authorization: Bearer s3cret-wrong")
	a.ask("POST", "/v1/workers/chat/ready", `{"attempt":2}`, "Authorization: Bearer "+callToken)
	a.ask("GET", "/v1/workers", "", "X-Request-Id: in-the-log")
	ctx, cancel := context.WithTimeout(context.Background(), hangBound)
	defer cancel()
	a.client.CloseIdleConnections()
	if err := a.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if s := a.log.String(); strings.Contains(s, "s3cret") || !strings.Contains(s, "request_id=in-the-log") {
		t.Errorf("log:\n%s", s)
	}
}
