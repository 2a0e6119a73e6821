package engine

import (
	"regexp"
	"slices"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// tailLines is how many of an attempt's last lines may speak for its end: the
// error of one vLLM process is followed by the tracebacks of those that waited
// for it, some 100 lines, and more would let old, survived errors speak.
const tailLines = 200

// maxDiagnosed is how much of a line is looked at, in bytes. An error's first
// words are at its beginning; a line far longer is data.
const maxDiagnosed = 4096

// maxWords bounds what is quoted of a line, in bytes.
const maxWords = 300

// The weights of a finding. A strong one names the cause by itself; a weak one
// is what follows from a cause that a strong one would name better.
const (
	weak = iota + 1
	strong
)

// rule says what a line of a log means. Its pattern is matched against a line
// without its logger's prefix and is anchored at its beginning, so that a
// prompt repeated inside a log line does not match.
type rule struct {
	cause   messages.Cause
	weight  int
	pattern *regexp.Regexp
	words   string // plain words for a person; what the line says follows in brackets
}

func find(cause messages.Cause, weight int, words, pattern string) rule {
	return rule{cause, weight, regexp.MustCompile(`^(?:` + pattern + `)`), words}
}

// Diagnose says what a line of the engine's log means for the cause of its end:
// messages.CauseCUDAOOM, CausePortInUse or CauseConfig, and plain words with
// the line's own. ok is false when it means nothing.
func (e Engine) Diagnose(line string) (cause messages.Cause, words string, ok bool) {
	r, words, ok := e.diagnose(line)
	return r.cause, words, ok
}

// DiagnoseTail looks at the last lines of an attempt's log, given oldest first
// as they were written, and returns the most telling finding; of equally
// telling ones the newest.
func (e Engine) DiagnoseTail(lines []string) (messages.Cause, string, bool) {
	lines = lines[max(0, len(lines)-tailLines):]
	var best rule
	var said string
	for _, line := range slices.Backward(lines) {
		r, words, ok := e.diagnose(line)
		if ok && r.weight > best.weight {
			best, said = r, words
		}
		if best.weight == strong {
			break
		}
	}
	return best.cause, said, best.weight > 0
}

func (e Engine) diagnose(line string) (rule, string, bool) {
	text := bare(line)
	for _, r := range e.rules {
		if r.pattern.MatchString(text) {
			said := text
			if len(said) > maxWords {
				said = strings.ToValidUTF8(said[:maxWords], "") + "..."
			}
			return r, r.words + " (" + said + ")", true
		}
	}
	return rule{}, "", false
}

// colours are terminal escapes that choose a colour.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// prefixes are what loggers put before a message, stripped in this order, each
// as often as it stands there:
//
//	(EngineCore_DP0 pid=8884)             vLLM, the process that speaks
//	ERROR 04-30 10:20:36 [core.py:396]    vLLM's logger
//	[2025-10-16 09:06:10 DP0 TP5]         SGLang's logger
//	2023-08-17T10:23:27.03Z ERROR a: b:   TGI's launcher and router (tracing)
//	[44039] 0.00.049.756 E srv            llama-server, with a router, --log-timestamps, --log-prefix
var prefixes = []*regexp.Regexp{
	regexp.MustCompile(`^(?:\([A-Za-z_]\w*(?: [\w=]+)* pid=\d+(?:, ip=[\w.:]+)?\)\s+)+`),
	regexp.MustCompile(`^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[\w./]+:\d+\]|[\w./]+:\d+\])\s+`),
	regexp.MustCompile(`^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:[ A-Z0-9]+)?\]\s+`),
	regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]+Z\s+(?:TRACE|DEBUG|INFO|WARN|ERROR)\s+(?:[\w-]+(?:\{[^}]*\})?: )*?text_generation\w+(?:::\w+)*: (?:\S+\.(?:rs|py):\d+: )?`),
	regexp.MustCompile(`^(?:\[\d+\] )?(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?:[DIWE] )?(?:(?:srv|cmn|que|slot)\s+)?`),
}

// bare returns the message of a log line: the last of what was written over
// itself with carriage returns, without colours and logger's prefix.
func bare(line string) string {
	line = strings.TrimRight(line, "\r\n")
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	line = line[:min(len(line), maxDiagnosed)]
	line = strings.TrimSpace(colours.ReplaceAllString(line, ""))
	for _, p := range prefixes {
		line = line[len(p.FindString(line)):]
	}
	return line
}

// torchRules are the words of PyTorch when a device's memory is exhausted.
//
// Source: logs in reports to vllm-project/vllm of 2025 (torch.OutOfMemoryError)
// and to huggingface/text-generation-inference of 2023 (torch.cuda.OutOfMemoryError,
// as it was named before).
var torchRules = []rule{
	find(messages.CauseCUDAOOM, strong, "the GPU's memory is exhausted",
		`torch\.(?:cuda\.)?OutOfMemoryError: (?:CUDA|HIP|XPU) out of memory`),
	find(messages.CauseCUDAOOM, strong, "the GPU's memory is exhausted",
		`(?:RuntimeError|torch\.AcceleratorError): (?:CUDA|HIP) error: out of memory`),
}

// bindRules are the words of a server that finds its port taken: Python's
// sockets, uvicorn, Go and Rust.
//
// Source: logs in reports to vllm-project/vllm of 2024; huggingface/
// text-generation-inference db931fcf, router/src/server.rs ("Failed to bind to").
var bindRules = []rule{
	find(messages.CausePortInUse, strong, "the port is in use by another process",
		`OSError: \[Errno (?:98|48)\] Address already in use`),
	find(messages.CausePortInUse, strong, "the port is in use by another process",
		`(?:ERROR:\s+)?\[Errno (?:98|48)\] error while attempting to bind on address .{1,80}: (?:\[errno \d+\] )?[Aa]ddress already in use`),
	find(messages.CausePortInUse, strong, "the port is in use by another process",
		`Failed to bind to \S{1,80}: Address already in use \(os error \d+\)`),
	find(messages.CausePortInUse, strong, "the port is in use by another process",
		`(?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )?(?:error: |panic: )?listen (?:tcp|tcp4|tcp6) \S{1,80}: bind: address already in use$`),
}

// usageRules are the words of Python's argparse and Rust's clap about a command
// line they do not accept.
//
// Source: logs in reports to vllm-project/vllm of 2025; Python's argparse,
// ArgumentParser.error; clap's error kinds UnknownArgument, InvalidValue,
// MissingRequiredArgument.
var usageRules = []rule{
	find(messages.CauseConfig, strong, "the command line is not accepted",
		`[\w.-]{1,60}(?: [\w-]{1,30})?: error: (?:unrecognized arguments: |the following arguments are required: |ambiguous option: |argument \S.{0,100}: (?:invalid |expected ))`),
	find(messages.CauseConfig, strong, "the command line is not accepted",
		`error: (?:unexpected argument '.{1,200}' found|invalid value '.{0,200}' for '|the following required arguments were not provided)`),
}

// hubRules are the words of transformers and huggingface_hub about a model they
// cannot find or may not read.
//
// Source: huggingface/transformers, src/transformers/utils/hub.py, cached_file;
// huggingface_hub, errors.py.
var hubRules = []rule{
	find(messages.CauseConfig, strong, "the model is neither a local folder nor on the hub",
		`(?:OSError|ValueError): \S.{0,300} is not a local folder and is not a valid model identifier`),
	find(messages.CauseConfig, strong, "the model cannot be found on the hub or may not be read",
		`huggingface_hub\.(?:errors|utils\._errors|utils\._validators)\.(?:HFValidationError|RepositoryNotFoundError|GatedRepoError|RevisionNotFoundError)\b`),
}
