package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// maxAnswer bounds one answer that is not a stream. A thousand workers with
// their log tails are below 10 MB; more than this is not a hive.
const maxAnswer = 64 << 20

// client speaks the HTTP API, over the hive's unix socket or over TCP. It is
// safe for concurrent use.
type client struct {
	http  *http.Client
	base  string // "http://hive" over a socket
	where string // for errors: the socket's path or the URL
	token string
	note  string // added to the error when nothing answers
}

// newSocketClient talks to the hive listening on a unix socket.
func newSocketClient(path, token string) *client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
	}
	return &client{http: &http.Client{Transport: transport}, base: "http://hive", where: path, token: token}
}

// newURLClient talks to the hive at an http, https or unix URL; "host:port"
// means http.
func newURLClient(raw, token string) (*client, error) {
	if path, ok := strings.CutPrefix(raw, "unix://"); ok {
		return newSocketClient(path, token), nil
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("--url %q is no address of a hive; write http://host:7070, https://host:7070 or unix:///path/hive.sock", raw)
	}
	base := u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	return &client{http: &http.Client{Transport: transport}, base: base, where: base, token: token}, nil
}

// apiError is hive's refusal, as application/problem+json tells it.
type apiError struct {
	Title     string            `json:"title"`
	Status    int               `json:"status"`
	Code      string            `json:"code"`
	Detail    string            `json:"detail"`
	RequestID string            `json:"request_id"`
	Errors    messages.Problems `json:"errors"`

	foreign bool // the answer did not come from a hive
}

func (e *apiError) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	if text == "" {
		text = fmt.Sprintf("it answered with status %d and no reason", e.Status)
	}
	switch {
	case e.Status == http.StatusUnauthorized:
		text += "; give a token with --token or HIVE_TOKEN"
	case e.Status >= 500 && e.RequestID != "":
		text += fmt.Sprintf(" (request %s in hive's log)", e.RequestID)
	}
	return text
}

// unreachableError says that no hive answers at Where.
type unreachableError struct {
	where string
	note  string
	err   error
}

func (e *unreachableError) Error() string {
	note := ""
	if e.note != "" {
		note = " (" + e.note + ")"
	}
	switch {
	case errors.Is(e.err, fs.ErrPermission):
		return fmt.Sprintf("the socket %s belongs to another user; run as the user that runs hive, or use --url with --token", e.where)
	case errors.Is(e.err, context.DeadlineExceeded):
		return fmt.Sprintf("hive on %s does not answer in time; look at its log, or try again", e.where)
	case errors.Is(e.err, errBroken):
		return fmt.Sprintf("the connection to hive on %s broke off; see with \"hive ps\" whether it still runs", e.where)
	case strings.Contains(e.where, "://"):
		return fmt.Sprintf("no hive answers on %s; check the address, or leave --url and HIVE_URL out to use the local socket", e.where)
	}
	return fmt.Sprintf("no hive answers on %s%s; start one with \"hive up\", or name another with --data-dir or --url", e.where, note)
}

func (e *unreachableError) Unwrap() error { return e.err }

// errBroken marks a connection that was up and ended too early.
var errBroken = errors.New("connection broke off")

func (c *client) unreachable(err error) error {
	return &unreachableError{where: c.where, note: c.note, err: err}
}

// gone reports whether err says that nothing listens any more.
func gone(err error) bool {
	var u *unreachableError
	return errors.As(err, &u)
}

// stream sends a request and returns the open response of a 2xx answer; the
// caller closes its body. A refusal is an *apiError, silence an
// *unreachableError. body, when not nil, is sent as JSON.
func (c *client) stream(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write the request to %s: %w", path, err)
		}
		payload = bytes.NewReader(b)
	}
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, payload)
	if err != nil {
		return nil, usagef("%q is no usable address: %w", address, err)
	}
	req.Header.Set("User-Agent", "hive-cli/"+version)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		var op *net.OpError
		if !errors.Is(err, context.DeadlineExceeded) && (!errors.As(err, &op) || op.Op != "dial") {
			err = fmt.Errorf("%w: %w", errBroken, err)
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, decodeProblem(resp)
}

// decodeProblem turns an answer that is not 2xx into an *apiError, whatever
// its body is.
func decodeProblem(resp *http.Response) error {
	e := &apiError{}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err := json.Unmarshal(b, e); err != nil {
		e = &apiError{foreign: true, Title: fmt.Sprintf("the answer was %s and did not come from a hive; check the address", resp.Status)}
	}
	e.Status = resp.StatusCode
	if e.RequestID == "" {
		e.RequestID = resp.Header.Get("X-Request-Id")
	}
	return e
}

// call sends one request, decodes the answer into into (when not nil) and
// returns its bytes as hive wrote them.
func (c *client) call(ctx context.Context, method, path string, query url.Values, body, into any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.stream(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(fmt.Errorf("%w: %w", errBroken, err))
	}
	if into == nil || len(bytes.TrimSpace(b)) == 0 {
		return b, nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return b, fmt.Errorf("the answer of %s%s cannot be read; is a hive of another version there? %w", c.where, path, err)
	}
	return b, nil
}

// workers lists the workers a filter lets through; the bytes are hive's own.
func (c *client) workers(ctx context.Context, filter url.Values) ([]messages.WorkerStatus, []byte, error) {
	var list struct {
		Workers []messages.WorkerStatus `json:"workers"`
	}
	b, err := c.call(ctx, http.MethodGet, "/v1/workers", filter, nil, &list)
	return list.Workers, b, err
}

// worker asks for one worker.
func (c *client) worker(ctx context.Context, name string) (messages.WorkerStatus, []byte, error) {
	var s messages.WorkerStatus
	b, err := c.call(ctx, http.MethodGet, workerPath(name), nil, nil, &s)
	return s, b, err
}

// pools lists the pools.
func (c *client) pools(ctx context.Context) ([]messages.PoolStatus, []byte, error) {
	var list struct {
		Pools []messages.PoolStatus `json:"pools"`
	}
	b, err := c.call(ctx, http.MethodGet, "/v1/pools", nil, nil, &list)
	return list.Pools, b, err
}

func workerPath(name string) string { return "/v1/workers/" + url.PathEscape(name) }

// notFound reports whether hive does not know what was asked for.
func notFound(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == http.StatusNotFound && !e.foreign
}
