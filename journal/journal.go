// Package journal is a bounded ring of what happened, with readers that resume.
package journal

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// ErrTooSlow cuts a reader that fell behind the ring.
var ErrTooSlow = errors.New("the reader fell behind the events that are kept")

// Journal keeps the last events. It is safe for concurrent use.
type Journal struct {
	clock func() time.Time
	hooks []func(messages.Event)

	mu   sync.Mutex // guards all below
	ring []messages.Event
	last uint64
	more chan struct{} // closed at the next event
}

// New makes a journal that keeps size events.
func New(size int, clock func() time.Time) *Journal {
	return &Journal{clock: clock, ring: make([]messages.Event, size), more: make(chan struct{})}
}

// Observe adds a hook, called with each event in order. Only before the first Append.
func (j *Journal) Observe(f func(messages.Event)) { j.hooks = append(j.hooks, f) }

// Append gives the event its number, and its time if it has none. It never blocks on a reader.
func (j *Journal) Append(e messages.Event) messages.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.Seq = j.last
	if e.At.IsZero() {
		e.At = j.clock()
	}
	j.ring[(e.Seq-1)%uint64(len(j.ring))] = e
	for _, f := range j.hooks {
		f(e)
	}
	close(j.more)
	j.more = make(chan struct{})
	return e
}

// Last is the number of the newest event, 0 when there is none.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

func (j *Journal) oldest() uint64 {
	if n := uint64(len(j.ring)); j.last > n {
		return j.last - n + 1
	}
	return 1
}

// Since returns the events after seq; truncated says that some are no longer kept.
func (j *Journal) Since(seq uint64) (events []messages.Event, truncated bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	first := j.oldest()
	truncated = seq+1 < first
	for n := max(seq+1, first); n <= j.last; n++ {
		events = append(events, j.ring[(n-1)%uint64(len(j.ring))])
	}
	return events, truncated
}

// Reader reads event by event. Not for concurrent use.
type Reader struct {
	j    *Journal
	next uint64
}

// Subscribe reads from the event after since.
func (j *Journal) Subscribe(since uint64) *Reader { return &Reader{j: j, next: since + 1} }

// More reports whether Next would return at once.
func (r *Reader) More() bool { return r.next <= r.j.Last() }

// Next waits for the next event. It returns ErrTooSlow once that is no longer kept.
func (r *Reader) Next(ctx context.Context) (messages.Event, error) {
	for {
		r.j.mu.Lock()
		if r.next < r.j.oldest() {
			r.j.mu.Unlock()
			return messages.Event{}, ErrTooSlow
		}
		if r.next <= r.j.last {
			e := r.j.ring[(r.next-1)%uint64(len(r.j.ring))]
			r.next++
			r.j.mu.Unlock()
			return e, nil
		}
		more := r.j.more
		r.j.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return messages.Event{}, ctx.Err()
		}
	}
}
