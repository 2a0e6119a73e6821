#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME each; the go command takes
# one target at a time, so they are found here and run in turn.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=${FUZZTIME:-10s}

# "./config FuzzParse", one line for each target.
targets=$(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . |
	sed -E 's|^(.*)/[^/]+_test\.go:func (Fuzz.*)$|\1 \2|' | sort)
[ -n "$targets" ] || { echo "fuzz: no target found"; exit 0; }
total=$(wc -l <<<"$targets")

n=0
while read -r dir name; do
	n=$((n + 1))
	echo "fuzz: $n/$total $dir $name for $fuzztime"
	go test -run='^$' -fuzz="^$name\$" -fuzztime="$fuzztime" "$dir" </dev/null
done <<<"$targets"
