package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindInt
	kindFloat
	kindString
	kindList
	kindMap
)

// node is one value of the input with its position. Anchors, aliases and merge
// keys are already resolved, so the same node may hang in several places.
type node struct {
	kind      kind
	text      string // of a scalar, as written
	line, col int    // from 1
	items     []*node
	entries   []entry
}

type entry struct {
	key       string
	line, col int
	value     *node
	merged    bool // came in by a merge key: gives way to a written one
}

// get returns the value of key, or nil. An empty value counts as absent.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for _, e := range n.entries {
		if e.key == key && e.value.kind != kindNull {
			return e.value
		}
	}
	return nil
}

// lookup follows a path such as "ready.command[2]" and returns the deepest node
// that is written, and whether that is the whole path.
func (n *node) lookup(path string) (*node, bool) {
	if n == nil {
		return nil, false
	}
	for path != "" {
		path = strings.TrimPrefix(path, ".")
		if path[0] == '[' {
			end := strings.LastIndexByte(path, ']')
			inner, rest := path[1:end], path[end+1:]
			if key, err := strconv.Unquote(inner); err == nil {
				next := n.get(key)
				if next == nil {
					return n, false
				}
				n, path = next, rest
				continue
			}
			i, err := strconv.Atoi(inner)
			if err != nil || i >= len(n.items) {
				return n, false
			}
			n, path = n.items[i], rest
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		next := n.get(path[:end])
		if next == nil {
			return n, false
		}
		n, path = next, path[end:]
	}
	return n, true
}

// overlay returns base with over written on top: maps are joined key by key,
// everything else is replaced. Neither argument is changed.
func overlay(base, over *node) *node {
	if base == nil || over == nil || base.kind != kindMap || over.kind != kindMap {
		if over == nil {
			return base
		}
		return over
	}
	out := &node{kind: kindMap, line: over.line, col: over.col}
	for _, e := range base.entries {
		if o := over.get(e.key); o != nil {
			e.value = overlay(e.value, o)
		}
		out.entries = append(out.entries, e)
	}
	for _, e := range over.entries {
		if base.get(e.key) == nil {
			out.entries = append(out.entries, e)
		}
	}
	return out
}

// readTree parses YAML, or JSON where the input is JSON (its escapes are not
// all YAML's). It returns nil after reporting why, or for an empty input.
func readTree(s *sink, data []byte) *node {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !checkUTF8(s, data) {
		return nil
	}
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') && json.Valid(data) {
		return readJSON(s, data)
	}
	file, err := parseYAML(data)
	if err != nil {
		reportSyntax(s, err)
		return nil
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if doc.Body.Type() == ast.DirectiveType {
			continue
		}
		if root != nil {
			t := doc.Body.GetToken()
			s.at(t.Position.Line, t.Position.Column, "", "a second YAML document begins here; put everything in one")
			break
		}
		root = doc.Body
	}
	if root == nil {
		return nil
	}
	b := treeBuilder{sink: s, anchors: map[string]*node{}}
	n := b.build(root, "")
	if n.kind == kindNull {
		return nil
	}
	return n
}

// maxNesting is far beyond any configuration and keeps the recursion shallow.
const maxNesting = 200

var errNesting = errors.New("it is nested too deeply")

// parseYAML calls the parser. A panic in it is an input it cannot read.
func parseYAML(data []byte) (file *ast.File, err error) {
	depth, indents := 0, 0
	for _, line := range bytes.Split(data, []byte("\n")) {
		indents = max(indents, len(line)-len(bytes.TrimLeft(line, " -?:")))
		for _, c := range line {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
			if depth > maxNesting || indents > 4*maxNesting {
				return nil, errNesting
			}
		}
	}
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, fmt.Errorf("the YAML parser gave up: %v", r)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func reportSyntax(s *sink, err error) {
	var positioned interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &positioned) {
		if t := positioned.GetToken(); t != nil && t.Position != nil {
			s.at(t.Position.Line, t.Position.Column, "", "this is not YAML: %s", positioned.GetMessage())
			return
		}
		s.at(1, 1, "", "this is not YAML: %s", positioned.GetMessage())
		return
	}
	s.at(1, 1, "", "this is not YAML: %v", err)
}

// treeBuilder turns the parser's tree into nodes.
type treeBuilder struct {
	*sink
	anchors map[string]*node // nil value: being built
}

func (b *treeBuilder) build(n ast.Node, path string) *node {
	out := &node{}
	if n == nil {
		return out
	}
	t := n.GetToken()
	if t != nil && t.Position != nil {
		out.line, out.col = t.Position.Line, t.Position.Column
	}
	scalar := func(k kind, text string) *node {
		out.kind, out.text = k, text
		return out
	}
	switch n := n.(type) {
	case *ast.NullNode, *ast.CommentGroupNode, *ast.CommentNode, *ast.DirectiveNode:
		return out
	case *ast.BoolNode:
		return scalar(kindBool, n.Token.Value)
	case *ast.IntegerNode:
		return scalar(kindInt, n.Token.Value)
	case *ast.FloatNode:
		return scalar(kindFloat, n.Token.Value)
	case *ast.InfinityNode:
		return scalar(kindFloat, n.Token.Value)
	case *ast.NanNode:
		return scalar(kindFloat, n.Token.Value)
	case *ast.StringNode:
		return scalar(kindString, n.Value)
	case *ast.LiteralNode:
		return scalar(kindString, n.Value.Value)
	case *ast.TagNode:
		b.at(out.line, out.col, path, "a YAML tag such as %s has no meaning here; remove it", n.Start.Value)
		return b.build(n.Value, path)
	case *ast.AnchorNode:
		name := nodeText(n.Name)
		b.anchors[name] = nil
		out = b.build(n.Value, path)
		b.anchors[name] = out
		return out
	case *ast.AliasNode:
		return b.alias(n, out, path)
	case *ast.SequenceNode:
		out.kind = kindList
		for i, item := range n.Values {
			out.items = append(out.items, b.build(item, joinIndex(path, i)))
		}
		return out
	case *ast.MappingNode:
		out.kind = kindMap
		return b.entries(out, n.Values, path)
	case *ast.MappingValueNode:
		out.kind = kindMap
		return b.entries(out, []*ast.MappingValueNode{n}, path)
	}
	b.at(out.line, out.col, path, "this form of YAML (%s) is not used here; write plain keys and values", n.Type())
	return out
}

func nodeText(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

func (b *treeBuilder) alias(n *ast.AliasNode, out *node, path string) *node {
	name := nodeText(n.Value)
	target, ok := b.anchors[name]
	switch {
	case !ok:
		b.at(out.line, out.col, path, "alias *%s names no anchor above it; write &%s at the value meant", name, name)
	case target == nil:
		b.at(out.line, out.col, path, "alias *%s lies inside its own anchor; write the value out", name)
	default:
		return target
	}
	return out
}

// entries adds the keys of a map, then those that merge keys bring in.
func (b *treeBuilder) entries(out *node, values []*ast.MappingValueNode, path string) *node {
	if len(values) > 0 && values[0].Key != nil && values[0].Key.GetToken() != nil {
		p := values[0].Key.GetToken().Position
		if p.Line < out.line || out.line == 0 || len(values) > 0 && !values[0].IsFlowStyle {
			out.line, out.col = p.Line, p.Column
		}
	}
	var sources []*node
	for _, v := range values {
		e := entry{key: nodeText(v.Key)}
		if t := v.Key.GetToken(); t != nil && t.Position != nil {
			e.line, e.col = t.Position.Line, t.Position.Column
		}
		switch k := v.Key.(type) {
		case *ast.MergeKeyNode:
			source := b.build(v.Value, joinKey(path, "<<"))
			sources = append(sources, b.mergeSources(source, e, path)...)
			continue
		case *ast.StringNode:
			e.key = k.Value
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		default:
			b.at(e.line, e.col, path, "a key must be a plain word")
			b.build(v.Value, path)
			continue
		}
		e.value = b.build(v.Value, joinKey(path, e.key))
		if e.value.line == 0 {
			e.value.line, e.value.col = e.line, e.col
		}
		out.entries = append(out.entries, e)
	}
	have := map[string]bool{}
	for _, e := range out.entries {
		have[e.key] = true
	}
	for _, source := range sources {
		for _, e := range source.entries {
			if !have[e.key] {
				have[e.key] = true
				e.merged = true
				out.entries = append(out.entries, e)
			}
		}
	}
	return out
}

// mergeSources are the maps that "<<: *a" or "<<: [*a, *b]" names.
func (b *treeBuilder) mergeSources(n *node, e entry, path string) []*node {
	all := []*node{n}
	if n.kind == kindList {
		all = n.items
	}
	for _, m := range all {
		if m.kind != kindMap {
			b.at(e.line, e.col, joinKey(path, "<<"), "a merge key takes a map or a list of maps, such as <<: *base")
			return nil
		}
	}
	return all
}
