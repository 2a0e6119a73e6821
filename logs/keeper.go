// Package logs keeps what workers write. A worker writes its own file, opened
// for append, so neither hive's death nor its slowness ever touches it. hive reads
// behind: it archives what it has read and punches a hole in its place, so the
// file never has to be replaced under the writer.
package logs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/messages"
)

// attemptsKept bounds how many attempts' files one worker keeps: enough to see a
// whole crash loop and what was before it.
const attemptsKept = 20

// Keeper keeps the log files of one hive. It is safe for concurrent use.
type Keeper struct {
	dir string
	in  *os.File // inotify
	fd  int      // the same; (*os.File).Fd would make it block

	mu      sync.Mutex // guards all below
	files   map[key]*file
	shelves map[messages.WorkerID]*shelf
	watches map[int32]*file
	begun   map[messages.WorkerID]chan struct{} // closed when a worker's next attempt begins
	warned  map[string]bool
	closed  bool
	done    chan struct{}

	tidying sync.WaitGroup // prunings under way
}

type key struct {
	w messages.WorkerID
	a messages.Attempt
}

// file is the log of a running attempt.
type file struct {
	key
	path     string
	spec     messages.LogsSpec
	archived int64 // everything before this offset is in archives
	wd       int32
	credit   float64       // bytes that may be archived now, with a rate
	at       time.Time     // when credit was last worked out
	more     chan struct{} // closed when something was written, or it ended
	ended    bool
}

// Open makes a keeper for dir, which it creates.
func Open(dir string) (*Keeper, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the log folder: %w", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch the log folder: %w; raise fs.inotify.max_user_instances", err)
	}
	k := &Keeper{dir: dir, in: os.NewFile(uintptr(fd), "inotify"), fd: fd, files: map[key]*file{}, shelves: map[messages.WorkerID]*shelf{},
		watches: map[int32]*file{}, begun: map[messages.WorkerID]chan struct{}{}, warned: map[string]bool{}, done: make(chan struct{})}
	go k.watch()
	return k, nil
}

// Close stops watching. Files stay, and workers go on writing them.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.closed = true
	for _, f := range k.files {
		f.wake()
	}
	k.mu.Unlock()
	k.tidying.Wait()
	err := k.in.Close()
	<-k.done
	return err
}

// Begin opens the file of an attempt for append. The caller hands it to the
// process and closes its own copy.
func (k *Keeper) Begin(w messages.WorkerID, a messages.Attempt, spec messages.LogsSpec) (*os.File, error) {
	// The file appears and is known in one stroke: a follower that sees a file
	// which nobody writes takes its attempt for ended.
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.shelf(w)
	path := activePath(s.dir, a)
	out, err := openAppend(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(s.dir, 0o750); err != nil {
			return nil, err
		}
		out, err = openAppend(path)
	}
	if err != nil {
		return nil, err
	}
	s.put(entry{path: path, attempt: a})
	f := &file{key: key{w, a}, path: path, spec: spec, more: make(chan struct{}), archived: archivedUpTo(s.all, a)}
	wd, err := unix.InotifyAddWatch(k.fd, path, unix.IN_MODIFY)
	if err != nil {
		k.warn("inotify", "a worker's log is not followed; raise fs.inotify.max_user_watches", err)
	}
	f.wd = int32(wd)
	k.files[f.key] = f
	if err == nil {
		k.watches[f.wd] = f
	}
	if ch := k.begun[w]; ch != nil {
		close(ch)
		delete(k.begun, w)
	}
	k.pruneSoon(w, spec)
	return out, nil
}

func openAppend(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
}

// End says that nobody writes the attempt's file any more.
func (k *Keeper) End(w messages.WorkerID, a messages.Attempt) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.files[key{w, a}]
	if f == nil {
		return
	}
	size := k.rotate(f)
	s := k.shelf(w)
	if i, ok := slices.BinarySearchFunc(s.all, entry{attempt: a}, older); ok {
		s.all[i].size = size
	}
	f.ended = true
	f.wake()
	delete(k.files, f.key)
	if k.watches[f.wd] == f {
		delete(k.watches, f.wd)
		_, _ = unix.InotifyRmWatch(k.fd, uint32(f.wd))
	}
}

// Remove deletes a worker's logs.
func (k *Keeper) Remove(w messages.WorkerID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.shelves, w)
	return os.RemoveAll(filepath.Join(k.dir, string(w)))
}

// wake is called with the keeper's lock held.
func (f *file) wake() {
	close(f.more)
	f.more = make(chan struct{})
}

// watch sleeps until a file is written. An idle worker costs nothing.
func (k *Keeper) watch() {
	defer close(k.done)
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := k.in.Read(buf)
		if err != nil {
			return // closed
		}
		k.mu.Lock()
		for off := 0; off+unix.SizeofInotifyEvent <= n; {
			ev := (*unix.InotifyEvent)(unsafe.Pointer(&buf[off]))
			off += unix.SizeofInotifyEvent + int(ev.Len)
			if f := k.watches[ev.Wd]; f != nil && !f.ended {
				k.rotate(f)
				f.wake()
			}
		}
		closed := k.closed
		k.mu.Unlock()
		if closed {
			return
		}
	}
}

// warn says a thing once. Called with the lock held.
func (k *Keeper) warn(about, text string, err error) {
	if !k.warned[about] {
		k.warned[about] = true
		slog.Warn(text, "error", err)
	}
}

// holdable errors are a full disk's: said once, and worked on.
func diskFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
