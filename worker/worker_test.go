package worker

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// environment is a worker's, with only these variables set.
func environment(t *testing.T, env map[string]string) {
	t.Helper()
	for _, k := range []string{"HIVE_URL", "HIVE_WORKER", "HIVE_ATTEMPT", "HIVE_TOKEN", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		t.Setenv(k, env[k])
	}
}

// call is one request that a fake hive got.
type call struct{ method, path, token, body string }

// hive answers every callback with status and text, and notes it.
func hive(t *testing.T, status int, text string) (url string, calls func() []call) {
	t.Helper()
	var mu sync.Mutex
	var got []call
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		got = append(got, call{r.Method, r.URL.Path, r.Header.Get("Authorization"), string(b)})
		mu.Unlock()
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, text)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []call {
		mu.Lock()
		defer mu.Unlock()
		return append([]call(nil), got...)
	}
}

func overHTTP(t *testing.T, url string, more map[string]string) {
	t.Helper()
	env := map[string]string{"HIVE_URL": url, "HIVE_WORKER": "chat", "HIVE_ATTEMPT": "7", "HIVE_TOKEN": "secret"}
	for k, v := range more {
		env[k] = v
	}
	environment(t, env)
}

// socket is hive's end of NOTIFY_SOCKET; read gives the next datagram.
func socket(t *testing.T, path string) (c *net.UnixConn, read func() string) {
	t.Helper()
	_ = os.Remove(path) // an earlier one
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, func() string {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

// everything calls each method once.
func everything(w *Worker) error {
	ctx := context.Background()
	beat := func() error {
		_, err := w.Heartbeat(ctx, Stats{InFlight: Ptr(3), TokensTotal: Ptr(1.5)})
		return err
	}
	return errors.Join(w.Progress(ctx, "weights\nREADY=1", 0.25), w.Extend(ctx, 1500*time.Millisecond), w.Ready(ctx), beat(),
		w.Status(ctx, "a\nb"), w.Stopping(ctx))
}

func TestWithoutHive(t *testing.T) {
	environment(t, map[string]string{"HIVE_URL": "http://localhost:1"}) // as in a shell where the hive command is used
	w := FromEnv()
	if err := everything(w); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Run(ctx, 0, nil); err != nil {
		t.Error(err)
	}
}

func TestOverHTTP(t *testing.T) {
	url, calls := hive(t, 200, `{"state":"idle","drain":false,"stop_by":null}`)
	overHTTP(t, url+"/", nil)
	w := FromEnv()
	if err := everything(w); err != nil {
		t.Fatal(err)
	}
	want := []call{
		{"POST", "/v1/workers/chat/progress", "Bearer secret", `{"attempt":7,"stage":"weights\nREADY=1","value":0.25}`},
		{"POST", "/v1/workers/chat/progress", "Bearer secret", `{"attempt":7,"stage":"weights\nREADY=1","value":0.25}`},
		{"POST", "/v1/workers/chat/ready", "Bearer secret", `{"attempt":7}`},
		{"POST", "/v1/workers/chat/heartbeat", "Bearer secret", `{"attempt":7,"in_flight":3,"tokens_total":1.5}`},
		{"POST", "/v1/workers/chat/state", "Bearer secret", `{"attempt":7,"state":"stopping"}`},
	}
	if got := calls(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	for _, bad := range []error{w.Progress(t.Context(), "", 1.1), w.Progress(t.Context(), "", math.NaN()), w.Extend(t.Context(), -1)} {
		if bad == nil {
			t.Error("nonsense is sent")
		}
	}
	if _, err := w.Heartbeat(t.Context(), Stats{InFlight: Ptr(-1)}); err == nil {
		t.Error("-1 in flight is sent")
	}
}

func TestOverNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	_, read := socket(t, path)
	environment(t, map[string]string{"NOTIFY_SOCKET": path})
	if err := everything(FromEnv()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"X_HIVE_PROGRESS=0.25\nX_HIVE_STAGE=weights READY=1", "EXTEND_TIMEOUT_USEC=1500000", "READY=1",
		"WATCHDOG=1\nX_HIVE_IN_FLIGHT=3", "STATUS=a b", "STOPPING=1"} {
		if got := read(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWhichOfTheTwo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	_, read := socket(t, path)
	url, calls := hive(t, 200, ``)
	overHTTP(t, url, map[string]string{"NOTIFY_SOCKET": path})
	w := FromEnv()
	if err := w.Ready(t.Context()); err != nil || len(calls()) != 1 {
		t.Errorf("HTTP does not come first: %v %v", err, calls())
	}
	if err := w.Extend(t.Context(), time.Second); err != nil || read() != "EXTEND_TIMEOUT_USEC=1000000" {
		t.Errorf("Extend: %v", err)
	}
	if err := FromEnv(PreferNotify()).Ready(t.Context()); err != nil || read() != "READY=1" || len(calls()) != 1 {
		t.Errorf("PreferNotify: %v %v", err, calls())
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := FromEnv(PreferNotify()).Ready(t.Context()); err != nil || len(calls()) != 2 {
		t.Errorf("PreferNotify without a socket: %v %v", err, calls())
	}
	t.Setenv("HIVE_ATTEMPT", "x")
	if err := FromEnv().Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "HIVE_ATTEMPT") {
		t.Errorf("a wrong attempt: %v", err)
	}
}

func TestNotifyOutlivesHive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	one, read := socket(t, path)
	environment(t, map[string]string{"NOTIFY_SOCKET": path})
	w := FromEnv()
	if err := w.Ready(t.Context()); err != nil || read() != "READY=1" {
		t.Fatal(err)
	}
	_ = one.Close()
	if _, err := w.Heartbeat(t.Context(), Stats{}); err == nil {
		t.Error("a heartbeat that nobody took")
	}
	_, read = socket(t, path)
	if _, err := w.Heartbeat(t.Context(), Stats{}); err != nil || read() != "WATCHDOG=1" {
		t.Errorf("after a restart of hive: %v", err)
	}
}

func TestNotifyDoesNotWaitForLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	socket(t, path)
	environment(t, map[string]string{"NOTIFY_SOCKET": path})
	w := FromEnv()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var err error
	for range 100_000 { // the kernel's queue ends somewhere
		if err = w.Status(ctx, strings.Repeat("a", 200)); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("a hive that reads nothing takes everything")
	}
}

func TestOverUnixHTTP(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, `{"state":"busy"}`)
	}))
	s.Listener = l
	s.Start()
	defer s.Close()
	overHTTP(t, "unix://"+path, nil)
	if a, err := FromEnv().Heartbeat(t.Context(), Stats{}); err != nil || a.State != "busy" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		status int
		text   string
		stale  bool
		word   string
	}{
		{409, `{"type":"about:blank","status":409,"code":"stale_attempt","detail":"attempt 7 is over"}`, true, "attempt 7 is over"},
		{409, `{"code":"illegal_transition","title":"illegal transition"}`, false, "illegal transition"},
		{401, `{"code":"unauthorized"}`, false, "unauthorized"},
		{502, `<html>`, false, "502"},
		{302, ``, false, "302"},
	} {
		url, _ := hive(t, c.status, c.text)
		overHTTP(t, url, nil)
		a, err := FromEnv().Heartbeat(t.Context(), Stats{})
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Status != c.status || errors.Is(err, ErrStale) != c.stale || !strings.Contains(err.Error(), c.word) || a != (Answer{}) {
			t.Errorf("%d %s: %+v, %v", c.status, c.text, a, err)
		}
	}
	url, _ := hive(t, 409, `{"code":"stale_attempt"}`)
	overHTTP(t, url, nil)
	if err := FromEnv().Run(t.Context(), time.Hour, nil); !errors.Is(err, ErrStale) {
		t.Errorf("Run: %v", err)
	}
}

func TestDrain(t *testing.T) {
	url, _ := hive(t, 200, `{"state":"draining","drain":true,"stop_by":"2030-01-02T03:04:05.5Z"}`)
	overHTTP(t, url, nil)
	w := FromEnv()
	told := make(chan string, 8)
	w.OnDrain(func() { told <- "before" })
	select {
	case <-w.Draining():
		t.Fatal("drains unasked")
	default:
	}
	for range 2 {
		a, err := w.Heartbeat(t.Context(), Stats{})
		if err != nil || !a.Drain || a.State != "draining" || !a.StopBy.Equal(time.Date(2030, 1, 2, 3, 4, 5, 5e8, time.UTC)) {
			t.Errorf("%+v, %v", a, err)
		}
	}
	<-w.Draining()
	if got := <-told; got != "before" {
		t.Error(got)
	}
	w.OnDrain(func() { told <- "after" })
	if got := <-told; got != "after" || len(told) != 0 {
		t.Error(got, len(told))
	}
}

// answers stands in for the network, so that the clock may be a fake one.
type answers func() (status int, err error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) {
	status, err := f()
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
}

func TestRunTellsOfSilence(t *testing.T) {
	overHTTP(t, "http://hive", nil)
	synctest.Test(t, func(t *testing.T) {
		w := FromEnv()
		started := time.Now()
		var beats int
		w.http.client = &http.Client{Transport: answers(func() (int, error) {
			beats++
			switch at := time.Since(started); {
			case at >= 10*time.Second && at < 30*time.Second:
				return 0, errors.New("connection refused")
			case at == 35*time.Second:
				return 503, nil // an answer too
			}
			return 200, nil
		})}
		var told []time.Duration
		w.OnSilent(func(d time.Duration) { told = append(told, time.Since(started), d) })
		ctx, cancel := context.WithTimeout(t.Context(), 41*time.Second)
		defer cancel()
		calls := 0
		if err := w.Run(ctx, 0, func() Stats { calls++; return Stats{InFlight: Ptr(calls)} }); err != nil {
			t.Fatal(err)
		}
		if beats != 9 || calls != 9 {
			t.Errorf("%d heartbeats with %d figures in 41 s", beats, calls)
		}
		want := []time.Duration{20 * time.Second, 15 * time.Second, 30 * time.Second, 0}
		if !reflect.DeepEqual(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		if d := <-w.Silent(); d != 0 {
			t.Errorf("the newest word is %s", d)
		}
	})
}

func TestInterval(t *testing.T) {
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 5 * time.Second}, {"2000000", "", time.Second}, {"2000000", "1", 5 * time.Second}, {"x", "", 5 * time.Second},
		{"0", "", 5 * time.Second}, {"-4", "", 5 * time.Second}, {"9223372036854775807", "", 5 * time.Second},
	} {
		environment(t, map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid})
		if got := FromEnv().every; got != c.want {
			t.Errorf("WATCHDOG_USEC=%q WATCHDOG_PID=%q: %s, want %s", c.usec, c.pid, got, c.want)
		}
	}
}

// TestStatsAreThoseOfHive: every figure has the name that hive reads.
func TestStatsAreThoseOfHive(t *testing.T) {
	ours, theirs := reflect.TypeFor[Stats](), reflect.TypeFor[messages.Stats]()
	for i := range ours.NumField() {
		f := ours.Field(i)
		if g, ok := theirs.FieldByName(f.Name); !ok || g.Type != f.Type || g.Tag != f.Tag {
			t.Errorf("%s is %v %s in hive", f.Name, g.Type, g.Tag)
		}
	}
}
