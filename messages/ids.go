// Package messages holds the plain structs and ids that every part of hive
// speaks. It imports the standard library only. Values are sent by value or
// never changed after sending, so all of them are safe to share.
package messages

import "regexp"

// WorkerID is a worker's name: unique in a hive, kept over the worker's life.
type WorkerID string

// PoolID names a pool: "cpu" or "gpu-N".
type PoolID string

// Attempt numbers the OS processes a worker has run, from 1. Zero means "no
// particular attempt" in a request and "none yet" in a status.
type Attempt uint64

// PoolCPU is the pool of the workers that ask for no GPU.
const PoolCPU PoolID = "cpu"

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// NamePattern is the form of a worker's name, in words for errors.
const NamePattern = "[a-z0-9][a-z0-9-]{0,62}"

// ValidName reports whether s may name a worker.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// ReservedName reports whether s is a word of the compatibility routes
// (/v1/workers/spawn and so on) and therefore cannot name a worker.
func ReservedName(s string) bool { return s == "spawn" || s == "ready" || s == "list" }
