package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rbee-hive/hive/messages"
)

// load is a worker's life from nothing to idle in steps of some percent.
func load(stage string, percents ...int) []messages.WorkerStatus {
	life := []messages.WorkerStatus{{State: messages.Starting, Attempt: 1}}
	for _, p := range percents {
		life = append(life, messages.WorkerStatus{State: messages.Loading, Attempt: 1, PID: 1,
			Progress: &messages.Progress{Stage: stage, Value: float64(p) / 100, Source: "log"}})
	}
	return append(life, messages.WorkerStatus{State: messages.Idle, Attempt: 1, PID: 1})
}

func TestWaitTellsEachTenth(t *testing.T) {
	f := newFakeHive(t)
	steps := load("weights", 0, 3, 9, 10, 14, 29, 30, 31)
	steps = append(steps[:len(steps)-1], load("kv \x1b[2Jcache", 5, 95, 100)[1:]...)
	f.life("w", steps...)
	r := f.hive(t, "wait", "--for=idle", "w")
	want := "w loading weights 0%\nw loading weights 10%\nw loading weights 29%\nw loading weights 30%\n" +
		"w loading kv cache 5%\nw loading kv cache 95%\nw loading kv cache 100%\n"
	if r.code != 0 || r.out != "w idle\n" || r.err != want {
		t.Errorf("exit %d, stdout %q, stderr\n%swant\n%s", r.code, r.out, r.err, want)
	}
}

func TestWaitIsSilentForAProgram(t *testing.T) {
	f := newFakeHive(t)
	f.life("w", load("weights", 10, 50, 90)...)
	if r := f.hive(t, "wait", "-o", "json", "w"); r.code != 0 || r.err != "" || !strings.HasPrefix(r.out, "{") {
		t.Errorf("%+v", r)
	}
}

func TestTheNextAttemptIsToldAnew(t *testing.T) {
	var out bytes.Buffer
	w := newAwaited(&app{errOut: &out})
	for attempt := range messages.Attempt(2) {
		w.draw(messages.WorkerStatus{Name: "w", State: messages.Loading, Attempt: attempt + 1, Progress: &messages.Progress{Value: 0.5}})
	}
	if out.String() != "w loading 50%\nw loading 50%\n" {
		t.Errorf("%q", out.String())
	}
}

// screen is the last line drawn on a terminal before it was cleared or passed on.
func screen(out string) string {
	lines := strings.FieldsFunc(strings.ReplaceAll(out, "\x1b[0K", ""), func(r rune) bool { return r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		if s := strings.TrimSpace(strings.ReplaceAll(lines[i], "\x1b[K", "")); s != "" {
			return s
		}
	}
	return ""
}

func TestTheBarOfWait(t *testing.T) {
	for _, c := range []struct {
		name    string
		columns int
		blocks  bool
		steps   []messages.WorkerStatus
		want    string
	}{
		{"half", 100, true, load("weights", 10, 50), "w loading weights  50% |" + strings.Repeat("█", 20) + strings.Repeat("░", 20) + "|  [0s]"},
		{"in ASCII", 60, false, load("weights", 25), "w loading weights  25% |#####------------------|  [0s]"},
		{"never full before it is ready", 100, true, load("", 100), "w loading  99% |" + strings.Repeat("█", 39) + "░|  [0s]"},
		{"a stage begins at 0 again", 100, true, append(load("weights", 90)[1:2], load("graphs", 20)[1]),
			"w loading graphs  20% |" + strings.Repeat("█", 8) + strings.Repeat("░", 32) + "|  [0s]"},
		{"narrow, with a long stage", 40, true, load(strings.Repeat("long ", 20), 50), "w loading long long…  50% |██░░░|  [0s]"},
		{"no progress is known", 60, true, []messages.WorkerStatus{{State: messages.Pending, Reason: "waits for \x1b[2Ja device"}}, "w pending waits for a device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{errOut: &out, errTerm: terminal{tty: true, live: true, blocks: c.blocks, width: func() int { return c.columns }}}
			w := newAwaited(a)
			for _, s := range c.steps {
				if s.State == messages.Idle {
					continue
				}
				s.Name = "w"
				w.draw(s)
			}
			drawn := out.String()
			if got := screen(drawn); got != c.want {
				t.Errorf("drawn %q\nwant  %q", got, c.want)
			}
			for _, line := range strings.Split(strings.ReplaceAll(drawn, "\x1b[0K", ""), "\r") {
				if n := len([]rune(strings.ReplaceAll(line, "\x1b[K", ""))); n > c.columns {
					t.Errorf("%d columns on a terminal of %d: %q", n, c.columns, line)
				}
			}
			w.clear()
			if !strings.HasSuffix(out.String(), "\r\x1b[K") || strings.Contains(out.String(), "\n") {
				t.Errorf("something stays on the screen: %q", out.String())
			}
		})
	}
}

// TestWaitOnATerminal: the bar goes to stderr and is gone at the end, the answer
// goes to stdout.
func TestWaitOnATerminal(t *testing.T) {
	f := newFakeHive(t)
	f.life("w", load("weights", 10, 60, 90)...)
	var out, errOut bytes.Buffer
	a := newApp(&out, &errOut, func(key string) string { return map[string]string{"HIVE_URL": "unix://" + f.socket}[key] })
	a.tick = 5 * time.Millisecond
	a.errTerm = terminal{tty: true, live: true, width: func() int { return 80 }}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if code := a.execute(ctx, []string{"wait", "--for=idle", "w"}); code != 0 || out.String() != "w idle\n" {
		t.Errorf("exit %d, stdout %q", code, out.String())
	}
	if s := errOut.String(); !strings.Contains(s, "w loading weights  60% |####") || !strings.HasSuffix(s, "\r\x1b[K") {
		t.Errorf("stderr %q", s)
	}
}

func TestWhatATerminalCanShow(t *testing.T) {
	for _, c := range []struct {
		env    map[string]string
		blocks bool
	}{
		{map[string]string{"LANG": "de_DE.UTF-8"}, true},
		{map[string]string{"LANG": "C.utf8", "NO_COLOR": "1"}, true}, // about colours alone
		{map[string]string{"LANG": "en_US.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_CTYPE": "en_US.ISO-8859-1"}, false},
		{map[string]string{"LC_CTYPE": "UTF-8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "TERM": "dumb"}, false},
		{map[string]string{}, false},
	} {
		term := terminalOf(&bytes.Buffer{}, func(key string) string { return c.env[key] })
		if term.blocks != c.blocks || term.tty || term.live || term.colour {
			t.Errorf("%v: %+v", c.env, term)
		}
	}
}

func TestWhatIsSaidOfALoad(t *testing.T) {
	p := &messages.Progress{Stage: "weights", Value: 0.5}
	for want, w := range map[string]messages.WorkerStatus{
		"loading 50%: weights":       {State: messages.Loading, Reason: "process started", Progress: p},
		"loading 50%: shard 3 of 9":  {State: messages.Loading, Reason: "process started", Progress: p, Said: "shard 3 of 9"},
		"loading: process started":   {State: messages.Loading, Reason: "process started"},
		"pending 50%: preparing":     {State: messages.Pending, Reason: "preparing", Progress: p},
		"idle: ready":                {State: messages.Idle, Reason: "ready", Progress: p, Said: "shard 9 of 9"},
		"busy (2): work in flight":   {State: messages.Busy, Reason: "work in flight", InFlight: 2},
		"draining (1): told to stop": {State: messages.Draining, Reason: "told to stop", InFlight: 1},
	} {
		if got := stateText(w, terminal{}) + ": " + noteText(w); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestPsFitsOneHundredColumns with names, pools and reasons as they usually are.
func TestPsFitsOneHundredColumns(t *testing.T) {
	all := sampleWorkers()
	for i := range all {
		all[i].Name = messages.WorkerID("llama-3-8b")
		all[i].PID, all[i].Port, all[i].Heartbeat.Kind = 345678, 21000, messages.BeatSynthetic
	}
	out := psTable(all, clock, terminal{tty: true, blocks: true, width: func() int { return 100 }})
	for _, line := range strings.Split(out, "\n") {
		if n := len([]rune(line)); n > 100 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

func TestShowTellsOfWork(t *testing.T) {
	age, stopBy := messages.Seconds(1.25), clock.Add(90*time.Second)
	queue, tokens, rate, p50, p99, kv, requests, took := 3, 12345.0, 41.5, 120.0, 900.0, 0.34, 10.0, 21.0
	w := messages.WorkerStatus{Name: "chat", State: messages.Draining, Since: clock.Add(-time.Second), InFlight: 2, Said: "ends \x1b[31msoon", StopBy: &stopBy,
		Progress:  &messages.Progress{Stage: "weights", Value: 1, Source: "bytes"},
		Heartbeat: messages.Heartbeat{Kind: messages.BeatNative, AgeSeconds: &age},
		Stats: &messages.Stats{QueueDepth: &queue, TokensTotal: &tokens, TokensPerSecond: &rate, LatencyP50: &p50, LatencyP99: &p99, KVCacheUsed: &kv,
			Requests: &requests, RequestSeconds: &took}}
	golden(t, "show-work.txt", showText(w, clock, terminal{}))
	past := clock.Add(-time.Second)
	w.StopBy = &past
	if got := showText(w, clock, terminal{}); !strings.Contains(got, "now, by force") {
		t.Errorf("%s", got)
	}
}
