// Package config is the configuration tree of hive: its form, its defaults,
// and the strict reading of hive.yaml and of worker specs from the API.
//
// Reading never stops at the first mistake. A file is parsed to a tree of
// nodes that know their line, the tree is walked against the Go types (so that
// an unknown key or a wrong type is found where it stands), and the result is
// checked as a whole. Everything found comes back at once as messages.Problems.
//
// Two kinds of problem stay apart. A wrong form (Parse, ParseWorker,
// PatchWorker) refuses the whole input. What is only missing on this host
// (HostProblems) refuses nothing; it keeps one worker from starting.
//
// No message ever quotes the value of an environment variable.
package config

//go:generate go test -run TestSchemaIsCurrent -update .
