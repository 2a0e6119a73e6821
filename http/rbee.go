package http

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/messages"
)

// The routes of rbee-hive, the worker manager that hive replaces, for its
// orchestrator and its workers, which need no change. Field names, forms and
// codes are those of its source as of 2025-10.
// Source: veighnsche/llama-orch, bin/rbee-hive/src/http/workers.rs, registry.rs
// and health.rs; bin/llm-worker-rbee/src/heartbeat.rs.

// engineRbee is the engine of workers that speak those routes.
const engineRbee = "rbee"

// The labels under which such a worker keeps what it was asked for.
const (
	labelModelRef = "rbee.model-ref"
	labelBackend  = "rbee.backend"
	labelDevice   = "rbee.device"
)

// rbee-hive takes a model reference as provider:reference, and both of its
// identifiers as letters, digits, dashes and underscores.
var (
	modelRefRE   = regexp.MustCompile(`^[A-Za-z0-9_-]+:[A-Za-z0-9._/:@+-]{1,512}$`)
	identifierRE = regexp.MustCompile(`^[A-Za-z0-9_-]{1,256}$`)
)

func (s *Server) rbeeHealth(c *fasthttp.RequestCtx) {
	answer(c, 200, map[string]string{"status": "alive", "version": s.opt.Version, "api_version": "v1"})
}

// rbeeSpawn makes a worker of engine rbee. Fields that hive does not know are
// passed over, as the old manager did.
func (s *Server) rbeeSpawn(c *fasthttp.RequestCtx) {
	var in struct {
		ModelRef  string `json:"model_ref"`
		Backend   string `json:"backend"`
		Device    *int   `json:"device"`
		ModelPath string `json:"model_path"`
	}
	if !lenient(c, &in) {
		return
	}
	conf := s.opt.Service.Rbee()
	switch {
	case !modelRefRE.MatchString(in.ModelRef):
		bad(c, "Invalid model_ref: %q is not of the form provider:reference, such as hf:org/model", in.ModelRef)
		return
	case in.Backend != "cpu" && in.Backend != "cuda":
		bad(c, "Invalid backend: %q is not known on this host; it is cpu or cuda", in.Backend)
		return
	case in.Device == nil || *in.Device < 0:
		bad(c, "Invalid device: send its number, from 0 on")
		return
	case in.ModelPath == "":
		bad(c, "Invalid model_path: it is empty; send the path of the model's file")
		return
	case len(conf.WorkerCommand) == 0:
		problem(c, fault{503, "rbee_not_configured", "not configured"}, "this hive does not know how to start rbee workers; set rbee.worker_command", nil)
		return
	case conf.CallbackURL == "":
		problem(c, fault{503, "rbee_not_configured", "not configured"}, "rbee workers call back by TCP, and this hive listens on its socket alone; set listen", nil)
		return
	}
	info, err := os.Stat(in.ModelPath)
	if err != nil {
		bad(c, "Invalid model_path: %s cannot be read; fetch the model first", in.ModelPath)
		return
	}
	if free, err := conf.MemoryFree(); err == nil && in.Backend == "cpu" && uint64(max(info.Size(), 0)) > free {
		noMemory(c, "Insufficient memory: the model has %s and this host %s free", messages.Size(info.Size()).About(), messages.Size(free).About())
		return
	}
	id := "worker-" + uuid()
	spec := map[string]any{"name": id, "engine": engineRbee, "model": in.ModelPath,
		"labels": map[string]string{labelModelRef: in.ModelRef, labelBackend: in.Backend, labelDevice: strconv.Itoa(*in.Device)},
		"command": append(append([]string{}, conf.WorkerCommand...), "--worker-id", id, "--model", in.ModelPath, "--model-ref", in.ModelRef,
			"--backend", in.Backend, "--device", strconv.Itoa(*in.Device), "--port", "${PORT}", "--callback-url", conf.CallbackURL)}
	if in.Backend == "cuda" {
		pool := "gpu-" + strconv.Itoa(*in.Device)
		if why := s.poolTakes(messages.PoolID(pool)); why != "" {
			noMemory(c, "Insufficient memory: %s", why)
			return
		}
		spec["gpu"] = map[string]any{"count": 1, "devices": []string{pool}}
	}
	b, err := json.Marshal(spec)
	if err != nil {
		panic(err) // our own types
	}
	specs, err := s.opt.Service.ParseWorker(b)
	if err != nil {
		refuse(c, err)
		return
	}
	if _, err := s.opt.Service.Create(c, specs[0]); err != nil {
		refuse(c, err)
		return
	}
	// The old manager knows the port at once: wait for the lease, which comes with
	// the pool's first decision.
	ctx, cancel := context.WithTimeout(c, decideWithin)
	defer cancel()
	w, err := s.opt.Service.WaitFor(ctx, specs[0].Name, func(w *messages.WorkerStatus) bool {
		return w.State != messages.Pending && (w.URL != "" || w.State.Settled()) || w.Held
	})
	if err != nil || w.Held {
		why := "hive did not decide in time"
		if w != nil {
			why = w.Reason
		}
		_, _ = s.opt.Service.Remove(c, specs[0].Name)
		noMemory(c, "Insufficient memory: %s", why)
		return
	}
	if w.State.Settled() {
		problem(c, fault{500, "spawn_failed", "could not be started"}, "Failed to spawn worker: "+w.Reason, nil)
		return
	}
	answer(c, 200, map[string]string{"worker_id": id, "url": w.URL, "state": "loading"})
}

func noMemory(c *fasthttp.RequestCtx, format string, args ...any) {
	problem(c, fault{507, "no_room", "no memory for it"}, fmt.Sprintf(format, args...), nil)
}

// poolTakes says why a pool takes no worker, "" when it does.
func (s *Server) poolTakes(id messages.PoolID) string {
	for _, p := range s.opt.Service.Pools() {
		if p.Name != id {
			continue
		}
		if p.Cordoned {
			return fmt.Sprintf("pool %s is cordoned: %s", id, p.Reason)
		}
		return ""
	}
	return fmt.Sprintf("this host has no pool %s", id)
}

// rbeeReady takes a worker's word that it is ready, once or again, and passes it
// on to the orchestrator.
func (s *Server) rbeeReady(c *fasthttp.RequestCtx) {
	var in struct {
		WorkerID string `json:"worker_id"`
		URL      string `json:"url"`
		ModelRef string `json:"model_ref"`
		Backend  string `json:"backend"`
		Device   int    `json:"device"`
	}
	if !lenient(c, &in) {
		return
	}
	w, ok := s.rbeeWorker(c, in.WorkerID)
	if !ok {
		return
	}
	if !w.State.Ready() {
		m := messages.Callback{Worker: w.Name, Attempt: w.Attempt, Kind: messages.CallbackReady}
		if _, err := s.opt.Service.Vouched(c, m); err != nil {
			refuse(c, err)
			return
		}
	}
	if queen := s.opt.Service.Rbee().QueenCallbackURL; queen != "" {
		go s.tellQueen(queenURL(queen), map[string]any{"worker_id": in.WorkerID, "url": w.URL, "model_ref": w.Labels[labelModelRef],
			"backend": w.Labels[labelBackend], "state": "idle"})
	}
	answer(c, 200, map[string]string{"message": "Worker registered as ready"})
}

// queenURL is where the orchestrator hears of a ready worker: the URL as it is
// configured, with the old manager's own path when it has none.
func queenURL(base string) string {
	if u, err := url.Parse(base); err == nil && strings.Trim(u.Path, "/") == "" {
		u.Path = "/v2/workers/ready"
		return u.String()
	}
	return base
}

// The orchestrator is told three times at most; a worker is ready without it.
const (
	queenTries   = 3
	queenTimeout = 5 * time.Second
)

func (s *Server) tellQueen(to string, what map[string]any) {
	b, err := json.Marshal(what)
	if err != nil {
		panic(err) // our own types
	}
	pause := 500 * time.Millisecond
	for try := 1; ; try++ {
		req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		req.SetRequestURI(to)
		req.Header.SetMethod(fasthttp.MethodPost)
		req.Header.SetContentType("application/json")
		req.SetBody(b)
		err := fasthttp.DoTimeout(req, resp, queenTimeout)
		if err == nil && resp.StatusCode() >= 300 {
			err = fmt.Errorf("it answered %d", resp.StatusCode())
		}
		fasthttp.ReleaseRequest(req)
		fasthttp.ReleaseResponse(resp)
		if err == nil {
			return
		}
		if try == queenTries {
			s.opt.Log.Warn("the orchestrator was not told of a ready worker", "worker", what["worker_id"], "url", to, "error", err)
			return
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(pause):
			pause *= 2
		}
	}
}

func (s *Server) rbeeHeartbeat(c *fasthttp.RequestCtx) {
	var in struct {
		WorkerID string `json:"worker_id"`
		Time     string `json:"timestamp"`
		Health   string `json:"health_status"`
	}
	if !lenient(c, &in) {
		return
	}
	if in.Health != "healthy" && in.Health != "degraded" {
		bad(c, "health_status is %q; it is healthy or degraded", in.Health)
		return
	}
	w, ok := s.rbeeWorker(c, in.WorkerID)
	if !ok {
		return
	}
	m := messages.Callback{Worker: w.Name, Attempt: w.Attempt, Kind: messages.CallbackHeartbeat}
	if _, err := s.opt.Service.Vouched(c, m); err != nil {
		refuse(c, err)
		return
	}
	if said := map[string]string{"degraded": "it says that it is degraded"}[in.Health]; said != w.Said {
		m.Kind, m.Text = messages.CallbackSaid, said
		_, _ = s.opt.Service.Vouched(c, m) // the heartbeat counts without it
	}
	answer(c, 200, map[string]string{"message": "Heartbeat received"})
}

// rbeeWorker finds a worker of engine rbee for one of its own callbacks. They
// carry no token, so they are taken only from this host.
func (s *Server) rbeeWorker(c *fasthttp.RequestCtx, id string) (*messages.WorkerStatus, bool) {
	if c.LocalAddr().Network() != "unix" && !c.RemoteIP().IsLoopback() {
		problem(c, fault{401, "unauthorized", "unauthorized"}, "rbee workers call back from the host they run on", nil)
		return nil, false
	}
	if !identifierRE.MatchString(id) {
		bad(c, "Invalid worker_id: %q", id)
		return nil, false
	}
	w, ok := s.opt.Service.Worker(messages.WorkerID(id))
	if !ok || w.Engine != engineRbee {
		refuse(c, fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker))
		return nil, false
	}
	return w, true
}

// stamp is a time as the old manager writes it: Rust's SystemTime by serde.
type stamp struct {
	Secs  int64 `json:"secs_since_epoch"`
	Nanos int   `json:"nanos_since_epoch"`
}

func stampOf(t time.Time) *stamp {
	if t.IsZero() {
		return nil
	}
	return &stamp{t.Unix(), t.Nanosecond()}
}

// rbeeList lists the workers of engine rbee that live or will again; the old
// manager drops the others from its list.
func (s *Server) rbeeList(c *fasthttp.RequestCtx) {
	type worker struct {
		ID             string `json:"id"`
		URL            string `json:"url"`
		ModelRef       string `json:"model_ref"`
		Backend        string `json:"backend"`
		Device         int    `json:"device"`
		State          string `json:"state"`
		LastActivity   *stamp `json:"last_activity"`
		SlotsTotal     int    `json:"slots_total"`
		SlotsAvailable int    `json:"slots_available"`
		FailedChecks   int    `json:"failed_health_checks"`
		PID            *int   `json:"pid"`
		RestartCount   int    `json:"restart_count"`
		LastRestart    *stamp `json:"last_restart"`
		LastHeartbeat  *stamp `json:"last_heartbeat"`
	}
	out := []worker{}
	now := time.Now()
	for _, w := range s.opt.Service.Workers() {
		if w.Engine != engineRbee {
			continue
		}
		w = w.Now(now)
		r := worker{ID: string(w.Name), URL: w.URL, ModelRef: w.Labels[labelModelRef], Backend: w.Labels[labelBackend],
			LastActivity: stampOf(w.Since), SlotsTotal: 1, RestartCount: w.Restarts.Total}
		r.Device, _ = strconv.Atoi(w.Labels[labelDevice])
		switch w.State {
		case messages.Pending, messages.Starting, messages.Loading, messages.Backoff:
			r.State = "loading"
		case messages.Idle:
			r.State, r.SlotsAvailable = "idle", 1
		case messages.Busy, messages.Draining, messages.Stopping:
			r.State = "busy"
		default:
			continue
		}
		if w.PID != 0 {
			pid := w.PID
			r.PID = &pid
		}
		if w.Heartbeat.Kind == messages.BeatNative {
			r.LastHeartbeat = stampOf(w.Heartbeat.At)
		}
		if w.Restarts.Total > 0 {
			r.LastRestart = stampOf(w.StartedAt)
		}
		out = append(out, r)
	}
	answer(c, 200, map[string]any{"workers": out})
}

// lenient decodes a JSON body; unknown fields are passed over.
func lenient(c *fasthttp.RequestCtx, v any) bool {
	b := body(c)
	if b == nil {
		return false
	}
	if err := json.Unmarshal(b, v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			bad(c, "%s is not what this route takes there", wrong.Field)
		} else {
			bad(c, "the body is not JSON: %v", err)
		}
		return false
	}
	return true
}

// uuid makes a random one. Source: RFC 9562, version 4.
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
