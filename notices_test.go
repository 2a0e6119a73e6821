package hive

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/notify"
)

// noticesIn are the notices of a hive whose data lies in dir.
func noticesIn(dir string) *notices {
	return newNotices(&Hive{cfg: &config.Config{DataDir: dir}, sock: "/run/user/1000/hive/abc.sock"})
}

// TestANotifyPathIsNeverTooLong: for data directories and names of any length it
// is one that the kernel takes, the same each time, and no other worker's.
func TestANotifyPathIsNeverTooLong(t *testing.T) {
	longest := strings.Repeat("w", 63)
	for n := 1; n <= 200; n++ {
		dir := "/" + strings.Repeat("d", n)
		paths := map[string]messages.WorkerID{}
		for _, id := range []messages.WorkerID{"a", "chat-1", messages.WorkerID(longest), messages.WorkerID(longest[1:] + "x")} {
			path := noticesIn(dir).path(id)
			if len(path) > notify.MaxPath || !filepath.IsAbs(path) || filepath.Ext(path) != ".sock" {
				t.Errorf("data directory of %d, name of %d: %d bytes, %s", len(dir), len(id), len(path), path)
			}
			if other, taken := paths[path]; taken {
				t.Errorf("data directory of %d: %s and %s share %s", len(dir), id, other, path)
			}
			paths[path] = id
			if again := noticesIn(dir).path(id); again != path {
				t.Errorf("another start of hive gives %s, not %s", again, path)
			}
		}
	}
	if got := noticesIn("/srv/hive").path("chat-1"); got != "/srv/hive/notify/chat-1.sock" {
		t.Error(got)
	}
	if got := noticesIn("/" + strings.Repeat("d", 150)).path("chat-1"); !strings.HasPrefix(got, "/run/user/1000/hive/abc.notify/") {
		t.Error(got)
	}
}

// TestEachLengthCanBeListenedOn, at the borders where the form of the path changes.
func TestEachLengthCanBeListenedOn(t *testing.T) {
	top, err := os.MkdirTemp("", "hive") // t.TempDir may be too long already
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	before := ""
	for n := 1; len(top)+1+n < notify.MaxPath; n++ {
		dir := filepath.Join(top, strings.Repeat("d", n))
		path := noticesIn(dir).path("chat-1")
		if !strings.HasPrefix(path, dir) {
			break // beside the API's socket, which is not here
		}
		form := strings.TrimPrefix(path, dir)
		atBorder := form != before || len(path) == notify.MaxPath
		if before = form; !atBorder {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
			t.Fatal(err)
		}
		s, err := notify.Listen(path, os.Getuid(), os.Getgid())
		if err != nil {
			t.Errorf("%d bytes: %v", len(path), err)
			continue
		}
		c, err := net.Dial("unixgram", path)
		if err != nil {
			t.Errorf("%d bytes: %v", len(path), err)
		} else {
			_ = c.Close()
		}
		_ = s.Close()
	}
}

func TestProgressDoesNotGoBackWithinAStage(t *testing.T) {
	e := &ear{}
	say := func(stage string, value float64) notify.Message {
		m := notify.Message{Progress: &value}
		if stage != "" {
			m.Stage = &stage
		}
		return m
	}
	for i, step := range []struct {
		m    notify.Message
		pass bool
	}{
		{say("", 0.2), true}, {say("", 0.2), true}, {say("", 0.1), false}, {say("weights", 0), true}, {say("weights", 0.9), true},
		{say("weights", 0.8), false}, {notify.Message{Ready: true}, true}, {say("graphs", 0.1), true},
	} {
		if got := e.advances(step.m); got != step.pass {
			t.Errorf("step %d: %v", i, got)
		}
	}
}
