#!/usr/bin/env bash
# Everything a change must pass, cheapest first; CI runs this and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

# Long enough to catch a parser that falls over, short enough for each change.
export FUZZTIME=${FUZZTIME:-3s}
steps=(fmt-check vet generate-check build lint race specs specs-cgroup2 fuzz)

n=0
for step in "${steps[@]}"; do
	n=$((n + 1))
	start=$SECONDS
	echo "== $n/${#steps[@]} $step"
	make "$step" FUZZTIME="$FUZZTIME"
	echo "== $n/${#steps[@]} $step: passed in $((SECONDS - start)) s"
done
echo "check: all ${#steps[@]} steps passed in $SECONDS s"
