// Package ports leases TCP ports to workers from a range, after looking whether
// each is really free, and names whoever holds one that is not.
package ports

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrNone means that no port of the range is free.
var ErrNone = errors.New("no free port")

// InUseError is a port that a stranger listens on.
type InUseError struct {
	Port  int
	Owner string // "pid 123 (nginx)", or "an unknown process"
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("port %d is held by %s; end that program or choose another port", e.Port, e.Owner)
}

// Range is a span of ports, both ends included.
type Range struct{ First, Last int }

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// ParseRange reads "7100-7199".
func ParseRange(s string) (Range, error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := strconv.Atoi(strings.TrimSpace(a))
	last, err2 := strconv.Atoi(strings.TrimSpace(b))
	switch {
	case !ok || err1 != nil || err2 != nil:
		return Range{}, fmt.Errorf("port range %q is not understood; write first-last, such as 7100-7199", s)
	case first > last:
		return Range{}, fmt.Errorf("port range %q runs backwards; write the smaller port first", s)
	case first < 1 || last > 65535:
		return Range{}, fmt.Errorf("port range %q leaves 1-65535; choose ports inside", s)
	}
	return Range{first, last}, nil
}

// Ephemeral is the range from which the kernel gives ports to outgoing
// connections: one of them may hold a port there at any moment. ok is false when
// the kernel does not say. Source: ip(7), ip_local_port_range.
func Ephemeral() (r Range, ok bool) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return Range{}, false
	}
	_, err = fmt.Sscan(string(b), &r.First, &r.Last)
	return r, err == nil
}

// Overlaps reports whether two ranges share a port.
func (r Range) Overlaps(o Range) bool { return r.First <= o.Last && o.First <= r.Last }

// Ledger knows who holds which port. It is safe for concurrent use.
type Ledger struct {
	host string
	span Range

	mu    sync.Mutex // guards the rest
	owner map[int]string
	held  map[string]int
	last  map[string]int    // the port an owner had before
	freed map[int]time.Time // when a port was given back
}

// New makes a ledger over the range r on host.
func New(host string, r Range) *Ledger {
	return &Ledger{host: host, span: r, owner: map[int]string{}, held: map[string]int{}, last: map[string]int{}, freed: map[int]time.Time{}}
}

// Lease gives owner a port: fixed when it is not 0, else the one it had before,
// else the one that has been free longest. An owner that holds one keeps it. The
// error is an *InUseError, or wraps ErrNone.
func (l *Ledger) Lease(owner string, fixed int) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.held[owner]; ok && (fixed == 0 || fixed == p) {
		return p, nil
	}
	if fixed != 0 {
		if o, ok := l.owner[fixed]; ok {
			return 0, &InUseError{Port: fixed, Owner: "worker " + o}
		}
		if !l.Free(fixed) {
			return 0, &InUseError{Port: fixed, Owner: Holder(fixed)}
		}
		return l.take(owner, fixed), nil
	}
	if p, ok := l.last[owner]; ok && p >= l.span.First && p <= l.span.Last && l.owner[p] == "" && l.Free(p) {
		return l.take(owner, p), nil
	}
	tried := map[int]bool{}
	for {
		best := 0
		for p := l.span.First; p <= l.span.Last; p++ {
			if l.owner[p] == "" && !tried[p] && (best == 0 || l.freed[p].Before(l.freed[best])) {
				best = p
			}
		}
		if best == 0 {
			return 0, fmt.Errorf("%w in %s: %d are leased to workers and %d are held by other programs; widen `ports` or end some workers",
				ErrNone, l.span, l.span.Last-l.span.First+1-len(tried), len(tried))
		}
		if l.Free(best) {
			return l.take(owner, best), nil
		}
		tried[best] = true
	}
}

func (l *Ledger) take(owner string, p int) int {
	if old, ok := l.held[owner]; ok {
		delete(l.owner, old)
	}
	l.owner[p], l.held[owner] = owner, p
	return p
}

// Release gives owner's port back, if it has one. The next lease looks whether
// it is really free.
func (l *Ledger) Release(owner string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.held[owner]; ok {
		delete(l.held, owner)
		delete(l.owner, p)
		l.last[owner], l.freed[p] = p, time.Now()
	}
}

// Free reports whether nobody listens on port: it binds it for a moment, as Go
// does by default with SO_REUSEADDR, so connections in TIME_WAIT do not count.
func (l *Ledger) Free(port int) bool {
	ln, err := net.Listen("tcp", net.JoinHostPort(l.host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = ln.Close()
	return true
}
