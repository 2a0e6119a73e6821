package admission

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rbee-hive/hive/messages"
)

const gib = 1 << 30

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestClaims(t *testing.T) {
	free, used := uint64(10*gib), map[messages.WorkerID]uint64{}
	m := NewMemory(func() (uint64, error) { return free, nil }, func(id messages.WorkerID) uint64 { return used[id] })
	claim := func(id messages.WorkerID, bytes uint64, priority, after int) string {
		err := m.Claim(id, bytes, priority, t0.Add(time.Duration(after)*time.Second))
		var no *NoRoomError
		if err != nil && !errors.As(err, &no) {
			t.Fatal(err)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	}
	if why := claim("none", 0, 0, 0); why != "" {
		t.Errorf("no limit, and held up: %s", why)
	}
	if why := claim("a", 6*gib, 0, 0); why != "" {
		t.Errorf("it fits: %s", why)
	}
	if why := claim("big", 8*gib, 0, 1); !strings.Contains(why, "8 GiB") || !strings.Contains(why, "promised") {
		t.Errorf("it does not fit: %q", why)
	}
	if why := claim("small", gib, 0, 2); !strings.Contains(why, "behind worker big") {
		t.Errorf("a small one overtook a large one: %q", why)
	}
	if why := claim("urgent", gib, 5, 3); why != "" {
		t.Errorf("a higher priority goes first: %s", why)
	}
	// What a has taken is no longer promised, and no longer free either.
	used["a"], free = 6*gib, 4*gib
	m.Release("urgent")
	if why := claim("big", 8*gib, 0, 1); why == "" {
		t.Error("8 GiB of 4 free")
	}
	m.Release("a")
	used["a"], free = 0, 10*gib
	if why := claim("big", 8*gib, 0, 1); why != "" {
		t.Errorf("there is room now: %s", why)
	}
	if why := claim("small", gib, 0, 2); why != "" {
		t.Errorf("and its turn has come: %s", why)
	}
	if m.Held() != 9*gib {
		t.Errorf("held %d", m.Held())
	}
}

func TestAWaiterThatLeavesHoldsNobodyUp(t *testing.T) {
	m := NewMemory(func() (uint64, error) { return gib, nil }, func(messages.WorkerID) uint64 { return 0 })
	if m.Claim("big", 2*gib, 0, t0) == nil {
		t.Fatal("2 GiB of 1 free")
	}
	m.Release("big")
	if err := m.Claim("small", gib/2, 0, t0.Add(time.Second)); err != nil {
		t.Error(err)
	}
}

func TestAKernelThatDoesNotSayHoldsNobodyUp(t *testing.T) {
	m := NewMemory(func() (uint64, error) { return 0, errors.New("no /proc") }, func(messages.WorkerID) uint64 { return 0 })
	if err := m.Claim("a", gib, 0, t0); err != nil {
		t.Error(err)
	}
}

// TestNeverMoreThanThereIs draws random claims and releases: what is granted
// never exceeds what is free, and with nothing granted the first waiter that can
// ever fit gets its turn.
func TestNeverMoreThanThereIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const total = 100
		m := NewMemory(func() (uint64, error) { return total, nil }, func(messages.WorkerID) uint64 { return 0 })
		ids := []messages.WorkerID{"a", "b", "c", "d"}
		wants := map[messages.WorkerID]uint64{}
		since := map[messages.WorkerID]time.Time{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := rapid.SampledFrom(ids).Draw(t, "worker")
			if rapid.Bool().Draw(t, "release") {
				m.Release(id)
				delete(wants, id)
				delete(since, id)
				continue
			}
			if wants[id] == 0 {
				wants[id], since[id] = uint64(rapid.IntRange(1, total).Draw(t, "bytes")), t0.Add(time.Duration(i)*time.Second)
			}
			_ = m.Claim(id, wants[id], 0, since[id])
			if m.Held() > total {
				t.Fatalf("granted %d of %d", m.Held(), total)
			}
		}
		for _, id := range ids {
			m.Release(id)
		}
		if err := m.Claim("e", total, 0, t0.Add(time.Hour)); err != nil {
			t.Fatalf("everything is given back, and yet: %v", err)
		}
	})
}
