package main

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// load is what came out of a request load.
type load struct {
	rate float64 // answers in a second
	body int     // bytes of one answer's body on the wire
	took []time.Duration
}

// connections is enough to keep hive busy while one client core reads.
const connections = 4

// requests asks for path over kept connections for the given time. The client
// has one core, so that hive has the rest of the machine.
func (d *daemon) requests(path, encoding string, long time.Duration) (load, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	client := &fasthttp.HostClient{
		Addr: "hive", MaxConns: connections, MaxResponseBodySize: 64 << 20,
		Dial: func(string) (net.Conn, error) { return net.Dial("unix", d.socket) },
	}
	defer client.CloseIdleConnections()

	var (
		wg     sync.WaitGroup
		mu     sync.Mutex // guards total and failed
		total  load
		failed error
	)
	t0 := time.Now()
	for range connections {
		wg.Go(func() {
			got, err := hammer(client, path, encoding, t0.Add(long))
			mu.Lock()
			defer mu.Unlock()
			total.took, total.body = append(total.took, got.took...), got.body
			if err != nil {
				failed = err
			}
		})
	}
	wg.Wait()
	total.rate = float64(len(total.took)) / time.Since(t0).Seconds()
	if failed == nil && len(total.took) == 0 {
		failed = fmt.Errorf("GET %s: no answer within %s", path, long)
	}
	return total, failed
}

func hammer(client *fasthttp.HostClient, path, encoding string, until time.Time) (load, error) {
	var out load
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI("http://hive" + path)
	req.Header.Set(fasthttp.HeaderAcceptEncoding, encoding)
	for t := time.Now(); t.Before(until); t = time.Now() {
		if err := client.Do(req, resp); err != nil {
			return out, fmt.Errorf("GET %s: %w", path, err)
		}
		if resp.StatusCode() != fasthttp.StatusOK {
			return out, fmt.Errorf("GET %s: status %d", path, resp.StatusCode())
		}
		out.took, out.body = append(out.took, time.Since(t)), len(resp.Body())
	}
	return out, nil
}
