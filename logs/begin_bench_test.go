package logs

import (
	"testing"

	"github.com/rbee-hive/hive/messages"
)

// BenchmarkAttempt is what one attempt's log costs a restart: its beginning, its
// end and the tail that goes into last_exit.
func BenchmarkAttempt(b *testing.B) {
	k, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	spec := messages.LogsSpec{Size: 10 << 20, Files: 5}
	a := messages.Attempt(0)
	for b.Loop() {
		a++
		f, err := k.Begin("w", a, spec)
		if err != nil {
			b.Fatal(err)
		}
		_ = f.Close()
		k.End("w", a)
		if _, err := k.Tail("w", a, 50); err != nil {
			b.Fatal(err)
		}
	}
}
