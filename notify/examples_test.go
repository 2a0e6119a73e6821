package notify

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// example starts one of examples/ with env, in a process group that ends with
// the test.
func example(t *testing.T, tool, file string, env ...string) *exec.Cmd {
	t.Helper()
	if err := exec.Command(tool, "-v").Run(); err != nil {
		t.Skipf("needs %s", tool)
	}
	path, err := filepath.Abs(filepath.Join("..", "examples", file))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if out.Len() > 0 {
			t.Errorf("%s printed %s", file, out.String())
		}
	})
	return cmd
}

// until waits for the first datagram that right is true of.
func until(t *testing.T, got <-chan Datagram, what string, right func(Message) bool) {
	t.Helper()
	for range 10 {
		d := next(t, got)
		if d.Err != nil || d.Message.Unknown > 0 || d.PID == 0 {
			t.Errorf("%+v", d)
		}
		if right(d.Message) {
			return
		}
	}
	t.Fatalf("it never said %s", what)
}

func TestExamplesNotify(t *testing.T) {
	if testing.Short() {
		t.Skip("the examples load for a second")
	}
	for file, tool := range map[string]string{"notify.sh": "perl", "worker.py": "python3"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			s, got := served(t, filepath.Join(t.TempDir(), "n"))
			cmd := example(t, tool, file, "NOTIFY_SOCKET="+s.Path())
			until(t, got, "READY=1", func(m Message) bool { return m.Ready })
			until(t, got, "WATCHDOG=1", func(m Message) bool { return m.Watchdog })
			if file != "notify.sh" {
				return
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			until(t, got, "STOPPING=1", func(m Message) bool { return m.Stopping })
			if err := cmd.Wait(); err != nil {
				t.Errorf("its end: %v", err)
			}
		})
	}
}

func TestExampleHTTP(t *testing.T) {
	if testing.Short() {
		t.Skip("the example loads for a second")
	}
	kinds := make(chan string, 8)
	hive := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var body struct {
			Attempt  int
			InFlight *int `json:"in_flight"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Attempt != 7 || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s: %+v, %v", r.URL, body, err)
		}
		kinds <- r.URL.Path
		_, _ = rw.Write([]byte(`{"state":"draining","drain":true,"stop_by":null}`))
	}))
	defer hive.Close()
	cmd := example(t, "python3", "worker_http.py", "HIVE_URL="+hive.URL, "HIVE_WORKER=a", "HIVE_ATTEMPT=7", "HIVE_TOKEN=secret")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if a, b := <-kinds, <-kinds; a != "/v1/workers/a/ready" || b != "/v1/workers/a/heartbeat" {
		t.Errorf("it called %s and %s", a, b)
	}
}
