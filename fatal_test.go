package hive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
)

// open starts a hive in this process with the given workers section.
func open(t *testing.T, workers string) *Hive {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(fmt.Sprintf("data_dir: %s\nlisten: 127.0.0.1:0\nports: 19000-19009\n%s", t.TempDir(), workers)))
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// idle waits for a worker to be idle and returns its status.
func idle(t *testing.T, h *Hive, id messages.WorkerID) *messages.WorkerStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	w, err := h.WaitFor(ctx, id, func(w *messages.WorkerStatus) bool { return w.State == messages.Idle })
	if err != nil {
		t.Fatalf("worker %s is not idle: %v", id, err)
	}
	return w
}

// bug makes the root's actor panic: it answers on a channel that is closed.
func bug(h *Hive) {
	ch := make(chan messages.Reply)
	close(ch)
	h.system.Root.Send(h.root, messages.CordonPool{Pool: "none of ours", Reply: ch})
}

func TestARootThatGoesOnFailingEndsHiveInOrder(t *testing.T) {
	h := open(t, "workers:\n  - {name: w, command: [sleep, '1000'], ready: {settle: 0s}}\n")
	pid := idle(t, h, "w").PID
	done := make(chan error, 1)
	go func() { done <- h.Run(context.Background()) }()
	for range rootRestarts + 1 {
		bug(h)
	}
	select {
	case err := <-done:
		if !errors.Is(err, ErrFatal) {
			t.Errorf("Run returned %v", err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("hive did not end")
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d of the worker is left: %v", pid, err)
	}
	if got, _ := h.journal.Since(0); len(got) == 0 || got[len(got)-1].Type != messages.HiveStopped {
		t.Errorf("the last event is %v", got[max(0, len(got)-1):])
	}
}

func TestARootThatFailsOnceGoesOn(t *testing.T) {
	h := open(t, "workers:\n  - {name: w, command: [sleep, '1000'], ready: {settle: 0s}, restart: {backoff: {initial: 10ms}}}\n")
	first := idle(t, h, "w")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	bug(h)
	wait, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	second, err := h.WaitFor(wait, "w", func(w *messages.WorkerStatus) bool { return w.State == messages.Idle && w.PID != first.PID })
	if err != nil {
		t.Fatalf("the worker did not come back: %v", err)
	}
	if err := syscall.Kill(first.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("two processes for one worker: %d still lives beside %d", first.PID, second.PID)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("an orderly end returned %v", err)
	}
	if err := syscall.Kill(second.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is left", second.PID)
	}
}
