//go:build cgo && linux

package gpu

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// libraryName is what the dynamic loader is asked for when no path is set.
const libraryName = "libnvidia-ml.so.1"

// required is what a library must have. go-nvml binds lazily, and calling a
// function that the library lacks ends the process with "symbol lookup error", so
// that none is called before it is looked up.
var required = []string{
	"nvmlInit_v2", "nvmlShutdown", "nvmlErrorString", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2",
	"nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo",
}

// What NVML writes where a number is not available, and where there is no MIG instance.
const (
	notAvailable = ^uint64(0)
	noInstance   = ^uint32(0)
)

// card is a device that has been seen; it stays known when it goes.
type card struct {
	Device
	whole             bool // a GPU, with or without MIG
	mig               bool // a GPU that is split: its parts are the devices
	instance, compute uint32
	gone              bool // not even counted any more
}

// library is the Driver of NVML. Every call into it but the wait for events is made
// in turn.
//
// Handles are never kept: one of a device that was reset or taken out may end the
// process when it is used.
type library struct {
	options
	api  nvml.Interface
	path string

	turn *turns // guards the next three
	open bool
	seen map[string]*card
	last time.Time // when the library was last started
	said sync.Map  // string -> nothing

	waiting sync.Mutex // held during a wait for events; guards the rest
	watched bool       // somebody listens
	set     nvml.EventSet
	lost    map[string]bool // GPUs that were lost when the set was made
	pending []Event         // from a set that is freed
	names   map[nvml.Device]string
	parts   map[part]string
}

// maxPending bounds what is kept of a driver that tells without end.
const maxPending = 256

// part names a MIG device as events do.
type part struct {
	parent            string
	instance, compute uint32
}

// Open finds the NVIDIA driver by its library: the one at path, or where path is
// empty the one that the dynamic loader finds. The error wraps ErrNoDriver and is
// one line for people.
//
// One process can use one library: go-nvml binds each function once.
func Open(path string, opts ...Option) (Driver, error) {
	l := &library{options: optionsOf(opts), path: path, seen: map[string]*card{}}
	l.turn = newTurns(l.patience)
	if path == "" {
		l.path = libraryName
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	l.api = nvml.New(nvml.WithLibraryPath(l.path))
	if _, err := inTurn(l.turn, func() (none, error) { return none{}, l.start() }); err != nil {
		return nil, err
	}
	return l, nil
}

// check looks whether the library is one at all.
func (l *library) check() error {
	lib := dl.New(l.path, dl.RTLD_LAZY)
	if err := lib.Open(); err != nil {
		if l.path == libraryName {
			return noDriver("%s is not installed on this host", libraryName)
		}
		return noDriver("%s cannot be loaded (%w); correct gpu.nvml_library", l.path, err)
	}
	defer func() { _ = lib.Close() }()
	for _, name := range required {
		if lib.Lookup(name) != nil {
			return noDriver("%s has no %s; it is too old, or another library", filepath.Base(l.path), name)
		}
	}
	return nil
}

// start initialises NVML.
func (l *library) start() error {
	if ret := l.api.Init(); ret != nvml.SUCCESS {
		words := ret.Error()
		if ret == nvml.ERROR_DRIVER_NOT_LOADED {
			words = "its library is installed, but the kernel module is not loaded"
		}
		return noDriver("%s", words)
	}
	l.open, l.last = true, time.Now()
	return nil
}

// stop ends NVML; event sets do not outlive it.
func (l *library) stop() {
	if !l.open {
		return
	}
	l.waiting.Lock()
	defer l.waiting.Unlock()
	l.freeSet()
	_ = l.api.Shutdown()
	l.open = false
}

// freeSet ends the event set, and keeps what it has not told yet. The caller holds
// waiting.
func (l *library) freeSet() {
	if l.set == nil {
		return
	}
	for len(l.pending) < maxPending {
		data, ret := l.set.Wait(0)
		if ret != nvml.SUCCESS {
			break
		}
		l.pending = append(l.pending, describe(data, l.names, l.parts, time.Now()))
	}
	_ = l.set.Free()
	l.set = nil
}

type none struct{}

// has reports whether the library has a function, in any of its versions.
func (l *library) has(name string) bool {
	for _, version := range []string{"", "_v2", "_v3"} {
		if l.api.Extensions().LookupSymbol(name+version) == nil {
			return true
		}
	}
	return false
}

// once tells a shortcoming the first time.
func (l *library) once(words string, args ...any) {
	if _, told := l.said.LoadOrStore(words+fmt.Sprint(args...), true); !told {
		l.log.Warn(words, args...)
	}
}

// isLost reports whether an answer means that the device is not usable any more.
func isLost(ret nvml.Return) bool {
	return ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_RESET_REQUIRED || ret == nvml.ERROR_GPU_NOT_FOUND || ret == nvml.ERROR_NOT_FOUND
}

// unusable reports whether an answer means that NVML itself has to start again.
func unusable(ret nvml.Return) bool {
	return ret == nvml.ERROR_UNINITIALIZED || ret == nvml.ERROR_DRIVER_NOT_LOADED || ret == nvml.ERROR_LIB_RM_VERSION_MISMATCH
}

// Devices implements Driver. While a device is lost or missing, NVML is started
// anew once in a while, since a running one need not see it come back.
func (l *library) Devices() ([]Device, error) {
	return inTurn(l.turn, func() ([]Device, error) {
		fresh := !l.open
		if fresh {
			if err := l.start(); err != nil {
				return nil, err
			}
		}
		before := l.alive()
		list, ret := l.enumerate()
		if unusable(ret) || l.amiss() && time.Since(l.last) >= l.renew {
			l.stop()
			if err := l.start(); err != nil {
				for _, c := range l.seen {
					c.Lost = true
				}
				return nil, err
			}
			fresh = true
			list, ret = l.enumerate()
			for _, c := range l.seen {
				c.gone = c.gone || c.Lost && !slices.ContainsFunc(list, func(d Device) bool { return d.UUID == c.UUID || d.Parent == c.UUID })
			}
		}
		if ret != nvml.SUCCESS {
			return nil, fmt.Errorf("count the GPUs: %w", ret)
		}
		if fresh || !slices.Equal(before, l.alive()) { // what is watched for events is no longer right
			l.waiting.Lock()
			defer l.waiting.Unlock()
			if l.watched {
				if err := l.newSet(); err != nil {
					l.once("GPU events cannot be watched for now", "error", err.Error())
				}
			}
		}
		return list, nil
	})
}

// alive is the UUIDs of all that answers, GPUs and MIG devices.
func (l *library) alive() (uuids []string) {
	for id, c := range l.seen {
		if !c.Lost {
			uuids = append(uuids, id)
		}
	}
	slices.Sort(uuids)
	return uuids
}

// amiss reports whether something known does not answer. What stayed away over a
// fresh start, such as a MIG device that was taken apart, is waited for no more.
func (l *library) amiss() bool {
	for _, c := range l.seen {
		if c.Lost && !c.gone {
			return true
		}
	}
	return false
}

// enumerate asks for all devices and brings what is known up to date.
func (l *library) enumerate() ([]Device, nvml.Return) {
	n, ret := l.api.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	asked := map[string]bool{}
	var list []Device
	var silent []int
	for i := range n {
		h, ret := l.api.DeviceGetHandleByIndex(i)
		var c *card
		if ret == nvml.SUCCESS {
			c, ret = l.look(h)
		}
		if ret != nvml.SUCCESS {
			silent = append(silent, i)
			if !isLost(ret) {
				l.once("a GPU does not tell who it is", "index", i, "error", ret.Error())
			}
			continue
		}
		c.whole, c.Index, c.Device.PCI = true, i, l.pci(h)
		asked[c.UUID] = true
		l.seen[c.UUID] = c
		if c.mig = l.split(h); !c.mig {
			list = append(list, c.Device)
			continue
		}
		for _, p := range l.migDevices(h, c) {
			asked[p.UUID] = true
			l.seen[p.UUID] = p
			list = append(list, p.Device)
		}
	}
	for id, c := range l.seen {
		c.Lost = !asked[id]
	}
	// One that is still counted but silent cannot be asked for its UUID: it is the
	// one that had the index, unless that answers elsewhere by now.
	for _, i := range silent {
		for _, c := range l.seen {
			if c.Lost && !c.gone && !(c.whole && c.mig) && c.Index == i {
				list = append(list, c.Device)
			}
		}
	}
	slices.SortFunc(list, func(a, b Device) int {
		if a.Index != b.Index {
			return a.Index - b.Index
		}
		return int(l.seen[a.UUID].instance) - int(l.seen[b.UUID].instance)
	})
	return list, nvml.SUCCESS
}

// look asks a handle who it is.
func (l *library) look(h nvml.Device) (*card, nvml.Return) {
	c := &card{}
	var ret nvml.Return
	if c.UUID, ret = h.GetUUID(); ret != nvml.SUCCESS {
		return nil, ret
	}
	if c.Name, ret = h.GetName(); ret != nvml.SUCCESS {
		return nil, ret
	}
	m, ret := h.GetMemoryInfo()
	if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
		return nil, ret
	}
	c.MemoryTotal = m.Total
	return c, nvml.SUCCESS
}

func (l *library) pci(h nvml.Device) string {
	if !l.has("nvmlDeviceGetPciInfo") {
		return ""
	}
	p, ret := h.GetPciInfo()
	if ret != nvml.SUCCESS {
		return ""
	}
	var b []byte
	for _, ch := range p.BusId {
		if ch == 0 {
			break
		}
		b = append(b, byte(ch))
	}
	return string(b)
}

// split reports whether a GPU is divided by MIG; CUDA then finds only its parts.
func (l *library) split(h nvml.Device) bool {
	if !l.has("nvmlDeviceGetMigMode") || !l.has("nvmlDeviceGetMigDeviceHandleByIndex") || !l.has("nvmlDeviceGetMaxMigDeviceCount") {
		return false
	}
	now, _, ret := h.GetMigMode()
	return ret == nvml.SUCCESS && now == nvml.DEVICE_MIG_ENABLE
}

func (l *library) migDevices(h nvml.Device, parent *card) (parts []*card) {
	n, _ := h.GetMaxMigDeviceCount()
	for i := range n {
		m, ret := h.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS { // the places are numbered, and most are empty
			continue
		}
		c, ret := l.look(m)
		if ret != nvml.SUCCESS {
			l.once("a MIG device does not tell who it is", "gpu", parent.UUID, "place", i, "error", ret.Error())
			continue
		}
		c.MIG, c.Parent, c.Index, c.PCI = true, parent.UUID, parent.Index, parent.PCI
		c.instance, c.compute = noInstance, noInstance
		if gi, ret := m.GetGpuInstanceId(); ret == nvml.SUCCESS {
			c.instance = uint32(gi)
		}
		if ci, ret := m.GetComputeInstanceId(); ret == nvml.SUCCESS {
			c.compute = uint32(ci)
		}
		parts = append(parts, c)
	}
	if len(parts) == 0 {
		l.once("a GPU is set to MIG and has no MIG device, so nothing can run there; make some with nvidia-smi mig", "gpu", parent.UUID)
	}
	return parts
}

// Read implements Driver.
func (l *library) Read(uuid string) (Reading, error) {
	return inTurn(l.turn, func() (Reading, error) {
		if !l.open {
			return Reading{}, noDriver("it has gone")
		}
		r := Reading{At: time.Now()}
		h, ret := l.api.DeviceGetHandleByUUID(uuid)
		if ret == nvml.SUCCESS {
			ret = l.memory(h, uuid, &r)
		}
		if ret == nvml.SUCCESS {
			ret = l.processes(h, uuid, &r)
		}
		if ret != nvml.SUCCESS {
			return Reading{}, l.readError(uuid, ret)
		}
		l.sensors(h, &r)
		return r, nil
	})
}

func (l *library) readError(uuid string, ret nvml.Return) error {
	_, known := l.seen[uuid]
	switch {
	case unusable(ret):
		return noDriver("%s", ret.Error())
	case known && isLost(ret):
		l.seen[uuid].Lost = true
		return fmt.Errorf("read device %s: %w (%s)", uuid, ErrLost, ret.Error())
	case isLost(ret):
		return fmt.Errorf("read device %s: %w", uuid, ErrUnknownDevice)
	}
	return fmt.Errorf("read device %s: %w", uuid, ret)
}

// memory asks by the second version where there is one: the first counts what the
// driver keeps for itself as used. A GPU that shares the host's memory tells neither.
func (l *library) memory(h nvml.Device, uuid string, r *Reading) nvml.Return {
	if l.api.Extensions().LookupSymbol("nvmlDeviceGetMemoryInfo_v2") == nil {
		if m, ret := h.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
			r.MemoryTotal, r.MemoryUsed, r.MemoryReserved = m.Total, m.Used, m.Reserved
			return ret
		}
	}
	m, ret := h.GetMemoryInfo()
	if ret == nvml.ERROR_NOT_SUPPORTED {
		l.once("a GPU does not tell how much memory it has, so no worker is held back for it", "gpu", uuid)
		return nvml.SUCCESS
	}
	r.MemoryTotal, r.MemoryUsed = m.Total, m.Used
	return ret
}

// processes gathers the lists that NVML has; a process with both kinds of work is
// in two of them with the same memory.
func (l *library) processes(h nvml.Device, uuid string, r *Reading) nvml.Return {
	r.Blind = true
	for _, list := range []struct {
		symbol string
		ask    func() ([]nvml.ProcessInfo, nvml.Return)
	}{
		{"nvmlDeviceGetComputeRunningProcesses", h.GetComputeRunningProcesses},
		{"nvmlDeviceGetGraphicsRunningProcesses", h.GetGraphicsRunningProcesses},
		{"nvmlDeviceGetMPSComputeRunningProcesses", h.GetMPSComputeRunningProcesses},
	} {
		if !l.has(list.symbol) {
			continue
		}
		infos, ret := list.ask()
		switch {
		case ret == nvml.ERROR_NOT_SUPPORTED, ret == nvml.ERROR_NO_PERMISSION:
			continue
		case ret != nvml.SUCCESS:
			return ret
		}
		r.Blind = false
		for _, info := range infos {
			p := Process{PID: int(info.Pid), Bytes: info.UsedGpuMemory}
			if p.Bytes == notAvailable {
				p.Bytes, p.Untold = 0, true
			}
			r.add(p)
		}
	}
	if r.Blind {
		l.once("a GPU does not tell which processes use it; their memory is counted as a whole", "gpu", uuid)
	}
	return nvml.SUCCESS
}

// sensors asks for what is only shown; a device may lack any of it.
func (l *library) sensors(h nvml.Device, r *Reading) {
	if l.has("nvmlDeviceGetUtilizationRates") {
		if u, ret := h.GetUtilizationRates(); ret == nvml.SUCCESS {
			r.Utilization = new(float64(u.Gpu) / 100)
		}
	}
	if l.has("nvmlDeviceGetTemperature") {
		if t, ret := h.GetTemperature(nvml.TEMPERATURE_GPU); ret == nvml.SUCCESS {
			r.Temperature = new(float64(t))
		}
	}
	if l.has("nvmlDeviceGetPowerUsage") {
		if mw, ret := h.GetPowerUsage(); ret == nvml.SUCCESS {
			r.PowerWatts = new(float64(mw) / 1000)
		}
	}
}

// await waits a tick for one event, which is nil when none came. The error is the
// driver's, and does not say whose fault it is.
func (l *library) await() (*Event, error) {
	l.waiting.Lock()
	defer l.waiting.Unlock()
	if l.set == nil {
		return nil, nil
	}
	data, ret := l.set.Wait(uint32(l.tick.Milliseconds()))
	if ret == nvml.SUCCESS {
		return new(describe(data, l.names, l.parts, time.Now())), nil
	}
	if ret == nvml.ERROR_TIMEOUT {
		return nil, nil
	}
	return nil, fmt.Errorf("wait for GPU events: %w", ret)
}

// describe makes an Event of NVML's.
func describe(data nvml.EventData, names map[nvml.Device]string, parts map[part]string, at time.Time) Event {
	e := Event{UUID: names[data.Device], At: at}
	if id, ok := parts[part{e.UUID, data.GpuInstanceId, data.ComputeInstanceId}]; ok {
		e.UUID = id
	}
	switch data.EventType {
	case nvml.EventTypeXidCriticalError:
		e.Xid = data.EventData
	case nvml.EventTypeDoubleBitEccError:
		e.ECC = true
	}
	return e
}

// anyBack reports whether one of the lost GPUs answers again.
func (l *library) anyBack(lost map[string]bool) bool {
	for id := range lost {
		if !l.open {
			return false
		}
		if h, ret := l.api.DeviceGetHandleByUUID(id); ret == nvml.SUCCESS {
			if _, ret = h.GetMemoryInfo(); !isLost(ret) {
				return true
			}
		}
	}
	return false
}

// newSet replaces the event set by one of all GPUs that answer; only whole GPUs can
// be registered, and events name the MIG device. The old set is asked for the last
// time when the new one is there, so that nothing is missed between them; what
// happens at that very moment may be told by both. The caller holds waiting and
// has the turn.
func (l *library) newSet() error {
	lost := map[string]bool{}
	if !l.open {
		for id, c := range l.seen {
			if c.whole && !c.gone {
				lost[id] = true
			}
		}
		l.lost = lost
		return fmt.Errorf("%w: it has gone", ErrNoDriver)
	}
	for _, name := range []string{"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlEventSetWait", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes"} {
		if !l.has(name) {
			return errNoEvents
		}
	}
	if len(l.seen) == 0 {
		_, _ = l.enumerate()
	}
	set, ret := l.api.EventSetCreate()
	if ret == nvml.ERROR_NOT_SUPPORTED {
		return errNoEvents
	}
	if ret != nvml.SUCCESS {
		return fmt.Errorf("make a set of GPU events: %w", ret)
	}
	names, parts := map[nvml.Device]string{}, map[part]string{}
	for id, c := range l.seen {
		switch {
		case c.gone:
		case c.MIG && c.instance == noInstance:
		case c.MIG:
			parts[part{c.Parent, c.instance, c.compute}] = id
		default:
			h, ret := l.subscribe(set, id)
			if isLost(ret) {
				lost[id] = true
			} else if h != nil {
				names[h] = id
			}
		}
	}
	l.freeSet()
	l.set, l.names, l.parts, l.lost = set, names, parts, lost
	return nil
}

// subscribe registers one GPU for what it can tell of.
func (l *library) subscribe(set nvml.EventSet, uuid string) (nvml.Device, nvml.Return) {
	h, ret := l.api.DeviceGetHandleByUUID(uuid)
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	if _, ret := h.GetMemoryInfo(); isLost(ret) {
		return nil, ret
	}
	const wanted = uint64(nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError)
	can, ret := h.GetSupportedEventTypes()
	if ret == nvml.SUCCESS && can&wanted != 0 {
		ret = h.RegisterEvents(can&wanted, set)
	}
	switch {
	case isLost(ret):
		return nil, ret
	case ret == nvml.ERROR_NOT_SUPPORTED, ret == nvml.SUCCESS && can&wanted == 0:
		l.once("a GPU tells of no faults by itself; only its loss will be seen", "gpu", uuid)
	case ret != nvml.SUCCESS:
		l.once("a GPU cannot be watched for faults", "gpu", uuid, "error", ret.Error())
	case can&nvml.EventTypeXidCriticalError == 0:
		l.once("a GPU tells of no Xid", "gpu", uuid)
	}
	return h, nvml.SUCCESS
}

// Close implements Driver.
func (l *library) Close() error {
	_, err := inTurn(l.turn, func() (none, error) {
		l.stop()
		l.turn.shut = true
		return none{}, nil
	})
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}
