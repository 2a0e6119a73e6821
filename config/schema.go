package config

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"

	"github.com/rbee-hive/hive/messages"
)

// document is the whole form of hive.yaml, for the schema.
type document struct {
	Config   `yaml:",inline"`
	Defaults messages.WorkerSpec   `yaml:"defaults"`
	Workers  []messages.WorkerSpec `yaml:"workers"`
}

// Schema returns the JSON schema (draft 2020-12) of hive.yaml, indented and
// ending in a newline. Editors complete and check with it; Parse checks more.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		Anonymous:                  true,
		ExpandedStruct:             true,
		RequiredFromJSONSchemaTags: true,
		Mapper:                     schemaOf,
		LookupComment:              describe,
	}
	s := r.Reflect(&document{})
	s.Title = "hive.yaml"
	s.Description = "Configuration of hive. Every key is optional, except a worker's name and a command."
	s.Required = nil
	words := map[string]map[string][]string{
		"":           {"on_exit": {OnExitStop, OnExitKeep}, "orphans": {OrphansAdopt, OrphansKill, OrphansLeave}},
		"Pool":       {"escalation": {EscalationIsolate, EscalationRestart}},
		"GPU":        {"placement": {PlacementSpread, PlacementPack}},
		"WorkerSpec": {"engine": engines},
		"StopSpec":   {"signal": Signals},
	}
	for def, keys := range words {
		in := s
		if def != "" {
			in = s.Definitions[def]
		}
		for key, allowed := range keys {
			p, ok := in.Properties.Get(key)
			if !ok {
				return nil, fmt.Errorf("schema: %s.%s is not a key", def, key)
			}
			p.Enum = anys(allowed)
		}
	}
	worker := s.Definitions["WorkerSpec"]
	if gpu, ok := worker.Properties.Get("gpu"); ok {
		worker.Properties.Set("gpu", &jsonschema.Schema{
			Description: gpu.Description,
			AnyOf:       []*jsonschema.Schema{{Const: "none"}, {Ref: gpu.Ref}},
		})
	}
	if workers, ok := s.Properties.Get("workers"); ok {
		workers.Items.Required = []string{"name"} // a command may come from defaults
	}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return append(out, '\n'), nil
}

func anys(words []string) []any {
	out := make([]any, len(words))
	for i, w := range words {
		out[i] = w
	}
	return out
}

// schemaOf is the schema of the types whose written form is not their Go form.
func schemaOf(t reflect.Type) *jsonschema.Schema {
	text := &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "number"}, {Type: "boolean"}}}
	switch t {
	case reflect.TypeFor[messages.Duration]():
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
			{Type: "string", Pattern: `^(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$`, Examples: []any{"30s", "5m"}},
			{Const: 0},
		}}
	case reflect.TypeFor[messages.Size]():
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
			{Type: "string", Pattern: `^[0-9.]+ ?([KMGT]i?B?|B)?$`, Examples: []any{"512MiB", "24GiB"}},
			{Type: "integer", Minimum: "0"},
		}}
	case reflect.TypeFor[messages.PortSpec]():
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
			{Type: "string", Enum: []any{"auto", "none"}},
			{Type: "integer", Minimum: "1", Maximum: "65535"},
		}}
	case reflect.TypeFor[messages.RestartPolicy]():
		return &jsonschema.Schema{Type: "string", Enum: anys(policies)}
	case reflect.TypeFor[[]string]():
		return &jsonschema.Schema{Type: "array", Items: text}
	case reflect.TypeFor[map[string]string]():
		return &jsonschema.Schema{Type: "object", AdditionalProperties: text}
	}
	return nil
}

// describe returns the description of a field; those of types are not used.
func describe(t reflect.Type, field string) string {
	if field == "" {
		return ""
	}
	return descriptions[t.Name()+"."+field]
}
