package logs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/messages"
)

func activePath(dir string, a messages.Attempt) string {
	return filepath.Join(dir, strconv.FormatUint(uint64(a), 10)+".log")
}

// An archive is named by the offset at which it ends, so that a new hive finds
// out from the names alone what is archived: 3.log.10485760.
func archivePath(dir string, a messages.Attempt, end int64) string {
	return fmt.Sprintf("%s.%d", activePath(dir, a), end)
}

type entry struct {
	path    string
	attempt messages.Attempt
	end     int64 // 0: the active file
	size    int64 // on disk
}

// list returns a worker's files, oldest first; an attempt's active file is its last.
func list(dir string) []entry {
	names, _ := os.ReadDir(dir)
	var all []entry
	for _, n := range names {
		a, rest, ok := strings.Cut(n.Name(), ".log")
		num, err := strconv.ParseUint(a, 10, 64)
		if !ok || err != nil {
			continue
		}
		e := entry{path: filepath.Join(dir, n.Name()), attempt: messages.Attempt(num)}
		if rest != "" {
			if e.end, err = strconv.ParseInt(strings.TrimPrefix(rest, "."), 10, 64); err != nil {
				continue
			}
		}
		var st unix.Stat_t
		if unix.Stat(e.path, &st) == nil {
			e.size = st.Blocks * 512
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y entry) int {
		if x.attempt == y.attempt && (x.end == 0) != (y.end == 0) {
			if x.end == 0 {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(x.attempt, y.attempt), cmp.Compare(x.end, y.end))
	})
	return all
}

func archivedUpTo(dir string, a messages.Attempt) int64 {
	var up int64
	for _, e := range list(dir) {
		if e.attempt == a {
			up = max(up, e.end)
		}
	}
	return up
}

// rotate archives full stretches of the active file and punches them out of it.
// Called with the keeper's lock held.
func (k *Keeper) rotate(f *file) {
	size := int64(f.spec.Size)
	if size <= 0 {
		return
	}
	st, err := os.Stat(f.path)
	if err != nil {
		return
	}
	for st.Size()-f.archived >= size {
		n, err := k.archive(f, size)
		if err != nil {
			if diskFull(err) {
				k.warn("full", "the disk is full: logs are not archived until there is room", err)
			} else {
				k.warn(f.path, "a log could not be archived", err)
			}
			return
		}
		f.archived += n
		k.prune(filepath.Dir(f.path), f.spec)
	}
}

// archive copies about size bytes, up to a line's end, and returns how many.
func (k *Keeper) archive(f *file, size int64) (int64, error) {
	in, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	buf := make([]byte, size)
	n, err := in.ReadAt(buf, f.archived)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	buf = buf[:n]
	if i := bytes.LastIndexByte(buf, '\n'); i >= 0 {
		buf = buf[:i+1]
	}
	end := f.archived + int64(len(buf))
	path := archivePath(filepath.Dir(f.path), f.a, end)
	tmp := filepath.Join(filepath.Dir(path), ".part")
	if err := os.WriteFile(tmp, buf, 0o640); err != nil {
		_ = os.Remove(tmp)
		return 0, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return 0, err
	}
	if err := unix.Fallocate(int(in.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, f.archived, int64(len(buf))); err != nil {
		k.warn("punch", "this file system cannot punch holes, so logs are archived but their files keep growing", err)
	}
	return int64(len(buf)), nil
}

// prune deletes the oldest archives over the count, and the files of attempts
// long gone. A file that is being written is never deleted.
func (k *Keeper) prune(dir string, spec messages.LogsSpec) {
	all := list(dir)
	archives, attempts := 0, map[messages.Attempt]bool{}
	var total int64
	for _, e := range slices.Backward(all) {
		active := k.files[key{messages.WorkerID(filepath.Base(dir)), e.attempt}] != nil && e.end == 0
		attempts[e.attempt] = true
		total += e.size
		if e.end != 0 {
			archives++
		}
		over := spec.Files > 0 && (e.end != 0 && archives > spec.Files || total > int64(spec.Size)*int64(spec.Files+1))
		if !active && (over || len(attempts) > attemptsKept) {
			_ = os.Remove(e.path)
		}
	}
}
