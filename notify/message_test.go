package notify

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	full, err := Parse([]byte("READY=1\nSTATUS=warm\nWATCHDOG=1\nSTOPPING=1\nEXTEND_TIMEOUT_USEC=1500000\nMAINPID=42\n" +
		"X_HIVE_PROGRESS=0.42\nX_HIVE_IN_FLIGHT=3\nX_HIVE_STAGE=weights\nWATCHDOG=trigger\n\nCOLOUR=red\nBARRIER=1\nERRNO=2\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !full.Ready || !full.Stopping || !full.Watchdog || !full.WatchdogTrigger || *full.Status != "warm" || *full.ExtendTimeout != 1500*time.Millisecond ||
		full.MainPID != 42 || *full.Progress != 0.42 || *full.InFlight != 3 || *full.Stage != "weights" || full.Unknown != 1 {
		t.Errorf("all words: %+v", full)
	}
	for name, c := range map[string]struct {
		in    string
		right func(Message) bool
	}{
		"nothing":               {"", func(m Message) bool { return m == Message{} }},
		"the last one counts":   {"X_HIVE_IN_FLIGHT=1\nX_HIVE_IN_FLIGHT=70000", func(m Message) bool { return *m.InFlight == 70000 }},
		"whole numbers":         {"X_HIVE_PROGRESS=1\nX_HIVE_IN_FLIGHT=0", func(m Message) bool { return *m.Progress == 1 && *m.InFlight == 0 }},
		"minus zero is zero":    {"X_HIVE_PROGRESS=-0", func(m Message) bool { return !math.Signbit(*m.Progress) }},
		"an empty status":       {"STATUS=", func(m Message) bool { return *m.Status == "" }},
		"an = in a status":      {"STATUS=a=b", func(m Message) bool { return *m.Status == "a=b" }},
		"control characters":    {"STATUS=a\x1b[31mb\x00\x7f\r\tc\u0085d", func(m Message) bool { return *m.Status == "a[31mbcd" }},
		"bytes that are none":   {"STATUS=a\xffb", func(m Message) bool { return *m.Status == "a\ufffdb" }},
		"a long status":         {"STATUS=" + strings.Repeat("a", 255) + "éz", func(m Message) bool { return *m.Status == strings.Repeat("a", 255) }},
		"words of other people": {"X_VENDOR=1\nX_HIVE_LATER=2", func(m Message) bool { return m.Unknown == 2 }},
	} {
		m, err := Parse([]byte(c.in))
		if err != nil || !c.right(m) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestParseKeepsTheGoodWords(t *testing.T) {
	for _, bad := range []string{"READY", "READY=0", "READY=", "STOPPING=yes", "WATCHDOG=2", "EXTEND_TIMEOUT_USEC=-1", "EXTEND_TIMEOUT_USEC=18446744073709551615",
		"MAINPID=1", "MAINPID=0", "MAINPID=x", "X_HIVE_PROGRESS=NaN", "X_HIVE_PROGRESS=1.01", "X_HIVE_PROGRESS=-0.1", "X_HIVE_PROGRESS=inf",
		"X_HIVE_IN_FLIGHT=-1", "X_HIVE_IN_FLIGHT=3.5", "X_HIVE_IN_FLIGHT=99999999999", "X_HIVE_IN_FLIGHT="} {
		m, err := Parse([]byte("STATUS=before\n" + bad + "\nX_HIVE_STAGE=after"))
		var we *WordError
		if !errors.As(err, &we) || we.Word != bad[:min(len(bad), 32)] || we.Why == "" {
			t.Errorf("%s: %v", bad, err)
		}
		if m.Status == nil || m.Stage == nil {
			t.Errorf("%s spoils its neighbours: %+v", bad, m)
		}
		m.Status, m.Stage = nil, nil
		if m != (Message{}) {
			t.Errorf("%s is taken: %+v", bad, m)
		}
	}
	if _, err := Parse([]byte(strings.Repeat("READY=0\n", 5000))); len(err.Error()) > 1000 {
		t.Errorf("the error of many bad words has %d bytes", len(err.Error()))
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "READY=1", "WATCHDOG=1\nX_HIVE_IN_FLIGHT=3", "X_HIVE_PROGRESS=NaN", "STATUS=\xff\x00é", "=\n=", "EXTEND_TIMEOUT_USEC=9223372036854775807", "MAINPID=4194304\nX_HIVE_STAGE=a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if m.Progress != nil && !(*m.Progress >= 0 && *m.Progress <= 1) {
			t.Errorf("progress %v", *m.Progress)
		}
		if m.InFlight != nil && *m.InFlight < 0 {
			t.Errorf("in flight %d", *m.InFlight)
		}
		if m.ExtendTimeout != nil && *m.ExtendTimeout < 0 {
			t.Errorf("extend %s", *m.ExtendTimeout)
		}
		if m.MainPID < 0 || m.MainPID == 1 {
			t.Errorf("main pid %d", m.MainPID)
		}
		for s, limit := range map[*string]int{m.Status: maxStatus, m.Stage: maxStage} {
			if s != nil && (len(*s) > limit || !utf8.ValidString(*s) || strings.ContainsFunc(*s, unicode.IsControl)) {
				t.Errorf("text %q", *s)
			}
		}
		if err != nil && len(err.Error()) > maxErrors*400 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
