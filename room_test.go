package hive

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/messages"
)

func TestRoomIsMissedOnlyWhereItCanBeSeen(t *testing.T) {
	for _, path := range []string{"/proc", "/nonexistent/at/all"} { // no blocks; no answer
		if err := room(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=300m"); err != nil {
		t.Skipf("a disk of its own needs the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	if err := room(dir); err != nil {
		t.Errorf("with 300 MiB free: %v", err)
	}
	big := filepath.Join(dir, "model.part")
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 60<<20); err != nil {
		t.Fatal(err)
	}
	if err := room(dir); err == nil || !strings.Contains(err.Error(), "has only 240 MiB free, and hive keeps 256 MiB; make room there") {
		t.Errorf("with 240 MiB free: %v", err)
	}
	if err := os.Remove(big); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if err := room(dir); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestASmallDiskIsNotCalledFull: one that never had that much room is not held
// to it.
func TestASmallDiskIsNotCalledFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("a disk of its own needs the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	if err := room(dir); err != nil {
		t.Error(err)
	}
}

func TestWherePrepareWrites(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		spec messages.WorkerSpec
		want string
	}{
		{messages.WorkerSpec{Model: filepath.Join(dir, "not", "yet", "there.gguf"), Dir: "/"}, dir},
		{messages.WorkerSpec{Dir: filepath.Join(dir, "later")}, dir},
		{messages.WorkerSpec{Dir: dir}, dir},
		{messages.WorkerSpec{}, "."},
	} {
		if got := prepareTarget(c.spec); got != c.want {
			t.Errorf("model %q, dir %q: %q, want %q", c.spec.Model, c.spec.Dir, got, c.want)
		}
	}
}
