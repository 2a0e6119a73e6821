// Package engine holds what hive knows of inference servers that know nothing
// of hive: how each says that it is ready, where it tells its own figures, how
// its log tells the progress of a load, and which of its last words name the
// cause of its end.
//
// Everything here is a pure function of text that others have read. Asking
// happens elsewhere, and two rules bind whoever asks:
//
//   - Observing never wakes, loads or keeps awake a model. Ask only what
//     SourcesFor returns.
//   - A figure that an engine does not give stays nil; it is never guessed.
//
// All of it is safe for concurrent use.
package engine

import (
	"fmt"
	"slices"

	"github.com/rbee-hive/hive/messages"
)

// Engine is what hive knows of one kind of inference server. No function in it
// is nil.
type Engine struct {
	Name string // as a worker's engine is written, "llama-server"

	// Health is the path of the health probe, "" when the engine has none of its own.
	Health string

	// Judge says what an answer of Health means.
	Judge func(code int, body []byte) Verdict

	// Sources are where the engine's own figures are read, in order. hive asks
	// each and merges; the first that knows a figure wins. Asking these is safe
	// whatever the command line; SourcesFor knows more when it sees that line.
	Sources []Source

	// Load reads the progress of a load from one log line. Value is that of the
	// named stage, so a later stage may begin at 0 again.
	Load func(line string) (messages.Progress, bool)

	rules   []rule
	sources func(command []string, env map[string]string) []Source // nil: Sources
}

// Verdict is what the answer of a health probe means.
type Verdict uint8

// The verdicts. Before a worker's first Ready, Loading is patience; after it,
// Loading counts as a failed probe like Broken.
const (
	Broken  Verdict = iota // the engine says that it cannot serve, or it is not that engine
	Loading                // it lives and cannot serve yet
	Ready                  // it serves
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Broken:
		return "broken"
	case Loading:
		return "loading"
	case Ready:
		return "ready"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// Source is one place where an engine tells its own figures.
type Source struct {
	Path string // asked with GET

	// Parse reads the body of a 200 answer. An error means that the body is not
	// what the engine serves there; a figure it lacks stays nil.
	Parse func(body []byte) (messages.Stats, error)

	// Optional says that the engine serves it only with some flag, so that any
	// other answer than 200 is no fault.
	Optional bool
}

// engines lists all engines, each described in its own file.
func engines() []Engine {
	return []Engine{execEngine(), hiveEngine(), httpEngine(), llamaServer(), rbeeEngine(), sglang(), tgi(), vllm()}
}

// For returns the engine of that name; ok is false for a name hive does not know.
func For(name string) (Engine, bool) {
	for _, e := range engines() {
		if e.Name == name {
			return e, true
		}
	}
	return Engine{}, false
}

// Names returns the names of all engines, sorted.
func Names() []string {
	var names []string
	for _, e := range engines() {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

// SourcesFor returns the sources that can be asked of a worker started with
// that command and those environment variables without waking or keeping awake
// its model. It may be empty.
func (e Engine) SourcesFor(command []string, env map[string]string) []Source {
	if e.sources == nil {
		return e.Sources
	}
	return e.sources(command, env)
}

// judgeStatus is the verdict for a server known only to speak HTTP: any 2xx is
// ready, and 503 promises that it will be (RFC 9110 section 15.6.4).
func judgeStatus(code int, _ []byte) Verdict {
	switch {
	case code >= 200 && code <= 299:
		return Ready
	case code == 503:
		return Loading
	}
	return Broken
}

// judgeReady is the verdict for a server that listens only once it serves: any
// answer but 200 is a fault.
func judgeReady(code int, _ []byte) Verdict {
	if code == 200 {
		return Ready
	}
	return Broken
}

// noLoad is Load for an engine whose log tells no progress.
func noLoad(string) (messages.Progress, bool) { return messages.Progress{}, false }

// loading is a progress read from a log.
func loading(stage string, value float64) (messages.Progress, bool) {
	return messages.Progress{Stage: stage, Value: min(max(value, 0), 1), Source: "log"}, true
}
