package engine

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

func TestNamesAreSortedAndKnown(t *testing.T) {
	want := []string{"exec", "hive", "http", "llama-server", "rbee", "sglang", "tgi", "vllm"}
	if got := Names(); !slices.Equal(got, want) {
		t.Fatalf("Names() = %v, want %v", got, want)
	}
	for _, name := range want {
		e, ok := For(name)
		if !ok || e.Name != name || e.Judge == nil || e.Load == nil {
			t.Errorf("For(%q) = %+v, %v: every engine has a Judge and a Load", name, e, ok)
		}
	}
	if _, ok := For("lama-server"); ok {
		t.Error("For knows an engine that is none")
	}
}

func TestJudge(t *testing.T) {
	llamaLoading := `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`
	for _, c := range []struct {
		engine string
		code   int
		body   string
		want   Verdict
	}{
		{"llama-server", 200, `{"status":"ok"}`, Ready},
		{"llama-server", 503, llamaLoading, Loading},
		{"llama-server", 503, `{"status":"loading model"}`, Loading},
		{"llama-server", 503, `{"error":{"code":503,"message":"no slot available"}}`, Broken},
		{"llama-server", 503, `upstream is gone`, Broken},
		{"llama-server", 500, llamaLoading, Broken},
		{"llama-server", 404, ``, Broken},
		{"vllm", 200, ``, Ready},
		{"vllm", 503, ``, Broken},
		{"tgi", 200, ``, Ready},
		{"tgi", 503, `{"error":"unhealthy","error_type":"healthcheck"}`, Broken},
		{"sglang", 200, ``, Ready},
		{"sglang", 503, ``, Loading},
		{"sglang", 500, ``, Broken},
		{"http", 204, ``, Ready},
		{"http", 503, ``, Loading},
		{"http", 301, ``, Broken},
		{"rbee", 200, ``, Ready},
		{"rbee", 0, ``, Broken},
	} {
		e, _ := For(c.engine)
		if got := e.Judge(c.code, []byte(c.body)); got != c.want {
			t.Errorf("%s: %d %q is judged %s, want %s", c.engine, c.code, c.body, got, c.want)
		}
	}
}

func TestVerdictString(t *testing.T) {
	if got := fmt.Sprint(Broken, Loading, Ready, Verdict(9)); got != "broken loading ready verdict(9)" {
		t.Error(got)
	}
}

// The recorded answers under testdata were written by hand from the engines'
// documentation and source, named in each engine's file.
func TestSourcesReadRecordedAnswers(t *testing.T) {
	for _, c := range []struct {
		file  string
		parse func([]byte) (messages.Stats, error)
		want  messages.Stats
	}{
		{"llama_metrics.txt", parseLlamaMetrics, messages.Stats{
			InFlight: ptr(2), QueueDepth: ptr(1), TokensTotal: ptr(18722.0), TokensPerSecond: ptr(41.5),
		}},
		{"llama_metrics_2024.txt", parseLlamaMetrics, messages.Stats{
			InFlight: ptr(0), QueueDepth: ptr(0), TokensTotal: ptr(128.0), TokensPerSecond: ptr(0.0), KVCacheUsed: ptr(0.25),
		}},
		{"llama_slots.json", parseLlamaSlots, messages.Stats{InFlight: ptr(1)}},
		{"vllm_metrics.txt", parseVLLM, messages.Stats{
			InFlight: ptr(7), QueueDepth: ptr(2), TokensTotal: ptr(2500.0), KVCacheUsed: ptr(0.42),
			Requests: ptr(10.0), RequestSeconds: ptr(9.5), LatencyP50: ptr(700.0), LatencyP99: ptr(2400.0),
		}},
		{"tgi_metrics.txt", parseTGI, messages.Stats{
			InFlight: ptr(3), QueueDepth: ptr(1), TokensTotal: ptr(640.0),
			Requests: ptr(4.0), RequestSeconds: ptr(2.0), LatencyP50: ptr(500.0), LatencyP99: ptr(990.0),
		}},
		{"sglang_metrics.txt", parseSGLang, messages.Stats{
			InFlight: ptr(5), QueueDepth: ptr(1), TokensTotal: ptr(900.0), TokensPerSecond: ptr(150.0), KVCacheUsed: ptr(0.5),
			Requests: ptr(2.0), RequestSeconds: ptr(1.2), LatencyP50: ptr(600.0), LatencyP99: ptr(796.0),
		}},
	} {
		body, err := os.ReadFile("testdata/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.parse(body)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
		} else if !alike(got, c.want) {
			t.Errorf("%s:\n got %s\nwant %s", c.file, show(got), show(c.want))
		}
	}
}

func TestSourcesRefuseWhatIsNotTheirs(t *testing.T) {
	for _, c := range []struct {
		name  string
		parse func([]byte) (messages.Stats, error)
		body  string
	}{
		{"a page", parseVLLM, "<!doctype html>\n<p>hello</p>"},
		{"an error", parseLlamaMetrics, `{"error":{"code":501,"message":"This server does not support metrics endpoint."}}`},
		{"no slots", parseLlamaSlots, `{"error":{"code":501,"message":"This server does not support slots endpoint."}}`},
		{"slots without a state", parseLlamaSlots, `[{"id":0}]`},
		{"null", parseLlamaSlots, `null`},
	} {
		if got, err := c.parse([]byte(c.body)); err == nil {
			t.Errorf("%s is read as %s", c.name, show(got))
		}
	}
	// Not an error: TGI tells nothing before its first request.
	if got, err := parseTGI(nil); err != nil || !alike(got, messages.Stats{}) {
		t.Errorf("an empty answer is %s, %v", show(got), err)
	}
}

func TestObservingNeverWakesALlamaServer(t *testing.T) {
	e, _ := For("llama-server")
	for _, c := range []struct {
		command []string
		env     map[string]string
		want    []string
	}{
		{[]string{"/usr/bin/llama-server", "-m", "a.gguf"}, nil, []string{"/metrics", "/slots"}},
		{[]string{"./serve.sh"}, nil, []string{"/metrics"}},
		{nil, nil, []string{"/metrics"}},
		{[]string{"llama-server", "-m", "a.gguf", "--sleep-idle-seconds", "60"}, nil, nil},
		{[]string{"llama-server", "--sleep-idle-seconds=60"}, nil, nil},
		{[]string{"sh", "-c", "exec llama-server -m a.gguf --sleep-idle-seconds 60"}, nil, nil},
		{[]string{"llama-server"}, map[string]string{"LLAMA_ARG_SLEEP_IDLE_SECONDS": "60"}, nil},
	} {
		if got := paths(e.SourcesFor(c.command, c.env)); !slices.Equal(got, c.want) {
			t.Errorf("SourcesFor(%v, %v) = %v, want %v", c.command, c.env, got, c.want)
		}
	}
	if slices.Contains(paths(e.Sources), "/slots") {
		t.Error("/slots wakes a sleeping model and must not be asked blindly")
	}
	v, _ := For("vllm")
	if got := paths(v.SourcesFor([]string{"vllm", "serve"}, nil)); !slices.Equal(got, []string{"/metrics"}) {
		t.Errorf("vllm: %v", got)
	}
}

func TestLoad(t *testing.T) {
	for _, c := range []struct {
		engine, line string
		want         string
	}{
		{"llama-server", "main: loading model", "weights 0.00"},
		{"llama-server", "srv    load_model: loading model '/models/a.gguf'", "weights 0.00"},
		{"llama-server", "0.00.051.314 I srv    load_model: loading model '/models/a.gguf'", "weights 0.00"},
		{"llama-server", "load_tensors: loading model tensors, this can take a while... (mmap = true)", "weights 0.00"},
		{"llama-server", "..........................................", "weights 0.42"},
		{"llama-server", "common_init_from_params: warming up the model with an empty run - please wait ...", "warm-up 0.00"},
		{"llama-server", "main: model loaded", "loaded 1.00"},
		{"llama-server", "...", ""},
		{"llama-server", "tell me about the phrase main: model loaded", ""},
		{"vllm", "Loading safetensors checkpoint shards:  42% Completed | 5/12 [00:03<00:05,  1.3it/s]", "weights 0.42"},
		{"vllm", "\x1b[1;36m(VllmWorker rank=0 pid=226)\x1b[0;0m Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00,  2.0it/s]", "weights 1.00"},
		{"vllm", "Loading pt checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]", "weights 0.00"},
		{"vllm", "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|████      | 10/25 [00:01<00:02]", "CUDA graphs 0.40"},
		{"vllm", "Loading safetensors checkpoint shards: 420% Completed | 5/12 [00:03<00:05]", ""},
		{"vllm", "INFO 11-23 10:00:00 [logger.py:39] Received request: prompt: 'Loading safetensors checkpoint shards:  42% Completed | 5/12 ['", ""},
		{"sglang", "Multi-thread loading shards:   0% Completed | 0/1 [00:00<?, ?it/s]Multi-thread loading shards: 100% Completed | 1/1 [00:00<00:00,  7.38it/s]", "weights 1.00"},
		{"sglang", "Loading safetensors checkpoint shards:   0% Completed | 0/8 [00:00<?]\rLoading safetensors checkpoint shards:  12% Completed | 1/8 [00:00<00:02]", "weights 0.12"},
		{"sglang", "Capturing batches (bs=1 avail_mem=8.12 GB):  43%|████▎     | 3/7 [00:01<00:01]", "CUDA graphs 0.43"},
		{"tgi", "2023-08-17T15:28:43.904106Z  INFO shard-manager: text_generation_launcher: Waiting for shard to be ready... rank=0", ""},
		{"exec", "..............", ""},
	} {
		e, _ := For(c.engine)
		p, ok := e.Load(c.line)
		got := ""
		if ok {
			got = fmt.Sprintf("%s %.2f", p.Stage, p.Value)
		}
		if got != c.want || ok && p.Source != "log" {
			t.Errorf("%s: %q is %q (%+v), want %q", c.engine, c.line, got, p, c.want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func paths(sources []Source) (list []string) {
	for _, s := range sources {
		list = append(list, s.Path)
	}
	return list
}

// figures are the values of Stats by field name.
func figures(s messages.Stats) map[string]float64 {
	list := map[string]float64{}
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsNil() {
			list[v.Type().Field(i).Name] = f.Elem().Convert(reflect.TypeFor[float64]()).Float()
		}
	}
	return list
}

func show(s messages.Stats) string { return fmt.Sprint(figures(s)) }

func alike(a, b messages.Stats) bool {
	x, y := figures(a), figures(b)
	for name, v := range x {
		if w, ok := y[name]; !ok || math.Abs(v-w) > 1e-9*math.Max(1, math.Abs(w)) {
			return false
		}
	}
	return len(x) == len(y)
}
