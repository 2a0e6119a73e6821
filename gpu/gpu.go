// Package gpu knows the NVIDIA devices of this host: which there are, what they
// hold and who holds it, and what their faults mean. Decisions (ledger.go,
// place.go, xid.go) are pure; nvml.go alone talks to the driver.
package gpu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"
)

// What a caller of a Driver branches on.
var (
	// ErrNoDriver: this host or this build has no NVIDIA driver to ask. The
	// error's text is one line for people.
	ErrNoDriver = errors.New("no NVIDIA driver")
	// ErrLost: the device was there and does not answer any more, or needs a
	// reset before it does.
	ErrLost = errors.New("the device is lost")
	// ErrUnknownDevice: no device of that UUID has been seen.
	ErrUnknownDevice = errors.New("no such device")
	// ErrSilent: the driver has not answered in time. The call that hangs goes on
	// in the background, and others wait for it no longer than their own time.
	ErrSilent = errors.New("the NVIDIA driver does not answer")
	// ErrClosed: the driver has been closed.
	ErrClosed = errors.New("the GPU driver is closed")
)

// Driver is all that hive asks of a GPU driver. It is safe for concurrent use.
type Driver interface {
	// Devices asks anew what there is, in the driver's order, which is that of
	// the PCI bus. A GPU split by MIG is not listed itself; its parts are.
	// The error wraps ErrNoDriver once the driver has gone.
	Devices() ([]Device, error)
	// Read asks a device what it holds now. The error wraps ErrLost,
	// ErrUnknownDevice or ErrNoDriver where it is one of them.
	Read(uuid string) (Reading, error)
	// Events tells of faults, one after the other, until ctx ends; then it returns
	// nil. The error says why this driver can tell of none. One call at a time.
	Events(ctx context.Context, tell func(Event)) error
	// Close lets the driver go; it ends Events.
	Close() error
}

// Device is one GPU, or one MIG part of one.
type Device struct {
	UUID        string
	Name        string
	Index       int    // the GPU's place in the driver's order; of a MIG device, its parent's
	PCI         string // "00000000:01:00.0"; of a MIG device, its parent's
	MemoryTotal uint64 // bytes; 0 when not told, as by a GPU that shares the host's
	MIG         bool
	Parent      string // UUID of the GPU that a MIG device is a part of
	Lost        bool   // known from before, and does not answer now
}

// Reading is what a device held at a moment.
type Reading struct {
	At             time.Time // before the driver was asked
	MemoryTotal    uint64    // bytes; 0 when not told
	MemoryUsed     uint64    // bytes, of all processes; with an old driver, its own share too
	MemoryReserved uint64    // bytes that the driver keeps for itself; 0 when it does not tell
	Processes      []Process // each pid once
	Blind          bool      // the driver does not tell of processes here
	Utilization    *float64  // 0 to 1; nil when not told, as for MIG devices
	Temperature    *float64  // degrees Celsius; nil when not told
	PowerWatts     *float64  // nil when not told
}

// Process is one process on a device.
type Process struct {
	PID     int
	Command string // its name as the kernel has it; empty when it is not to be seen
	Bytes   uint64
	Untold  bool // the driver does not say how much; Bytes is 0
}

// add enters a process, which may be there already from another list.
func (r *Reading) add(p Process) {
	i := slices.IndexFunc(r.Processes, func(o Process) bool { return o.PID == p.PID })
	if i < 0 {
		p.Command = command(p.PID)
		r.Processes = append(r.Processes, p)
		return
	}
	o := &r.Processes[i]
	o.Bytes, o.Untold = max(o.Bytes, p.Bytes), o.Untold && p.Untold
}

// Event is a fault that a device told of.
type Event struct {
	// UUID is the device's, or its parent's when the fault is not of one MIG
	// device, or empty when the driver could not say whose it is.
	UUID string
	Xid  uint64 // the Xid, 0 when it is none
	ECC  bool   // a memory error that could not be corrected
	Lost bool   // the device stopped answering
	At   time.Time
}

// Concerns reports whether the fault is d's.
func (e Event) Concerns(d Device) bool {
	return e.UUID == "" || e.UUID == d.UUID || (d.Parent != "" && e.UUID == d.Parent)
}

// Option changes how a driver is opened.
type Option func(*options)

type options struct {
	log      *slog.Logger
	patience time.Duration // how long a call may take
	tick     time.Duration // one wait for events, and so how soon Events sees its end
	retry    time.Duration // before what failed is tried again
	renew    time.Duration // between two fresh starts of the library
}

// WithLog says where a driver's shortcomings are told, each once.
func WithLog(log *slog.Logger) Option { return func(o *options) { o.log = log } }

func optionsOf(opts []Option) options {
	o := options{
		log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
		patience: 10 * time.Second, // a GPU without persistence mode needs seconds to wake up
		tick:     250 * time.Millisecond,
		retry:    5 * time.Second,
		renew:    time.Minute, // a fresh start costs seconds where no other program keeps the GPU awake
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// noDriver is an error of one line that wraps ErrNoDriver.
func noDriver(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrNoDriver}, args...)...)
}

// command is the name of a process, empty when it is gone or hidden.
func command(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
