package hive

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/engine"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/observe"
	"github.com/rbee-hive/hive/ports"
	"github.com/rbee-hive/hive/process"
)

// Watch looks at an attempt from outside until ctx ends.
func (h *Hive) Watch(ctx context.Context, w worker.Watched, report func(worker.Sighting)) {
	e, _ := engine.For(w.Spec.Engine)
	t := observe.Target{Spec: w.Spec, Attempt: w.Attempt, Addr: net.JoinHostPort(workerHost, strconv.Itoa(w.Port)),
		Engine: e, Pulse: w.Pulse, Log: logOf{h, w.Spec.Name, w.Attempt}, LastLoad: w.LastLoad,
		Command: func(ctx context.Context) bool { return h.succeeds(ctx, w.Spec, w.Attempt, w.Port) }}
	if w.Port != 0 {
		command, env, err := config.Expand(w.Spec, config.Vars{Port: w.Port, Host: workerHost, Attempt: w.Attempt})
		if err == nil {
			t.Sources = e.SourcesFor(command, env)
		}
	}
	if p, ok := w.Proc.(osProcess); ok {
		t.Usage = func() []observe.Usage {
			all := p.p.Usage()
			out := make([]observe.Usage, len(all))
			for i, u := range all {
				out[i] = observe.Usage{PID: u.PID, Start: u.Start, CPU: u.CPU, Read: u.Read}
			}
			return out
		}
	} else {
		t.Usage = func() []observe.Usage { return nil }
	}
	pass := func(s observe.Sighting) {
		report(worker.Sighting{Ready: s.Ready, Progress: s.Progress, Advanced: s.Advanced, Moved: s.Moved, Fault: s.Fault, Detail: s.Detail})
	}
	if w.Serving {
		h.watcher.Serving(ctx, t, pass)
		return
	}
	t.Model = sizeOf(modelPath(w.Spec))
	h.watcher.Loading(ctx, t, pass)
}

// modelPath is where a worker's model lies, "" when it names none.
func modelPath(s messages.WorkerSpec) string {
	if s.Model == "" || filepath.IsAbs(s.Model) || s.Dir == "" {
		return s.Model
	}
	return filepath.Join(s.Dir, s.Model)
}

// sizeOf is the size of a file, or of everything in a folder; 0 when unknown.
func sizeOf(path string) int64 {
	if path == "" {
		return 0
	}
	var total int64
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not counted
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// logOf is the output of one attempt.
type logOf struct {
	h *Hive
	w messages.WorkerID
	a messages.Attempt
}

func (l logOf) Follow(ctx context.Context, tail int, emit func([]byte) error) error {
	return l.h.logs.Follow(ctx, l.w, l.a, tail, emit)
}
func (l logOf) Size() int64 { return l.h.logs.Size(l.w, l.a) }

func (l logOf) ReadAt(buf []byte, at int64) (n int, next int64, err error) {
	return l.h.logs.ReadAt(l.w, l.a, buf, at)
}

// lastWords is how many lines of a dead worker's log are read for the cause: an
// engine's traceback is some 60 lines.
const lastWords = 100

// Diagnose reads the attempt's last lines for the cause of its bad end.
func (h *Hive) Diagnose(s messages.WorkerSpec, a messages.Attempt) (messages.Cause, string, bool) {
	e, ok := engine.For(s.Engine)
	if !ok {
		return messages.CauseNone, "", false
	}
	cause, words, ok := e.DiagnoseTail(h.LogTail(s.Name, a, lastWords))
	if ok && cause == messages.CausePortInUse {
		if w, found := h.board.Worker(s.Name); found && w.Port != 0 && !h.ports.Free(w.Port) {
			words += fmt.Sprintf("; port %d is held by %s", w.Port, ports.Holder(w.Port))
		}
	}
	return cause, words, ok
}

// succeeds runs the readiness command to its end; exit code 0 is ready.
func (h *Hive) succeeds(ctx context.Context, s messages.WorkerSpec, a messages.Attempt, port int) bool {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	defer null.Close()
	exit, err := h.runBeside(ctx, s, "ready.command", s.Ready.Command, a, port, null)
	return err == nil && exit.Code == 0 && exit.Signal == 0 && !exit.Unknown
}

// runBeside runs a command that belongs to a worker, in its dir, as its user and
// with its environment, to the end or until ctx ends; nothing of it is left.
func (h *Hive) runBeside(ctx context.Context, s messages.WorkerSpec, key string, words []string, a messages.Attempt, port int, out *os.File) (process.Exit, error) {
	vars := config.Vars{Port: port, Host: workerHost, Attempt: a}
	_, env, err := config.Expand(messages.WorkerSpec{Name: s.Name, Env: s.Env, Model: s.Model}, vars)
	if err != nil {
		return process.Exit{}, err
	}
	command, err := config.ExpandList(s, key, words, vars)
	if err != nil {
		return process.Exit{}, err
	}
	p, err := h.runner.Start(process.Spec{Command: command, Env: h.environment(worker.Launch{Spec: s, Attempt: a, Port: port}, env),
		Dir: s.Dir, User: s.User, Output: out, MarkKey: markKey, MarkValue: fmt.Sprintf("%d/%s/%d/%s", os.Getpid(), s.Name, a, key)})
	if err != nil {
		return process.Exit{}, err
	}
	stop := context.AfterFunc(ctx, func() { _, _ = p.KillTree() })
	exit := p.Wait()
	stop()
	_, _ = p.KillTree()
	p.Close()
	return exit, nil
}
