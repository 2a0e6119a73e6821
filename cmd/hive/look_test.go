package main

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

func TestPs(t *testing.T) {
	f := newFakeHive(t)
	f.answer("GET /v1/workers", 200, map[string]any{"workers": sampleWorkers()})
	r := f.hive(t, "ps")
	if r.code != 0 || r.err != "" {
		t.Fatalf("%+v", r)
	}
	golden(t, "ps.txt", r.out)

	if r := f.hive(t, "ps", "-q", "--state", "busy", "--state", "backoff"); r.out != "chat-1\nembed\n" {
		t.Errorf("-q with two states: %+v", r)
	}
	if r := f.hive(t, "ps", "-o", "json", "--label", "model=llama"); !strings.Contains(r.out, `"chat-1"`) || strings.Contains(r.out, `"chat-2"`) {
		t.Errorf("json: %+v", r)
	}
	if asked := f.asked(); !slices.Contains(asked, "GET /v1/workers?label=model%3Dllama") {
		t.Errorf("the filter was not passed on: %q", asked)
	}
	for _, bad := range [][]string{{"ps", "--state", "asleep"}, {"ps", "--label", "x"}, {"ps", "extra"}, {"ps", "-w", "-o", "json"}} {
		if r := f.hive(t, bad...); r.code != exitUsage {
			t.Errorf("%v: %+v", bad, r)
		}
	}
}

func TestPsOnATerminal(t *testing.T) {
	term := terminal{tty: true, colour: true, live: true, blocks: true, width: func() int { return 100 }}
	golden(t, "ps-tty.txt", psTable(sampleWorkers(), clock, term))
}

func TestShow(t *testing.T) {
	f := newFakeHive(t)
	for _, w := range sampleWorkers() {
		f.answer("GET /v1/workers/"+string(w.Name), 200, w)
	}
	r := f.hive(t, "show", "chat-1", "embed")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	golden(t, "show.txt", r.out)
	if r := f.hive(t, "show", "chat-2", "-o", "json"); r.code != 0 || !strings.Contains(r.out, `"attempt": 2`) {
		t.Errorf("%+v", r)
	}
}

func TestPools(t *testing.T) {
	f := newFakeHive(t)
	f.answer("GET /v1/pools", 200, map[string]any{"pools": []messages.PoolStatus{
		{Name: "cpu", Workers: []messages.WorkerID{"embed"}, Budget: messages.Budget{Max: 3}},
		{Name: "gpu-0", Cordoned: true, Reason: "Xid 79", Health: "lost", Device: &messages.Device{UUID: "GPU-aaaa", Name: "L4", Fake: true},
			Ledger: messages.Ledger{Total: 24 << 30, Leased: 18 << 30, Used: 19 << 30, Foreign: []messages.Foreign{{PID: 77, Command: "python", Bytes: 1 << 29}}},
			Budget: messages.Budget{Used: 1, Max: 3}},
	}})
	f.answer("POST /v1/pools/gpu-0/cordon", 200, map[string]any{})
	golden(t, "pools.txt", f.hive(t, "pools").out)
	if r := f.hive(t, "cordon", "gpu-0", "--reason", "fan"); r.code != 0 || r.out != "gpu-0 cordoned\n" {
		t.Errorf("%+v", r)
	}
	if asked := f.asked(); !slices.Contains(asked, `POST /v1/pools/gpu-0/cordon {"reason":"fan"}`) {
		t.Errorf("%q", asked)
	}
}

func TestLogs(t *testing.T) {
	f := newFakeHive(t)
	f.HandleFunc("GET /v1/workers/chat-1/logs", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("one\ntwo\n")) })
	if r := f.hive(t, "logs", "-f", "--tail", "5", "--attempt", "2", "chat-1"); r.code != 0 || r.out != "one\ntwo\n" {
		t.Errorf("%+v", r)
	}
	if r := f.hive(t, "logs", "chat-1", "-o", "json"); r.out != "{\"line\":\"one\"}\n{\"line\":\"two\"}\n" {
		t.Errorf("%+v", r)
	}
	if asked := f.asked(); asked[0] != "GET /v1/workers/chat-1/logs?attempt=2&follow=true&tail=5" {
		t.Errorf("%q", asked)
	}
}

func sampleEvents() []messages.Event {
	from, to := messages.Loading, messages.Idle
	return []messages.Event{
		{Seq: 1, At: clock, Type: messages.HiveStarted},
		{Seq: 2, At: clock, Type: messages.WorkerState, Worker: "chat-1", Attempt: 1, From: &from, To: &to, Reason: "ready"},
		{Seq: 3, At: clock, Type: messages.WorkerCreated, Worker: "chat-2"},
	}
}

func TestEventsEndWhereTheRingEnded(t *testing.T) {
	for _, last := range []string{"3", ""} { // a hive that says, and one that does not
		f := newFakeHive(t)
		f.stream(last, true, sampleEvents()...)
		r := f.hive(t, "events", "--worker", "chat-1")
		if r.code != 0 || strings.Count(r.out, "\n") != 1 || !strings.Contains(r.out, "chat-1#1 loading -> idle: ready") {
			t.Errorf("last %q: %+v", last, r)
		}
	}
	f := newFakeHive(t)
	f.stream("3", true)
	if r := f.hive(t, "events", "--since", "3"); r.code != 0 || r.out != "" {
		t.Errorf("nothing new: %+v", r)
	}
}

func TestEventsFollowEndsWithHive(t *testing.T) {
	f := newFakeHive(t)
	f.stream("1", false, append(sampleEvents(), messages.Event{Seq: 4, At: clock, Type: messages.HiveStopped})...)
	r := f.hive(t, "events", "-f", "-o", "json")
	if r.code != 0 || strings.Count(r.out, "\n") != 4 {
		t.Errorf("%+v", r)
	}
}

func TestReadSSE(t *testing.T) {
	var got []string
	in := ": comment\r\n\r\nid: 1\r\ndata: a\r\ndata:b\r\n\r\nevent: x\n\ndata: unfinished"
	if err := readSSE(strings.NewReader(in), func(d string) error { got = append(got, d); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []string{"a\nb"}) {
		t.Errorf("%q", got)
	}
}

func FuzzReadSSE(f *testing.F) {
	f.Add("data: {}\n\n")
	f.Add("data\ndata:\n\nid")
	f.Fuzz(func(t *testing.T, in string) {
		_ = readSSE(strings.NewReader(in), func(d string) error {
			if strings.Count(d, "\n") > strings.Count(in, "\n") {
				t.Errorf("more lines out than in: %q", d)
			}
			return nil
		})
	})
}

func TestCompletionOffersNames(t *testing.T) {
	f := newFakeHive(t)
	f.answer("GET /v1/workers", 200, map[string]any{"workers": sampleWorkers()})
	r := f.hive(t, "__complete", "stop", "chat-1", "")
	if !strings.HasPrefix(r.out, "chat-2\tloading\nembed\tbackoff\n:4") {
		t.Errorf("%+v", r)
	}
	f.server.Close()
	if r := f.hive(t, "__complete", "stop", ""); !strings.HasPrefix(r.out, ":4") {
		t.Errorf("without a hive: %+v", r)
	}
}

func TestTextsOfNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0B", 1536: "1.5KiB", 24 << 30: "24GiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("bytesOf(%d) = %q, want %q", n, got, want)
		}
	}
	if got := printable("a\x1b[2Jb\tc\r\u202e"); got != "ab c" {
		t.Errorf("printable: %q", got)
	}
	fine, plain := terminal{blocks: true}, terminal{}
	if got, ascii := fine.cut("größer", 4), plain.cut("größer", 4); got != "grö…" || ascii != "g..." {
		t.Errorf("cut: %q %q", got, ascii)
	}
	if fine.bar(1.5, 4) != "████" || fine.bar(-1, 4) != "░░░░" || plain.bar(0.5, 4) != "##--" || percent(0.999) != "99%" {
		t.Error("bar or percent leaves its bounds")
	}
	for v, want := range map[float64]string{0.29: "29%", 0.57: "57%", 1: "100%"} {
		if got := percent(v); got != want {
			t.Errorf("percent(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestMain(m *testing.M) {
	os.Unsetenv("COLUMNS")
	os.Exit(m.Run())
}
