package notify

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// BenchmarkHeartbeats sends through real sockets, so that each operation is one
// heartbeat sent and taken. Run it with -cpu 1 to have both on one core.
func BenchmarkHeartbeats(b *testing.B) {
	const senders = 4 // goroutines; each sends over its share of the sockets in turn
	for _, sockets := range []int{1, 500} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			dir := b.TempDir()
			var open []*Socket
			var conns []*net.UnixConn
			var served, taken sync.WaitGroup
			for i := range sockets {
				s, err := Listen(filepath.Join(dir, fmt.Sprint(i)), -1, -1)
				if err != nil {
					b.Fatal(err)
				}
				open = append(open, s)
				conns = append(conns, dial(b, s.Path()))
				served.Go(func() {
					_ = s.Serve(func(d Datagram) {
						if !d.Message.Watchdog || *d.Message.InFlight != 3 || d.PID == 0 {
							b.Errorf("%+v", d)
						}
						taken.Done()
					})
				})
			}
			words := []byte("WATCHDOG=1\nX_HIVE_IN_FLIGHT=3")
			taken.Add(b.N)
			b.ReportAllocs()
			b.ResetTimer()
			for k := range senders {
				go func() {
					for i := k; i < b.N; i += senders {
						if _, err := conns[i%sockets].Write(words); err != nil {
							b.Error(err)
						}
					}
				}()
			}
			taken.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "heartbeats/s")
			for _, s := range open {
				_ = s.Close()
			}
			served.Wait()
		})
	}
}

func BenchmarkParse(b *testing.B) {
	words := []byte("WATCHDOG=1\nX_HIVE_IN_FLIGHT=3")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(words); err != nil {
			b.Fatal(err)
		}
	}
}
