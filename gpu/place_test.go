package gpu

import (
	"errors"
	"slices"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

func device(uuid string, pool messages.PoolID, free uint64, workers int) Candidate {
	return Candidate{UUID: uuid, Pool: pool, Total: 24 * gib, Free: free * gib, Workers: workers}
}

func TestPlace(t *testing.T) {
	a, b, c := device("GPU-a", "gpu-0", 20, 1), device("GPU-b", "gpu-1", 8, 2), device("GPU-c", "gpu-2", 22, 1)
	sick := c
	sick.Cordoned = "GPU has fallen off the bus"
	full := device("GPU-b", "gpu-1", 2, 2)
	full.Holders = []Holder{{"chat", 18 * gib}, {"pid 7 (python)", 3 * gib}}
	crowded := full
	crowded.Holders = []Holder{{"v", 4 * gib}, {"w", 4 * gib}, {"x", 4 * gib}, {"y", 4 * gib}, {"z", 4 * gib}}
	part, other := device("MIG-1", "gpu-0", 10, 0), device("MIG-2", "gpu-1", 10, 0)
	part.MIG, other.MIG = true, true

	one := messages.GPUSpec{Count: 1}
	for _, x := range []struct {
		name  string
		spec  messages.GPUSpec
		need  uint64
		all   []Candidate
		how   Strategy
		want  []string
		why   string
		never bool
	}{
		{name: "spread takes few workers, then much memory", spec: one, need: gib, all: []Candidate{a, b, c}, how: Spread, want: []string{"GPU-c"}},
		{name: "pack takes what is nearly full", spec: one, need: gib, all: []Candidate{a, b, c}, how: Pack, want: []string{"GPU-b"}},
		{name: "pack leaves out what is too full", spec: one, need: 10 * gib, all: []Candidate{a, b, c}, how: Pack, want: []string{"GPU-a"}},
		{name: "an unknown need fits where anything is free", spec: one, all: []Candidate{a, b, c}, how: Pack, want: []string{"GPU-b"}},
		{name: "a pin by UUID", spec: messages.GPUSpec{Count: 1, Devices: []string{"GPU-b"}}, all: []Candidate{a, b, c}, want: []string{"GPU-b"}},
		{name: "a pin by pool", spec: messages.GPUSpec{Count: 1, Devices: []string{"gpu-0", "gpu-1"}}, all: []Candidate{a, b, c}, how: Spread, want: []string{"GPU-a"}},
		{name: "a pin alone asks for one", spec: messages.GPUSpec{Devices: []string{"gpu-2"}}, all: []Candidate{a, b, c}, want: []string{"GPU-c"}},
		{name: "several come in the order of the host", spec: messages.GPUSpec{Count: 2}, need: gib, all: []Candidate{a, b, c}, how: Spread, want: []string{"GPU-a", "GPU-c"}},
		{name: "all of them", spec: messages.GPUSpec{Count: 3}, need: gib, all: []Candidate{a, b, c}, how: Pack, want: []string{"GPU-a", "GPU-b", "GPU-c"}},
		{name: "a cordoned device is left out", spec: one, all: []Candidate{a, b, sick}, how: Spread, want: []string{"GPU-a"}},
		{name: "all or nothing", spec: messages.GPUSpec{Count: 2}, need: 10 * gib, all: []Candidate{a, full, sick}, how: Spread,
			why: "2 devices are wanted and 1 fit with 10GiB each: gpu-1 lacks 8GiB of 10GiB (held by chat 18GiB, pid 7 (python) 3GiB); gpu-2 is cordoned (GPU has fallen off the bus)"},
		{name: "who holds it", spec: messages.GPUSpec{Count: 1, Devices: []string{"gpu-1"}}, need: 10 * gib, all: []Candidate{a, full},
			why: "gpu-1 lacks 8GiB of 10GiB (held by chat 18GiB, pid 7 (python) 3GiB)"},
		{name: "many holders", spec: one, need: 10 * gib, all: []Candidate{crowded},
			why: "gpu-1 lacks 8GiB of 10GiB (held by v 4GiB, w 4GiB, x 4GiB and 2 more)"},
		{name: "never large enough", spec: one, need: 30 * gib, all: []Candidate{a}, never: true,
			why: "gpu-0 is too small: it can give 24GiB, and 30GiB is wanted"},
		{name: "never so many", spec: messages.GPUSpec{Count: 4}, all: []Candidate{a, b, c}, never: true, why: "4 devices are wanted, and this host has 3"},
		{name: "no such pin", spec: messages.GPUSpec{Count: 1, Devices: []string{"GPU-x", "gpu-9"}}, all: []Candidate{a, b}, never: true,
			why: "this host has no device GPU-x or gpu-9; it has gpu-0, gpu-1"},
		{name: "some pins missing", spec: messages.GPUSpec{Count: 2, Devices: []string{"GPU-x", "gpu-1"}}, all: []Candidate{a, b}, never: true,
			why: "2 devices are wanted, and 1 of those allowed are on this host, which has gpu-0, gpu-1"},
		{name: "no GPU", spec: one, never: true, why: "this host has no GPU; use `gpu: none`"},
		{name: "a MIG device", spec: one, need: gib, all: []Candidate{part, other}, how: Spread, want: []string{"MIG-1"}},
		{name: "never two MIG devices", spec: messages.GPUSpec{Count: 2}, all: []Candidate{part, other, a}, never: true,
			why: "2 devices are wanted, and 1 can be used together: a process can use only one MIG device"},
	} {
		t.Run(x.name, func(t *testing.T) {
			before := slices.Clone(x.all)
			got, err := Place(x.spec, x.need, x.all, x.how)
			if !slices.EqualFunc(before, x.all, func(a, b Candidate) bool { return a.UUID == b.UUID }) {
				t.Error("the candidates were reordered")
			}
			if x.why == "" {
				if err != nil || !slices.Equal(got, x.want) {
					t.Errorf("got %v, %v; want %v", got, err, x.want)
				}
				return
			}
			var none *NoPlaceError
			if !errors.As(err, &none) || none.Reason != x.why || none.Never != x.never || got != nil {
				t.Errorf("got %v, %q (never %v)\nwant %q (never %v)", got, err, none != nil && none.Never, x.why, x.never)
			}
		})
	}
}

func TestSizesForPeople(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 1000: "1000", 1 << 20: "1MiB", 5632 << 20: "5632MiB", 24 * gib: "24GiB", 1<<20 + 1<<19: "1.5MiB", 3*gib/2 + 1: "1.5GiB", 143771 << 20: "140.4GiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
