package gpu

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rbee-hive/hive/messages"
)

const gib = uint64(1) << 30

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// owned makes pids 100-199 those of worker a, 200-299 of b, and so on.
func owned(pid int) (messages.WorkerID, bool) {
	if pid < 100 || pid >= 500 {
		return "", false
	}
	return messages.WorkerID(rune('a' + pid/100 - 1)), true
}

func TestFreeIsWhatTheContractSays(t *testing.T) {
	l := &Ledger{Total: 24 * gib, Margin: gib / 2}
	must(t, l.Lease("a", 8*gib))
	must(t, l.Lease("b", 4*gib))
	l.Settle(Reading{At: noon, MemoryUsed: 9 * gib, Processes: []Process{{PID: 100, Bytes: 6 * gib}, {PID: 999, Bytes: 3 * gib, Command: "xorg"}}}, owned, noon)
	if got, want := l.Free(), 24*gib-12*gib-3*gib-gib/2; got != want {
		t.Errorf("free is %d, want %d", got, want)
	}
	v := l.View()
	if v.Leased != 12*gib || v.Used != 6*gib || !slices.Equal(v.Foreign, []messages.Foreign{{PID: 999, Command: "xorg", Bytes: 3 * gib}}) {
		t.Errorf("the account is %+v", v)
	}
	if l.Fit(9*gib) || !l.Fit(8*gib) {
		t.Error("8 GiB should fit, 9 should not")
	}
	err := l.Lease("c", 9*gib)
	if !errors.Is(err, ErrFull) || err.Error() != "not enough free memory on the device: 9GiB needed, 8704MiB free of 24GiB" {
		t.Errorf("leasing too much: %v", err)
	}
}

func TestAWorkerThatUsesMoreThanDeclaredLeasesIt(t *testing.T) {
	l := &Ledger{Total: 24 * gib}
	must(t, l.Lease("a", 4*gib))
	must(t, l.Lease("b", 8*gib))
	l.Settle(Reading{At: noon, Processes: []Process{{PID: 100, Bytes: 10 * gib}}}, owned, noon)
	if l.Free() != 6*gib {
		t.Errorf("%s free, want 6GiB: the 10 used and the 8 promised", size(l.Free()))
	}
}

func TestALeaseReturnsWhenNoProcessIsLeft(t *testing.T) {
	l := &Ledger{Total: 24 * gib}
	must(t, l.Lease("a", 4*gib))
	busy := []Process{{PID: 100, Bytes: 3 * gib}}
	l.Settle(Reading{At: noon, Processes: busy}, owned, noon)
	l.Return("a", noon.Add(time.Second))
	l.Settle(Reading{At: noon}, owned, noon.Add(time.Second)) // asked before the return
	if !l.Returning("a") {
		t.Fatal("a reading from before the return ended the lease")
	}
	if err := l.Lease("a", gib); !errors.Is(err, ErrReturning) {
		t.Errorf("leasing while the former lease returns: %v", err)
	}
	l.Settle(Reading{At: noon.Add(2 * time.Second), Processes: busy}, owned, noon.Add(2*time.Second))
	if l.Leased() != 4*gib {
		t.Fatal("the lease ended while the process held its memory")
	}
	l.Settle(Reading{At: noon.Add(3 * time.Second)}, owned, noon.Add(3*time.Second))
	if l.Leased() != 0 || l.Free() != 24*gib {
		t.Errorf("%s leased after the last process left", size(l.Leased()))
	}
	if got := l.Need("a", 0); got != 3*gib {
		t.Errorf("learned %s, want the 3GiB it used", size(got))
	}
	if got := l.Need("a", gib); got != gib {
		t.Errorf("a declared need counts before a learned one, got %s", size(got))
	}
}

func TestALeaseIsTakenBackAfterAMinute(t *testing.T) {
	l := &Ledger{Total: 24 * gib}
	must(t, l.Lease("a", 4*gib))
	l.Return("a", noon)
	stuck := []Process{{PID: 100, Bytes: 3 * gib, Command: "llama-server"}}
	at := noon.Add(LeftBehindAfter - time.Second)
	if left := l.Settle(Reading{At: at, Processes: stuck}, owned, at); left != nil {
		t.Fatalf("taken back too soon: %v", left)
	}
	at = noon.Add(LeftBehindAfter)
	left := l.Settle(Reading{At: at, Processes: stuck}, owned, at)
	if len(left) != 1 || left[0].Worker != "a" || left[0].Bytes != 3*gib || !slices.Equal(left[0].PIDs, []int{100}) {
		t.Fatalf("left behind: %+v", left)
	}
	v := l.View()
	if v.Leased != 0 || v.Used != 0 || len(v.Foreign) != 1 || v.Foreign[0].PID != 100 || l.Free() != 21*gib {
		t.Errorf("what is left behind counts as foreign, got %+v", v)
	}
}

func TestMemoryWithoutAProcess(t *testing.T) {
	for _, c := range []struct {
		name                 string
		reading              Reading
		used, foreign, frees uint64
	}{
		{"the driver's own is covered by the margin", Reading{MemoryUsed: gib}, 0, 0, 13 * gib},
		{"also where it is less", Reading{MemoryUsed: gib / 2}, 0, 0, 13 * gib},
		{"what exceeds the margin is foreign", Reading{MemoryUsed: 3 * gib, MemoryReserved: gib}, 0, 3 * gib, 10 * gib},
		{"a blind driver's is the workers' first", Reading{MemoryUsed: 9 * gib, Blind: true}, 9 * gib, 0, 13 * gib},
		{"and foreign beyond their leases", Reading{MemoryUsed: 14 * gib, Blind: true}, 10 * gib, 3 * gib, 10 * gib},
		{"a process whose size is not told", Reading{MemoryUsed: 9 * gib, Processes: []Process{{PID: 100, Untold: true}}}, 9 * gib, 0, 13 * gib},
		{"a stranger whose size is not told", Reading{MemoryUsed: 9 * gib, Processes: []Process{{PID: 9, Untold: true}}}, 0, 8 * gib, 5 * gib},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &Ledger{Total: 24 * gib, Margin: gib}
			must(t, l.Lease("a", 10*gib))
			c.reading.At = noon
			l.Settle(c.reading, owned, noon)
			if l.Used() != c.used || l.Foreign() != c.foreign || l.Free() != c.frees {
				t.Errorf("used %s, foreign %s, free %s; want %s, %s, %s", size(l.Used()), size(l.Foreign()), size(l.Free()), size(c.used), size(c.foreign), size(c.frees))
			}
		})
	}
}

func TestADeviceThatDoesNotTellItsMemoryTakesAll(t *testing.T) {
	l := &Ledger{Margin: gib}
	must(t, l.Lease("a", 100*gib))
	must(t, l.Lease("b", 0))
	if _, err := Place(messages.GPUSpec{Count: 1}, gib, []Candidate{l.Candidate(Device{UUID: "x"}, "gpu-0")}, Pack); err != nil {
		t.Error(err)
	}
}

func TestChangingALease(t *testing.T) {
	l := &Ledger{Total: 10 * gib}
	must(t, l.Lease("a", 6*gib))
	must(t, l.Lease("a", 9*gib)) // 3 more, and 4 are free
	must(t, l.Lease("a", 2*gib))
	if err := l.Lease("a", 11*gib); !errors.Is(err, ErrFull) {
		t.Errorf("growing over the device: %v", err)
	}
	l.Settle(Reading{At: noon, Processes: []Process{{PID: 100, Bytes: 5 * gib}}}, owned, noon)
	must(t, l.Lease("a", gib))
	if n, _ := l.Has("a"); n != 5*gib {
		t.Errorf("shrunk to %s below the 5GiB in use", size(n))
	}
	l.Hold("b", 20*gib) // adopted, whatever it needs
	if l.Free() != 0 || l.Fit(0) {
		t.Error("an overfull device still has something free")
	}
}

// TestLedgerKeepsItsPromises plays random lives of workers and strangers against
// a model of the device.
func TestLedgerKeepsItsPromises(t *testing.T) {
	workers := []messages.WorkerID{"a", "b", "c", "d"}
	rapid.Check(t, func(t *rapid.T) {
		l := &Ledger{Total: 32 * gib, Margin: gib / 2}
		now := noon
		held := map[int]uint64{} // the truth: pid -> bytes
		live := map[messages.WorkerID]bool{}
		settle := func() []LeftBehind {
			now = now.Add(time.Second)
			r := Reading{At: now}
			for pid, n := range held {
				r.Processes = append(r.Processes, Process{PID: pid, Bytes: n})
				r.MemoryUsed += n
			}
			return l.Settle(r, owned, now)
		}
		check := func() {
			v := l.View()
			var strangers, ours uint64
			for pid, n := range held {
				if w, ok := owned(pid); ok {
					if _, leased := l.Has(w); leased {
						ours += n
						continue
					}
				}
				strangers += n
			}
			var foreign uint64
			for _, f := range v.Foreign {
				foreign += f.Bytes
			}
			if v.Used != ours || foreign != strangers {
				t.Fatalf("used %d and foreign %d, want %d and %d", v.Used, foreign, ours, strangers)
			}
			if v.Used > v.Leased {
				t.Fatalf("used %d over leased %d", v.Used, v.Leased)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"lease": func(t *rapid.T) {
				w := rapid.SampledFrom(workers).Draw(t, "worker")
				n := uint64(rapid.IntRange(0, 20).Draw(t, "gib")) * gib
				before, had := l.Has(w)
				free := l.Free()
				if err := l.Lease(w, n); err != nil {
					return
				}
				live[w] = true
				after, _ := l.Has(w)
				if after > before && after-before > free {
					t.Fatalf("leased %d with %d free", after-before, free)
				}
				if !had && max(l.Leased(), l.Used())+l.Foreign()+l.Margin > l.Total {
					t.Fatalf("over-committed: %+v", l.View())
				}
			},
			"use": func(t *rapid.T) {
				w := rapid.SampledFrom(workers).Draw(t, "worker")
				if n, ok := l.Has(w); ok && live[w] {
					held[pidOf(w, rapid.IntRange(0, 1).Draw(t, "child"))] = uint64(rapid.Uint64Range(0, n/2).Draw(t, "bytes"))
				}
				settle()
			},
			"stranger": func(t *rapid.T) {
				pid := rapid.IntRange(900, 903).Draw(t, "pid")
				held[pid] = uint64(rapid.IntRange(0, 6).Draw(t, "gib")) * gib
				settle()
			},
			"strangerLeaves": func(t *rapid.T) {
				delete(held, rapid.IntRange(900, 903).Draw(t, "pid"))
				settle()
			},
			"end": func(t *rapid.T) {
				w := rapid.SampledFrom(workers).Draw(t, "worker")
				if !live[w] {
					return
				}
				delete(live, w)
				l.Return(w, now)
				if rapid.Bool().Draw(t, "leaves") {
					delete(held, pidOf(w, 0))
					delete(held, pidOf(w, 1))
				}
				settle()
			},
			"late": func(t *rapid.T) {
				now = now.Add(LeftBehindAfter)
				for _, lb := range settle() {
					if live[lb.Worker] {
						t.Fatalf("took the lease of %s, which runs", lb.Worker)
					}
				}
			},
			"": func(*rapid.T) { settle(); check() },
		})
		for w := range live {
			l.Return(w, now)
		}
		now = now.Add(LeftBehindAfter)
		settle()
		if l.Leased() != 0 || len(l.leases) != 0 {
			t.Fatalf("leases that never returned: %+v", l.View())
		}
	})
}

func pidOf(w messages.WorkerID, child int) int { return int(w[0]-'a'+1)*100 + child }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ExampleLedger() {
	l := &Ledger{Total: 24 << 30, Margin: 512 << 20}
	fmt.Println(l.Lease("chat", 18<<30))
	fmt.Println(l.Lease("embed", 8<<30))
	// Output:
	// <nil>
	// not enough free memory on the device: 8GiB needed, 5632MiB free of 24GiB
}
