package config

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// decoder walks a tree and a Go value together, field by field (the yaml tag
// names the key), sets what fits and reports what does not.
//
// As a merge patch (patch set) it writes onto what the value holds: maps are
// joined, and null sets a key back to its value in defaults.
type decoder struct {
	*sink
	patch bool
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

func valueOf(p any) reflect.Value { return reflect.ValueOf(p).Elem() }

// value sets v from n. back is what null means in a patch; it may be invalid.
func (d *decoder) value(n *node, v, back reflect.Value, path string) {
	if n.kind == kindNull {
		if d.patch && back.IsValid() {
			v.Set(back)
		}
		return
	}
	if reflect.PointerTo(v.Type()).Implements(textType) {
		if n.kind == kindMap || n.kind == kindList || n.kind == kindBool {
			d.wrong(n, path, example(v.Type()))
			return
		}
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.text)); err != nil {
			d.at(n.line, n.col, path, "%v", err)
		}
		return
	}
	if v.Type() == reflect.TypeFor[messages.GPUSpec]() && n.kind != kindMap {
		if n.kind == kindString && n.text == "none" {
			v.SetZero()
			return
		}
		d.wrong(n, path, "none, or a map such as {count: 1, vram: 18GiB}")
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, back, path, nil)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.Map:
		d.stringMap(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) structWith(n *node, v reflect.Value, path string, raw map[string]**node) bool {
	return d.structure(n, v, reflect.Value{}, path, raw)
}

// structure sets the fields of v. Keys in raw are handed out as they are.
func (d *decoder) structure(n *node, v, back reflect.Value, path string, raw map[string]**node) bool {
	keys := keysOf(v.Type())
	if n.kind != kindMap {
		d.wrong(n, path, "a map with keys such as "+strings.Join(keys[:min(3, len(keys))], ", "))
		return false
	}
	keys = append(keys, slices.Sorted(maps.Keys(raw))...)
	first := map[string]int{}
	for _, e := range n.entries {
		at := joinKey(path, e.key)
		if line, twice := first[e.key]; twice {
			d.at(e.line, e.col, at, "key %q is written twice, first on line %d; remove one", e.key, line)
			continue
		}
		first[e.key] = e.line
		if slot, ok := raw[e.key]; ok {
			*slot = e.value
			continue
		}
		i, ok := fieldOf(v.Type(), e.key)
		if !ok {
			d.at(e.line, e.col, at, "unknown key %q; %s", e.key, insteadKey(e.key, keys))
			continue
		}
		var b reflect.Value
		if back.IsValid() {
			b = back.Field(i)
		}
		d.value(e.value, v.Field(i), b, at)
	}
	return true
}

// keysOf lists the configuration keys of a struct, in the order of its fields.
func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if key, ok := keyOf(t.Field(i)); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

func keyOf(f reflect.StructField) (string, bool) {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key, f.IsExported() && key != "" && key != "-"
}

func fieldOf(t reflect.Type, key string) (int, bool) {
	for i := range t.NumField() {
		if k, ok := keyOf(t.Field(i)); ok && k == key {
			return i, true
		}
	}
	return 0, false
}

func insteadKey(key string, keys []string) string {
	if n := nearest(key, keys); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	return "the keys here are " + strings.Join(keys, ", ")
}

// list sets a list of strings. Numbers and booleans stand for their text, so
// that [--port, 8080] is what it looks like.
func (d *decoder) list(n *node, v reflect.Value, path string) {
	if n.kind != kindList {
		last := path[strings.LastIndexByte(path, '.')+1:]
		switch {
		case n.kind == kindString && (last == "command" || last == "prepare"):
			d.at(n.line, n.col, path, "a command is an argument list, never a shell line; write %s", asList(n.text))
		case n.kind == kindMap:
			d.wrong(n, path, "a list of words, such as [a, b]")
		default:
			d.wrong(n, path, fmt.Sprintf("a list of words; write [%s]", n.text))
		}
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		at := joinIndex(path, i)
		switch item.kind {
		case kindMap, kindList:
			d.wrong(item, at, "one word; put text with \": \", { or [ in quotes")
		case kindNull:
			d.at(item.line, item.col, at, "this entry is empty; write \"\" for an empty word, or remove it")
		default:
			out.Index(i).SetString(item.text)
		}
	}
	v.Set(out)
}

// asList shows how a shell line would be written as an argument list.
func asList(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 || len(line) > 200 || strings.ContainsAny(line, "\"'|&;<>\\{}[],#:*") {
		return "[llama-server, -m, /models/a.gguf]"
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// stringMap sets a map of words. Its values may be secret and are not quoted.
func (d *decoder) stringMap(n *node, v reflect.Value, path string) {
	if n.kind != kindMap {
		d.at(n.line, n.col, path, "expected a map such as {KEY: value}, found %s", article(n.kind))
		return
	}
	out := map[string]string{}
	if d.patch {
		for _, k := range v.MapKeys() {
			out[k.String()] = v.MapIndex(k).String()
		}
	}
	first := map[string]int{}
	for _, e := range n.entries {
		at := joinKey(path, e.key)
		if line, twice := first[e.key]; twice {
			d.at(e.line, e.col, at, "key %q is written twice, first on line %d; remove one", e.key, line)
			continue
		}
		first[e.key] = e.line
		switch e.value.kind {
		case kindMap, kindList:
			d.at(e.value.line, e.value.col, at, "expected text, found %s", article(e.value.kind))
		case kindNull:
			if !d.patch {
				d.at(e.line, e.col, at, "the value is missing; write \"\" for an empty one")
			}
			delete(out, e.key)
		default:
			out[e.key] = e.value.text
		}
	}
	v.Set(reflect.ValueOf(out))
}

func (d *decoder) scalar(n *node, v reflect.Value, path string) {
	fits := false
	switch v.Kind() {
	case reflect.String:
		if fits = n.kind == kindString || n.kind == kindInt || n.kind == kindFloat; fits {
			v.SetString(n.text)
		}
	case reflect.Bool:
		if fits = n.kind == kindBool; fits {
			v.SetBool(strings.EqualFold(n.text, "true"))
		}
	case reflect.Int:
		if n.kind == kindInt {
			i, err := strconv.ParseInt(n.text, 0, 64)
			if err != nil || i > math.MaxInt32 || i < math.MinInt32 {
				d.at(n.line, n.col, path, "%s is out of bounds; the largest number is %d", n.text, math.MaxInt32)
				return
			}
			v.SetInt(i)
			fits = true
		}
	case reflect.Uint64:
		if n.kind == kindInt {
			i, err := strconv.ParseUint(n.text, 0, 64)
			if err != nil {
				d.at(n.line, n.col, path, "%s is out of bounds; write a whole number, 0 or more", n.text)
				return
			}
			v.SetUint(i)
			fits = true
		}
	case reflect.Float64:
		if n.kind == kindInt || n.kind == kindFloat {
			f, err := strconv.ParseFloat(strings.ReplaceAll(n.text, "_", ""), 64)
			if err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
				v.SetFloat(f)
				fits = true
			}
		}
	}
	if !fits {
		d.wrong(n, path, example(v.Type()))
	}
}

// example says in words what a type takes.
func example(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[messages.Duration]():
		return "a duration such as 30s, 5m or 1h"
	case reflect.TypeFor[messages.Size]():
		return "a size such as 512MiB or 24GiB"
	case reflect.TypeFor[messages.PortSpec]():
		return "auto, none, or a port such as 8080"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Uint64:
		return "a whole number such as 3"
	case reflect.Float64:
		return "a number such as 0.25"
	}
	return "text; put it in quotes"
}

// wrong reports a value of the wrong type.
func (d *decoder) wrong(n *node, path, expected string) {
	found := article(n.kind)
	if n.kind != kindMap && n.kind != kindList && len(n.text) <= 80 {
		found += " " + strconv.Quote(n.text)
		if n.kind != kindString {
			found = article(n.kind) + " " + n.text
		}
	}
	d.at(n.line, n.col, path, "expected %s; found %s", expected, found)
}

func article(k kind) string {
	switch k {
	case kindBool:
		return "the truth value"
	case kindInt, kindFloat:
		return "the number"
	case kindString:
		return "the text"
	case kindList:
		return "a list"
	case kindMap:
		return "a map"
	case kindNull:
	}
	return "nothing"
}
