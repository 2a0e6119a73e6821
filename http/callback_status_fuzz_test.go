package http

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/messages"
)

// told1 is a hive with worker chat in its attempt 1; it takes callbacks alone.
type told1 struct {
	Service // nil: anything else asked of it is a panic
	t       *testing.T
}

func (s told1) Callback(_ context.Context, m messages.Callback, token string) (*messages.WorkerStatus, error) {
	switch {
	case m.Worker != "chat":
		return nil, fmt.Errorf("worker %s: %w", m.Worker, messages.ErrUnknownWorker)
	case token != "secret":
		return nil, ErrUnauthorized
	case m.Attempt != 1:
		return nil, fmt.Errorf("attempt %d: %w", m.Attempt, messages.ErrStaleAttempt)
	}
	if m.Extend < 0 || m.Progress != nil && (math.IsNaN(m.Progress.Value) || m.Progress.Value < 0 || m.Progress.Value > 1) {
		s.t.Errorf("passed on: %+v", m)
	}
	return &messages.WorkerStatus{Name: "chat", State: messages.Idle}, nil
}

// FuzzCallbackAnswer posts any body to any callback, through the whole server:
// nothing panics, and what is answered is one of the answers that the
// documentation names, in its form.
func FuzzCallbackAnswer(f *testing.F) {
	for _, s := range []string{`{"attempt":1,"in_flight":3}`, `{"attempt":1,"value":0.5,"stage":"x"}`, `{"attempt":1,"value":1e999}`, `{"attempt":-1}`,
		`{"attempt":1,"extend_seconds":604800}`, `{"attempt":2}`, `{"attempt":1}{}`, `{"attempt":1,"unknown":1}`, `[]`, ``, " ", "null", "\xff", `{"attempt":1,"state":"busy"}`} {
		for kind := range uint8(4) {
			f.Add(kind, "chat", "secret", []byte(s))
		}
	}
	f.Add(uint8(1), "nobody", "secret", []byte(`{"attempt":1}`))
	f.Add(uint8(1), "chat", "wrong", []byte(`{"attempt":1}`))
	f.Add(uint8(0), "%2e%2e", "", []byte(`{}`))
	kinds := []messages.CallbackKind{messages.CallbackReady, messages.CallbackHeartbeat, messages.CallbackProgress, messages.CallbackState}
	f.Fuzz(func(t *testing.T, kind uint8, name, token string, body []byte) {
		s := New(Options{Service: told1{t: t}, Token: "of the API"})
		defer s.end()
		var c fasthttp.RequestCtx
		c.Init(&fasthttp.Request{}, nil, nil)
		k := kinds[int(kind)%len(kinds)]
		c.Request.Header.SetMethod(fasthttp.MethodPost)
		c.Request.SetRequestURI("/v1/workers/chat/" + string(k))
		if name != "chat" && messages.ValidName(name) && !messages.ReservedName(name) {
			c.Request.SetRequestURI("/v1/workers/" + name + "/" + string(k))
		}
		c.Request.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+token)
		c.Request.SetBodyRaw(body)
		s.fast.Handler(&c)
		code := c.Response.StatusCode()
		switch code {
		case 200:
			var in struct {
				Attempt messages.Attempt `json:"attempt"`
			}
			var out heard
			if err := json.Unmarshal(c.Response.Body(), &out); err != nil || json.Unmarshal(body, &in) != nil || in.Attempt != 1 {
				t.Errorf("%q was taken, and answered %q", body, c.Response.Body())
			}
		case 400, 401, 404, 409, 413:
			var p struct {
				Status int    `json:"status"`
				Code   string `json:"code"`
				Detail string `json:"detail"`
			}
			if err := json.Unmarshal(c.Response.Body(), &p); err != nil || p.Status != code || p.Code == "" || p.Detail == "" {
				t.Errorf("%d is answered with %q", code, c.Response.Body())
			}
		default:
			t.Errorf("%s %q of %q: %d, %s", k, body, name, code, c.Response.Body())
		}
	})
}
