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
	"time"

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
	cut     bool  // an archive of which only the news is kept that it was dropped
}

// shelf is what a worker's folder holds, so that a restart need not read it.
type shelf struct {
	dir string
	all []entry // in list's order
}

// shelf reads a worker's folder the first time. Called with the keeper's lock held.
func (k *Keeper) shelf(w messages.WorkerID) *shelf {
	s := k.shelves[w]
	if s == nil {
		dir := filepath.Join(k.dir, string(w))
		s = &shelf{dir: dir, all: list(dir)}
		k.shelves[w] = s
	}
	return s
}

// entries is a copy of what a worker's folder holds, oldest first.
func (k *Keeper) entries(w messages.WorkerID) []entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.shelf(w).all)
}

func (s *shelf) put(e entry) {
	i, found := slices.BinarySearchFunc(s.all, e, older)
	if !found {
		s.all = slices.Insert(s.all, i, e)
	}
}

// older orders entries as list does.
func older(x, y entry) int {
	if x.attempt == y.attempt && (x.end == 0) != (y.end == 0) {
		if x.end == 0 {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(x.attempt, y.attempt), cmp.Compare(x.end, y.end))
}

// cutSuffix ends the name of an archive that holds a note in place of what came
// faster than the rate allows: 3.log.10485760.cut.
const cutSuffix = ".cut"

// affords takes n bytes from the account of the file's rate. The account holds
// ten seconds of it, so that a burst at the start passes.
func (f *file) affords(n int64, now time.Time) bool {
	rate := float64(f.spec.Rate)
	if rate <= 0 {
		return true
	}
	most := max(10*rate, float64(n))
	if f.at.IsZero() {
		f.credit = most
	} else {
		f.credit = min(most, f.credit+rate*now.Sub(f.at).Seconds())
	}
	f.at = now
	if f.credit < float64(n) {
		return false
	}
	f.credit -= float64(n)
	return true
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
			rest, e.cut = strings.CutSuffix(rest, cutSuffix)
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
	slices.SortFunc(all, older)
	return all
}

func archivedUpTo(all []entry, a messages.Attempt) int64 {
	var up int64
	for _, e := range all {
		if e.attempt == a {
			up = max(up, e.end)
		}
	}
	return up
}

// rotate archives full stretches of the active file, punches them out of it, and
// returns what the file still takes on disk. Called with the keeper's lock held.
func (k *Keeper) rotate(f *file) (left int64) {
	var st unix.Stat_t
	if unix.Stat(f.path, &st) != nil {
		return 0
	}
	size := int64(f.spec.Size)
	for size > 0 && st.Size-f.archived >= size {
		n, err := k.archive(f, size)
		if err != nil {
			if diskFull(err) {
				k.warn("full", "the disk is full: logs are not archived until there is room", err)
			} else {
				k.warn(f.path, "a log could not be archived", err)
			}
			break
		}
		f.archived += n
		k.prune(f.w, f.spec)
	}
	return st.Size - f.archived
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
	path, length := archivePath(filepath.Dir(f.path), f.a, end), int64(len(buf))
	cut := !f.affords(length, time.Now())
	if cut {
		path += cutSuffix
		buf = fmt.Appendf(nil, "[hive: %d lines (%s) were dropped here, the output is faster than logs.rate of %s a second]\n",
			bytes.Count(buf, []byte{'\n'}), messages.Size(length).About(), f.spec.Rate)
	}
	tmp := filepath.Join(filepath.Dir(path), ".part")
	if err := os.WriteFile(tmp, buf, 0o640); err != nil {
		_ = os.Remove(tmp)
		return 0, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return 0, err
	}
	if err := unix.Fallocate(int(in.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, f.archived, length); err != nil {
		k.warn("punch", "this file system cannot punch holes, so logs are archived but their files keep growing", err)
	}
	k.shelf(f.w).put(entry{path: path, attempt: f.a, end: end, size: int64(len(buf)), cut: cut})
	return length, nil
}

// pruneSoon prunes beside the restart that is under way.
func (k *Keeper) pruneSoon(w messages.WorkerID, spec messages.LogsSpec) {
	k.tidying.Add(1)
	go func() {
		defer k.tidying.Done()
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.shelves[w] != nil { // else removed meanwhile
			k.prune(w, spec)
		}
	}()
}

// prune deletes the oldest archives over the count, and the files of attempts
// long gone. A file that is being written is never deleted. Called with the
// keeper's lock held.
func (k *Keeper) prune(w messages.WorkerID, spec messages.LogsSpec) {
	s := k.shelf(w)
	archives, attempts := 0, map[messages.Attempt]bool{}
	var total int64
	gone := map[string]bool{}
	for _, e := range slices.Backward(s.all) {
		active := e.end == 0 && k.files[key{w, e.attempt}] != nil
		attempts[e.attempt] = true
		total += e.size
		if e.end != 0 {
			archives++
		}
		over := spec.Files > 0 && (e.end != 0 && archives > spec.Files || total > int64(spec.Size)*int64(spec.Files+1))
		if !active && (over || len(attempts) > attemptsKept) {
			if err := os.Remove(e.path); err == nil || errors.Is(err, os.ErrNotExist) {
				gone[e.path] = true
			}
		}
	}
	if len(gone) > 0 {
		s.all = slices.DeleteFunc(s.all, func(e entry) bool { return gone[e.path] })
	}
}
