package http

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/messages"
)

// listAge bounds how old the cached list may be: heartbeat ages move by themselves.
const listAge = 250 * time.Millisecond

// listCache holds the encoded list of all workers, plain and compressed, since
// routers ask for it many times between two changes.
type listCache struct {
	mu      sync.Mutex // guards the rest
	version uint64
	at      time.Time
	plain   []byte
	zipped  []byte
	etag    string
}

func (l *listCache) get(s Service) (plain, zipped []byte, etag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := s.Version()
	if l.plain != nil && v == l.version && time.Since(l.at) < listAge {
		return l.plain, l.zipped, l.etag
	}
	b, err := json.Marshal(map[string]any{"workers": aged(s.Workers())})
	if err != nil {
		panic(err)
	}
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	_, _ = w.Write(b)
	_ = w.Close()
	l.version, l.at, l.plain, l.zipped = v, time.Now(), b, z.Bytes()
	l.etag = fmt.Sprintf(`"%d"`, v)
	return l.plain, l.zipped, l.etag
}

// aged is the list as of now.
func aged(list []*messages.WorkerStatus) []*messages.WorkerStatus {
	now := time.Now()
	out := make([]*messages.WorkerStatus, len(list))
	for i, w := range list {
		out[i] = w.Now(now)
	}
	return out
}

func (s *Server) listWorkers(c *fasthttp.RequestCtx) {
	q := c.QueryArgs()
	state, pool, label := string(q.Peek("state")), string(q.Peek("pool")), string(q.Peek("label"))
	if state == "" && pool == "" && label == "" {
		plain, zipped, etag := s.list.get(s.opt.Service)
		c.SetContentType("application/json")
		c.Response.Header.Set("ETag", etag)
		c.Response.Header.Set("Vary", "Accept-Encoding")
		switch {
		case string(c.Request.Header.Peek("If-None-Match")) == etag:
			c.SetStatusCode(304)
		case c.Request.Header.HasAcceptEncoding("gzip"):
			c.Response.Header.Set("Content-Encoding", "gzip")
			c.Response.SetBodyRaw(zipped)
		default:
			c.Response.SetBodyRaw(plain)
		}
		return
	}
	var want messages.State
	if state != "" {
		var err error
		if want, err = messages.ParseState(state); err != nil {
			bad(c, "%v; the states are %s", err, stateNames())
			return
		}
	}
	key, value, hasValue := strings.Cut(label, "=")
	out := []*messages.WorkerStatus{}
	for _, w := range s.opt.Service.Workers() {
		v, ok := w.Labels[key]
		if state != "" && w.State != want || pool != "" && string(w.Pool) != pool || label != "" && (!ok || hasValue && v != value) {
			continue
		}
		out = append(out, w)
	}
	answer(c, 200, map[string]any{"workers": aged(out)})
}

func stateNames() string {
	var names []string
	for _, s := range messages.States() {
		names = append(names, s.String())
	}
	return strings.Join(names, ", ")
}

func name(c *fasthttp.RequestCtx) messages.WorkerID {
	n, _ := c.UserValue("name").(string)
	return messages.WorkerID(n)
}

func (s *Server) getWorker(c *fasthttp.RequestCtx) {
	id := name(c)
	w, ok := s.opt.Service.Worker(id)
	if !ok {
		refuse(c, fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker))
		return
	}
	answer(c, 200, w.Now(time.Now()))
}

// body is the request's body if it is text; nil after it has answered.
func body(c *fasthttp.RequestCtx) []byte {
	b := c.PostBody()
	if !utf8.Valid(b) {
		problem(c, fault{400, "bad_encoding", "bad encoding"}, "the body is not valid UTF-8", nil)
		return nil
	}
	if b == nil {
		b = []byte{}
	}
	return b
}

// read decodes a JSON body strictly into v; an empty body leaves v as it is.
func read(c *fasthttp.RequestCtx, v any) bool {
	b := body(c)
	if b == nil {
		return false
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return true
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more than one JSON value")
		}
	}
	if err != nil {
		bad(c, "the body is not what this route takes: %s", strings.TrimPrefix(err.Error(), "json: "))
		return false
	}
	return true
}

func (s *Server) createWorker(c *fasthttp.RequestCtx) {
	b := body(c)
	if b == nil {
		return
	}
	specs, err := s.opt.Service.ParseWorker(b)
	if err != nil {
		refuse(c, err)
		return
	}
	for _, sp := range specs {
		if _, ok := s.opt.Service.Worker(sp.Name); ok {
			refuse(c, fmt.Errorf("worker %s: %w", sp.Name, messages.ErrExists))
			return
		}
	}
	var made []*messages.WorkerStatus
	for _, sp := range specs {
		w, err := s.opt.Service.Create(c, sp)
		if err != nil {
			for _, m := range made { // all or none
				_, _ = s.opt.Service.Remove(c, m.Name)
			}
			refuse(c, err)
			return
		}
		made = append(made, w)
	}
	switch wait := string(c.QueryArgs().Peek("wait")); wait {
	case "":
	case "ready":
		c.Response.Header.Set("Location", "/v1/workers/"+string(made[0].Name))
		s.untilReady(c, made)
		return
	case "no":
		for i, m := range made {
			w, why := s.startsNow(c, m)
			if why == "" {
				made[i] = w
				continue
			}
			for _, m := range made { // all or none
				_, _ = s.opt.Service.Remove(c, m.Name)
			}
			s.noRoom(c, "worker "+string(m.Name)+" was not created: "+why)
			return
		}
	}
	c.Response.Header.Set("Location", "/v1/workers/"+string(made[0].Name))
	if len(made) == 1 {
		answer(c, 201, made[0])
		return
	}
	answer(c, 201, map[string]any{"workers": made})
}

// decideWithin bounds how long a request that does not want to wait waits for the
// pool's first decision, which takes microseconds.
const decideWithin = 2 * time.Second

// startsNow waits for the pool's first decision on a new worker: why is what it
// would have to wait for, "" when it starts.
func (s *Server) startsNow(c context.Context, m *messages.WorkerStatus) (w *messages.WorkerStatus, why string) {
	ctx, cancel := context.WithTimeout(c, decideWithin)
	defer cancel()
	w, err := s.opt.Service.WaitFor(ctx, m.Name, func(now *messages.WorkerStatus) bool {
		return now.State != messages.Pending || now.Held
	})
	switch {
	case err != nil:
		return m, "hive did not decide in time"
	case w.State == messages.Pending:
		return w, w.Reason
	}
	return w, ""
}

// retryAfter is a guess at when there may be room: a pool looks again each second,
// and a drain takes half a minute.
const retryAfter = "10"

func (s *Server) noRoom(c *fasthttp.RequestCtx, why string) {
	c.Response.Header.Set("Retry-After", retryAfter)
	problem(c, fault{503, "no_room", "no room now"}, why, nil)
}

// untilReady streams a status line for each change until all are ready or have given up.
func (s *Server) untilReady(c *fasthttp.RequestCtx, made []*messages.WorkerStatus) {
	c.SetStatusCode(201)
	c.SetContentType("application/x-ndjson")
	s.stream(c, func(ctx context.Context, w *bufio.Writer) {
		for _, m := range made {
			var last *messages.WorkerStatus
			for {
				st, err := s.opt.Service.WaitFor(ctx, m.Name, func(now *messages.WorkerStatus) bool { return now != last })
				if err != nil {
					return
				}
				last = st
				line, _ := json.Marshal(st.Now(time.Now()))
				_, _ = w.Write(append(line, '\n'))
				if w.Flush() != nil {
					return
				}
				if st.State.Ready() || st.State.Settled() && (st.State != messages.Failed || st.Restarts.NextAt == nil && st.LastExit != nil) {
					break
				}
			}
		}
	})
}

func (s *Server) patchWorker(c *fasthttp.RequestCtx) {
	b := body(c)
	if b == nil {
		return
	}
	spec, err := s.opt.Service.PatchWorker(name(c), b)
	if err != nil {
		refuse(c, err)
		return
	}
	w, err := s.opt.Service.Change(c, spec)
	if err != nil {
		refuse(c, err)
		return
	}
	answer(c, 200, w)
}

func (s *Server) deleteWorker(c *fasthttp.RequestCtx) {
	w, err := s.opt.Service.Remove(c, name(c))
	if err != nil {
		refuse(c, err)
		return
	}
	answer(c, 202, w)
}

func (s *Server) verb(v messages.Verb) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		var in struct {
			Drain *messages.Duration `json:"drain"`
			Grace *messages.Duration `json:"grace"`
		}
		if !read(c, &in) {
			return
		}
		m := messages.DoWorker{Worker: name(c), Verb: v}
		for key, p := range map[string]**messages.Duration{"drain": &in.Drain, "grace": &in.Grace} {
			if q := c.QueryArgs().Peek(key); len(q) > 0 {
				var d messages.Duration
				if err := d.UnmarshalText(q); err != nil {
					bad(c, "%s: %v", key, err)
					return
				}
				*p = &d
			}
		}
		if in.Drain != nil {
			d := in.Drain.D()
			m.Drain = &d
		}
		if in.Grace != nil {
			d := in.Grace.D()
			m.Grace = &d
		}
		w, err := s.opt.Service.Do(c, m)
		if err != nil {
			refuse(c, err)
			return
		}
		if v == messages.VerbStart && string(c.QueryArgs().Peek("wait")) == "no" {
			now, why := s.startsNow(c, w)
			if why != "" {
				_, _ = s.opt.Service.Do(c, messages.DoWorker{Worker: m.Worker, Verb: messages.VerbStop})
				s.noRoom(c, "worker "+string(m.Worker)+" was not started: "+why)
				return
			}
			w = now
		}
		answer(c, 202, w)
	}
}

// told is the body of any callback.
type told struct {
	Attempt messages.Attempt `json:"attempt"`
	messages.Stats
	Stage  string   `json:"stage"`
	Value  *float64 `json:"value"`
	Extend *float64 `json:"extend_seconds"` // progress: give the load this much more
	State  string   `json:"state"`
}

func (s *Server) callback(k messages.CallbackKind) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		var in told
		if !read(c, &in) {
			return
		}
		m := messages.Callback{Worker: name(c), Attempt: in.Attempt, Kind: k, Stats: &in.Stats}
		if why := in.wrong(k); why != "" {
			bad(c, "%s", why)
			return
		}
		switch k {
		case messages.CallbackProgress:
			m.Progress = &messages.Progress{Stage: in.Stage, Source: "native"}
			if in.Value != nil {
				m.Progress.Value = *in.Value
			}
			if in.Extend != nil {
				m.Extend = time.Duration(*in.Extend * float64(time.Second))
			}
			if in.Value == nil {
				m.Kind, m.Progress = messages.CallbackExtend, nil
			}
		case messages.CallbackState:
			st, err := messages.ParseState(in.State)
			if err != nil {
				bad(c, "%v; a worker tells idle, busy or draining", err)
				return
			}
			m.State = st
		default:
		}
		w, err := s.opt.Service.Callback(c, m, bearer(c))
		if err != nil {
			refuse(c, err)
			return
		}
		answer(c, 200, heard{State: w.State, Drain: w.State == messages.Draining || w.State == messages.Stopping, StopBy: w.StopBy})
	}
}

// heard is the answer to a callback: keepalive goes both ways.
type heard struct {
	State  messages.State `json:"state"`
	Drain  bool           `json:"drain"`
	StopBy *time.Time     `json:"stop_by"`
}

// mostExtend bounds extend_seconds: a week.
const mostExtend = 7 * 24 * 3600

// wrong says what is wrong with a callback's figures, "" when nothing is.
func (t *told) wrong(k messages.CallbackKind) string {
	if t.Attempt == 0 {
		return "the body lacks attempt; send the number in HIVE_ATTEMPT"
	}
	for key, n := range map[string]*int{"in_flight": t.InFlight, "queue_depth": t.QueueDepth} {
		if n != nil && *n < 0 {
			return fmt.Sprintf("%s is %d; it is 0 or more", key, *n)
		}
	}
	for key, v := range map[string]*float64{"tokens_total": t.TokensTotal, "tokens_per_second": t.TokensPerSecond, "latency_ms_p50": t.LatencyP50,
		"latency_ms_p99": t.LatencyP99, "requests_total": t.Requests, "request_seconds_total": t.RequestSeconds} {
		if v != nil && *v < 0 {
			return fmt.Sprintf("%s is %g; it is 0 or more", key, *v)
		}
	}
	for key, v := range map[string]*float64{"kv_cache_used": t.KVCacheUsed, "gpu_utilization": t.GPUUtilization, "value": t.Value} {
		if v != nil && (*v < 0 || *v > 1) {
			return fmt.Sprintf("%s is %g; it is a number from 0 to 1", key, *v)
		}
	}
	switch {
	case t.Extend != nil && (*t.Extend < 0 || *t.Extend > mostExtend):
		return fmt.Sprintf("extend_seconds is %g; it is a number from 0 to %d", *t.Extend, mostExtend)
	case k == messages.CallbackProgress && t.Value == nil && t.Extend == nil:
		return "value must be a number from 0 to 1"
	case k == messages.CallbackState && t.State == "":
		return "the body lacks state; send idle, busy or draining"
	}
	return ""
}

// number reads a query parameter; ok is false after it has answered.
func number(c *fasthttp.RequestCtx, key string, otherwise, most uint64) (uint64, bool) {
	q := string(c.QueryArgs().Peek(key))
	if q == "" {
		return otherwise, true
	}
	n, err := strconv.ParseUint(q, 10, 64)
	if err != nil || n > most {
		bad(c, "%s=%q is not a whole number from 0 to %d", key, q, most)
		return 0, false
	}
	return n, true
}
