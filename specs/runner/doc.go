// Package runner starts real hives for the specs and looks at them from the
// outside only: by the API on the unix socket, the command line, signals and
// /proc. It imports of hive nothing but the vocabulary.
//
// Each Hive has a short temporary directory, a range of ports of its own and a
// mark in its environment, which every process it starts inherits. By the mark
// Finish proves that no process was left behind.
//
// A Hive is used by one spec, that is by one goroutine.
package runner
