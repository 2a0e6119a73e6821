package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// sink collects problems. The zero value with a file name is ready to use.
type sink struct {
	file     string
	problems messages.Problems
	form     messages.Problems // found by the walker; see shadowed
	seen     map[messages.Problem]bool
	more     bool // maxProblems was reached
}

const (
	// maxProblems keeps an answer readable, and its making short, where the
	// input is not a configuration at all.
	maxProblems = 1000
	// maxMessage cuts a message that quotes a very long word.
	maxMessage = 400
)

// at adds a problem, unless the very same one is already there (a default that
// is wrong is met again under each worker).
func (s *sink) at(line, col int, path, format string, args ...any) {
	if len(s.problems) >= maxProblems {
		s.more = true
		return
	}
	text := fmt.Sprintf(format, args...)
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	p := messages.Problem{File: s.file, Line: line, Column: col, Path: path, Message: text}
	if s.seen[p] {
		return
	}
	if s.seen == nil {
		s.seen = map[messages.Problem]bool{}
	}
	s.seen[p] = true
	s.problems = append(s.problems, p)
}

// shadowed reports whether the walker already complained about path, a part of
// it, or something it is part of: a value that could not be read is not also
// checked.
func (s *sink) shadowed(path string) bool {
	for _, p := range s.form {
		if p.Path == path || within(p.Path, path) || within(path, p.Path) {
			return true
		}
	}
	return false
}

// within reports whether path lies under parent.
func within(path, parent string) bool {
	rest, ok := strings.CutPrefix(path, parent)
	return ok && parent != "" && rest != "" && (rest[0] == '.' || rest[0] == '[')
}

// sorted returns the problems in the order of the file.
func (s *sink) sorted() messages.Problems {
	slices.SortStableFunc(s.problems, func(a, b messages.Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
	if s.more {
		last := s.problems[len(s.problems)-1]
		s.problems = append(s.problems, messages.Problem{File: s.file, Line: last.Line, Column: last.Column,
			Message: fmt.Sprintf("there are more problems; the first %d found are shown", maxProblems)})
		s.more = false
	}
	return s.problems
}

// place is where an object is written: its own tree and, under it, the one its
// missing keys were taken from.
type place struct {
	path  string // "workers[1]"; "" at the top
	tree  *node
	under *node // the defaults section, or nil
}

// find returns the position and full path of the key rel ("restart.max").
// A key that is not written is reported at its nearest written parent.
func (p place) find(rel string) (line, col int, path string) {
	n, whole := p.tree.lookup(rel)
	if !whole && p.under != nil {
		if d, ok := p.under.lookup(rel); ok {
			return d.line, d.col, join("defaults", rel)
		}
	}
	if n != nil {
		line, col = n.line, n.col
	}
	return line, col, join(p.path, rel)
}

// join appends a key or an index to a path.
func join(path, key string) string {
	switch {
	case path == "":
		return key
	case key == "":
		return path
	case key[0] == '[':
		return path + key
	}
	return path + "." + key
}

// joinKey appends a key as the user wrote it, quoted where it has other
// characters than a word.
func joinKey(path, key string) string {
	plain := key != "" && strings.IndexFunc(key, func(r rune) bool {
		return !(r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}) < 0
	if !plain {
		key = "[" + strconv.Quote(key) + "]"
	}
	return join(path, key)
}

func joinIndex(path string, i int) string { return join(path, "["+strconv.Itoa(i)+"]") }

// nearest returns the candidate closest to word, or "" when none is close: at
// most a third of the word may differ, and always one character.
func nearest(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, distance := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(word), strings.ToLower(c)); d < distance {
			best, distance = c, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours between a and b.
func editDistance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[0] {
		rows[0][j] = j
	}
	before, last, cur := rows[2], rows[0], rows[1]
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(last[j]+1, cur[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, last, cur = last, cur, before
	}
	return last[len(b)]
}

// instead is the end of a sentence that refuses a word.
func instead(word string, allowed []string) string {
	if n := nearest(word, allowed); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	return "use one of " + strings.Join(allowed, ", ")
}
