package hive

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rbee-hive/hive/config"
	httpd "github.com/rbee-hive/hive/http"
	"github.com/rbee-hive/hive/journal"
	"github.com/rbee-hive/hive/messages"
)

// answerWithin bounds how long an API request waits for the tree's answer. The
// tree answers in microseconds; this long only means that something is broken.
const answerWithin = 10 * time.Second

// ErrUnauthorized is a callback whose token is not the current attempt's.
var ErrUnauthorized = httpd.ErrUnauthorized

// ask sends the root a command and waits for its answer.
func (h *Hive) ask(ctx context.Context, m func(chan<- messages.Reply) any) (messages.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	ch := make(chan messages.Reply, 1)
	h.system.Root.Send(h.root, m(ch))
	select {
	case r := <-ch:
		return r, r.Err
	case <-ctx.Done():
		return messages.Reply{}, messages.ErrBusy
	}
}

// Workers, Worker, Pools, Version and WaitFor read the published view; no actor is asked.

// Workers lists every worker.
func (h *Hive) Workers() []*messages.WorkerStatus { return h.board.Workers() }

// Worker is one worker's status.
func (h *Hive) Worker(id messages.WorkerID) (*messages.WorkerStatus, bool) { return h.board.Worker(id) }

// Pools lists every pool.
func (h *Hive) Pools() []*messages.PoolStatus { return h.board.Pools() }

// Version rises with every change of the view.
func (h *Hive) Version() uint64 { return h.board.Version() }

// WaitFor waits until a worker's status satisfies pred.
func (h *Hive) WaitFor(ctx context.Context, id messages.WorkerID, pred func(*messages.WorkerStatus) bool) (*messages.WorkerStatus, error) {
	return h.board.WaitFor(ctx, id, pred)
}

// ParseWorker reads a worker's declaration from a request body.
func (h *Hive) ParseWorker(body []byte) ([]messages.WorkerSpec, error) {
	return config.ParseWorker(body, h.config())
}

// PatchWorker merges a request body into the spec a worker has.
func (h *Hive) PatchWorker(id messages.WorkerID, body []byte) (messages.WorkerSpec, error) {
	s, ok := h.desired.Load(id)
	if !ok {
		return messages.WorkerSpec{}, fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker)
	}
	return config.PatchWorker(s.(messages.WorkerSpec), body, h.config())
}

// Create declares a worker.
func (h *Hive) Create(ctx context.Context, s messages.WorkerSpec) (*messages.WorkerStatus, error) {
	if _, taken := h.desired.LoadOrStore(s.Name, s); taken {
		return nil, fmt.Errorf("worker %s: %w", s.Name, messages.ErrExists)
	}
	r, err := h.ask(ctx, func(to chan<- messages.Reply) any { return messages.CreateWorker{Spec: s, Reply: to} })
	if err != nil && !errors.Is(err, messages.ErrBusy) {
		h.desired.Delete(s.Name)
	}
	return r.Worker, err
}

// Change gives a worker a new spec.
func (h *Hive) Change(ctx context.Context, s messages.WorkerSpec) (*messages.WorkerStatus, error) {
	r, err := h.ask(ctx, func(to chan<- messages.Reply) any { return messages.ChangeWorker{Spec: s, Reply: to} })
	if err == nil {
		h.desired.Store(s.Name, s)
	}
	return r.Worker, err
}

// Remove stops a worker and forgets it once it has ended.
func (h *Hive) Remove(ctx context.Context, id messages.WorkerID) (*messages.WorkerStatus, error) {
	st, _ := h.board.Worker(id)
	_, err := h.ask(ctx, func(to chan<- messages.Reply) any { return messages.RemoveWorker{Worker: id, Reply: to} })
	return st, err
}

// Do carries out a verb.
func (h *Hive) Do(ctx context.Context, m messages.DoWorker) (*messages.WorkerStatus, error) {
	r, err := h.ask(ctx, func(to chan<- messages.Reply) any { m.Reply = to; return m })
	return r.Worker, err
}

// Callback takes a worker's own word, if the token is the attempt's. A token of
// an earlier attempt belongs to a process that is not current: stale, not forged.
func (h *Hive) Callback(ctx context.Context, m messages.Callback, token string) (*messages.WorkerStatus, error) {
	st, ok := h.board.Worker(m.Worker)
	if !ok {
		return nil, fmt.Errorf("worker %s: %w", m.Worker, messages.ErrUnknownWorker)
	}
	if m.Attempt != 0 && m.Attempt < st.Attempt {
		return nil, &messages.StaleError{Worker: m.Worker, Got: m.Attempt, Current: st.Attempt}
	}
	v, ok := h.tokens.Load(m.Worker)
	if !ok || subtle.ConstantTimeCompare([]byte(v.(callToken).secret), []byte(token)) != 1 {
		return nil, fmt.Errorf("worker %s: %w", m.Worker, ErrUnauthorized)
	}
	if a := v.(callToken).attempt; m.Attempt != a {
		return nil, &messages.StaleError{Worker: m.Worker, Got: m.Attempt, Current: a}
	}
	return h.hearCallback(ctx, st, m)
}

func (h *Hive) hearCallback(ctx context.Context, st *messages.WorkerStatus, m messages.Callback) (*messages.WorkerStatus, error) {
	if m.Kind == messages.CallbackHeartbeat && st.Live != nil {
		if !st.Live.Beat(m.Attempt, time.Now(), m.Stats) {
			return st, nil // nothing that the tree must decide on
		}
	}
	h.afterStart(ctx, m.Worker, m.Attempt)
	r, err := h.ask(ctx, func(to chan<- messages.Reply) any { m.Reply = to; return m })
	return r.Worker, err
}

// Vouched takes a worker's word without a token: the caller knows whose it is.
func (h *Hive) Vouched(ctx context.Context, m messages.Callback) (*messages.WorkerStatus, error) {
	st, ok := h.board.Worker(m.Worker)
	if !ok {
		return nil, fmt.Errorf("worker %s: %w", m.Worker, messages.ErrUnknownWorker)
	}
	return h.hearCallback(ctx, st, m)
}

// Rbee is what the routes of the old manager need to know.
func (h *Hive) Rbee() httpd.Rbee {
	c := h.config().Rbee
	r := httpd.Rbee{WorkerCommand: c.WorkerCommand, QueenCallbackURL: c.QueenCallbackURL, MemoryFree: memoryAvailable}
	if h.addr != "" {
		r.CallbackURL = "http://" + h.addr + "/v1/workers/ready"
	}
	return r
}

// Cordon closes a pool for new starts, or opens it.
func (h *Hive) Cordon(ctx context.Context, id messages.PoolID, on bool, reason string) error {
	_, err := h.ask(ctx, func(to chan<- messages.Reply) any {
		return messages.CordonPool{Pool: id, On: on, Reason: reason, Reply: to}
	})
	return err
}

// Reload reads the configuration again and applies the difference; a file whose
// form is wrong changes nothing. With dryRun it only says what it would do.
func (h *Hive) Reload(ctx context.Context, dryRun bool) (*messages.Plan, error) {
	if h.opt.Reread == nil {
		return nil, errors.New("this hive was started without a configuration file, so there is nothing to reload")
	}
	cfg, err := h.opt.Reread()
	if err != nil {
		return nil, err
	}
	plan, err := h.apply(ctx, cfg, dryRun)
	if err != nil {
		return nil, err
	}
	plan.Notes = append(plan.Notes, fixedKeys(h.config(), cfg)...)
	if !dryRun {
		h.mu.Lock()
		fresh, now := *cfg, h.cfg // what only a new start takes up stays as it is
		fresh.Name, fresh.DataDir, fresh.Listen, fresh.Ports = now.Name, now.DataDir, now.Listen, now.Ports
		fresh.Pool, fresh.GPU, fresh.Auth, fresh.TLS = now.Pool, now.GPU, now.Auth, now.TLS
		h.cfg = &fresh
		h.mu.Unlock()
		h.journal.Append(messages.Event{Type: messages.HiveReloaded, Reason: fmt.Sprintf("%d started, %d stopped, %d restarted, %d updated, %d unchanged",
			len(plan.Start), len(plan.Stop), len(plan.Restart), len(plan.Update), len(plan.Unchanged))})
	}
	return plan, nil
}

// fixedKeys says which changed keys only a new start of hive takes up.
func fixedKeys(now, next *config.Config) []string {
	var notes []string
	for _, k := range []struct {
		key     string
		changed bool
	}{
		{"name", now.Name != next.Name}, {"data_dir", now.DataDir != next.DataDir}, {"listen", now.Listen != next.Listen},
		{"ports", now.Ports != next.Ports}, {"pool", now.Pool != next.Pool}, {"gpu.fake", now.GPU.Fake != next.GPU.Fake},
		{"auth", now.Auth != next.Auth}, {"tls", now.TLS != next.TLS},
	} {
		if k.changed {
			notes = append(notes, k.key+" changed; that takes effect when hive is started again")
		}
	}
	return notes
}

func (h *Hive) apply(ctx context.Context, cfg *config.Config, dryRun bool) (*messages.Plan, error) {
	if !dryRun {
		for _, s := range cfg.Workers {
			if st, ok := h.board.Worker(s.Name); !ok || st.Source == "file" {
				h.desired.Store(s.Name, s)
			}
		}
	}
	r, err := h.ask(ctx, func(to chan<- messages.Reply) any {
		return messages.ApplyConfig{Specs: cfg.Workers, DryRun: dryRun, Reply: to}
	})
	return r.Plan, err
}

// StateMachine prints the table of states.
func (h *Hive) StateMachine(format string) ([]byte, error) { return StateMachine(format) }

func (h *Hive) config() *config.Config {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cfg
}

func (h *Hive) specs() []messages.WorkerSpec {
	var all []messages.WorkerSpec
	h.desired.Range(func(_, v any) bool { all = append(all, v.(messages.WorkerSpec)); return true })
	return all
}

// apiURL is where workers call back: the socket when hive listens nowhere else.
func (h *Hive) apiURL() string {
	if h.addr == "" {
		return "unix://" + h.sock
	}
	return "http://" + h.addr
}

// listen opens the API on TCP and on the unix socket.
func (h *Hive) listen() error {
	token, err := readToken(h.cfg.Auth.TokenFile)
	if err != nil {
		return err
	}
	h.server = httpd.New(httpd.Options{Service: h, Journal: h.journal, Logs: h.logs, Metrics: h.metrics.Write, ObserveAPI: h.metrics.ObserveAPI, Log: h.log,
		Version: h.opt.Version, Token: token, ReadOnlyWithoutToken: h.cfg.Auth.ReadOnlyWithoutToken})
	if h.cfg.Listen != "" {
		tcp, err := net.Listen("tcp", h.cfg.Listen)
		if err != nil {
			return fmt.Errorf("listen on %s: %w; choose another address with `listen`", h.cfg.Listen, err)
		}
		h.addr = tcp.Addr().String()
		h.listeners = append(h.listeners, tcp)
	}
	h.sock = config.SocketPath(h.cfg.DataDir)
	if err := os.MkdirAll(filepath.Dir(h.sock), 0o700); err != nil {
		return fmt.Errorf("make the folder of the API socket: %w", err)
	}
	_ = os.Remove(h.sock) // a dead hive's; the lock says that no other lives
	unix, err := net.Listen("unix", h.sock)
	if err != nil {
		return fmt.Errorf("listen on the API socket %s: %w", h.sock, err)
	}
	unix.(*net.UnixListener).SetUnlinkOnClose(false) // close removes the name itself, under the lock
	if err := os.Chmod(h.sock, 0o600); err != nil {
		return fmt.Errorf("protect the API socket: %w", err)
	}
	h.listeners = append(h.listeners, unix)
	var once sync.Once
	for _, l := range h.listeners {
		go func() {
			if err := h.server.Serve(l); err != nil {
				once.Do(func() { h.log.Debug("the API stopped listening", "error", err) })
			}
		}()
	}
	return nil
}

func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read auth.token_file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 16 {
		return "", fmt.Errorf("auth.token_file %s holds fewer than 16 characters; write a long random token into it", path)
	}
	return token, nil
}

// logEvent writes each event to the log; what a person must see is a warning.
// narrate writes every event to the log. It reads the journal like any other
// reader: a log that nobody takes away (a stopped pager, a full pipe) never holds
// the tree up; what it missed by then is told in one line.
func (h *Hive) narrate(ctx context.Context) {
	defer close(h.narrated)
	seen := uint64(0)
	for r := h.journal.Subscribe(0); ; {
		e, err := r.Next(ctx)
		switch {
		case errors.Is(err, journal.ErrTooSlow):
			last := h.journal.Last()
			h.log.Warn("the log was not taken away fast enough, events are missing in it", "missing", last-seen)
			seen, r = last, h.journal.Subscribe(last)
		case err != nil:
			return // hive ends, and everything has been told
		default:
			seen = e.Seq
			h.logEvent(e)
		}
	}
}

func (h *Hive) logEvent(e messages.Event) {
	level := slog.LevelInfo
	switch e.Type {
	case messages.WorkerCrashloop, messages.WorkerPanic, messages.WorkerRefused, messages.WorkerLeftover,
		messages.PoolDegraded, messages.PoolRestarted, messages.PoolCordoned, messages.HiveFailing:
		level = slog.LevelWarn
	case messages.WorkerPhase, messages.HiveStopProgress:
		level = slog.LevelDebug
	case messages.WorkerState:
		if e.To != nil && (*e.To == messages.Failed || *e.To == messages.Unkillable) {
			level = slog.LevelWarn
		}
	default:
	}
	h.log.Log(context.Background(), level, e.String(), "seq", e.Seq)
}

// quiet passes on what protoactor warns of, and keeps its news of every restart
// out of the log: the events tell it better.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(n string) slog.Handler      { return quiet{q.Handler.WithGroup(n)} }
