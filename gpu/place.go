package gpu

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// Strategy is how workers are shared out over devices.
type Strategy string

// The strategies.
const (
	// Spread takes the device with the fewest workers, then the one with the most
	// free memory. Workers count first: those that declare no memory use none yet
	// when they are placed one after the other.
	Spread Strategy = "spread"
	// Pack takes the device with the least free memory that is enough, then the
	// one with the most workers.
	Pack Strategy = "pack"
)

// Candidate is a device as placement sees it.
type Candidate struct {
	UUID     string
	Pool     messages.PoolID
	MIG      bool
	Cordoned string // why it takes no worker; empty when it does
	Total    uint64 // bytes, less the margin
	Free     uint64 // bytes
	Workers  int
	Holders  []Holder // the largest first
}

// Candidate makes a device ready for placement by its account.
func (l *Ledger) Candidate(d Device, pool messages.PoolID) Candidate {
	c := Candidate{UUID: d.UUID, Pool: pool, MIG: d.MIG, Total: l.Total - min(l.Total, l.Margin), Free: l.Free(),
		Workers: len(l.leases), Holders: l.Holders()}
	if l.Total == 0 { // not told
		c.Total, c.Free = math.MaxUint64, math.MaxUint64
	}
	return c
}

// NoPlaceError says why a worker cannot be placed.
type NoPlaceError struct {
	// Never: waiting does not help, this host has no such devices at all. Otherwise
	// the worker fits once others end or a device is back.
	Never  bool
	Reason string
}

func (e *NoPlaceError) Error() string { return e.Reason }

// Place chooses the devices of a worker: all that it asks for, or none. need is
// the memory wanted on each, 0 when nobody knows. The UUIDs come in the order of
// the candidates, which is the order in which to lease them: all who lease in one
// order never wait for each other in a circle. The error is a *NoPlaceError.
func Place(spec messages.GPUSpec, need uint64, all []Candidate, how Strategy) ([]string, error) {
	count := max(spec.Count, 1)
	allowed, err := pinned(spec.Devices, all)
	if err != nil {
		return nil, err
	}
	if count > 1 { // Source: MIG User Guide, CUDA device enumeration: a process sees a single MIG device
		allowed = slices.DeleteFunc(allowed, func(c Candidate) bool { return c.MIG })
	}
	if len(allowed) < count {
		return nil, &NoPlaceError{Never: true, Reason: tooFew(count, len(allowed), spec, all)}
	}
	var fit []Candidate
	var lacks []string
	large := 0 // devices that could ever hold it
	for _, c := range allowed {
		if c.Total >= need {
			large++
		}
		if why := c.lack(need); why != "" {
			lacks = append(lacks, why)
		} else {
			fit = append(fit, c)
		}
	}
	if len(fit) < count {
		return nil, &NoPlaceError{Never: large < count, Reason: refusal(count, len(fit), need, lacks)}
	}
	slices.SortStableFunc(fit, how.order)
	chosen := fit[:count]
	var uuids []string
	for _, c := range all {
		if slices.ContainsFunc(chosen, func(o Candidate) bool { return o.UUID == c.UUID }) {
			uuids = append(uuids, c.UUID)
		}
	}
	return uuids, nil
}

func (s Strategy) order(a, b Candidate) int {
	if s == Pack {
		return cmp.Or(cmp.Compare(a.Free, b.Free), cmp.Compare(b.Workers, a.Workers))
	}
	return cmp.Or(cmp.Compare(a.Workers, b.Workers), cmp.Compare(b.Free, a.Free))
}

// pinned is the candidates that a worker allows; a pin is a UUID or a pool's name.
func pinned(pins []string, all []Candidate) ([]Candidate, error) {
	if len(pins) == 0 {
		return slices.Clone(all), nil
	}
	var allowed []Candidate
	for _, c := range all {
		if slices.Contains(pins, c.UUID) || slices.Contains(pins, string(c.Pool)) {
			allowed = append(allowed, c)
		}
	}
	if len(allowed) > 0 {
		return allowed, nil
	}
	return nil, &NoPlaceError{Never: true, Reason: fmt.Sprintf("this host has no device %s; it has %s", strings.Join(pins, " or "), listed(all))}
}

func listed(all []Candidate) string {
	if len(all) == 0 {
		return "none"
	}
	var names []string
	for _, c := range all {
		names = append(names, c.name())
	}
	return strings.Join(names, ", ")
}

func tooFew(count, have int, spec messages.GPUSpec, all []Candidate) string {
	switch {
	case len(all) == 0:
		return "this host has no GPU; use `gpu: none`"
	case count > 1 && slices.ContainsFunc(all, func(c Candidate) bool { return c.MIG }):
		return fmt.Sprintf("%s wanted, and %d can be used together: a process can use only one MIG device", devices(count), have)
	case len(spec.Devices) > 0:
		return fmt.Sprintf("%s wanted, and %d of those allowed are on this host, which has %s", devices(count), have, listed(all))
	}
	return fmt.Sprintf("%s wanted, and this host has %d", devices(count), have)
}

func refusal(count, fit int, need uint64, lacks []string) string {
	head := "no device fits"
	switch {
	case count > 1:
		head = fmt.Sprintf("%s wanted and %d fit", devices(count), fit)
	case len(lacks) == 1:
		return lacks[0]
	}
	if need > 0 {
		head += fmt.Sprintf(" with %s each", size(need))
	}
	return head + ": " + strings.Join(lacks, "; ")
}

func devices(n int) string {
	if n == 1 {
		return "1 device is"
	}
	return fmt.Sprintf("%d devices are", n)
}

func (c Candidate) name() string {
	if c.Pool == "" {
		return c.UUID
	}
	return string(c.Pool)
}

// lack says why the device cannot take a worker of that need, empty when it can.
func (c Candidate) lack(need uint64) string {
	switch {
	case c.Cordoned != "":
		return fmt.Sprintf("%s is cordoned (%s)", c.name(), c.Cordoned)
	case c.Total < need:
		return fmt.Sprintf("%s is too small: it can give %s, and %s is wanted", c.name(), size(c.Total), size(need))
	case c.Free >= max(need, 1):
		return ""
	}
	s := c.name() + " has no memory free"
	if need > 0 {
		s = fmt.Sprintf("%s lacks %s of %s", c.name(), size(need-c.Free), size(need))
	}
	return s + held(c.Holders)
}

// held names the largest holders; the rest are counted.
func held(hs []Holder) string {
	if len(hs) == 0 {
		return ""
	}
	var names []string
	const most = 3
	for _, h := range hs[:min(most, len(hs))] {
		names = append(names, fmt.Sprintf("%s %s", h.Name, size(h.Bytes)))
	}
	s := " (held by " + strings.Join(names, ", ")
	if n := len(hs) - most; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s + ")"
}

// size writes bytes for people: exact where it is a round number, else with one decimal.
func size(n uint64) string {
	exact := messages.Size(n).String()
	if n < 1<<20 || n%(1<<20) == 0 && len(exact) <= len("9999MiB") {
		return exact
	}
	if n < 1<<30 {
		return fmt.Sprintf("%.1fMiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1fGiB", float64(n)/(1<<30))
}
