package specs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

// rbeeWorker plays llm-worker-rbee: its flags, its callback, its heartbeat and
// its way to end. It writes what it did into a file beside itself.
const rbeeWorker = `import argparse, http.server, json, os, signal, sys, threading, time, urllib.request
p = argparse.ArgumentParser()
for f in ("worker-id", "model", "model-ref", "backend", "device", "port", "callback-url"):
    p.add_argument("--" + f, required=True)
a = p.parse_args()
me = os.path.dirname(os.path.abspath(__file__))
def note(word):
    with open(os.path.join(me, "notes"), "a") as f: f.write(word + "\n")
signal.signal(signal.SIGTERM, lambda *_: (note("SIGTERM"), os._exit(0)))
def post(url, body):
    r = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(r).status
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def do_POST(self):
        self.send_response(200); self.end_headers()
        if self.path == "/v1/admin/shutdown":
            note("shutdown"); threading.Timer(0.05, lambda: os._exit(0)).start()
    def log_message(self, *_): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", int(a.port)), H)
threading.Thread(target=s.serve_forever, daemon=True).start()
me_url = "http://127.0.0.1:" + a.port
while not os.path.exists(os.path.join(me, "load")): time.sleep(0.02)
body = {"worker_id": a.worker_id, "url": me_url, "model_ref": a.model_ref, "backend": a.backend, "device": int(a.device)}
note("ready %d" % post(a.callback_url, body))
base = a.callback_url.removesuffix("/v1/workers/ready")
while True:
    note("heartbeat %d" % post(base + "/v1/heartbeat", {"worker_id": a.worker_id, "timestamp": "2025-10-19T00:00:00Z", "health_status": "healthy"}))
    time.sleep(0.2)
`

// queen plays the orchestrator's end: it keeps what it is told.
type queen struct {
	mu   sync.Mutex // guards told
	told []map[string]any
	path string
}

func (q *queen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m map[string]any
	_ = json.NewDecoder(r.Body).Decode(&m) // what is no JSON is nil, and seen as such
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told, q.path = append(q.told, m), r.URL.Path
	w.WriteHeader(http.StatusOK)
}

func (q *queen) heard() []map[string]any {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.told
}

var _ = Describe("the orchestrator and the workers of rbee-hive", func() {
	var (
		h     *runner.Hive
		q     *queen
		model string
	)
	BeforeEach(func() {
		q = &queen{}
		server := httptest.NewServer(q)
		DeferCleanup(server.Close)
		h = runner.New(bin)
		model = filepath.Join(h.Dir, "model.gguf")
		Expect(os.WriteFile(model, []byte("weights"), 0o600)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(h.Dir, "worker.py"), []byte(rbeeWorker), 0o600)).To(Succeed())
		h.Configure(fmt.Sprintf("rbee: {worker_command: [python3, %s/worker.py], queen_callback_url: %q}\ngpu: {fake: 1}", h.Dir, server.URL), "")
		h.Start()
	})
	spawn := func(format string, args ...any) runner.Response {
		return h.API(http.MethodPost, "/v1/workers/spawn", fmt.Sprintf(format, args...))
	}
	load := func() { Expect(os.WriteFile(filepath.Join(h.Dir, "load"), nil, 0o600)).To(Succeed()) }
	notes := func() string {
		b, _ := os.ReadFile(filepath.Join(h.Dir, "notes"))
		return string(b)
	}
	list := func() []map[string]any {
		var l struct{ Workers []map[string]any }
		h.Get("/v1/workers/list").JSON(&l)
		return l.Workers
	}
	good := func(backend string, device int) string {
		return fmt.Sprintf(`{"model_ref":"hf:org/model","backend":%q,"device":%d,"model_path":%q}`, backend, device, model)
	}

	It("spawn, list, get ready, beat and end as ever, field by field", func() {
		r := spawn("%s", good("cpu", 0))
		Expect(r.Status).To(Equal(http.StatusOK), r.Body)
		var made map[string]any
		r.JSON(&made)
		Expect(made).To(And(HaveLen(3), HaveKeyWithValue("state", "loading"), HaveKeyWithValue("url", HavePrefix("http://127.0.0.1:"))))
		id, _ := made["worker_id"].(string)
		Expect(id).To(MatchRegexp(`^worker-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`))

		Eventually(func() any { return list()[0]["pid"] }).ShouldNot(BeNil())
		w := list()[0]
		for key, want := range map[string]any{"id": id, "url": made["url"], "model_ref": "hf:org/model", "backend": "cpu", "device": 0.0,
			"state": "loading", "slots_total": 1.0, "slots_available": 0.0, "failed_health_checks": 0.0, "restart_count": 0.0,
			"last_restart": BeNil(), "last_heartbeat": BeNil()} {
			Expect(w).To(HaveKeyWithValue(key, want), key)
		}
		Expect(w["last_activity"]).To(And(HaveKey("secs_since_epoch"), HaveKey("nanos_since_epoch")))
		Expect(w["pid"]).To(BeEquivalentTo(h.Worker(id).PID))

		load()
		h.WaitState(id, messages.Idle)
		Eventually(q.heard).Should(HaveLen(1))
		Expect(q.path).To(Equal("/v2/workers/ready"))
		Expect(q.heard()[0]).To(And(HaveKeyWithValue("worker_id", id), HaveKeyWithValue("url", made["url"]), HaveKeyWithValue("model_ref", "hf:org/model"),
			HaveKeyWithValue("backend", "cpu"), HaveKeyWithValue("state", "idle")))
		Eventually(func() any { return list()[0]["last_heartbeat"] }).ShouldNot(BeNil())
		Expect(list()[0]).To(And(HaveKeyWithValue("state", "idle"), HaveKeyWithValue("slots_available", 1.0)))
		Expect(h.Worker(id).Heartbeat.Kind).To(Equal("native"))
		Eventually(notes).Should(And(ContainSubstring("ready 200"), ContainSubstring("heartbeat 200")))

		h.Accept(messages.VerbStop, id)
		Expect(h.WaitState(id, messages.Stopped).LastExit.Cause).To(Equal(messages.CauseStoppedByUser))
		Expect(notes()).To(And(ContainSubstring("shutdown"), Not(ContainSubstring("SIGTERM"))), "its own way to end comes first")
		Expect(list()).To(BeEmpty())
	})

	It("puts cuda and a device on that device's pool", func() {
		load()
		var made map[string]string
		r := spawn("%s", good("cuda", 0))
		Expect(r.Status).To(Equal(http.StatusOK), r.Body)
		r.JSON(&made)
		Expect(h.WaitState(made["worker_id"], messages.Idle).Pool).To(BeEquivalentTo("gpu-0"))
	})

	It("answers 507 when there is no room on the device", func() {
		r := spawn("%s", good("cuda", 7))
		Expect(r.Status).To(Equal(http.StatusInsufficientStorage), r.Body)
		Expect(h.API(http.MethodPost, "/v1/pools/gpu-0/cordon", "").Status).To(Equal(http.StatusAccepted))
		r = spawn("%s", good("cuda", 0))
		Expect(r.Status).To(Equal(http.StatusInsufficientStorage), r.Body)
		Expect(h.Workers()).To(BeEmpty())
	})

	It("answers 400 to what it cannot take, and makes nothing", func() {
		for _, body := range []string{`{`, `[]`, `{"model_ref":"no-provider","backend":"cpu","device":0,"model_path":"/x"}`,
			`{"model_ref":"hf:a","backend":"quantum","device":0,"model_path":"/x"}`, `{"model_ref":"hf:a","backend":"cpu","device":-1,"model_path":"/x"}`,
			`{"model_ref":"hf:a","backend":"cpu","device":"0","model_path":"/x"}`, `{"model_ref":"hf:a","backend":"cpu","device":0,"model_path":"/no/such/model"}`,
			`{"model_ref":"hf:a","backend":"cpu","device":0}`} {
			Expect(spawn("%s", body).Status).To(Equal(http.StatusBadRequest), body)
		}
		Expect(h.Workers()).To(BeEmpty())
	})

	It("knows no heartbeat and no ready of a worker that is not its own", func() {
		for path, body := range map[string]string{"/v1/heartbeat": `{"worker_id":"worker-x","timestamp":"t","health_status":"healthy"}`,
			"/v1/workers/ready": `{"worker_id":"worker-x","url":"http://127.0.0.1:1","model_ref":"hf:a","backend":"cpu","device":0}`} {
			Expect(h.API(http.MethodPost, path, body).Status).To(Equal(http.StatusNotFound), path)
		}
		Expect(h.API(http.MethodPost, "/v1/heartbeat", `{"worker_id":"worker-x","timestamp":"t","health_status":"well"}`).Status).To(Equal(http.StatusBadRequest))
	})

	It("answers its health, and has metrics", func() {
		r := h.Get("/v1/health")
		var m map[string]string
		r.JSON(&m)
		Expect(m).To(And(HaveKeyWithValue("status", "alive"), HaveKeyWithValue("api_version", "v1"), HaveKey("version")))
		Expect(h.Get("/metrics").Body).To(ContainSubstring("hive_pool_cordoned"))
	})

	It("keeps its words from being names", func() {
		for _, name := range []string{"spawn", "ready", "list"} {
			r := h.API(http.MethodPost, "/v1/workers", fmt.Sprintf(`{"name":%q,"command":["sleep","1"]}`, name))
			Expect(r.Status).To(Equal(http.StatusUnprocessableEntity), name)
		}
	})

	It("gets SIGTERM when its own way to end does not help", func() {
		deaf := filepath.Join(h.Dir, "deaf.py")
		Expect(os.WriteFile(deaf, []byte("import http.server, sys\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self): self.send_response(200); self.end_headers()\nhttp.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"), 0o600)).To(Succeed())
		body := fmt.Sprintf(`{"name":"deaf","engine":"rbee","command":["python3",%q,"${PORT}"],"ready":{"http":"/"},"heartbeat":{"interval":"1h"}}`, deaf)
		r := h.API(http.MethodPost, "/v1/workers", body)
		Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
		h.WaitState("deaf", messages.Idle)
		h.Accept(messages.VerbStop, "deaf")
		Expect(h.WaitState("deaf", messages.Stopped).LastExit.Signal).To(Equal("SIGTERM"))
	})
})
