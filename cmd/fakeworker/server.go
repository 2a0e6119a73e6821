package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// listen opens the port and serves. It returns nil where there is no port, and
// ends the process, as engines do, where the port cannot be had.
func (w *process) listen() net.Listener {
	if w.port == "" || w.port == "0" || w.noListen {
		return nil
	}
	addr := net.JoinHostPort(w.host, w.port)
	if w.bindFail {
		fmt.Fprintf(os.Stderr, "error: listen tcp %s: bind: address already in use\n", addr)
		os.Exit(1)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", w.health)
	mux.HandleFunc("GET /slots", w.honest(w.slots))
	mux.HandleFunc("GET /metrics", w.honest(w.metrics))
	mux.HandleFunc("POST /in-flight", w.honest(w.setInFlight))
	mux.HandleFunc("POST /notify", w.honest(w.relay))
	mux.HandleFunc("GET /", w.honest(w.echo))
	srv := &http.Server{Handler: w.noted(mux), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		fmt.Fprintf(os.Stderr, "server ended: %v\n", srv.Serve(l))
	}()
	return l
}

// noted prints a line for each request, as many servers do.
func (w *process) noted(next http.Handler) http.Handler {
	if !w.accessLog {
		return next
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s - \"%s %s %s\"\n", r.RemoteAddr, r.Method, r.URL.Path, r.Proto)
		next.ServeHTTP(rw, r)
	})
}

// honest keeps a request waiting while the worker hangs.
func (w *process) honest(next http.HandlerFunc) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		if w.hanging.Load() {
			<-r.Context().Done()
			return
		}
		next(rw, r)
	}
}

func (w *process) health(rw http.ResponseWriter, r *http.Request) {
	if w.hanging.Load() && !w.lie {
		<-r.Context().Done()
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	if !w.ready.Load() && !w.lie {
		rw.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(rw, `{"error":{"code":503,"message":"Loading model","progress":%.3f}}`, float64(w.progress.Load())/1000)
		return
	}
	fmt.Fprint(rw, `{"status":"ok"}`)
}

func (w *process) slots(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprint(rw, "[")
	busy := w.working()
	for i := range max(busy, 1) {
		if i > 0 {
			fmt.Fprint(rw, ",")
		}
		fmt.Fprintf(rw, `{"id":%d,"is_processing":%t}`, i, i < busy)
	}
	fmt.Fprint(rw, "]")
}

func (w *process) metrics(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(rw, "llamacpp:requests_processing %d\nllamacpp:requests_deferred 0\nllamacpp:tokens_predicted_total %d\n",
		w.working(), w.tokens.Load())
}

func (w *process) setInFlight(rw http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 32)
	if err != nil || n < 0 {
		http.Error(rw, "n is not a number of requests; write /in-flight?n=3", http.StatusBadRequest)
		return
	}
	w.inFlight.Store(n)
	w.beatSoon()
	fmt.Fprintf(rw, "%d\n", n)
}

func (w *process) echo(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(rw, `{"pid":%d,"worker":%q,"attempt":%s,"in_flight":%d,"uptime_seconds":%.3f}`+"\n",
		os.Getpid(), os.Getenv("HIVE_WORKER"), w.attempt, w.working(), time.Since(w.started).Seconds())
}
