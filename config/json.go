package config

import (
	"bytes"
	"encoding/json"
)

// jsonReader builds nodes from JSON that is known to be valid.
type jsonReader struct {
	data      []byte
	dec       *json.Decoder
	seen      int // bytes counted into line and col
	line, col int
}

func readJSON(s *sink, data []byte) *node {
	r := &jsonReader{data: data, dec: json.NewDecoder(bytes.NewReader(data)), line: 1, col: 1}
	r.dec.UseNumber()
	n, err := r.value()
	if err != nil {
		s.at(r.line, r.col, "", "this is not JSON: %v", err)
		return nil
	}
	return n
}

// next reads a token and returns it with the position of its first character.
func (r *jsonReader) next() (tok json.Token, line, col int, err error) {
	start := int(r.dec.InputOffset())
	for start < len(r.data) && bytes.IndexByte([]byte(" \t\r\n,:"), r.data[start]) >= 0 {
		start++
	}
	for ; r.seen < start; r.seen++ {
		if r.data[r.seen] == '\n' {
			r.line, r.col = r.line+1, 1
		} else if r.data[r.seen]&0xc0 != 0x80 { // count characters, not bytes
			r.col++
		}
	}
	tok, err = r.dec.Token()
	return tok, r.line, r.col, err
}

// value builds the next value.
func (r *jsonReader) value() (*node, error) {
	tok, line, col, err := r.next()
	if err != nil {
		return nil, err
	}
	n := &node{line: line, col: col}
	switch tok := tok.(type) {
	case nil:
	case bool:
		n.kind, n.text = kindBool, "false"
		if tok {
			n.text = "true"
		}
	case string:
		n.kind, n.text = kindString, tok
	case json.Number:
		n.kind, n.text = kindInt, tok.String()
		if bytes.ContainsAny([]byte(tok), ".eE") {
			n.kind = kindFloat
		}
	case json.Delim:
		if tok == '[' {
			n.kind = kindList
			for r.dec.More() {
				item, err := r.value()
				if err != nil {
					return nil, err
				}
				n.items = append(n.items, item)
			}
		} else {
			n.kind = kindMap
			for r.dec.More() {
				key, line, col, err := r.next()
				if err != nil {
					return nil, err
				}
				v, err := r.value()
				if err != nil {
					return nil, err
				}
				name, _ := key.(string)
				n.entries = append(n.entries, entry{key: name, line: line, col: col, value: v})
			}
		}
		if _, _, _, err := r.next(); err != nil {
			return nil, err
		}
	}
	return n, nil
}
