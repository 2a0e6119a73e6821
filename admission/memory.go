// Package admission decides whether the host has room for one more process,
// before it is started rather than after the kernel has killed another one.
package admission

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// NoRoomError says that a claim has to wait, and for what.
type NoRoomError struct{ Reason string }

func (e *NoRoomError) Error() string { return e.Reason }

// Memory is the account of the host's main memory: a worker with a memory limit
// claims it before it starts, and what the others have claimed and not used yet
// is not free. Claims are served by priority, then in the order they came: a
// small one never overtakes a large one that waits, which would starve it. Safe
// for concurrent use.
type Memory struct {
	free func() (uint64, error)         // bytes that the kernel could give now
	used func(messages.WorkerID) uint64 // bytes that a worker uses now

	mu      sync.Mutex // guards the two below
	held    map[messages.WorkerID]uint64
	waiting map[messages.WorkerID]claim
}

type claim struct {
	bytes    uint64
	priority int
	since    time.Time
}

// NewMemory makes an account over what the kernel says is free and what each
// worker uses.
func NewMemory(free func() (uint64, error), used func(messages.WorkerID) uint64) *Memory {
	return &Memory{free: free, used: used, held: map[messages.WorkerID]uint64{}, waiting: map[messages.WorkerID]claim{}}
}

// Claim reserves bytes for a worker. The error is a *NoRoomError while it has to
// wait; the caller asks again when something may have changed. since is when it
// began to wait. A worker that asks for nothing is never held up.
func (m *Memory) Claim(id messages.WorkerID, bytes uint64, priority int, since time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if bytes == 0 {
		delete(m.waiting, id)
		return nil
	}
	if _, ok := m.held[id]; ok {
		m.held[id] = bytes
		return nil
	}
	mine := claim{bytes, priority, since}
	for other, c := range m.waiting {
		if other != id && before(c, other, mine, id) {
			m.waiting[id] = mine
			return &NoRoomError{fmt.Sprintf("waits for memory behind worker %s, which asked for %s first", other, messages.Size(c.bytes).About())}
		}
	}
	free, err := m.free()
	if err != nil {
		delete(m.waiting, id)
		m.held[id] = bytes
		return nil //nolint:nilerr // a kernel that does not say is not held against the worker
	}
	var promised uint64
	for other, limit := range m.held {
		if u := m.used(other); u < limit {
			promised += limit - u
		}
	}
	if bytes > free || promised > free-bytes {
		m.waiting[id] = mine
		return &NoRoomError{fmt.Sprintf("asks for %s of memory (limits.memory), and of %s free on this host %s are promised to other workers",
			messages.Size(bytes).About(), messages.Size(free).About(), messages.Size(promised).About())}
	}
	delete(m.waiting, id)
	m.held[id] = bytes
	return nil
}

// before orders claims: higher priority, then longer waiting, then by name.
func before(a claim, ida messages.WorkerID, b claim, idb messages.WorkerID) bool {
	return cmp.Or(cmp.Compare(b.priority, a.priority), a.since.Compare(b.since), cmp.Compare(ida, idb)) < 0
}

// Release gives back what a worker holds, or its place in the queue.
func (m *Memory) Release(id messages.WorkerID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, id)
	delete(m.waiting, id)
}

// Held is how much is reserved in all.
func (m *Memory) Held() (total uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.held {
		total += b
	}
	return total
}
