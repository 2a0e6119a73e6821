package config

import (
	"slices"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// checkNames reports names that two entries share once replicas are unfolded.
func checkNames(s *sink, groups []group) {
	owner := map[messages.WorkerID]int{}
	bases := map[string]int{}
	for i, g := range groups {
		if g.base == "" {
			continue
		}
		line, col, path := g.at.find("name")
		if first, ok := bases[g.base]; ok {
			s.at(line, col, path, "the name %s is taken by %s on line %d; names are unique", g.base, groups[first].at.path, lineOf(groups[first]))
			continue
		}
		bases[g.base] = i
		for _, u := range g.specs {
			if first, ok := owner[u.Name]; ok {
				s.at(line, col, path, "the name %s is also made by %s on line %d (replicas are numbered); rename one", u.Name, groups[first].at.path, lineOf(groups[first]))
				break
			}
			owner[u.Name] = i
		}
	}
}

func lineOf(g group) int {
	line, _, _ := g.at.find("name")
	return line
}

// checkDependencies reports depends_on entries that name nothing, and circles.
// A circle is looked for between entries, not replicas: these share their
// depends_on.
func checkDependencies(s *sink, groups []group) {
	index := map[string]int{}
	var names []string
	for i, g := range groups {
		for _, u := range g.specs {
			index[string(u.Name)] = i
		}
		if g.base != "" {
			names = append(names, g.base)
		}
	}
	for i, g := range groups {
		index[g.base] = i // an entry's own name wins over another's replica
	}
	edges := make([][]int, len(groups))
	for i, g := range groups {
		for j, dep := range g.deps {
			to, ok := index[dep]
			if ok && dep != "" {
				edges[i] = append(edges[i], to)
				continue
			}
			if line, col, path := g.at.find(joinIndex("depends_on", j)); !s.shadowed(path) {
				s.at(line, col, path, "no worker is named %q; %s", dep, instead(dep, names))
			}
		}
	}
	for _, cycle := range cycles(edges) {
		var words []string
		for _, i := range cycle {
			words = append(words, groups[i].base)
		}
		line, col, path := groups[cycle[0]].at.find("depends_on")
		s.at(line, col, path, "workers wait for each other in a circle: %s; remove one of these dependencies", strings.Join(append(words, words[0]), " -> "))
	}
}

// cycles returns one circle for each group of nodes that reach each other, as
// found by a depth-first walk. It is nil when there is an order.
func cycles(edges [][]int) [][]int {
	const (
		fresh = iota
		open
		done
	)
	var (
		found [][]int
		path  []int
		state = make([]int, len(edges))
		visit func(int)
	)
	visit = func(i int) {
		state[i] = open
		path = append(path, i)
		for _, to := range edges[i] {
			switch state[to] {
			case fresh:
				visit(to)
			case open:
				found = append(found, slices.Clone(path[slices.Index(path, to):]))
			}
		}
		path = path[:len(path)-1]
		state[i] = done
	}
	for i := range edges {
		if state[i] == fresh {
			visit(i)
		}
	}
	return found
}
