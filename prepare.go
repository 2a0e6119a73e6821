package hive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/messages"
)

// A disk with less than this free is called full before prepare fills it: hive,
// its workers' logs and whatever else lives there need room to go on.
const (
	diskFloor = 256 << 20
	diskEvery = time.Second // how often it is looked at while prepare runs
)

// Prepare runs a worker's prepare command to its end, or until ctx ends. Its
// output is the beginning of the next attempt's log; the last percentage in it is
// its progress. It is ended when the disk that it fills runs out of room.
func (h *Hive) Prepare(ctx context.Context, s messages.WorkerSpec, next messages.Attempt, report func(messages.Progress)) error {
	target := prepareTarget(s)
	if err := room(target); err != nil {
		return fmt.Errorf("prepare was not started: %w", err)
	}
	out, err := h.logs.Begin(s.Name, next, s.Logs)
	if err != nil {
		return fmt.Errorf("open the log of prepare: %w", err)
	}
	defer h.logs.End(s.Name, next)
	defer out.Close()
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.overseePrepare(run, s.Name, next, target, cancel, report)
	}()
	exit, err := h.runBeside(run, s, "prepare", s.Prepare, next, 0, out)
	why := context.Cause(run)
	cancel(nil)
	<-done
	switch {
	case err != nil:
		return fmt.Errorf("prepare could not be started: %w", err)
	case ctx.Err() != nil:
		return ctx.Err()
	case why != nil && !errors.Is(why, context.Canceled):
		return why
	case exit.Unknown:
		return errors.New("prepare ended, and its exit status could not be read")
	case exit.Signal != 0:
		return fmt.Errorf("prepare was killed by signal %d (%s); see its output with \"hive logs %s\"", int(exit.Signal), exit.Signal, s.Name)
	case exit.Code != 0:
		return fmt.Errorf("prepare exited with code %d; see its output with \"hive logs %s\"", exit.Code, s.Name)
	}
	if path := modelPath(s); path != "" {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("prepare exited with code 0, and model %s is still not there; correct `model` or `prepare`", path)
		}
	}
	return nil
}

// prepareTarget is where prepare is taken to write: beside the model, else in
// the worker's dir.
func prepareTarget(s messages.WorkerSpec) string {
	path := modelPath(s)
	if path == "" {
		path = s.Dir
	}
	if path == "" {
		path = "."
	}
	for {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}

// room is an error when the disk under path is nearly full.
func room(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil //nolint:nilerr // a file system that does not say is not held against the worker
	}
	free := messages.Size(st.Bavail * uint64(st.Bsize))
	if total := st.Blocks * uint64(st.Bsize); uint64(free) < diskFloor && total > diskFloor {
		return fmt.Errorf("the disk of %s has only %s free, and hive keeps %s; make room there", path, free.About(), messages.Size(diskFloor).About())
	}
	return nil
}

// overseePrepare reads progress from the output and looks at the disk.
func (h *Hive) overseePrepare(ctx context.Context, id messages.WorkerID, a messages.Attempt, target string, cancel context.CancelCauseFunc, report func(messages.Progress)) {
	disk := make(chan struct{})
	go func() {
		defer close(disk)
		t := time.NewTicker(diskEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if err := room(target); err != nil {
					cancel(fmt.Errorf("prepare was ended: %w", err))
					return
				}
			}
		}
	}()
	last := -1.0
	_ = h.logs.Follow(ctx, id, a, 0, func(b []byte) error {
		if v, ok := lastPercent(b); ok && v != last {
			last = v
			report(messages.Progress{Stage: "preparing", Value: v, Source: "log"})
		}
		return nil
	})
	<-disk
}

var percent = regexp.MustCompile(`([\d.,]*\d) ?%`)

// lastPercent is the last percentage in a stretch of output, as 0 to 1.
func lastPercent(b []byte) (float64, bool) {
	if !bytes.ContainsRune(b, '%') {
		return 0, false
	}
	all := percent.FindAllSubmatch(b, -1)
	for i := len(all) - 1; i >= 0; i-- {
		n := strings.ReplaceAll(strings.TrimLeft(string(all[i][1]), ".,"), ",", ".")
		if v, err := strconv.ParseFloat(n, 64); err == nil && v <= 100 {
			return v / 100, true
		}
	}
	return 0, false
}
