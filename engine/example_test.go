package engine_test

import (
	"fmt"

	"github.com/rbee-hive/hive/engine"
)

func ExampleEngine_DiagnoseTail() {
	e, _ := engine.For("llama-server")
	cause, words, ok := e.DiagnoseTail([]string{
		"main: loading model",
		"gguf_init_from_file: failed to open GGUF file '/models/a.gguf'",
		"srv    load_model: failed to load model, '/models/a.gguf'",
	})
	fmt.Println(ok, cause)
	fmt.Println(words)
	// Output:
	// true config
	// the model file cannot be opened (gguf_init_from_file: failed to open GGUF file '/models/a.gguf')
}

func ExampleVerdict() {
	e, _ := engine.For("llama-server")
	fmt.Println(e.Judge(503, []byte(`{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`)))
	fmt.Println(e.Judge(200, []byte(`{"status":"ok"}`)))
	// Output:
	// loading
	// ready
}

func ExampleSource() {
	e, _ := engine.For("llama-server")
	for _, source := range e.SourcesFor([]string{"llama-server", "-m", "a.gguf"}, nil) {
		fmt.Println(source.Path, source.Optional)
	}
	stats, err := e.Sources[0].Parse([]byte("llamacpp:requests_processing 2\n"))
	fmt.Println(*stats.InFlight, err)
	// Output:
	// /metrics true
	// /slots true
	// 2 <nil>
}
