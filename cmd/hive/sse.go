package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// maxEventLine bounds a line of the event stream; an event carries at most a
// reason and a few ids.
const maxEventLine = 1 << 20

// lastEventHeader tells the number of the newest event at the time the stream
// was opened, so that a reader knows when it has caught up.
const lastEventHeader = "X-Hive-Last-Event"

// decodeError is an event that is none.
type decodeError struct{ err error }

func (e *decodeError) Error() string {
	return fmt.Sprintf("an event cannot be read; is a hive of another version there? %v", e.err)
}

func (e *decodeError) Unwrap() error { return e.err }

// errStop ends a stream from inside its callback without being an error.
var errStop = errors.New("stop reading")

// readSSE reads Server-Sent Events from r and hands each one's data to each.
// It returns nil at the end of the stream, or what each returned.
// Source: HTML standard, "Interpreting an event stream".
func readSSE(r io.Reader, each func(data string) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxEventLine)
	var data []string
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if line == "" {
			if len(data) > 0 {
				if err := each(strings.Join(data, "\n")); err != nil {
					return err
				}
			}
			data = data[:0]
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		if field == "data" {
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	return lines.Err()
}

// eventStream is an open stream of hive's events.
type eventStream struct {
	body io.ReadCloser
	// Last is the number of the newest event when the stream was opened; known
	// is false when hive did not say.
	last  uint64
	known bool
}

// openEvents opens the event stream. With since nil it begins with what happens
// from now on. The caller closes it.
func (c *client) openEvents(ctx context.Context, since *uint64, worker string) (*eventStream, error) {
	query := url.Values{}
	if since != nil {
		query.Set("since", strconv.FormatUint(*since, 10))
	}
	if worker != "" {
		query.Set("worker", worker)
	}
	resp, err := c.stream(ctx, http.MethodGet, "/v1/events", query, nil)
	if err != nil {
		return nil, err
	}
	last, err := strconv.ParseUint(resp.Header.Get(lastEventHeader), 10, 64)
	return &eventStream{body: resp.Body, last: last, known: err == nil}, nil
}

// Close ends the stream.
func (s *eventStream) Close() error { return s.body.Close() }

// Each hands over every event with its JSON until the stream ends (nil), each
// returns an error (that one; errStop becomes nil), or reading fails.
func (s *eventStream) Each(each func(e messages.Event, raw string) error) error {
	err := readSSE(s.body, func(data string) error {
		var e messages.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return &decodeError{err}
		}
		return each(e, data)
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}
