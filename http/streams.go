package http

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/journal"
	"github.com/rbee-hive/hive/messages"
)

// A stream that has nothing to say says so this often, so that proxies keep it
// and a reader that went away is noticed.
const keepalive = 15 * time.Second

// slowReader cuts a reader that takes nothing for this long.
const slowReader = 30 * time.Second

func (s *Server) logs(c *fasthttp.RequestCtx) {
	id := name(c)
	if _, ok := s.opt.Service.Worker(id); !ok {
		refuse(c, fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker))
		return
	}
	tail, ok := number(c, "tail", 100, 100000)
	if !ok {
		return
	}
	attempt, ok := number(c, "attempt", 0, math.MaxUint32)
	if !ok {
		return
	}
	if kept, err := s.opt.Logs.Attempts(id); attempt != 0 && err == nil && !slices.Contains(kept, messages.Attempt(attempt)) {
		problem(c, fault{404, "unknown_attempt", "no such attempt"}, fmt.Sprintf("worker %s has no log of attempt %d; it has those of %v", id, attempt, kept), nil)
		return
	}
	c.SetContentType("text/plain; charset=utf-8")
	if !c.QueryArgs().GetBool("follow") {
		lines, err := s.opt.Logs.Tail(id, messages.Attempt(attempt), int(tail))
		if err != nil {
			refuse(c, err)
			return
		}
		for _, l := range lines {
			c.Response.AppendBodyString(l + "\n")
		}
		return
	}
	conn := c.Conn()
	s.stream(c, func(ctx context.Context, w *bufio.Writer) {
		_ = s.opt.Logs.Follow(ctx, id, messages.Attempt(attempt), int(tail), func(b []byte) error {
			_ = conn.SetWriteDeadline(time.Now().Add(slowReader))
			if _, err := w.Write(b); err != nil {
				return err
			}
			return w.Flush()
		})
	})
}

// events streams the journal as Server-Sent Events. With ?since= or
// Last-Event-ID it begins after that event, else with what happens from now on.
func (s *Server) events(c *fasthttp.RequestCtx) {
	last := s.opt.Journal.Last()
	since, ok := number(c, "since", last, math.MaxUint64)
	if !ok {
		return
	}
	if id := string(c.Request.Header.Peek("Last-Event-ID")); id != "" {
		if _, err := fmt.Sscanf(id, "%d", &since); err != nil {
			bad(c, "Last-Event-ID %q is not an event's number", id)
			return
		}
	}
	since = min(since, last)
	only := messages.WorkerID(c.QueryArgs().Peek("worker"))
	c.SetContentType("text/event-stream")
	c.Response.Header.Set("Cache-Control", "no-store")
	c.Response.Header.Set("X-Hive-Last-Event", fmt.Sprint(last))
	conn := c.Conn()
	s.stream(c, func(ctx context.Context, w *bufio.Writer) {
		flush := func() error {
			_ = conn.SetWriteDeadline(time.Now().Add(slowReader))
			return w.Flush()
		}
		r := s.opt.Journal.Subscribe(since)
		for {
			wait, cancel := context.WithTimeout(ctx, keepalive)
			e, err := r.Next(wait)
			cancel()
			switch {
			case errors.Is(err, journal.ErrTooSlow):
				// The first events asked for are no longer kept, or the reader was cut.
				_, _ = fmt.Fprintf(w, "event: gap\ndata: {\"detail\":%q}\n\n", "events before this one are no longer kept; read the state anew")
				if flush() != nil || since == math.MaxUint64 {
					return
				}
				since = math.MaxUint64 // once: afterwards a slow reader is cut
				r = s.opt.Journal.Subscribe(s.opt.Journal.Last())
				continue
			case err != nil && ctx.Err() != nil:
				return // everything up to the end has been told
			case err != nil:
				_, _ = w.WriteString(": keepalive\n\n")
				if flush() != nil {
					return
				}
				continue
			}
			if only == "" || e.Worker == only {
				b, _ := json.Marshal(e)
				_ = conn.SetWriteDeadline(time.Now().Add(slowReader)) // a full buffer writes by itself
				if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Type, b); err != nil {
					return
				}
			}
			if w.Buffered() > 0 && !r.More() && flush() != nil { // a burst goes out together
				return
			}
		}
	})
}

func (s *Server) cordon(on bool) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		var in struct {
			Reason string `json:"reason"`
		}
		if !read(c, &in) {
			return
		}
		if in.Reason == "" && on {
			in.Reason = "by request"
		}
		pool := messages.PoolID(name(c))
		if err := s.opt.Service.Cordon(c, pool, on, in.Reason); err != nil {
			refuse(c, err)
			return
		}
		for _, p := range s.opt.Service.Pools() {
			if p.Name == pool {
				answer(c, 202, p)
			}
		}
	}
}

func (s *Server) stateMachine(c *fasthttp.RequestCtx) {
	format := string(c.QueryArgs().Peek("format"))
	if format == "" {
		format = "json"
		if a := string(c.Request.Header.Peek("Accept")); strings.HasPrefix(a, "text/plain") {
			format = "text"
		}
	}
	b, err := s.opt.Service.StateMachine(format)
	if err != nil {
		bad(c, "%v", err)
		return
	}
	c.SetContentType("text/plain; charset=utf-8")
	if format == "json" {
		c.SetContentType("application/json")
	}
	c.SetBody(b)
}

func (s *Server) reload(c *fasthttp.RequestCtx) {
	plan, err := s.opt.Service.Reload(c, c.QueryArgs().GetBool("dry_run"))
	if err != nil {
		refuse(c, err)
		return
	}
	answer(c, 200, plan)
}

func (s *Server) shutdown(c *fasthttp.RequestCtx) {
	var in struct {
		Now bool `json:"now"`
	}
	if !read(c, &in) {
		return
	}
	s.opt.Service.Shutdown(in.Now || c.QueryArgs().GetBool("now"), "asked to end by the API")
	answer(c, 202, map[string]string{"status": "shutting down"})
}
