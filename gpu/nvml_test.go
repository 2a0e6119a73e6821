//go:build cgo && linux

package gpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rbee-hive/hive/specs/testdata/fakenvml"
)

// The pretended driver is built once, and its file set once: one process can use
// one NVML library, and the library reads the environment.
var (
	libraryPath string
	steerPath   string
	errBuild    error
)

// searchOnly makes this program print what Open says without a path, and end.
const searchOnly = "HIVE_GPU_SEARCH_ONLY"

func TestMain(m *testing.M) {
	if os.Getenv(searchOnly) != "" {
		_, err := Open("")
		fmt.Print(err)
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "hive-gpu-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	steerPath = filepath.Join(dir, "cards")
	os.Setenv(fakenvml.Env, steerPath)
	libraryPath, errBuild = fakenvml.Build(dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// host is a pretended driver with these cards.
func host(t *testing.T, statements ...string) fakenvml.File {
	t.Helper()
	if errors.Is(errBuild, fakenvml.ErrNoCompiler) {
		t.Skip(errBuild)
	}
	must(t, errBuild)
	f, err := fakenvml.Start(steerPath)
	must(t, err)
	must(t, f.Say(statements...))
	return f
}

func fast(o *options) { o.tick, o.retry, o.renew = 20*time.Millisecond, 20*time.Millisecond, 0 }

func open(t *testing.T, opts ...Option) Driver {
	t.Helper()
	d, err := Open(libraryPath, append([]Option{fast}, opts...)...)
	must(t, err)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func uuids(t *testing.T, d Driver) (list []string) {
	t.Helper()
	devices, err := d.Devices()
	must(t, err)
	for _, x := range devices {
		id := x.UUID
		if x.Lost {
			id += " lost"
		}
		list = append(list, id)
	}
	return list
}

// watched starts Events and returns where they come out; stop ends it.
func watched(t *testing.T, d Driver) (events chan Event, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events, done := make(chan Event, 64), make(chan error, 1)
	go func() { done <- d.Events(ctx, func(e Event) { events <- e }) }()
	l, _ := d.(*library)
	eventually(t, "the events are watched", func() bool {
		l.waiting.Lock()
		defer l.waiting.Unlock()
		return l.set != nil
	})
	var once bool
	stop = func() {
		if once {
			return
		}
		once = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("events ended with %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("events did not end with their context")
		}
	}
	t.Cleanup(stop)
	return events, stop
}

func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event came")
		return Event{}
	}
}

func eventually(t *testing.T, what string, true_ func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !true_(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

const twoCards = "card 0 uuid=GPU-a name=NVIDIA_Fake_A total=24576 reserved=512 busy=37 celsius=61 milliwatt=215500 ecc=1\n" +
	"card 1 uuid=GPU-b name=NVIDIA_Fake_B total=81920"

func TestInventory(t *testing.T) {
	host(t, twoCards)
	d := open(t)
	got, err := d.Devices()
	must(t, err)
	want := []Device{
		{UUID: "GPU-a", Name: "NVIDIA Fake A", PCI: "00000000:01:00.0", MemoryTotal: 24 * gib},
		{UUID: "GPU-b", Name: "NVIDIA Fake B", Index: 1, PCI: "00000000:02:00.0", MemoryTotal: 80 * gib},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestReading(t *testing.T) {
	f := host(t, twoCards, "holds 0 4242 1024", fmt.Sprintf("holds 0 %d 2048", os.Getpid()), "holds 0 77 ?")
	d := open(t)
	_, err := d.Devices()
	must(t, err)
	r, err := d.Read("GPU-a")
	must(t, err)
	if r.MemoryTotal != 24*gib || r.MemoryUsed != 3*gib || r.MemoryReserved != gib/2 || r.Blind || r.At.IsZero() {
		t.Errorf("memory: %+v", r)
	}
	if *r.Utilization != 0.37 || *r.Temperature != 61 || *r.PowerWatts != 215.5 {
		t.Errorf("sensors: %v %v %v", *r.Utilization, *r.Temperature, *r.PowerWatts)
	}
	me := Process{PID: os.Getpid(), Bytes: 2 * gib, Command: command(os.Getpid())}
	if want := []Process{{PID: 4242, Bytes: gib, Command: command(4242)}, me, {PID: 77, Untold: true, Command: command(77)}}; !slices.Equal(r.Processes, want) {
		t.Errorf("processes: %+v, want %+v", r.Processes, want)
	}
	if me.Command == "" {
		t.Error("this process has no name")
	}
	must(t, f.Say("holds 0 4242 0"))
	if r, err = d.Read("GPU-a"); err != nil || r.MemoryUsed != 2*gib || len(r.Processes) != 2 {
		t.Errorf("after a process let go: %+v, %v", r, err)
	}
	if _, err = d.Read("GPU-nobody"); !errors.Is(err, ErrUnknownDevice) {
		t.Errorf("a device never seen: %v", err)
	}
}

func TestMemoryIsHeldForAsLongAsTheProcessLives(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Skip(err)
	}
	host(t, twoCards, fmt.Sprintf("runs 1 %d 4096", sleep.Process.Pid))
	d := open(t)
	r, err := d.Read("GPU-b")
	must(t, err)
	if len(r.Processes) != 1 || r.MemoryUsed != 4*gib {
		t.Errorf("while it lives: %+v", r)
	}
	_ = sleep.Process.Kill()
	_ = sleep.Wait()
	if r, err = d.Read("GPU-b"); err != nil || len(r.Processes) != 0 || r.MemoryUsed != 0 {
		t.Errorf("after its end: %+v, %v", r, err)
	}
}

func TestWhatADeviceDoesNotTell(t *testing.T) {
	var log bytes.Buffer
	host(t, twoCards, "fail 0 processes 3", "fail 0 sensors 3", "fail 1 memory 3", "fail 1 events 3")
	d := open(t, WithLog(slog.New(slog.NewTextHandler(&log, nil))))
	if got := uuids(t, d); !slices.Equal(got, []string{"GPU-a", "GPU-b"}) {
		t.Errorf("devices: %v", got)
	}
	for range 3 {
		r, err := d.Read("GPU-a")
		must(t, err)
		if !r.Blind || r.Processes != nil || r.Utilization != nil || r.Temperature != nil || r.PowerWatts != nil {
			t.Errorf("got %+v", r)
		}
		if r, err = d.Read("GPU-b"); err != nil || r.MemoryTotal != 0 {
			t.Errorf("without memory: %+v, %v", r, err)
		}
	}
	_, stop := watched(t, d)
	stop()
	must(t, d.Close())
	for _, words := range []string{"does not tell which processes", "does not tell how much memory", "tells of no faults by itself"} {
		if n := strings.Count(log.String(), words); n != 1 {
			t.Errorf("%q was said %d times, want once:\n%s", words, n, &log)
		}
	}
}

func TestEvents(t *testing.T) {
	f := host(t, twoCards)
	d := open(t)
	events, _ := watched(t, d)
	before := time.Now()
	must(t, f.Say("event 1 xid 31", "event 0 dbe", "event 0 xid 48"))
	got := []Event{next(t, events), next(t, events), next(t, events)}
	for i, want := range []Event{{UUID: "GPU-b", Xid: 31}, {UUID: "GPU-a", ECC: true}, {UUID: "GPU-a", Xid: 48}} {
		if got[i].At.Before(before) || got[i].At.After(time.Now()) {
			t.Errorf("event %d came at %s", i, got[i].At)
		}
		got[i].At = time.Time{}
		if got[i] != want {
			t.Errorf("event %d is %+v, want %+v", i, got[i], want)
		}
	}
}

func TestALostDevice(t *testing.T) {
	f := host(t, twoCards)
	d := open(t)
	uuids(t, d)
	events, _ := watched(t, d)
	must(t, f.Say("event 1 xid 79", "lost 1"))
	if e := next(t, events); e.Xid != 79 || e.UUID != "GPU-b" {
		t.Errorf("first %+v, want the Xid of GPU-b", e)
	}
	if e := next(t, events); !e.Lost || e.UUID != "GPU-b" {
		t.Errorf("then %+v, want the loss of GPU-b", e)
	}
	if _, err := d.Read("GPU-b"); !errors.Is(err, ErrLost) {
		t.Errorf("reading it: %v", err)
	}
	if _, err := d.Read("GPU-a"); err != nil {
		t.Errorf("reading the other: %v", err)
	}
	if got := uuids(t, d); !slices.Equal(got, []string{"GPU-a", "GPU-b lost"}) {
		t.Errorf("devices: %v", got)
	}
	must(t, f.Say("event 0 xid 31")) // the others are still watched
	if e := next(t, events); e.Xid != 31 || e.UUID != "GPU-a" {
		t.Errorf("of the other came %+v; a loss is told once", e)
	}
	must(t, f.Say("well 1"))
	if got := uuids(t, d); !slices.Equal(got, []string{"GPU-a", "GPU-b"}) {
		t.Errorf("after it recovered: %v", got)
	}
	if _, err := d.Read("GPU-b"); err != nil {
		t.Errorf("reading it after it recovered: %v", err)
	}
	l, _ := d.(*library)
	eventually(t, "it is watched again", func() bool {
		l.waiting.Lock()
		defer l.waiting.Unlock()
		return len(l.names) == 2
	})
	must(t, f.Say("event 1 xid 13"))
	if e := next(t, events); e.Xid != 13 || e.UUID != "GPU-b" {
		t.Errorf("after it recovered came %+v", e)
	}
}

func TestAResetIsRequired(t *testing.T) {
	f := host(t, twoCards)
	d := open(t)
	uuids(t, d)
	must(t, f.Say("fail 0 all 16"))
	if _, err := d.Read("GPU-a"); !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
	must(t, f.Say("fail 0 all 999"))
	if _, err := d.Read("GPU-a"); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("an unknown error is not a loss: %v", err)
	}
}

// A device that only a fresh start of the library brings back.
func TestAFreshStartFindsADevice(t *testing.T) {
	f := host(t, twoCards)
	d := open(t)
	uuids(t, d)
	events, _ := watched(t, d)
	must(t, f.Say("stale 1"))
	if e := next(t, events); !e.Lost || e.UUID != "GPU-b" {
		t.Fatalf("got %+v, want the loss of GPU-b", e)
	}
	if got := uuids(t, d); !slices.Equal(got, []string{"GPU-a", "GPU-b"}) {
		t.Fatalf("devices: %v", got)
	}
	l, _ := d.(*library)
	eventually(t, "both are watched", func() bool {
		l.waiting.Lock()
		defer l.waiting.Unlock()
		return l.set != nil && len(l.names) == 2
	})
	must(t, f.Say("event 1 xid 13"))
	if e := next(t, events); e.Xid != 13 || e.UUID != "GPU-b" {
		t.Errorf("after the fresh start came %+v", e)
	}
}

func TestADeviceGoesAndComesBack(t *testing.T) {
	f := host(t, twoCards)
	d := open(t)
	uuids(t, d)
	events, _ := watched(t, d)
	must(t, f.Say("gone 0"))
	got, err := d.Devices()
	must(t, err)
	if len(got) != 1 || got[0].UUID != "GPU-b" || got[0].Index != 0 {
		t.Errorf("after it went: %+v", got)
	}
	if _, err := d.Read("GPU-a"); !errors.Is(err, ErrLost) {
		t.Errorf("reading what went: %v", err)
	}
	must(t, f.Say("card 2 uuid=GPU-c total=1024", strings.Split(twoCards, "\n")[0]))
	if got := uuids(t, d); !slices.Equal(got, []string{"GPU-a", "GPU-b", "GPU-c"}) {
		t.Errorf("after it came back with another: %v", got)
	}
	l, _ := d.(*library)
	eventually(t, "all are watched", func() bool {
		l.waiting.Lock()
		defer l.waiting.Unlock()
		return l.set != nil && len(l.names) == 3
	})
	must(t, f.Say("event 2 xid 13"))
	for e := next(t, events); e.UUID != "GPU-c"; e = next(t, events) {
		if !e.Lost {
			t.Errorf("unexpected %+v", e)
		}
	}
}

func TestMIGDevices(t *testing.T) {
	f := host(t, "card 0 uuid=GPU-a name=NVIDIA_A100 total=40960 mig=1 celsius=50",
		"card 0.1 uuid=MIG-x name=NVIDIA_A100_MIG_1g.5gb total=4864 instance=7 compute=0",
		"card 0.2 uuid=MIG-y name=NVIDIA_A100_MIG_2g.10gb total=9856 instance=3 compute=0",
		"card 1 uuid=GPU-b total=8192", "holds 0.1 4242 1024")
	d := open(t)
	got, err := d.Devices()
	must(t, err)
	if len(got) != 3 {
		t.Fatalf("got %+v", got)
	}
	want := Device{UUID: "MIG-x", Name: "NVIDIA A100 MIG 1g.5gb", PCI: "00000000:01:00.0", MemoryTotal: 4864 << 20, MIG: true, Parent: "GPU-a"}
	if got[0].UUID != "MIG-y" || got[1] != want || got[2].UUID != "GPU-b" || got[2].Index != 1 {
		t.Errorf("got %+v", got)
	}
	r, err := d.Read("MIG-x")
	must(t, err)
	if r.MemoryTotal != 4864<<20 || len(r.Processes) != 1 || r.Processes[0].PID != 4242 || r.Utilization != nil || r.Temperature != nil {
		t.Errorf("reading: %+v", r)
	}
	events, _ := watched(t, d)
	must(t, f.Say("event 0 xid 31 7 0", "event 0 xid 79"))
	if e := next(t, events); e.UUID != "MIG-x" || e.Xid != 31 {
		t.Errorf("a fault of one part: %+v", e)
	}
	if e := next(t, events); e.UUID != "GPU-a" || !e.Concerns(got[0]) || !e.Concerns(got[1]) || e.Concerns(got[2]) {
		t.Errorf("a fault of the whole: %+v", e)
	}
	must(t, f.Say("gone 0.1"))
	if got := uuids(t, d); !slices.Equal(got, []string{"MIG-y", "GPU-b"}) {
		t.Errorf("after one was taken apart: %v", got)
	}
	l, _ := d.(*library)
	if l.amiss() {
		t.Error("it is still waited for")
	}
	must(t, f.Say("lost 0"))
	if got := uuids(t, d); !slices.Equal(got, []string{"MIG-y lost", "GPU-b"}) {
		t.Errorf("with the GPU lost: %v", got)
	}
	if _, err := d.Read("MIG-y"); !errors.Is(err, ErrLost) {
		t.Errorf("reading a part of it: %v", err)
	}
}

func TestNoDriver(t *testing.T) {
	f := host(t, twoCards)
	dir := t.TempDir()
	text := filepath.Join(dir, "libnvidia-ml.so.1")
	must(t, os.WriteFile(text, []byte("no library"), 0o600))
	for what, path := range map[string]string{"missing": filepath.Join(dir, "missing.so"), "no library": text, "another library": "libc.so.6"} {
		if _, err := Open(path); !errors.Is(err, ErrNoDriver) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, f.Say("init 9"))
	_, err := Open(libraryPath)
	if !errors.Is(err, ErrNoDriver) || err.Error() != "no NVIDIA driver: its library is installed, but the kernel module is not loaded" {
		t.Errorf("not loaded: %v", err)
	}
}

// The loader finds a library by its name once one is loaded, so that the search is
// tried in a process of its own.
func TestNoDriverIsFound(t *testing.T) {
	if _, err := exec.LookPath("nvidia-smi"); err == nil {
		t.Skip("this host has an NVIDIA driver")
	}
	search := exec.Command(os.Args[0])
	search.Env = append(os.Environ(), searchOnly+"=1")
	out, err := search.Output()
	if want := "no NVIDIA driver: libnvidia-ml.so.1 is not installed on this host"; err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func TestTheDriverGoesAndComesBack(t *testing.T) {
	f := host(t, twoCards)
	d := open(t)
	uuids(t, d)
	events, _ := watched(t, d)
	must(t, f.Say("fail 0 all 15", "fail 1 all 15", "init 9"))
	if e, o := next(t, events), next(t, events); !e.Lost || !o.Lost {
		t.Errorf("told %+v and %+v", e, o)
	}
	if _, err := d.Devices(); !errors.Is(err, ErrNoDriver) {
		t.Errorf("devices without a driver: %v", err)
	}
	if _, err := d.Read("GPU-a"); !errors.Is(err, ErrNoDriver) {
		t.Errorf("reading without a driver: %v", err)
	}
	must(t, f.Say("well 0", "well 1", "init 0"))
	if got := uuids(t, d); !slices.Equal(got, []string{"GPU-a", "GPU-b"}) {
		t.Errorf("after it came back: %v", got)
	}
	l, _ := d.(*library)
	eventually(t, "both are watched", func() bool {
		l.waiting.Lock()
		defer l.waiting.Unlock()
		return l.set != nil && len(l.names) == 2
	})
}

func TestADriverThatHangs(t *testing.T) {
	f := host(t, twoCards)
	d := open(t, func(o *options) { o.patience = 100 * time.Millisecond })
	uuids(t, d)
	must(t, f.Say("slow 400"))
	start := time.Now()
	for range 2 { // the second waits for its turn in vain
		if _, err := d.Read("GPU-a"); !errors.Is(err, ErrSilent) {
			t.Errorf("got %v", err)
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the callers were held up for %s", took)
	}
	must(t, f.Say("slow 0"))
	eventually(t, "it answers again", func() bool { _, err := d.Read("GPU-a"); return err == nil })
}

func TestClose(t *testing.T) {
	host(t, twoCards)
	d := open(t)
	done := make(chan error, 1)
	go func() { done <- d.Events(context.Background(), func(Event) {}) }()
	must(t, d.Close())
	must(t, d.Close())
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("events go on after the driver was closed")
	}
	if _, err := d.Devices(); !errors.Is(err, ErrClosed) {
		t.Errorf("devices: %v", err)
	}
	if _, err := d.Read("GPU-a"); !errors.Is(err, ErrClosed) {
		t.Errorf("reading: %v", err)
	}
	again := open(t)
	if got := uuids(t, again); len(got) != 2 {
		t.Errorf("opened again: %v", got)
	}
}
