package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// Vars are the values of the macros that one attempt brings.
type Vars struct {
	Port    int    // ${PORT}; 0 when the worker has none
	Host    string // ${HOST}
	Attempt messages.Attempt
	GPU     string // ${GPU}: the leased devices as in CUDA_VISIBLE_DEVICES

	// LookupEnv resolves ${env.X}; nil means hive's own environment.
	LookupEnv func(string) (string, bool)
}

// The macros. Their values come from Vars, the spec and, for ${env.X}, the
// environment of hive. "$${" stands for a plain "${".
const (
	macroPort    = "PORT"
	macroHost    = "HOST"
	macroWorker  = "WORKER"
	macroAttempt = "ATTEMPT"
	macroGPU     = "GPU"
	macroModel   = "MODEL"
	macroEnv     = "env."
)

var (
	macroNames = []string{macroPort, macroHost, macroWorker, macroAttempt, macroGPU, macroModel, macroEnv + "X"}
	// macroLikeRE is what a mistyped macro looks like.
	macroLikeRE = regexp.MustCompile(`^[A-Za-z][A-Za-z_.]{0,30}$`)
	envNameRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

	errUnclosed = errors.New(`a "${" is never closed; close it with "}", or write "$${" for the characters themselves`)
)

// replaceMacros returns s with each ${name} replaced by what value returns.
func replaceMacros(s string, value func(name string) (string, error)) (string, error) {
	var out strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			out.WriteString(s)
			return out.String(), nil
		}
		if i > 0 && s[i-1] == '$' {
			out.WriteString(s[:i-1] + "${")
			s = s[i+2:]
			continue
		}
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			return "", errUnclosed
		}
		v, err := value(s[i+2 : i+end])
		if err != nil {
			return "", err
		}
		out.WriteString(s[:i] + v)
		s = s[i+end+1:]
	}
}

// macrosIn lists the macros of s; the error is about its form.
func macrosIn(s string) (names []string, err error) {
	_, err = replaceMacros(s, func(name string) (string, error) {
		names = append(names, name)
		return "", nil
	})
	return names, err
}

// checkMacro says what is wrong with a macro's name.
func checkMacro(name string) error {
	if x, ok := strings.CutPrefix(name, macroEnv); ok {
		if !envNameRE.MatchString(x) {
			return errors.New("a ${env. macro does not name a variable; write ${env.NAME}")
		}
		return nil
	}
	if slices.Contains(macroNames, name) {
		return nil
	}
	if !macroLikeRE.MatchString(name) { // may be part of a secret: not quoted
		return errors.New(`a "${" begins no macro; write "$${" for the characters themselves`)
	}
	return fmt.Errorf(`unknown macro ${%s}; %s, or write "$${" for the characters themselves`, name, strings.TrimSuffix(instead(name, macroNames), "?"))
}

// texts yields every text of spec in which macros count, with its key.
func texts(spec *messages.WorkerSpec, yield func(rel, text string)) {
	list := func(rel string, words []string) {
		for i, word := range words {
			yield(joinIndex(rel, i), word)
		}
	}
	list("command", spec.Command)
	for _, key := range slices.Sorted(maps.Keys(spec.Env)) {
		yield(joinKey("env", key), spec.Env[key])
	}
	list("prepare", spec.Prepare)
	list("ready.command", spec.Ready.Command)
}

// macros reports macros that are unknown or that this worker cannot have.
func (k checker) macros(w *messages.WorkerSpec, isDefaults bool) {
	texts(w, func(rel, text string) {
		names, err := macrosIn(text)
		if err != nil {
			k.bad(rel, "%v", err)
		}
		for _, name := range names {
			switch err := checkMacro(name); {
			case err != nil:
				k.bad(rel, "%v", err)
			case name == macroPort && w.Port == "none":
				k.bad(rel, "${PORT} is used, and port is none; write port: auto")
			case name == macroModel && w.Model == "" && !isDefaults:
				k.bad(rel, "${MODEL} is used, and there is no model; write the key model")
			}
		}
	})
}

// NeedsPort reports whether hive leases (or, for a fixed number, reserves) a
// port for spec: some text names ${PORT}, a probe goes to the worker's own
// server, the engine is a server, or the port is a fixed number.
func NeedsPort(spec messages.WorkerSpec) bool {
	if spec.Port == "none" {
		return false
	}
	if _, fixed := fixedPort(spec.Port); fixed {
		return true
	}
	if spec.Engine != EngineExec && spec.Engine != "" {
		return true
	}
	if spec.Ready.HTTP != "" || spec.Ready.TCP || spec.Health.HTTP != "" {
		return true
	}
	found := false
	texts(&spec, func(_, text string) {
		names, _ := macrosIn(text)
		found = found || slices.Contains(names, macroPort)
	})
	return found
}

// Expand replaces the macros in the command and the environment of spec. An
// error names the key and the macro, never a value; after a successful Parse
// it can only be a ${env.X} that is not set on this host, or a ${PORT} or
// ${MODEL} that the caller does not have.
func Expand(spec messages.WorkerSpec, vars Vars) (command []string, env map[string]string, err error) {
	if command, err = ExpandList(spec, "command", spec.Command, vars); err != nil {
		return nil, nil, err
	}
	value := vars.resolver(spec)
	env = make(map[string]string, len(spec.Env))
	for _, key := range slices.Sorted(maps.Keys(spec.Env)) {
		if env[key], err = replaceMacros(spec.Env[key], value); err != nil {
			return nil, nil, fmt.Errorf("worker %s, %s: %w", spec.Name, joinKey("env", key), err)
		}
	}
	return command, env, nil
}

// ExpandList is Expand for another list of spec, such as prepare or
// ready.command; key is its name for errors.
func ExpandList(spec messages.WorkerSpec, key string, list []string, vars Vars) ([]string, error) {
	value := vars.resolver(spec)
	out := make([]string, len(list))
	for i, word := range list {
		var err error
		if out[i], err = replaceMacros(word, value); err != nil {
			return nil, fmt.Errorf("worker %s, %s: %w", spec.Name, joinIndex(key, i), err)
		}
	}
	return out, nil
}

// resolver gives each macro its value.
func (v Vars) resolver(spec messages.WorkerSpec) func(string) (string, error) {
	lookup := v.LookupEnv
	if lookup == nil {
		lookup = os.LookupEnv
	}
	return func(name string) (string, error) {
		if err := checkMacro(name); err != nil {
			return "", err
		}
		switch name {
		case macroPort:
			if v.Port == 0 {
				return "", errors.New("${PORT} is used, and no port was leased; write port: auto")
			}
			return strconv.Itoa(v.Port), nil
		case macroHost:
			return v.Host, nil
		case macroWorker:
			return string(spec.Name), nil
		case macroAttempt:
			return strconv.FormatUint(uint64(v.Attempt), 10), nil
		case macroGPU:
			return v.GPU, nil
		case macroModel:
			if spec.Model == "" {
				return "", errors.New("${MODEL} is used, and there is no model; write the key model")
			}
			return spec.Model, nil
		}
		x := strings.TrimPrefix(name, macroEnv)
		if value, ok := lookup(x); ok {
			return value, nil
		}
		return "", fmt.Errorf("${env.%s} is used, and %s is not set in the environment of hive; set it and restart hive, or remove the macro", x, x)
	}
}
