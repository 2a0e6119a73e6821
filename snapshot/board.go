// Package snapshot is the published view of a hive: immutable statuses that
// readers get without asking an actor.
package snapshot

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/rbee-hive/hive/messages"
)

// Board holds the latest status of every worker and pool. It is safe for
// concurrent use; what it hands out must not be changed.
type Board struct {
	mu      sync.Mutex // guards all below
	workers map[messages.WorkerID]*messages.WorkerStatus
	pools   map[messages.PoolID]*messages.PoolStatus
	sorted  []*messages.WorkerStatus // nil when stale
	version uint64
	changed chan struct{}
}

// New makes an empty board.
func New() *Board {
	return &Board{workers: map[messages.WorkerID]*messages.WorkerStatus{}, pools: map[messages.PoolID]*messages.PoolStatus{}, changed: make(chan struct{})}
}

// touched is called with the lock held.
func (b *Board) touched() {
	b.version++
	b.sorted = nil
	close(b.changed)
	b.changed = make(chan struct{})
}

// PutWorker publishes a worker's status in place of its earlier one.
func (b *Board) PutWorker(s *messages.WorkerStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.workers[s.Name] = s
	b.touched()
}

// DropWorker takes a worker out of view.
func (b *Board) DropWorker(id messages.WorkerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.workers, id)
	b.touched()
}

// PutPool publishes a pool's status.
func (b *Board) PutPool(s *messages.PoolStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pools[s.Name] = s
	b.touched()
}

// Worker is one worker's latest status.
func (b *Board) Worker(id messages.WorkerID) (*messages.WorkerStatus, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.workers[id]
	return s, ok
}

// Workers lists all workers in natural order (chat-2 before chat-10).
func (b *Board) Workers() []*messages.WorkerStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sorted == nil {
		b.sorted = make([]*messages.WorkerStatus, 0, len(b.workers))
		for _, s := range b.workers {
			b.sorted = append(b.sorted, s)
		}
		slices.SortFunc(b.sorted, func(x, y *messages.WorkerStatus) int { return natural(string(x.Name), string(y.Name)) })
	}
	return b.sorted
}

// Pools lists all pools, cpu first.
func (b *Board) Pools() []*messages.PoolStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*messages.PoolStatus, 0, len(b.pools))
	for _, p := range b.pools {
		all = append(all, p)
	}
	slices.SortFunc(all, func(x, y *messages.PoolStatus) int { return natural(string(x.Name), string(y.Name)) })
	return all
}

// Version rises with every change.
func (b *Board) Version() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.version
}

// Changed is closed at the next change.
func (b *Board) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// WaitFor waits until the worker's status satisfies pred. A worker that is not
// in view gives messages.ErrUnknownWorker.
func (b *Board) WaitFor(ctx context.Context, id messages.WorkerID, pred func(*messages.WorkerStatus) bool) (*messages.WorkerStatus, error) {
	for {
		b.mu.Lock()
		s, ok := b.workers[id]
		changed := b.changed
		b.mu.Unlock()
		if !ok {
			return nil, messages.ErrUnknownWorker
		}
		if pred(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
}

// natural compares with runs of digits taken as numbers.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
