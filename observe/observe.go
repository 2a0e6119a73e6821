// Package observe looks at a worker from outside: is it ready, how far has its
// load come, does it answer, what does its engine say of its work, and does that
// work move. Observing never loads, wakes or keeps alive what is observed.
package observe

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/engine"
	"github.com/rbee-hive/hive/messages"
)

// Log is the output of the attempt that is looked at.
type Log interface {
	// Follow emits the last tail lines and then whatever comes, until ctx or the attempt ends.
	Follow(ctx context.Context, tail int, emit func([]byte) error) error
	// Size is how much has been written; ReadAt reads at such an offset.
	Size() int64
	ReadAt(buf []byte, at int64) (n int, next int64, err error)
}

// Target is one attempt to look at.
type Target struct {
	Spec     messages.WorkerSpec
	Attempt  messages.Attempt
	Addr     string // host:port
	Engine   engine.Engine
	Sources  []engine.Source // of the engine, those that may be asked
	Pulse    *messages.Pulse
	Log      Log
	Usage    func() []Usage                 // what each process of the tree has used so far
	Command  func(ctx context.Context) bool // runs the readiness command to its end
	Model    int64                          // bytes of the model, 0 when unknown
	LastLoad time.Duration                  // how long the load before took, 0 when unknown
}

// Usage is what one process has used since it began.
type Usage struct {
	PID   int
	Start uint64 // tells a reused pid
	CPU   time.Duration
	Read  int64 // bytes, from files and the page cache
}

// Sighting is one thing seen.
type Sighting struct {
	Ready    bool
	Progress *messages.Progress
	Advanced bool
	Moved    bool // the pulse has something for the actor
	Fault    messages.Cause
	Detail   string
}

// Get fetches a URL within timeout.
type Get func(url string, timeout time.Duration) (code int, body []byte, err error)

// Watcher looks at workers. It is safe for concurrent use.
type Watcher struct{ Get Get }

// New makes a watcher that speaks HTTP.
func New() *Watcher {
	c := &fasthttp.Client{NoDefaultUserAgentHeader: true, MaxResponseBodySize: maxAnswer}
	return &Watcher{Get: func(url string, timeout time.Duration) (int, []byte, error) {
		req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		defer fasthttp.ReleaseRequest(req)
		defer fasthttp.ReleaseResponse(resp)
		req.SetRequestURI(url)
		req.Header.SetUserAgent("hive")
		req.Header.Set(fasthttp.HeaderConnection, "close") // a probe holds nothing open
		if err := c.DoTimeout(req, resp, timeout); err != nil {
			return 0, nil, err
		}
		return resp.StatusCode(), append([]byte(nil), resp.Body()...), nil
	}}
}

// maxAnswer bounds what is read of an answer: a page of metrics of a large
// engine has some 100 KiB.
const maxAnswer = 4 << 20

// probeTimeout bounds one question while a worker loads.
const probeTimeout = 2 * time.Second

// verdict asks a path and judges the answer; words say what came.
func (w *Watcher) verdict(t Target, path string, timeout time.Duration) (v engine.Verdict, words string) {
	code, body, err := w.Get("http://"+t.Addr+path, timeout)
	if err != nil {
		return engine.Broken, fmt.Sprintf("GET %s: %v", path, err)
	}
	judge := t.Engine.Judge
	if path != t.Engine.Health || judge == nil {
		plain, _ := engine.For("http")
		judge = plain.Judge
	}
	return judge(code, body), fmt.Sprintf("GET %s answered %d", path, code)
}

func (w *Watcher) connects(t Target) bool {
	c, err := net.DialTimeout("tcp", t.Addr, probeTimeout)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// ownPaths are the paths that hive itself asks: a line of the worker's log about
// one of them is hive's own echo and no sign of life.
func ownPaths(t Target) *regexp.Regexp {
	paths := map[string]bool{t.Spec.Ready.HTTP: true, t.Spec.Health.HTTP: true, t.Engine.Health: true}
	for _, s := range t.Sources {
		paths[s.Path] = true
	}
	delete(paths, "")
	if len(paths) == 0 {
		return nil
	}
	var alt []string
	for p := range paths {
		alt = append(alt, regexp.QuoteMeta(p))
	}
	return regexp.MustCompile(`(^|[\s"'=])(` + strings.Join(alt, "|") + `)($|[\s"'?,])`)
}

// meter tells how much a tree has used since it was last asked.
type meter struct{ last map[int]Usage }

func (m *meter) grown(now []Usage) (cpu time.Duration, read int64) {
	next := make(map[int]Usage, len(now))
	for _, u := range now {
		next[u.PID] = u
		before := m.last[u.PID]
		if before.Start != u.Start {
			before = Usage{}
		}
		cpu += max(u.CPU-before.CPU, 0)
		read += max(u.Read-before.Read, 0)
	}
	m.last = next
	return cpu, read
}

// A tree that takes less than this of a core waits: a runtime's housekeeping and
// the answers to hive's own probes come to a tenth of it.
const busyShare = 0.05

func works(cpu, over time.Duration) bool { return over > 0 && float64(cpu) >= busyShare*float64(over) }
