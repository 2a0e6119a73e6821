package worker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// callTimeout is for one callback; hive answers from memory.
	callTimeout = 5 * time.Second

	// maxAnswer is the most of an answer that is read, in bytes.
	maxAnswer = 64 << 10
)

// callbacks is the HTTP side of the contract.
type callbacks struct {
	base    string // up to the kind
	token   string
	attempt json.RawMessage
	client  *http.Client
	err     error // the environment is wrong; every call says so
}

// callbacksFromEnv is nil where hive gave no address. HIVE_URL alone is none: the
// hive command reads it too, so that it may be there in any shell.
func callbacksFromEnv() *callbacks {
	base, name, attempt := os.Getenv("HIVE_URL"), os.Getenv("HIVE_WORKER"), os.Getenv("HIVE_ATTEMPT")
	if base == "" || name == "" || attempt == "" {
		return nil
	}
	transport := &http.Transport{MaxIdleConns: 2, IdleConnTimeout: time.Minute} // no proxy: hive is on this host
	if socket, ok := strings.CutPrefix(base, "unix://"); ok {
		base = "http://hive"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	c := &callbacks{
		base:   strings.TrimSuffix(base, "/") + "/v1/workers/" + url.PathEscape(name) + "/",
		token:  os.Getenv("HIVE_TOKEN"),
		client: &http.Client{Transport: transport, Timeout: callTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	if n, err := strconv.ParseUint(attempt, 10, 64); err != nil {
		c.err = fmt.Errorf("HIVE_ATTEMPT=%q is no number", attempt)
	} else {
		c.attempt = strconv.AppendUint(nil, n, 10)
	}
	return c
}

// post sends body, an object, with the attempt in it.
func (c *callbacks) post(ctx context.Context, kind string, body any) (Answer, error) {
	a, err := c.exchange(ctx, kind, body)
	if err != nil {
		return Answer{}, fmt.Errorf("callback %s: %w", kind, err)
	}
	return a, nil
}

func (c *callbacks) exchange(ctx context.Context, kind string, body any) (a Answer, err error) {
	if c.err != nil {
		return a, c.err
	}
	b, err := c.withAttempt(body)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+kind, bytes.NewReader(b))
	if err != nil {
		return a, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return a, err
	}
	if resp.StatusCode >= 300 {
		var p struct{ Code, Title, Detail string }
		_ = json.Unmarshal(text, &p) // what is not hive's own says no more than its status
		return a, &RefusedError{Status: resp.StatusCode, Code: p.Code, Detail: cmp.Or(p.Detail, p.Title)}
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return a, nil
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return Answer{}, errors.Join(errors.New("hive's answer is not understood"), err)
	}
	return a, nil
}

func (c *callbacks) withAttempt(body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err // such as a figure that is NaN
	}
	head := append([]byte(`{"attempt":`), c.attempt...)
	if len(b) > len("{}") {
		head = append(head, ',')
	}
	return append(head, b[1:]...), nil
}
