package engine

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

func TestExpositionIsReadTolerantly(t *testing.T) {
	e, err := parseExposition([]byte(strings.Join([]string{
		"# HELP x:a Some help.",
		"x:a 1",
		`x:a{b="1",c="q\"}\\\n",} 2 1700000000000`,
		`x:a{b="2"} 3 # {trace_id="z"} 0.67`,
		"\tx:a\t4\t",
		`x:a{b="open 5`,
		`x:a{b} 6`,
		"x:a seven",
		"x:a 8 9 10",
		"x:a NaN", "x:a +Inf", "x:a -1", "x:a 1e999",
		"y:a 100",
		"9x:a 1",
		"x:ab 50",
	}, "\r\n")), "x:")
	if err != nil {
		t.Fatal(err)
	}
	if got := e.sum("x:a"); got == nil || *got != 10 {
		t.Errorf("sum = %v, want 10", deref(got))
	}
	if e.sum("y:a") != nil || e.sum("x:absent") != nil {
		t.Error("another's or an absent metric is known")
	}
	if got := e["x:a"][1].labels["c"]; got != "q\"}\\\n" {
		t.Errorf("label %q", got)
	}
}

func TestExpositionIsBounded(t *testing.T) {
	if _, err := parseExposition(make([]byte, maxBody+1), ""); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
	if _, err := parseExposition([]byte(strings.Repeat("a 1\n", maxSamples+1)), "a"); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
	e, err := parseExposition([]byte("a 1\na{b=\""+strings.Repeat("x", maxLine)+"\"} 2\n"), "a")
	if err != nil || *e.sum("a") != 1 {
		t.Error(e, err)
	}
}

func TestQuantile(t *testing.T) {
	hist := func(lines ...string) exposition {
		e, err := parseExposition([]byte(strings.Join(lines, "\n")), "h")
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	plain := hist(`h_bucket{le="1.0"} 50`, `h_bucket{le="2.0"} 100`, `h_bucket{le="+Inf"} 100`)
	for _, c := range []struct {
		e    exposition
		q    float64
		want float64 // -1: not known
	}{
		{plain, 0.5, 1000},
		{plain, 0.25, 500},
		{plain, 0.75, 1500},
		{hist(`h_bucket{le="1"} 0`, `h_bucket{le="+Inf"} 4`), 0.99, 1000},
		{hist(`h_bucket{le="1"} 0`, `h_bucket{le="+Inf"} 0`), 0.5, -1},
		{hist(`h_bucket{le="1"} 3`), 0.5, -1},
		{hist(`h_bucket{le="1"} 3`, `h_bucket{le="2"} 1`, `h_bucket{le="+Inf"} 9`), 0.5, -1},
		{hist(`h_bucket{le="one"} 3`, `h_bucket{le="+Inf"} 9`), 0.5, -1},
		{hist(`h_bucket{e="0",le="1"} 1`, `h_bucket{e="1",le="1"} 1`, `h_bucket{e="0",le="+Inf"} 1`, `h_bucket{e="1",le="+Inf"} 1`), 0.5, 500},
		{exposition{}, 0.5, -1},
	} {
		got := -1.0
		if v := c.e.quantile("h", c.q, 1000); v != nil {
			got = *v
		}
		if math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile %v of %v = %v, want %v", c.q, c.e, got, c.want)
		}
	}
}

// parsers are all that read an engine's figures.
var parsers = map[string]func([]byte) (messages.Stats, error){
	"llama metrics": parseLlamaMetrics, "vllm": parseVLLM, "tgi": parseTGI, "sglang": parseSGLang,
}

func FuzzPrometheus(f *testing.F) {
	for _, file := range []string{"llama_metrics.txt", "vllm_metrics.txt", "tgi_metrics.txt", "sglang_metrics.txt"} {
		body, err := os.ReadFile("testdata/" + file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`vllm:kv_cache_usage_perc{a="\"} 7e300`))
	f.Add([]byte("tgi_request_duration_bucket{le=\"1e308\"} 1\ntgi_request_duration_bucket{le=\"+Inf\"} 3\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, parse := range parsers {
			stats, err := parse(body)
			check(t, name, stats, err)
		}
	})
}

func FuzzLlamaSlots(f *testing.F) {
	f.Add([]byte(`[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]`))
	f.Add([]byte(`[{"is_processing":null}]`))
	f.Add([]byte(`{"error":{"code":501}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		stats, err := parseLlamaSlots(body)
		check(t, "llama slots", stats, err)
		judgeLlama(503, body)
	})
}

func FuzzLines(f *testing.F) {
	f.Add(torchOOM)
	f.Add("Loading safetensors checkpoint shards:  42% Completed | 5/12 [00:03")
	f.Add("\x1b[1;36m(VllmWorker rank=0 pid=226)\r.....")
	f.Fuzz(func(t *testing.T, line string) {
		for _, e := range engines() {
			if p, ok := e.Load(line); ok && (p.Value < 0 || p.Value > 1 || p.Stage == "") {
				t.Errorf("%s: %+v of %q", e.Name, p, line)
			}
			if cause, words, ok := e.Diagnose(line); ok && (cause == "" || words == "" || len(words) > maxWords+100) {
				t.Errorf("%s: %q %q of %q", e.Name, cause, words, line)
			}
		}
	})
}

// check holds what is true of any figures: finite, not negative, a ratio
// within 0 to 1, and none beside an error.
func check(t *testing.T, name string, stats messages.Stats, err error) {
	t.Helper()
	known := figures(stats)
	if err != nil && len(known) > 0 {
		t.Errorf("%s: figures beside an error: %v, %v", name, known, err)
	}
	for field, v := range known {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || field == "KVCacheUsed" && v > 1 {
			t.Errorf("%s: %s = %v", name, field, v)
		}
	}
}

func deref(v *float64) any {
	if v == nil {
		return nil
	}
	return *v
}
