package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
)

// follower keeps every event of one start of the daemon.
type follower struct {
	ended chan struct{} // closed when the stream has
	mu    sync.Mutex    // guards all
	all   []messages.Event
}

// follow reads /v1/events from the first one until the daemon ends.
func follow(h *Hive) *follower {
	f := &follower{ended: make(chan struct{})}
	client := *h.client
	go func() {
		defer close(f.ended)
		_ = ReadEvents(context.Background(), &client, "http://hive/v1/events?since=0", nil, func(e messages.Event) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.all = append(f.all, e)
			return true
		})
	}()
	return f
}

// ReadEvents reads Server-Sent Events until the stream ends, ctx does, or each
// returns false.
func ReadEvents(ctx context.Context, client *http.Client, url string, header map[string]string, each func(messages.Event) bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		var e messages.Event
		if json.Unmarshal([]byte(strings.TrimSpace(data)), &e) != nil || e.Type == "" {
			continue // a word of the stream itself
		}
		if !each(e) {
			return nil
		}
	}
	return lines.Err()
}

// EventsAfter opens a stream of its own and returns the first n events of it;
// header may hold Last-Event-ID.
func (h *Hive) EventsAfter(query string, n int, header map[string]string) []messages.Event {
	ginkgo.GinkgoHelper()
	ctx, cancel := context.WithTimeout(context.Background(), stateWithin)
	defer cancel()
	var got []messages.Event
	err := ReadEvents(ctx, h.client, "http://hive/v1/events"+query, header, func(e messages.Event) bool {
		got = append(got, e)
		return len(got) < n
	})
	Expect(err).NotTo(HaveOccurred(), "%d of %d events came", len(got), n)
	Expect(got).To(HaveLen(n), "the stream ended early")
	return got
}

// Events are all events of this start of the daemon with a number above since.
func (h *Hive) Events(since uint64) []messages.Event {
	h.follower.mu.Lock()
	defer h.follower.mu.Unlock()
	var out []messages.Event
	for _, e := range h.follower.all {
		if e.Seq > since {
			out = append(out, e)
		}
	}
	return out
}

// LastSeq is the number of the newest event seen.
func (h *Hive) LastSeq() uint64 {
	all := h.Events(0)
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].Seq
}

// Find returns the events that satisfy want, of all that happened before it was
// called: a status is seen before its event has come.
func (h *Hive) Find(want func(messages.Event) bool) []messages.Event {
	ginkgo.GinkgoHelper()
	h.catchUp()
	return h.find(want)
}

// catchUp waits until every event so far has been read.
func (h *Hive) catchUp() {
	ginkgo.GinkgoHelper()
	var last uint64
	if h.Alive() {
		ctx, cancel := context.WithTimeout(context.Background(), stateWithin)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hive/v1/events", nil)
		Expect(err).NotTo(HaveOccurred())
		if resp, err := h.client.Do(req); err == nil {
			last, err = strconv.ParseUint(resp.Header.Get("X-Hive-Last-Event"), 10, 64)
			Expect(resp.Body.Close()).To(Succeed())
			Expect(err).NotTo(HaveOccurred())
			Eventually(h.LastSeq).WithTimeout(stateWithin).WithPolling(poll/4).Should(BeNumerically(">=", last), "events were told and have not come")
			return
		}
	}
	Eventually(h.follower.ended).WithTimeout(stateWithin).Should(BeClosed(), "hive has ended and its stream of events has not")
}

func (h *Hive) find(want func(messages.Event) bool) []messages.Event {
	var out []messages.Event
	for _, e := range h.Events(0) {
		if want(e) {
			out = append(out, e)
		}
	}
	return out
}

// WaitEvent waits for an event that satisfies want and returns the first one.
func (h *Hive) WaitEvent(what string, want func(messages.Event) bool) messages.Event {
	ginkgo.GinkgoHelper()
	var found []messages.Event
	Eventually(func() []messages.Event {
		found = h.find(want)
		return found
	}).WithTimeout(stateWithin).WithPolling(poll).ShouldNot(BeEmpty(), "no event: %s", what)
	return found[0]
}

// Of matches events of a type and a worker.
func Of(t messages.EventType, worker string) func(messages.Event) bool {
	return func(e messages.Event) bool { return e.Type == t && string(e.Worker) == worker }
}

// Into matches a worker's change into a state.
func Into(worker string, s messages.State) func(messages.Event) bool {
	return func(e messages.Event) bool {
		return e.Type == messages.WorkerState && string(e.Worker) == worker && e.To != nil && *e.To == s
	}
}

// Path is the states a worker has gone through, in order, without its stays.
func (h *Hive) Path(worker string) []messages.State {
	var path []messages.State
	for _, e := range h.Find(func(e messages.Event) bool { return e.Type == messages.WorkerState && string(e.Worker) == worker }) {
		if len(path) == 0 && e.From != nil {
			path = append(path, *e.From)
		}
		if e.To != nil && (len(path) == 0 || path[len(path)-1] != *e.To) {
			path = append(path, *e.To)
		}
	}
	return path
}
