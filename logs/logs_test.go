package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/messages"
)

func open(t *testing.T, dir string) *Keeper {
	t.Helper()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// TestNoLineIsLost writes numbered lines through many rotations while a reader
// follows, and accounts for every line.
func TestNoLineIsLost(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir)
	out, err := k.Begin("w", 1, messages.LogsSpec{Size: 32 << 10, Files: 1000})
	if err != nil {
		t.Fatal(err)
	}
	const lines = 20000
	var got strings.Builder
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		if err := k.Follow(context.Background(), "w", 1, 0, func(b []byte) error { got.Write(b); return nil }); err != nil {
			t.Error(err)
		}
	}()
	var want strings.Builder
	for i := range lines {
		l := fmt.Sprintf("line %d\n", i)
		want.WriteString(l)
		if _, err := out.WriteString(l); err != nil {
			t.Fatal(err)
		}
	}
	_ = out.Close()
	k.End("w", 1)
	wg.Wait()
	if !strings.HasSuffix(want.String(), got.String()) || got.Len() == 0 {
		t.Errorf("the follower got %d bytes of %d, and not the last ones", got.Len(), want.Len())
	}
	tail, err := k.Tail("w", 1, lines+10)
	if err != nil || len(tail) != lines || tail[0] != "line 0" || tail[lines-1] != fmt.Sprintf("line %d", lines-1) {
		t.Errorf("tail over archives: %d lines, %v", len(tail), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "w", "1.log"), &st); err != nil || st.Blocks*512 > 128<<10 {
		t.Errorf("no hole was punched: %d bytes on disk, %v", st.Blocks*512, err)
	}
}

func TestFollowGoesOnWithTheNextAttempt(t *testing.T) {
	k := open(t, t.TempDir())
	spec := messages.LogsSpec{Size: 1 << 20, Files: 5}
	first, err := k.Begin("w", 1, spec)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = first.WriteString("one\n")
	ctx, cancel := context.WithCancel(context.Background())
	seen := make(chan string, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.Follow(ctx, "w", 0, 10, func(b []byte) error { seen <- string(b); return nil })
	}()
	if s := <-seen; s != "one\n" {
		t.Errorf("tail: %q", s)
	}
	_, _ = first.WriteString("two\n")
	if s := <-seen; s != "two\n" {
		t.Errorf("follow: %q", s)
	}
	k.End("w", 1)
	second, err := k.Begin("w", 2, spec)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = second.WriteString("three\n")
	if s := <-seen; s != "three\n" {
		t.Errorf("next attempt: %q", s)
	}
	cancel()
	<-done
}

func TestOldFilesGo(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir)
	for a := range messages.Attempt(40) {
		f, err := k.Begin("w", a+1, messages.LogsSpec{Size: 1 << 10, Files: 3})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.WriteString("x\n")
		_ = f.Close()
		k.End("w", a+1)
	}
	k.tidying.Wait()
	as, _ := k.Attempts("w")
	if len(as) > attemptsKept || as[len(as)-1] != 40 {
		t.Errorf("kept %v", as)
	}
	if err := k.Remove("w"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "w")); !os.IsNotExist(err) {
		t.Error("removed, and still there")
	}
	if lines, err := k.Tail("w", 0, 5); err != nil || lines != nil {
		t.Errorf("no log is no lines: %v, %v", lines, err)
	}
}

func TestTailMendsWhatIsNoText(t *testing.T) {
	k := open(t, t.TempDir())
	f, err := k.Begin("w", 1, messages.LogsSpec{Size: 1 << 20, Files: 3})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("a\xff\n" + strings.Repeat("y", 40<<10) + "\nno end")
	lines, err := k.Tail("w", 0, 3)
	if err != nil || len(lines) != 3 || lines[0] != "a\uFFFD" || len(lines[1]) > longestLine+20 || lines[2] != "no end" {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

// TestARateSaysWhatItDropped writes faster than the rate allows: what is kept and
// what the notes say was dropped make up every line.
func TestARateSaysWhatItDropped(t *testing.T) {
	k := open(t, t.TempDir())
	out, err := k.Begin("w", 1, messages.LogsSpec{Size: 8 << 10, Files: 1000, Rate: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := k.Follow(context.Background(), "w", 1, 0, func(b []byte) error { got.Write(b); return nil }); err != nil {
			t.Error(err)
		}
	})
	const lines = 5000
	for i := range lines {
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	_ = out.Close()
	k.End("w", 1)
	wg.Wait()
	tail, err := k.Tail("w", 1, lines+1000)
	if err != nil {
		t.Fatal(err)
	}
	kept, dropped, notes := 0, 0, 0
	for _, l := range tail {
		var n int
		if _, err := fmt.Sscanf(l, "[hive: %d lines", &n); err == nil {
			dropped, notes = dropped+n, notes+1
		} else {
			kept++
		}
	}
	if notes == 0 || kept == 0 || kept+dropped != lines {
		t.Errorf("%d lines kept, %d dropped by %d notes, of %d", kept, dropped, notes, lines)
	}
	if !strings.HasSuffix(got.String(), fmt.Sprintf("line %d\n", lines-1)) {
		t.Error("a follower did not come to the end")
	}
}
