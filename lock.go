package hive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// takeLock makes sure that one hive at a time works on a data directory. The
// kernel drops the lock when hive dies, however it dies. The file holds the
// pid, for people.
func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, "hive.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of data_dir %s: %w; name a writable one with data_dir or --data-dir", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data_dir %s: %w", dir, err)
		}
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("%w: data_dir %s is held by pid %s; stop that one with \"hive down\" or use another data_dir",
			ErrAlreadyRunning, dir, strings.TrimSpace(string(pid)))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(fmt.Sprintf("%d\n", os.Getpid())), 0)
	}
	return f, nil
}
