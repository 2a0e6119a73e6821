package engine

import (
	"strings"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

const (
	torchOOM  = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 80.00 MiB. GPU 0 has a total capacity of 139.72 GiB"
	ggmlOOM   = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 144817.04 MiB on device 0: cudaMalloc failed: out of memory"
	llamaBind = "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080"
	uvicorn   = "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use"
	notModel  = "OSError: /models/absent is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'"
)

func TestDiagnose(t *testing.T) {
	const (
		oom    = messages.CauseCUDAOOM
		port   = messages.CausePortInUse
		conf   = messages.CauseConfig
		nought = messages.CauseNone
	)
	for _, c := range []struct {
		engine, line string
		want         messages.Cause
	}{
		{"llama-server", ggmlOOM, oom},
		{"llama-server", "0.01.123.456 E " + ggmlOOM, oom},
		{"llama-server", "alloc_tensor_range: failed to allocate CUDA0 buffer of size 151851674624", oom},
		{"llama-server", "llama_model_load: error loading model: unable to allocate CUDA0 buffer", oom},
		{"llama-server", "llama_model_load: error loading model: unable to allocate CPU buffer", nought},
		{"llama-server", "CUDA error: out of memory", oom},
		{"llama-server", "CUDA error: an illegal memory access was encountered", nought},
		{"llama-server", llamaBind, port},
		{"llama-server", "0.00.060.001 E srv         start: couldn't bind HTTP server socket, hostname: 0.0.0.0, port: 8033", port},
		{"llama-server", "error: invalid argument: --no-such-flag", conf},
		{"llama-server", `error while handling argument "--flash-attn": error: unkown value for --flash-attn: '--numa'`, conf},
		{"llama-server", "gguf_init_from_file: failed to open GGUF file '/models/a.gguf'", conf},
		{"llama-server", "[44039] E gguf_init_from_file: failed to open GGUF file 'a.gguf' (errno No such file or directory)", conf},
		{"llama-server", "gguf_init_from_file_impl: invalid magic characters: 'PK', expected 'GGUF'", conf},
		{"llama-server", "llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'zz'", conf},
		{"llama-server", "llama_model_load_from_file_impl: failed to load model", nought},
		{"llama-server", "srv    load_model: failed to load model, '/models/a.gguf'", nought},
		{"llama-server", "slot launch_slot_: id 0 | task 1 | prompt: " + ggmlOOM, nought},

		{"vllm", torchOOM, oom},
		{"vllm", "(EngineCore_DP0 pid=8884) " + torchOOM, oom},
		{"vllm", "\x1b[1;36m(EngineCore_DP0 pid=8884)\x1b[0;0m ERROR 12-24 08:50:36 [core.py:842] " + torchOOM, oom},
		{"vllm", "ERROR 12-16 21:40:15 engine.py:135] " + torchOOM, oom},
		{"vllm", "ValueError: Free memory on device cuda:0 (3.25/23.43 GiB) on startup is less than desired GPU memory utilization (0.96, 22.49 GiB).", oom},
		{"vllm", "ValueError: Free memory on device (3.27/15.98 GiB) on startup is less than desired GPU memory utilization (0.9, 14.39 GiB).", oom},
		{"vllm", "ERROR 11-18 18:07:28 engine.py:366] ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", oom},
		{"vllm", `    raise ValueError("No available memory for the cache blocks. "`, nought},
		{"vllm", "OSError: [Errno 98] Address already in use", port},
		{"vllm", uvicorn, port},
		{"vllm", "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 44319): [errno 98] address already in use", port},
		{"vllm", "ERROR:    [Errno 99] error while attempting to bind on address ('::1', 8000, 0, 0): cannot assign requested address", nought},
		{"vllm", "vllm: error: unrecognized arguments: --lora-path", conf},
		{"vllm", "api_server.py: error: unrecognized arguments: /root/models/Qwen3-8B", conf},
		{"vllm", "vllm serve: error: the following arguments are required: model_tag", conf},
		{"vllm", notModel, conf},
		{"vllm", "(APIServer pid=1) " + notModel, conf},
		{"vllm", "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name'", conf},
		{"vllm", "INFO 11-23 10:00:00 [logger.py:39] Received request cmpl-1: prompt: '" + torchOOM + "'", nought},
		{"vllm", "the user wrote: " + uvicorn, nought},

		{"tgi", "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 128.00 MiB (GPU 0; 15.77 GiB total capacity", oom},
		{"tgi", "RuntimeError: Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`", oom},
		{"tgi", "2026-01-08T10:23:27.032737Z ERROR text_generation_router::server: router/src/server.rs:2325: Failed to bind to 0.0.0.0:80: Address already in use (os error 98)", port},
		{"tgi", "error: unexpected argument '--modelid' found", conf},
		{"tgi", `Error: ArgumentValidation("Sharding is currently not supported with exl2 quantization")`, conf},
		{"tgi", `Error: NotEnoughCUDADevices("sharded is true but only found 1 CUDA devices")`, conf},
		{"tgi", "Error: ShardCannotStart", nought},
		{"tgi", "2023-08-17T10:23:27.032737Z ERROR text_generation_launcher: Shard 0 failed to start", nought},

		{"sglang", "[2025-10-16 09:06:10 TP5] " + torchOOM, oom},
		{"sglang", "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: 0.5", oom},
		{"sglang", "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 2 GiB", oom},
		{"sglang", "[2025-10-16 09:06:10] " + uvicorn, port},
		{"sglang", "launch_server.py: error: unrecognized arguments: --tensor", conf},
		{"sglang", "[2025-10-16 09:06:10] Receive: obj=GenerateReqInput(text='" + torchOOM + "')", nought},

		{"exec", "listen tcp 127.0.0.1:8080: bind: address already in use", port},
		{"exec", "2026/11/23 10:00:00 listen tcp :8080: bind: address already in use", port},
		{"exec", ggmlOOM, oom},
		{"exec", "I once had an address already in use", nought},
		{"rbee", ggmlOOM, oom},
		{"hive", torchOOM, oom},
		{"http", "OSError: [Errno 98] Address already in use", port},
		{"http", "", nought},
	} {
		e, _ := For(c.engine)
		cause, words, ok := e.Diagnose(c.line)
		if cause != c.want || ok != (c.want != nought) || ok == (words == "") {
			t.Errorf("%s: %q means %q (%q, %v), want %q", c.engine, c.line, cause, words, ok, c.want)
		}
	}
}

func TestDiagnoseTail(t *testing.T) {
	llama, _ := For("llama-server")
	cause, words, ok := llama.DiagnoseTail([]string{
		ggmlOOM,
		"alloc_tensor_range: failed to allocate CUDA0 buffer of size 151851674624",
		"llama_model_load: error loading model: llama_model_loader: failed to load model from a.gguf",
		"srv    load_model: failed to load model, 'a.gguf'",
	})
	if !ok || cause != messages.CauseCUDAOOM || !strings.Contains(words, "cudaMalloc") {
		t.Errorf("a strong finding outweighs newer weak ones: %q, %q, %v", cause, words, ok)
	}

	v, _ := For("vllm")
	cause, _, ok = v.DiagnoseTail([]string{torchOOM, "recovered", "OSError: [Errno 98] Address already in use", "Traceback"})
	if !ok || cause != messages.CausePortInUse {
		t.Errorf("of equally strong findings the newest counts: %q, %v", cause, ok)
	}

	old := append([]string{torchOOM}, make([]string, tailLines)...)
	if cause, words, ok = v.DiagnoseTail(old); ok || cause != messages.CauseNone || words != "" {
		t.Errorf("what is far from the end speaks: %q, %q", cause, words)
	}
	if _, _, ok = v.DiagnoseTail(nil); ok {
		t.Error("no lines mean something")
	}
}

func TestDiagnosedWordsAreBounded(t *testing.T) {
	v, _ := For("vllm")
	_, words, ok := v.Diagnose(torchOOM + strings.Repeat(" é", 1<<20))
	if !ok || len(words) > maxWords+100 || strings.ToValidUTF8(words, "") != words {
		t.Errorf("%d bytes, %v", len(words), ok)
	}
}
