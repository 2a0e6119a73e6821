package config

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

var update = flag.Bool("update", false, "write hive.schema.json anew")

func TestHostProblems(t *testing.T) {
	dir := t.TempDir()
	tool := filepath.Join(dir, "only-here")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Parse("hive.yaml", []byte(`workers:
  - {name: ok, command: [sh, -c, "exit 0"]}
  - {name: own-path, command: [only-here], env: {PATH: `+dir+`}}
  - {name: relative, command: [./only-here], dir: `+dir+`}
  - name: bad
    replicas: 2
    command: [no-such-program-anywhere]
    dir: /no/such/dir
    user: no-such-user-anywhere
    model: /no/such/model.gguf
  - {name: prepared, command: [sh], prepare: [no-such-downloader], model: /no/such}
  - {name: plain, command: [`+plain+`]}
  - {name: unset, command: [sh, "${env.NO_SUCH_VARIABLE_ANYWHERE}"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range HostProblems(c) {
		got = append(got, p.String())
	}
	want := []string{
		"hive.yaml: line 7: workers[3].command: program no-such-program-anywhere is not in the PATH of hive",
		"hive.yaml: line 8: workers[3].dir: directory /no/such/dir does not exist",
		"hive.yaml: line 9: workers[3].user: user no-such-user-anywhere does not exist",
		"hive.yaml: line 10: workers[3].model: model /no/such/model.gguf does not exist",
		"hive.yaml: line 11: workers[4].prepare: program no-such-downloader is not in",
		"hive.yaml: line 12: workers[5].command: program " + plain + " is not executable",
		"hive.yaml: line 13: workers[6].command: worker unset, command[1]: ${env.NO_SUCH_VARIABLE_ANYWHERE} is used",
	}
	if len(got) != len(want) {
		t.Fatalf("got %d problems:\n%s", len(got), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		}
	}
}

func TestSocketPath(t *testing.T) {
	dir := "/srv/hive"
	if got := SocketPath(dir); got != "/srv/hive/hive.sock" {
		t.Error(got)
	}
	runtime, err := os.MkdirTemp("/tmp", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(runtime) })
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	long := "/srv/" + strings.Repeat("deep/", 30)
	got := SocketPath(long)
	if filepath.Dir(got) != runtime || len(got) > maxSocketPath || got != SocketPath(long+"x/..") {
		t.Error(got)
	}
	if SocketPath(long+"other") == got {
		t.Error("two data directories share a socket")
	}
	if err := os.Chmod(runtime, 0o777); err != nil {
		t.Fatal(err)
	}
	if open := SocketPath(long); filepath.Dir(open) == runtime {
		t.Errorf("a directory others write to was used: %s", open)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("hive.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("hive.schema.json")
	if err != nil || string(got) != string(want) {
		t.Errorf("hive.schema.json is stale (%v); run go generate ./config", err)
	}
}

// TestSchemaDescribesEveryKey walks the types the decoder walks.
func TestSchemaDescribesEveryKey(t *testing.T) {
	used := map[string]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if _, ok := keyOf(f); !ok {
				continue
			}
			used[typ.Name()+"."+f.Name] = true
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
	walk(reflect.TypeFor[messages.WorkerSpec]())
	used["document.Defaults"], used["document.Workers"] = true, true
	for key := range used {
		if descriptions[key] == "" {
			t.Errorf("no description of %s", key)
		}
	}
	for key := range descriptions {
		if !used[key] {
			t.Errorf("%s is described and is no key", key)
		}
	}
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties map[string]any
		Defs       map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	for _, key := range append(keysOf(reflect.TypeFor[Config]()), "defaults", "workers") {
		if s.Properties[key] == nil {
			t.Errorf("the schema lacks %s", key)
		}
	}
	for _, key := range keysOf(reflect.TypeFor[messages.WorkerSpec]()) {
		if s.Defs["WorkerSpec"].Properties[key] == nil {
			t.Errorf("the schema lacks workers[].%s", key)
		}
	}
}
