package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// longestLine is how much of one line a reader gets; engines print whole prompts.
const longestLine = 16 << 10

// Attempts lists the attempts of which something is kept, oldest first.
func (k *Keeper) Attempts(w messages.WorkerID) ([]messages.Attempt, error) {
	var as []messages.Attempt
	for _, e := range k.entries(w) {
		as = append(as, e.attempt)
	}
	return slices.Compact(as), nil
}

// newest is the newest attempt with a file, 0 when there is none.
func (k *Keeper) newest(w messages.WorkerID) messages.Attempt {
	as, _ := k.Attempts(w)
	if len(as) == 0 {
		return 0
	}
	return as[len(as)-1]
}

// Tail returns the last n lines of an attempt, 0 for the newest. No file means no lines.
func (k *Keeper) Tail(w messages.WorkerID, a messages.Attempt, n int) ([]string, error) {
	if a == 0 {
		a = k.newest(w)
	}
	text, _, err := k.tail(w, a, n)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i, l := range lines {
		if len(l) > longestLine {
			l = l[:longestLine] + " … (cut)"
		}
		lines[i] = strings.ToValidUTF8(strings.TrimSuffix(l, "\r"), "�")
	}
	return lines, nil
}

// tail reads the last n lines backwards over active file and archives; pos is
// the offset at which the text ends.
func (k *Keeper) tail(w messages.WorkerID, a messages.Attempt, n int) (text []byte, pos int64, err error) {
	end := int64(-1)
	all := k.entries(w)
	for _, e := range slices.Backward(all) {
		if e.attempt != a {
			continue
		}
		var part []byte
		if e.end == 0 {
			up := archivedUpTo(all, a)
			if part, end, err = lastOf(e.path, up, n); err != nil {
				return nil, 0, err
			}
		} else if bytes.Count(text, []byte{'\n'}) < n {
			if part, _, err = lastOf(e.path, 0, n); err != nil {
				return nil, 0, err
			}
		}
		text = append(part, text...)
	}
	if end < 0 {
		return nil, 0, nil
	}
	return lastLines(text, n), end, nil
}

// lastOf reads at most the last n lines of a file, none before offset from.
func lastOf(path string, from int64, n int) ([]byte, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, 0, nil
		}
		return nil, 0, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, err
	}
	var text []byte
	const block = 64 << 10
	for at := size; at > from && bytes.Count(text, []byte{'\n'}) <= n && len(text) < 64<<20; {
		start := max(at-block, from)
		buf := make([]byte, at-start)
		if _, err := f.ReadAt(buf, start); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		text, at = append(buf, text...), start
	}
	return lastLines(text, n), size, nil
}

func lastLines(text []byte, n int) []byte {
	if n <= 0 {
		return nil
	}
	i := len(text)
	if i > 0 && text[i-1] == '\n' {
		i--
	}
	for ; n > 0; n-- {
		j := bytes.LastIndexByte(text[:i], '\n')
		if j < 0 {
			return text
		}
		i = j
	}
	return text[i+1:]
}

// Follow emits the last tail lines and then whatever comes, over rotations. With
// attempt 0 it goes on with the worker's next attempt; a fixed attempt ends it
// once that has ended and all is emitted. It returns ctx's error or emit's.
func (k *Keeper) Follow(ctx context.Context, w messages.WorkerID, a messages.Attempt, tail int, emit func([]byte) error) error {
	follow := a == 0
	if follow {
		a = k.newest(w)
	}
	text, pos, err := k.tail(w, a, tail)
	if err != nil {
		return err
	}
	if len(text) > 0 {
		if err := emit(text); err != nil {
			return err
		}
	}
	for {
		if a != 0 {
			if err := k.stream(ctx, w, a, pos, emit); err != nil {
				return err
			}
			if !follow {
				return nil
			}
		}
		next, err := k.nextAttempt(ctx, w, a)
		if err != nil {
			return err
		}
		a, pos = next, 0
	}
}

// stream emits from pos until the attempt has ended.
func (k *Keeper) stream(ctx context.Context, w messages.WorkerID, a messages.Attempt, pos int64, emit func([]byte) error) error {
	buf := make([]byte, 64<<10)
	for {
		k.mu.Lock()
		f, closed := k.files[key{w, a}], k.closed
		var more chan struct{}
		if f != nil {
			more = f.more
		}
		n, next, err := readAt(k.shelf(w).all, a, pos, buf) // under the lock: no hole is punched meanwhile
		k.mu.Unlock()
		if err != nil {
			return err
		}
		if n > 0 {
			pos = next
			if err := emit(buf[:n]); err != nil {
				return err
			}
			continue
		}
		if f == nil || closed {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readAt reads at an attempt's offset, from the archive that holds it or the
// active file; next is where to go on. What is in archives no more is passed over.
func readAt(all []entry, a messages.Attempt, pos int64, buf []byte) (n int, next int64, err error) {
	for _, e := range all {
		if e.attempt != a || e.end != 0 && e.end <= pos {
			continue
		}
		f, err := os.Open(e.path)
		if err != nil {
			continue
		}
		at := pos
		if e.end != 0 { // an archive ends at its name's offset
			size, _ := f.Seek(0, io.SeekEnd)
			at = max(pos-(e.end-size), 0)
			pos = e.end - size + at
			if e.cut {
				at = 0
			}
		}
		n, err := f.ReadAt(buf, at)
		_ = f.Close()
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if e.cut {
			return n, e.end, err
		}
		return n, pos + int64(n), err
	}
	return 0, pos, nil
}

func (k *Keeper) nextAttempt(ctx context.Context, w messages.WorkerID, a messages.Attempt) (messages.Attempt, error) {
	for {
		k.mu.Lock()
		if k.closed {
			k.mu.Unlock()
			return 0, context.Canceled
		}
		ch := k.begun[w]
		if ch == nil {
			ch = make(chan struct{})
			k.begun[w] = ch
		}
		k.mu.Unlock()
		as, _ := k.Attempts(w)
		for _, n := range as {
			if n > a {
				return n, nil
			}
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Size is how much an attempt has written, archives included.
func (k *Keeper) Size(w messages.WorkerID, a messages.Attempt) int64 {
	st, err := os.Stat(activePath(filepath.Join(k.dir, string(w)), a))
	if err != nil {
		return 0
	}
	return st.Size() // holes count: the file keeps its offsets
}

// ReadAt reads an attempt's output at an offset; 0 bytes means that there is no
// more yet. What lay in archives that are gone is passed over.
func (k *Keeper) ReadAt(w messages.WorkerID, a messages.Attempt, buf []byte, at int64) (n int, next int64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return readAt(k.shelf(w).all, a, at, buf)
}
