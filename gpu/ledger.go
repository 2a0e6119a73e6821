package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// What a caller of Lease branches on.
var (
	// ErrFull: the device has not that much memory free.
	ErrFull = errors.New("not enough free memory on the device")
	// ErrReturning: the memory of the worker's former attempt is not back yet.
	ErrReturning = errors.New("the memory of the former attempt is not free yet")
)

// LeftBehindAfter is how long a returned lease waits for the last process of its
// worker to leave the device. The driver clears up within seconds; after a minute
// the process hangs in the kernel, and the lease would never end.
const LeftBehindAfter = time.Minute

// Owner tells which worker a process belongs to, ok false when it is none of ours.
type Owner func(pid int) (worker messages.WorkerID, ok bool)

// LeftBehind is a worker whose lease was taken back while processes of it still
// hold memory. That memory counts as foreign from then on.
type LeftBehind struct {
	Worker messages.WorkerID
	PIDs   []int
	Bytes  uint64
}

// Holder is who holds memory on a device: a worker, or a foreign process.
type Holder struct {
	Name  string // a worker's name, or "pid 123 (python)"
	Bytes uint64 // leased, or used by a foreign process
}

// Ledger is the account of one device's memory, in bytes. It decides nothing but
// arithmetic: time and readings are handed in. Not safe for concurrent use. Total
// and Margin set are all it needs.
type Ledger struct {
	Total  uint64 // 0: not told
	Margin uint64 // kept free; also covers what the driver holds without a process

	leases  map[messages.WorkerID]*lease
	peaks   map[messages.WorkerID]uint64 // most used in the last attempt that is over
	foreign []messages.Foreign
}

type lease struct {
	bytes    uint64 // never below used
	used     uint64 // as of the last reading
	peak     uint64 // most used so far
	untold   bool   // some process of the worker does not tell its memory
	returned time.Time
}

func (l *lease) returning() bool { return !l.returned.IsZero() }

// Leased is the sum of the leases. A worker that uses more than it declared leases
// what it uses, so that the excess is promised to nobody else.
func (l *Ledger) Leased() (sum uint64) {
	for _, x := range l.leases {
		sum += x.bytes
	}
	return sum
}

// Used is what the workers with a lease use, as of the last reading.
func (l *Ledger) Used() (sum uint64) {
	for _, x := range l.leases {
		sum += x.used
	}
	return sum
}

// Foreign is what others than our workers use, as of the last reading.
func (l *Ledger) Foreign() (sum uint64) {
	for _, f := range l.foreign {
		sum += f.Bytes
	}
	return sum
}

// Free is what may still be leased:
// total - max(leased, used) - foreign - margin, and never below 0.
func (l *Ledger) Free() uint64 {
	free := l.Total
	for _, n := range []uint64{max(l.Leased(), l.Used()), l.Foreign(), l.Margin} {
		free -= min(free, n)
	}
	return free
}

// Fit reports whether bytes may be leased. A need of 0 is one that nobody knows
// yet; it fits where anything is free. Where the device does not tell its total,
// everything fits.
func (l *Ledger) Fit(bytes uint64) bool { return l.Total == 0 || l.Free() >= max(bytes, 1) }

// Need is what a worker is to lease: what it declares, else what it was seen to
// use in its last attempt, else 0.
func (l *Ledger) Need(worker messages.WorkerID, declared uint64) uint64 {
	if declared > 0 {
		return declared
	}
	return l.peaks[worker]
}

// Learn sets what a worker was seen to use, as kept over a restart of hive.
func (l *Ledger) Learn(worker messages.WorkerID, peak uint64) {
	if l.peaks == nil {
		l.peaks = map[messages.WorkerID]uint64{}
	}
	l.peaks[worker] = peak
}

// Forget drops what is known of a worker that is removed; a lease it still has is
// settled as ever.
func (l *Ledger) Forget(worker messages.WorkerID) { delete(l.peaks, worker) }

// Lease promises a worker that much memory, or changes its lease to it, though not
// below what it uses. The error wraps ErrFull or ErrReturning and says the rest.
func (l *Ledger) Lease(worker messages.WorkerID, bytes uint64) error {
	x := l.leases[worker]
	var before uint64
	if x != nil {
		if x.returning() {
			return fmt.Errorf("%w: %s", ErrReturning, size(x.used))
		}
		before = x.bytes
		bytes = max(bytes, x.used)
	}
	if bytes <= before && x != nil {
		x.bytes = bytes
		return nil
	}
	if !l.Fit(bytes - before) {
		return fmt.Errorf("%w: %s needed, %s free of %s", ErrFull, size(bytes), size(l.Free()+before), size(l.Total))
	}
	l.Hold(worker, bytes)
	return nil
}

// Hold leases without asking, for a worker that already runs: one that was adopted.
func (l *Ledger) Hold(worker messages.WorkerID, bytes uint64) {
	if l.leases == nil {
		l.leases = map[messages.WorkerID]*lease{}
	}
	x := l.leases[worker]
	if x == nil {
		x = &lease{}
		l.leases[worker] = x
	}
	x.bytes, x.returned = max(bytes, x.used), time.Time{}
}

// Return gives a lease back: its worker's attempt is over. It counts until a later
// reading lists no process of the worker. A worker without a lease, or one already
// returned, is left as it is.
func (l *Ledger) Return(worker messages.WorkerID, now time.Time) {
	if x := l.leases[worker]; x != nil && !x.returning() {
		x.returned = now
	}
}

// Returning reports whether a worker's lease is returned and not settled yet.
func (l *Ledger) Returning(worker messages.WorkerID) bool {
	x := l.leases[worker]
	return x != nil && x.returning()
}

// Has reports whether a worker has a lease, and of how much.
func (l *Ledger) Has(worker messages.WorkerID) (bytes uint64, ok bool) {
	x := l.leases[worker]
	if x == nil {
		return 0, false
	}
	return x.bytes, true
}

// Settle enters a reading: who uses how much, and which returned leases are over.
// It tells which of those had to be taken back with processes still there.
//
// Memory that no process accounts for is the driver's own up to the margin, and
// foreign beyond it; but where the driver tells of no processes, or not how much
// one of our workers uses, it is taken as the use of those workers first.
func (l *Ledger) Settle(r Reading, who Owner, now time.Time) []LeftBehind {
	if r.MemoryTotal > 0 {
		l.Total = r.MemoryTotal
	}
	ours := map[messages.WorkerID][]Process{}
	var others []Process
	for _, p := range r.Processes {
		if w, ok := who(p.PID); ok {
			ours[w] = append(ours[w], p)
		} else {
			others = append(others, p)
		}
	}
	left := l.takeBack(r, ours, now)
	unseen := r.MemoryUsed + r.MemoryReserved
	for _, p := range r.Processes {
		unseen -= min(unseen, p.Bytes)
	}
	for id, x := range l.leases {
		used, untold := sum(ours[id])
		x.used, x.untold = used, untold || r.Blind
		delete(ours, id)
	}
	unseen = l.fill(unseen)
	for _, x := range l.leases {
		x.peak = max(x.peak, x.used)
		x.bytes = max(x.bytes, x.used)
	}
	l.foreign = l.foreign[:0:0]
	for _, ps := range ours { // of a worker without a lease: left behind
		others = append(others, ps...)
	}
	for _, p := range others {
		l.foreign = append(l.foreign, messages.Foreign{PID: p.PID, Command: p.Command, Bytes: p.Bytes})
	}
	if unseen > l.Margin {
		l.foreign = append(l.foreign, messages.Foreign{Command: "unseen", Bytes: unseen - l.Margin})
	}
	slices.SortFunc(l.foreign, func(a, b messages.Foreign) int { return a.PID - b.PID })
	return left
}

// takeBack ends the returned leases that are free of processes or out of time.
func (l *Ledger) takeBack(r Reading, ours map[messages.WorkerID][]Process, now time.Time) (left []LeftBehind) {
	for id, x := range l.leases {
		if !x.returning() {
			continue
		}
		held := ours[id]
		late := now.Sub(x.returned) >= LeftBehindAfter
		// A reading from before the return may have missed the worker's last gasp.
		if gone := len(held) == 0 && r.At.After(x.returned); !gone && !late {
			continue
		}
		if len(held) > 0 {
			lb := LeftBehind{Worker: id}
			lb.Bytes, _ = sum(held)
			for _, p := range held {
				lb.PIDs = append(lb.PIDs, p.PID)
			}
			left = append(left, lb)
		}
		if x.peak > 0 {
			l.Learn(id, x.peak)
		}
		delete(l.leases, id)
	}
	slices.SortFunc(left, func(a, b LeftBehind) int { return cmp.Compare(a.Worker, b.Worker) })
	return left
}

// fill gives unseen memory to the workers whose own use is not told, up to their
// leases, and returns what remains.
func (l *Ledger) fill(unseen uint64) uint64 {
	for _, id := range l.workers() {
		x := l.leases[id]
		if !x.untold || x.used >= x.bytes {
			continue
		}
		n := min(unseen, x.bytes-x.used)
		x.used += n
		unseen -= n
	}
	return unseen
}

func (l *Ledger) workers() []messages.WorkerID {
	ids := make([]messages.WorkerID, 0, len(l.leases))
	for id := range l.leases {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func sum(ps []Process) (bytes uint64, untold bool) {
	for _, p := range ps {
		bytes += p.Bytes
		untold = untold || p.Untold
	}
	return bytes, untold
}

// View is the account as hive shows it.
func (l *Ledger) View() messages.Ledger {
	return messages.Ledger{Total: l.Total, Leased: l.Leased(), Used: l.Used(), Foreign: append([]messages.Foreign{}, l.foreign...)}
}

// Holders tells who holds the device's memory, the largest first.
func (l *Ledger) Holders() []Holder {
	var all []Holder
	for _, id := range l.workers() {
		all = append(all, Holder{Name: string(id), Bytes: l.leases[id].bytes})
	}
	for _, f := range l.foreign {
		all = append(all, Holder{Name: foreignName(f), Bytes: f.Bytes})
	}
	slices.SortStableFunc(all, func(a, b Holder) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return all
}

func foreignName(f messages.Foreign) string {
	switch {
	case f.PID == 0:
		return "something that hive cannot see"
	case f.Command == "":
		return fmt.Sprintf("pid %d", f.PID)
	}
	return fmt.Sprintf("pid %d (%s)", f.PID, f.Command)
}
