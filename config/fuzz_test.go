package config

import (
	"errors"
	"os"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

// checkResult holds of every answer: a spec that is usable, or problems.
func checkResult(t *testing.T, specs []messages.WorkerSpec, err error) {
	t.Helper()
	if err != nil {
		var ps messages.Problems
		if !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("an error without problems: %v", err)
		}
		for _, p := range ps {
			if p.Message == "" || p.Line < 1 {
				t.Fatalf("a problem without words or line: %+v", p)
			}
		}
		return
	}
	seen := map[messages.WorkerID]bool{}
	for _, w := range specs {
		if !messages.ValidName(string(w.Name)) || seen[w.Name] || len(w.Command) == 0 || w.Base == "" {
			t.Fatalf("accepted %+v", w)
		}
		seen[w.Name] = true
		NeedsPort(w)
		_, _, _ = Expand(w, Vars{Port: 1})
	}
}

func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	for _, s := range []string{"", "a: &a [*a]", "<<: {name: a}", "workers: [{name: a, command: [x]}]", "? a\n: b", "- ", "%YAML 1.2\n---\na: b", "name: |\n  x", "a: !!binary x", "{\"name\":\"\\u0000\"}", "workers:\n- &w {name: a, command: ['${PORT}']}\n- <<: *w\n  name: b", "\xff", "[[[[", "a: {b: [c: d]}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if c != nil {
			checkResult(t, c.Workers, err)
			return
		}
		checkResult(t, nil, err)
	})
}

func FuzzParseWorker(f *testing.F) {
	for _, s := range []string{"name: a\ncommand: [x]", `{"name":"a","command":["x"],"env":{"A.B":"${env.X}"}}`, `{"a":1e9}`, `{"gpu":"none"}`, `{"restart":null}`, "[]"} {
		f.Add([]byte(s))
	}
	current := DefaultWorker(nil)
	current.Name, current.Base, current.Command = "a", "a", []string{"x"}
	f.Fuzz(func(t *testing.T, data []byte) {
		specs, err := ParseWorker(data, nil)
		checkResult(t, specs, err)
		spec, err := PatchWorker(current, data, nil)
		checkResult(t, []messages.WorkerSpec{spec}, err)
	})
}
