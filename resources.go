package hive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/admission"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/process"
)

// running is the process of a worker's current attempt.
type running struct {
	attempt messages.Attempt
	proc    *process.Proc
}

// sampleEvery is how often what workers use is read: often enough for a graph,
// rarely enough that 500 workers cost well under one percent of a core.
const sampleEvery = 10 * time.Second

// sample reads what every worker uses, until ctx ends. The readings are spread
// over the period, so that hive takes no gulp of a core.
func (h *Hive) sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		type one struct {
			id messages.WorkerID
			running
		}
		var all []one
		h.running.Range(func(k, v any) bool {
			all = append(all, one{k.(messages.WorkerID), v.(running)})
			return true
		})
		for _, r := range all {
			h.uses(r.id, r.running)
			select {
			case <-ctx.Done():
				return
			case <-time.After(sampleEvery / 2 / time.Duration(len(all))):
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// uses reads what one worker uses now.
func (h *Hive) uses(id messages.WorkerID, r running) messages.Resources {
	var u messages.Resources
	for _, p := range r.proc.Usage() {
		u.MemoryBytes += uint64(max(p.RSS, 0))
		u.CPUSeconds += p.CPU.Seconds()
		u.ReadBytes += uint64(max(p.Read, 0))
		u.WriteBytes += uint64(max(p.Write, 0))
		u.Processes++
	}
	if w, ok := h.board.Worker(id); ok && w.Live != nil {
		w.Live.Uses(r.attempt, u)
	}
	return u
}

// memoryUsed is what a worker uses now, for the account of memory.
func (h *Hive) memoryUsed(id messages.WorkerID) uint64 {
	r, ok := h.running.Load(id)
	if !ok {
		return 0
	}
	return h.uses(id, r.(running)).MemoryBytes
}

// memoryAvailable is what the kernel could give to new programs without
// swapping. Source: proc_meminfo(5), MemAvailable.
func memoryAvailable() (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo names no MemAvailable")
}

// dataFloor is how much room data_dir must have before another process is
// started: its log has to go somewhere.
const dataFloor = 16 << 20

// Reserve sets aside what an attempt needs before it is made.
func (h *Hive) Reserve(s messages.WorkerSpec, since time.Time) error {
	dir := h.config().DataDir
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil {
		if free := st.Bavail * uint64(st.Bsize); free < dataFloor {
			return &admission.NoRoomError{Reason: fmt.Sprintf("waits for disk: data_dir %s has %s free, and hive starts nothing below %s; make room there",
				dir, messages.Size(free).About(), messages.Size(dataFloor).About())}
		}
	}
	return h.memory.Claim(s.Name, uint64(s.Limits.Memory), s.Priority, since)
}

// Unreserve gives it back.
func (h *Hive) Unreserve(id messages.WorkerID) { h.memory.Release(id) }
