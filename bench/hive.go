package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// patience bounds every wait of the bench: far above any number it measures.
const patience = 60 * time.Second

// daemon is a hive under measurement, with a client on its socket.
type daemon struct {
	cmd     *exec.Cmd
	dir     string
	socket  string
	client  *http.Client
	started time.Time
	ended   chan struct{} // closed when the process has been waited for
	log     bytes.Buffer  // read only after ended
}

// launch starts "hive up" on a configuration with the given workers section and
// returns when its API answers.
func launch(s settings, workers string) (*daemon, error) {
	dir, err := os.MkdirTemp("", "hive-bench-")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`data_dir: %s/d
listen: %s
ports: 20000-20999
shutdown: {drain: 0s, grace: 2s}
defaults:
  port: none
  ready: {settle: 0s}
  restart: {policy: always, backoff: {initial: 0s}, max_restarts: 1000000, window: 1h}
  stop: {drain: 0s, grace: 2s}
%s`, dir, address, workers)
	file := filepath.Join(dir, "hive.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	d := &daemon{dir: dir, socket: filepath.Join(dir, "d", "hive.sock"), ended: make(chan struct{})}
	d.client = &http.Client{Transport: &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	}}}
	d.cmd = exec.Command(s.hive, "up", "-c", file)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.started = time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.hive, err)
	}
	go func() { _ = d.cmd.Wait(); close(d.ended) }()
	if err := d.until("the API answers", func() bool { return d.get("/readyz", nil) == nil }); err != nil {
		return nil, d.fail(err)
	}
	return d, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// get asks for path and decodes the answer into v, unless v is nil.
func (d *daemon) get(path string, v any) error {
	resp, err := d.client.Get("http://hive" + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	if v == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

func (d *daemon) workers() ([]messages.WorkerStatus, error) {
	var list struct {
		Workers []messages.WorkerStatus `json:"workers"`
	}
	err := d.get("/v1/workers", &list)
	return list.Workers, err
}

// allIdle waits until all n workers are idle and returns them.
func (d *daemon) allIdle(n int) ([]messages.WorkerStatus, error) {
	var list []messages.WorkerStatus
	err := d.until(fmt.Sprintf("%d workers are idle", n), func() bool {
		got, err := d.workers()
		if err != nil || len(got) != n {
			return false
		}
		for _, w := range got {
			if w.State != messages.Idle {
				return false
			}
		}
		list = got
		return true
	})
	return list, err
}

// until polls ok; the pause is long enough to leave the cores to hive.
func (d *daemon) until(what string, ok func() bool) error {
	deadline := time.Now().Add(patience)
	for !ok() {
		select {
		case <-d.ended:
			return fmt.Errorf("hive ended before %s: %s", what, d.cmd.ProcessState)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s", what, patience)
		}
	}
	return nil
}

// seen is an event with the time at which this client had read it.
type seen struct {
	messages.Event
	read time.Time
}

// events follows hive's event stream until hive ends or stop is called.
func (d *daemon) events() (stream <-chan seen, stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hive/v1/events", nil)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		cancel()
		return nil, nil, errors.New("GET /v1/events: " + resp.Status)
	}
	out := make(chan seen, 4096)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data:")
			if !ok {
				continue
			}
			now := time.Now()
			var e messages.Event
			if json.Unmarshal([]byte(data), &e) != nil {
				continue
			}
			select {
			case out <- seen{e, now}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, cancel, nil
}

// end asks hive to end in order and returns how long that took. Its files go
// with it.
func (d *daemon) end() (time.Duration, error) {
	t0 := time.Now()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		<-d.ended
		return 0, fmt.Errorf("hive did not end within %s of SIGTERM", patience)
	}
	took := time.Since(t0)
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		return took, fmt.Errorf("hive ended with code %d\n%s", code, tail(d.log.String()))
	}
	return took, os.RemoveAll(d.dir)
}

// fail ends hive and adds the last of its log to err.
func (d *daemon) fail(err error) error {
	_, _ = d.end()
	return fmt.Errorf("%w\n%s", err, tail(d.log.String()))
}

func tail(s string) string { return s[max(0, len(s)-2000):] }
