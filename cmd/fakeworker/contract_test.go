package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rbee-hive/hive/notify"
)

// TestMain lets a copy of the test binary be the fakeworker.
func TestMain(m *testing.M) {
	if os.Getenv("FAKEWORKER_TEST") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// contractSeen starts a fakeworker with flags between both ends of the contract,
// and gives what each hears: "progress {...}" over HTTP, messages over notify.
func contractSeen(t *testing.T, flags string) (posts <-chan string, words <-chan notify.Message) {
	t.Helper()
	heard, said := make(chan string, 256), make(chan notify.Message, 256)
	hive := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		heard <- strings.TrimPrefix(r.URL.Path, "/v1/workers/a/") + " " + string(b)
		_, _ = io.WriteString(rw, `{"state":"draining","drain":true}`)
	}))
	s, err := notify.Listen(filepath.Join(t.TempDir(), "n"), -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(func(d notify.Datagram) { said <- d.Message }) }()
	cmd := exec.Command("/proc/self/exe", strings.Fields(flags)...)
	cmd.Env = append(os.Environ(), "FAKEWORKER_TEST=1", "HIVE_URL="+hive.URL, "HIVE_WORKER=a", "HIVE_ATTEMPT=2", "HIVE_TOKEN=t", "NOTIFY_SOCKET="+s.Path())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		hive.Close()
		_ = s.Close()
	})
	return heard, said
}

// await takes from c until right is true of what comes.
func await[T any](t *testing.T, c <-chan T, what string, right func(T) bool) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case v := <-c:
			if right(v) {
				return
			}
		case <-late:
			t.Fatalf("%s never came", what)
		}
	}
}

func TestContractOverNotify(t *testing.T) {
	posts, words := contractSeen(t, "--load 100ms --notify --heartbeat-every 20ms --in-flight 2 --extend 3s --status warming --double-ready")
	for _, step := range []struct {
		what  string
		right func(notify.Message) bool
	}{
		{"the status", func(m notify.Message) bool { return m.Status != nil && *m.Status == "warming" }},
		{"the extension", func(m notify.Message) bool { return m.ExtendTimeout != nil && *m.ExtendTimeout == 3*time.Second }},
		{"the progress", func(m notify.Message) bool { return m.Progress != nil && *m.Progress == 0.5 }},
		{"ready", func(m notify.Message) bool { return m.Ready }},
		{"ready again", func(m notify.Message) bool { return m.Ready }},
		{"a heartbeat", func(m notify.Message) bool { return m.Watchdog && *m.InFlight == 2 }},
		{"a second heartbeat", func(m notify.Message) bool { return m.Watchdog }},
	} {
		await(t, words, step.what, step.right)
	}
	if len(posts) > 0 {
		t.Errorf("it posted %s", <-posts)
	}
}

func TestContractOverHTTP(t *testing.T) {
	posts, words := contractSeen(t, "--load 100ms --callbacks --notify --notify-progress --heartbeat-every 20ms --in-flight 2 --tokens 1000 --wedge-after 300ms")
	for _, want := range []string{
		`progress {"attempt":2,"value":0.5}`, `progress {"attempt":2,"value":1}`, `ready {"attempt":2}`,
		`heartbeat {"attempt":2,"in_flight":2,"tokens_total":0}`,
		`heartbeat {"attempt":2,"in_flight":0,"tokens_total":`, // it drains
		`heartbeat {"attempt":2,"in_flight":1,"tokens_total":`, // and is wedged
	} {
		await(t, posts, want, func(p string) bool { return strings.HasPrefix(p, want) })
	}
	await(t, words, "progress by notify", func(m notify.Message) bool { return m.Progress != nil })
	await(t, words, "ready by notify", func(m notify.Message) bool { return m.Ready })
}
