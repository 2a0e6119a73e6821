// Package supervision holds hive's restart rules: how many failures a period
// may hold, how long to wait before the next attempt, when to give up fast
// restarts, and how far a failure escalates. Everything is pure and driven by
// the times it is given, except strategy.go, which turns a decision into
// protoactor directives.
//
// The rules are Erlang's (restart intensity of a supervisor, escalation to its
// parent) with one difference: a delay never blocks an actor. The strategy
// restarts at once and the new incarnation waits in its own state.
package supervision
