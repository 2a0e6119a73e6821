package supervision

import (
	"math"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// Delay is the wait before restart number n (from 0): initial * factor^n, at
// most max, then spread by the jitter. spread lies in [0, 1): 0 gives the
// shortest, 0.5 the plain, and just under 1 the longest delay. The cap holds
// before the jitter, so that workers that fail together stay spread at the cap.
func Delay(b messages.BackoffSpec, n int, spread float64) time.Duration {
	plain := float64(b.Initial) * math.Pow(max(b.Factor, 1), float64(max(n, 0)))
	plain = min(plain, float64(b.Max)) // also turns +Inf into the cap
	return time.Duration(plain * (1 + b.Jitter*(2*spread-1)))
}
