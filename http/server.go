// Package http is hive's API: fasthttp, JSON, problem+json errors. Reads are
// served from the published view; commands go through the Service it declares.
package http

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/journal"
	"github.com/rbee-hive/hive/messages"
)

// Service is what the API needs of a hive. Errors are those of package messages.
type Service interface {
	Workers() []*messages.WorkerStatus
	Worker(messages.WorkerID) (*messages.WorkerStatus, bool)
	Pools() []*messages.PoolStatus
	Version() uint64
	WaitFor(context.Context, messages.WorkerID, func(*messages.WorkerStatus) bool) (*messages.WorkerStatus, error)
	ParseWorker(body []byte) ([]messages.WorkerSpec, error)
	PatchWorker(id messages.WorkerID, body []byte) (messages.WorkerSpec, error)
	Create(context.Context, messages.WorkerSpec) (*messages.WorkerStatus, error)
	Change(context.Context, messages.WorkerSpec) (*messages.WorkerStatus, error)
	Remove(context.Context, messages.WorkerID) (*messages.WorkerStatus, error)
	Do(context.Context, messages.DoWorker) (*messages.WorkerStatus, error)
	Callback(ctx context.Context, m messages.Callback, token string) (*messages.WorkerStatus, error)
	// Vouched is Callback for a worker whose word needs no token.
	Vouched(ctx context.Context, m messages.Callback) (*messages.WorkerStatus, error)
	Rbee() Rbee
	Cordon(ctx context.Context, pool messages.PoolID, on bool, reason string) error
	Reload(ctx context.Context, dryRun bool) (*messages.Plan, error)
	Shutdown(now bool, reason string)
	StateMachine(format string) ([]byte, error)
}

// Rbee is what the routes of the old manager need to know.
type Rbee struct {
	WorkerCommand    []string // starts a worker; empty: spawn is refused
	QueenCallbackURL string   // told of each ready worker; "": nobody is
	CallbackURL      string   // where workers say that they are ready
	MemoryFree       func() (uint64, error)
}

// Events is the journal as the API reads it.
type Events interface {
	Subscribe(since uint64) *journal.Reader
	Last() uint64
}

// Logs is where workers' output is read.
type Logs interface {
	Attempts(messages.WorkerID) ([]messages.Attempt, error)
	Tail(messages.WorkerID, messages.Attempt, int) ([]string, error)
	Follow(ctx context.Context, w messages.WorkerID, a messages.Attempt, tail int, emit func([]byte) error) error
}

// Options are what New needs. Token empty means that nobody is asked for one; the
// unix socket never asks.
type Options struct {
	Service              Service
	Journal              Events
	Logs                 Logs
	Metrics              func(io.Writer)
	ObserveAPI           func(route string, code int, took time.Duration)
	Log                  *slog.Logger
	Version              string
	Token                string
	ReadOnlyWithoutToken bool
}

// Limits of one request. A body holds one worker's declaration, a few KiB.
const (
	maxBody     = 1 << 20
	readTimeout = 30 * time.Second
	idleTimeout = 2 * time.Minute
)

// Server is the API. It is safe for concurrent use.
type Server struct {
	opt   Options
	fast  *fasthttp.Server
	ready atomic.Bool
	ctx   context.Context // ends with the server; streams hang on it
	end   context.CancelFunc
	list  listCache
}

// New makes a server; Serve lets it work.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opt: opt}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.fast = &fasthttp.Server{Name: "hive", Handler: s.wrap(s.routes().Handler), MaxRequestBodySize: maxBody, ReadTimeout: readTimeout,
		IdleTimeout: idleTimeout, NoDefaultServerHeader: true, CloseOnShutdown: true, ReadBufferSize: 16 << 10, Logger: quietLog{},
		ErrorHandler: s.broken}
	return s
}

// Serve works on one listener until Shutdown.
func (s *Server) Serve(l net.Listener) error { return s.fast.Serve(l) }

// SetReady says what /readyz answers.
func (s *Server) SetReady(ready bool) { s.ready.Store(ready) }

// Shutdown ends all streams and waits for the requests under way.
func (s *Server) Shutdown(ctx context.Context) error {
	s.end()
	return s.fast.ShutdownWithContext(ctx)
}

type quietLog struct{}

func (quietLog) Printf(string, ...any) {}

func (s *Server) routes() *router.Router {
	r := router.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath, r.HandleMethodNotAllowed = false, false, true
	r.NotFound = func(c *fasthttp.RequestCtx) {
		problem(c, fault{404, "not_found", "no such route"}, "there is nothing at "+string(c.Path())+"; see the list of routes in the documentation", nil)
	}
	r.MethodNotAllowed = func(c *fasthttp.RequestCtx) {
		problem(c, fault{405, "method_not_allowed", "method not allowed"}, string(c.Method())+" does not go with "+string(c.Path())+"; allowed: "+string(c.Response.Header.Peek("Allow")), nil)
	}
	r.GET("/livez", func(c *fasthttp.RequestCtx) { text(c, "ok\n") })
	r.GET("/readyz", s.readyz)
	r.GET("/version", func(c *fasthttp.RequestCtx) { answer(c, 200, map[string]string{"version": s.opt.Version}) })
	r.GET("/metrics", func(c *fasthttp.RequestCtx) {
		c.SetContentType("text/plain; version=0.0.4; charset=utf-8")
		if s.opt.Metrics != nil {
			s.opt.Metrics(c)
		}
	})
	r.GET("/v1/workers", s.listWorkers)
	r.POST("/v1/workers", s.createWorker)
	r.GET("/v1/health", s.rbeeHealth)
	r.POST("/v1/workers/spawn", s.rbeeSpawn)
	r.POST("/v1/workers/ready", s.rbeeReady)
	r.GET("/v1/workers/list", s.rbeeList)
	r.POST("/v1/heartbeat", s.rbeeHeartbeat)
	r.GET("/v1/workers/{name}", s.getWorker)
	r.PATCH("/v1/workers/{name}", s.patchWorker)
	r.DELETE("/v1/workers/{name}", s.deleteWorker)
	for _, v := range messages.Verbs() {
		r.POST("/v1/workers/{name}/"+string(v), s.verb(v))
	}
	for _, k := range []messages.CallbackKind{messages.CallbackReady, messages.CallbackHeartbeat, messages.CallbackProgress, messages.CallbackState} {
		r.POST("/v1/workers/{name}/"+string(k), s.callback(k))
	}
	r.GET("/v1/workers/{name}/logs", s.logs)
	r.GET("/v1/events", s.events)
	r.GET("/v1/pools", func(c *fasthttp.RequestCtx) { answer(c, 200, map[string]any{"pools": s.opt.Service.Pools()}) })
	r.POST("/v1/pools/{name}/cordon", s.cordon(true))
	r.POST("/v1/pools/{name}/uncordon", s.cordon(false))
	r.GET("/v1/state-machine", s.stateMachine)
	r.POST("/v1/reload", s.reload)
	r.POST("/v1/shutdown", s.shutdown)
	return r
}

// wrap does for every request what no route should forget: the request id, the
// token, the log line, and a panic that stays inside.
func (s *Server) wrap(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		start := time.Now()
		id := requestID(c)
		head := c.IsHead()
		if head {
			c.Request.Header.SetMethod(fasthttp.MethodGet)
		}
		func() {
			defer func() {
				if r := recover(); r != nil {
					s.opt.Log.Error("a request panicked; this is a bug in hive", "request_id", id, "path", string(c.Path()), "reason", r)
					problem(c, fault{500, "internal", "internal error"}, "hive failed on this request; report it with the request id", nil)
				}
			}()
			if s.allowed(c) {
				next(c)
			}
		}()
		if head {
			c.Response.SkipBody = true
		}
		code, took := c.Response.StatusCode(), time.Since(start)
		if s.opt.ObserveAPI != nil {
			route, _ := c.UserValue(router.MatchedRoutePathParam).(string)
			s.opt.ObserveAPI(route, code, took)
		}
		level := slog.LevelDebug
		if code >= 500 {
			level = slog.LevelWarn
		}
		if s.opt.Log.Enabled(context.Background(), level) {
			s.opt.Log.Log(context.Background(), level, "api", "request_id", id, "method", string(c.Method()), "path", string(c.Path()), "code", code, "took", took)
		}
	}
}

// requestID takes the caller's id or makes one, and puts it into the answer.
func requestID(c *fasthttp.RequestCtx) string {
	id := string(c.Request.Header.Peek("X-Request-Id"))
	if !printable(id) {
		var b [8]byte
		_, _ = rand.Read(b[:])
		id = hex.EncodeToString(b[:])
	}
	c.Response.Header.Set("X-Request-Id", id)
	return id
}

func printable(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// allowed asks for the token, except where none is needed: the unix socket, the
// health routes, a worker's callbacks (which have tokens of their own), and reads
// when that is set.
func (s *Server) allowed(c *fasthttp.RequestCtx) bool {
	if s.opt.Token == "" || c.LocalAddr().Network() == "unix" {
		return true
	}
	path := string(c.Path())
	switch path {
	case "/livez", "/readyz", "/version", "/metrics", "/v1/health":
		return true
	case "/v1/workers/ready", "/v1/heartbeat": // of rbee workers, which are known by where they call from
		return true
	}
	if c.IsGet() && s.opt.ReadOnlyWithoutToken {
		return true
	}
	if c.IsPost() && ofWorker(path) {
		return true
	}
	if subtle.ConstantTimeCompare([]byte(bearer(c)), []byte(s.opt.Token)) == 1 {
		return true
	}
	c.Response.Header.Set("WWW-Authenticate", "Bearer")
	problem(c, fault{401, "unauthorized", "unauthorized"}, "this needs the API token; send it as Authorization: Bearer", nil)
	return false
}

// ofWorker reports whether path is a worker's callback.
func ofWorker(path string) bool {
	rest, ok := strings.CutPrefix(path, "/v1/workers/")
	name, kind, _ := strings.Cut(rest, "/")
	return ok && name != "" && (kind == "ready" || kind == "heartbeat" || kind == "progress" || kind == "state")
}

func bearer(c *fasthttp.RequestCtx) string {
	t, _ := strings.CutPrefix(string(c.Request.Header.Peek("Authorization")), "Bearer ")
	return t
}

// broken answers what fasthttp refuses before any route.
func (s *Server) broken(c *fasthttp.RequestCtx, err error) {
	requestID(c)
	var small *fasthttp.ErrSmallBuffer
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		// A client that is still writing would get a broken pipe and no answer.
		_ = c.Conn().SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = io.CopyN(io.Discard, c.Conn(), 8*maxBody)
		problem(c, fault{413, "too_large", "request too large"}, "a request body may have 1 MiB at most", nil)
	case errors.As(err, &small):
		problem(c, fault{431, "headers_too_large", "headers too large"}, "request headers may have 16 KiB at most", nil)
	default:
		problem(c, fault{400, "bad_request", "bad request"}, "the request could not be read", nil)
	}
}

func (s *Server) readyz(c *fasthttp.RequestCtx) {
	if s.ready.Load() {
		text(c, "ok\n")
		return
	}
	c.Response.Header.Set("Retry-After", "1")
	problem(c, fault{503, "not_ready", "not ready"}, "hive is starting or shutting down", nil)
}

// stream answers with what f writes, until f returns, the reader goes away or
// the server ends. The headers go out at once.
func (s *Server) stream(c *fasthttp.RequestCtx, f func(ctx context.Context, w *bufio.Writer)) {
	conn := c.Conn()
	_ = conn.SetReadDeadline(time.Time{})
	c.Response.ImmediateHeaderFlush = true
	c.SetConnectionClose() // so that the watch for the reader's end has the connection to itself
	c.SetBodyStreamWriter(func(w *bufio.Writer) {
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		go hangup(conn, cancel)
		f(ctx, w)
	})
}

// hangup calls gone once the other side has closed the connection, so that a
// silent stream does not outlive its reader. It ends with the connection.
func hangup(conn net.Conn, gone func()) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return false // nothing to read: still there
		}
		if n <= 0 {
			gone()
		}
		return true
	})
}
