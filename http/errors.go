package http

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/messages"
)

// ErrUnauthorized is a callback whose token is not the current attempt's.
var ErrUnauthorized = errors.New("the token is not the one of the worker's current attempt")

// fault is an HTTP status with its stable code and title.
type fault struct {
	status int
	code   string
	title  string
}

// faults is the one place where an error becomes a status and a code.
var faults = []struct {
	err error
	fault
}{
	{messages.ErrUnknownWorker, fault{404, "unknown_worker", "no such worker"}},
	{messages.ErrUnknownPool, fault{404, "unknown_pool", "no such pool"}},
	{messages.ErrExists, fault{409, "exists", "worker exists"}},
	{messages.ErrIllegal, fault{409, "illegal_transition", "illegal transition"}},
	{messages.ErrStaleAttempt, fault{409, "stale_attempt", "stale attempt"}},
	{messages.ErrShuttingDown, fault{503, "shutting_down", "shutting down"}},
	{messages.ErrBusy, fault{503, "busy", "hive is busy"}},
	{ErrUnauthorized, fault{401, "unauthorized", "unauthorized"}},
}

func refuse(c *fasthttp.RequestCtx, err error) {
	var ps messages.Problems
	if errors.As(err, &ps) {
		problem(c, fault{422, "invalid", "invalid"}, ps.Error(), ps)
		return
	}
	for _, f := range faults {
		if errors.Is(err, f.err) {
			if f.status == 503 {
				c.Response.Header.Set("Retry-After", "1")
			}
			problem(c, f.fault, err.Error(), nil)
			return
		}
	}
	problem(c, fault{409, "refused", "refused"}, err.Error(), nil)
}

func bad(c *fasthttp.RequestCtx, format string, args ...any) {
	problem(c, fault{400, "bad_request", "bad request"}, fmt.Sprintf(format, args...), nil)
}

// problem answers with application/problem+json (RFC 9457).
func problem(c *fasthttp.RequestCtx, f fault, detail string, errs messages.Problems) {
	if errs == nil {
		errs = messages.Problems{}
	}
	id := string(c.Response.Header.Peek("X-Request-Id"))
	c.Response.ResetBody()
	answer(c, f.status, struct {
		Type      string            `json:"type"`
		Title     string            `json:"title"`
		Status    int               `json:"status"`
		Code      string            `json:"code"`
		Detail    string            `json:"detail"`
		RequestID string            `json:"request_id"`
		Errors    messages.Problems `json:"errors"`
	}{"about:blank#" + f.code, f.title, f.status, f.code, detail, id, errs})
	c.SetContentType("application/problem+json")
}

func answer(c *fasthttp.RequestCtx, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types
	}
	c.SetStatusCode(status)
	c.SetContentType("application/json")
	c.SetBody(append(b, '\n'))
}

func text(c *fasthttp.RequestCtx, s string) {
	c.SetContentType("text/plain; charset=utf-8")
	c.SetBodyString(s)
}
