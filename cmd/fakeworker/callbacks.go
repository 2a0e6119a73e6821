package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// heartbeatAnswer is what hive says to a heartbeat.
type heartbeatAnswer struct {
	Drain bool `json:"drain"`
}

// tellReady says that the worker is ready in every way asked for, and starts
// the heartbeats.
func (w *worker) tellReady() {
	if w.notify {
		notify("READY=1")
	}
	if !w.callbacks {
		return
	}
	if _, err := w.post("ready"); err != nil {
		fmt.Fprintf(os.Stderr, "callback ready: %v\n", err)
	}
	tick := time.NewTicker(w.heartbeatEvery)
	for {
		if w.muteAfter < 0 || time.Since(w.started) < w.muteAfter {
			w.beat()
		}
		select {
		case <-tick.C:
		case <-w.beatNow:
		}
	}
}

func (w *worker) beat() {
	answer, err := w.post("heartbeat")
	if err != nil {
		fmt.Fprintf(os.Stderr, "callback heartbeat: %v\n", err)
		return
	}
	if answer.Drain && !w.refuseDrain && w.inFlight.Swap(0) > 0 {
		fmt.Println("drained")
		w.beatSoon()
	}
}

// beatSoon asks for a heartbeat before its time.
func (w *worker) beatSoon() {
	select {
	case w.beatNow <- struct{}{}:
	default:
	}
}

// post sends one callback and returns hive's answer.
func (w *worker) post(kind string) (heartbeatAnswer, error) {
	var answer heartbeatAnswer
	body := fmt.Sprintf(`{"attempt":%s,"in_flight":%d}`, w.attempt, w.inFlight.Load())
	url := strings.TrimSuffix(os.Getenv("HIVE_URL"), "/") + "/v1/workers/" + os.Getenv("HIVE_WORKER") + "/" + kind
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewBufferString(body))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("HIVE_TOKEN"))
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Timeout: 5 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return answer, fmt.Errorf("hive answered %s", resp.Status)
	}
	_ = json.NewDecoder(resp.Body).Decode(&answer) // an empty answer is one too
	return answer, nil
}

// notify sends one word to the service manager's socket. Source: sd_notify(3).
func notify(word string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		fmt.Fprintf(os.Stderr, "notify: %v\n", err)
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(word)); err != nil {
		fmt.Fprintf(os.Stderr, "notify: %v\n", err)
	}
}
