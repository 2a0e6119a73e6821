package supervision

import "time"

// Window remembers when things happened, to count those inside a period.
// The zero value is ready. It is not safe for concurrent use.
type Window struct{ times []time.Time }

// Add records one occurrence and returns how many lie in (now-period, now].
func (w *Window) Add(now time.Time, period time.Duration) int {
	w.prune(now, period)
	w.times = append(w.times, now)
	return len(w.times)
}

// Count returns how many occurrences lie in (now-period, now].
func (w *Window) Count(now time.Time, period time.Duration) int {
	n := 0
	for _, t := range w.times {
		if now.Sub(t) < period {
			n++
		}
	}
	return n
}

// Reset forgets everything.
func (w *Window) Reset() { w.times = w.times[:0] }

func (w *Window) prune(now time.Time, period time.Duration) {
	keep := w.times[:0]
	for _, t := range w.times {
		if now.Sub(t) < period {
			keep = append(keep, t)
		}
	}
	w.times = keep
}
