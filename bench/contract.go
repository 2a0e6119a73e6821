package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/notify"
)

// fakes is a workers section of n fakeworkers.
func (s settings) fakes(n int, keys string, flags ...string) (string, error) {
	fake, err := filepath.Abs(s.fake)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(fake); err != nil {
		return "", fmt.Errorf("find fakeworker: %w; run \"make build\" first", err)
	}
	words := strconv.Quote(fake)
	for _, f := range flags {
		words += ", " + strconv.Quote(f)
	}
	return fmt.Sprintf("workers:\n  - {name: w, replicas: %d, command: [%s], %s}\n", n, words, keys), nil
}

// beats reads how many heartbeats hive has taken so far, of all workers.
func (d *daemon) beats() (float64, error) {
	resp, err := d.client.Get("http://hive/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var total float64
	err = eachLine(resp.Body, func(line string) {
		if strings.HasPrefix(line, "hive_worker_heartbeats_total{") {
			v, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			total += v
		}
	})
	return total, err
}

// notifyHeartbeats measures first what the intake can take when it is full, and
// then what one heartbeat costs hive while many workers beat now and then, each
// in its own time: a wake-up for each, which is the dearer way.
func notifyHeartbeats(s settings) ([]row, error) {
	full, err := notifyIntake(s.workers, s.load)
	if err != nil {
		return nil, err
	}
	section, err := s.fakes(s.workers, "ready: {notify: true}", "--no-listen", "--notify", "--heartbeat-every", "50ms", "--in-flight", "3")
	if err != nil {
		return nil, err
	}
	d, err := launch(s, section)
	if err != nil {
		return nil, err
	}
	if err := d.until("all workers are busy", func() bool {
		list, err := d.workers()
		return err == nil && len(list) == s.workers && !slices.ContainsFunc(list, func(w messages.WorkerStatus) bool { return w.State != messages.Busy })
	}); err != nil {
		return nil, d.fail(err)
	}
	rows, err := d.perCore(s, fmt.Sprintf("notify heartbeats of %d workers", s.workers), 0, func(time.Duration) error { return nil })
	return append([]row{full}, rows...), err
}

// notifyIntake sends to many sockets on one core of this process, and takes what
// comes into pulses: sending is part of the cost.
func notifyIntake(sockets int, long time.Duration) (row, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	dir, err := os.MkdirTemp("", "hive-bench-")
	if err != nil {
		return row{}, err
	}
	defer os.RemoveAll(dir)
	var taken atomic.Int64
	var served sync.WaitGroup
	var open []*notify.Socket
	var conns []*net.UnixConn
	defer func() {
		for i, s := range open {
			_ = s.Close()
			_ = conns[i].Close()
		}
		served.Wait()
	}()
	for i := range sockets {
		s, err := notify.Listen(filepath.Join(dir, strconv.Itoa(i)), -1, -1)
		if err != nil {
			return row{}, err
		}
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.Path(), Net: "unixgram"})
		if err != nil {
			return row{}, err
		}
		open, conns = append(open, s), append(conns, c)
		p := &messages.Pulse{}
		p.Begin(1)
		served.Go(func() {
			_ = s.Serve(func(d notify.Datagram) {
				p.Beat(1, time.Now(), &messages.Stats{InFlight: d.Message.InFlight})
				taken.Add(1)
			})
		})
	}
	words := []byte("WATCHDOG=1\nX_HIVE_IN_FLIGHT=3")
	t0 := time.Now()
	for end := t0.Add(long); time.Now().Before(end); {
		for _, c := range conns {
			if _, err := c.Write(words); err != nil {
				return row{}, err
			}
		}
	}
	return row{what: fmt.Sprintf("notify heartbeats taken on one core, the sending included, %d sockets", sockets), unit: "heartbeats/s",
		hive: float64(taken.Load()) / time.Since(t0).Seconds(), target: atLeast(100_000)}, nil
}

// perCore measures how many heartbeats hive takes while f runs, for each second
// of a core, and ends the hive.
func (d *daemon) perCore(s settings, what string, least float64, f func(time.Duration) error) ([]row, error) {
	before, err := d.usage()
	if err != nil {
		return nil, d.fail(err)
	}
	n0, err := d.beats()
	if err != nil {
		return nil, d.fail(err)
	}
	t0 := time.Now()
	if err := f(s.load); err != nil {
		return nil, d.fail(err)
	}
	if left := s.load - time.Since(t0); left > 0 {
		<-time.After(left)
	}
	n1, err := d.beats()
	if err != nil {
		return nil, d.fail(err)
	}
	after, err := d.usage()
	if err != nil {
		return nil, d.fail(err)
	}
	took := time.Since(t0).Seconds()
	if _, err := d.end(); err != nil {
		return nil, err
	}
	cpu := (after.cpu - before.cpu).Seconds()
	return []row{
		{what: what + ", for each core-second of hive", unit: "heartbeats", hive: (n1 - n0) / cpu, target: target{limit: least, atLeast: true, set: least > 0}},
		{what: what + ", as they came", unit: "heartbeats/s", hive: (n1 - n0) / took},
	}, nil
}

// httpHeartbeats posts heartbeats for one worker over a few kept connections.
func httpHeartbeats(s settings) ([]row, error) {
	section, err := s.fakes(1, "port: auto, ready: {http: /health}", "--in-flight", "1")
	if err != nil {
		return nil, err
	}
	d, err := launch(s, section)
	if err != nil {
		return nil, err
	}
	list, err := d.allIdle(1)
	if err != nil {
		return nil, d.fail(err)
	}
	env, err := environ(list[0].PID)
	if err != nil {
		return nil, d.fail(err)
	}
	url := env["HIVE_URL"] + "/v1/workers/" + string(list[0].Name) + "/heartbeat"
	body := fmt.Sprintf(`{"attempt":%d,"in_flight":1,"queue_depth":2,"tokens_total":1000}`, list[0].Attempt)
	return d.perCore(s, "HTTP heartbeats taken", 20_000, func(long time.Duration) error {
		return post(url, env["HIVE_TOKEN"], body, long)
	})
}

func post(url, token, body string, long time.Duration) error {
	client := &fasthttp.Client{}
	var wg sync.WaitGroup
	var failed atomic.Value
	end := time.Now().Add(long)
	for range connections {
		wg.Go(func() {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(req)
			defer fasthttp.ReleaseResponse(resp)
			req.SetRequestURI(url)
			req.Header.SetMethod("POST")
			req.Header.Set("Authorization", "Bearer "+token)
			req.SetBodyString(body)
			for time.Now().Before(end) {
				if err := client.Do(req, resp); err != nil {
					failed.Store(err)
					return
				}
				if resp.StatusCode() != 200 {
					failed.Store(fmt.Errorf("POST heartbeat: %d %s", resp.StatusCode(), resp.Body()))
					return
				}
			}
		})
	}
	wg.Wait()
	if err, ok := failed.Load().(error); ok {
		return err
	}
	return nil
}

func environ(pid int) (map[string]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for kv := range strings.SplitSeq(string(b), "\x00") {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return env, nil
}

// missedHeartbeat freezes beating workers one after the other and measures how
// long after the deadline of their silence hive declares it.
func missedHeartbeat(s settings) ([]row, error) {
	const (
		workers  = 20
		interval = 200 * time.Millisecond
		misses   = 3
	)
	section, err := s.fakes(workers, fmt.Sprintf("ready: {notify: true}, heartbeat: {interval: %s, misses: %d}, stop: {grace: 0s}", interval, misses),
		"--no-listen", "--notify", "--heartbeat-every", "100ms")
	if err != nil {
		return nil, err
	}
	d, err := launch(s, section)
	if err != nil {
		return nil, err
	}
	list, err := d.allIdle(workers)
	if err != nil {
		return nil, d.fail(err)
	}
	stream, stop, err := d.events()
	if err != nil {
		return nil, d.fail(err)
	}
	defer stop()
	var late []time.Duration
	for _, w := range list {
		t0 := time.Now()
		if err := syscall.Kill(w.PID, syscall.SIGSTOP); err != nil {
			return nil, d.fail(err)
		}
		for declared := false; !declared; {
			select {
			case e, ok := <-stream:
				if !ok {
					return nil, d.fail(fmt.Errorf("the event stream ended"))
				}
				if e.Worker == w.Name && e.To != nil && *e.To == messages.Failed {
					late, declared = append(late, e.At.Sub(t0)-misses*interval), true
				}
			case <-time.After(patience):
				return nil, d.fail(fmt.Errorf("the silence of worker %s was not declared within %s", w.Name, patience))
			}
		}
	}
	if _, err := d.end(); err != nil {
		return nil, err
	}
	return []row{{what: "missed heartbeats → declared, after the deadline counted from the last chance to beat, p99", unit: "ms",
		hive: max(quantile(late, .99), 0), target: atMost(ms(interval) + 100)}}, nil
}

// spent is the processor time of this process.
func spent() time.Duration {
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// manyTimers runs ten thousand worker actors, with processes that do nothing,
// in this process, lets them beat, and measures the processor time of it all.
func manyTimers(settings) ([]row, error) {
	const (
		workers  = 10_000
		interval = 5 * time.Second
		long     = 10 * time.Second
	)
	w := newWorld()
	w.start(workers, interval)
	defer w.stop()
	if err := w.untilIdle(workers, patience); err != nil {
		return nil, err
	}
	w.beatFor(2*interval, interval) // the first one of each is the tree's, and told to it
	runtime.GC()
	before, t0 := spent(), time.Now()
	sent := w.beatFor(long, interval)
	took := time.Since(t0)
	cpu := spent() - before
	return []row{
		{what: fmt.Sprintf("%d workers' heartbeat timers, with %d heartbeats", workers, sent), unit: "% of a core", hive: 100 * float64(cpu) / float64(took), target: atMost(5)},
	}, nil
}
