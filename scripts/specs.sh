#!/usr/bin/env bash
# Runs the specs with the ginkgo of go.mod, two at a time. LABEL picks some of
# them by their labels, FOCUS by their words. Hive itself is built with the race
# detector, and a report of it fails the spec; RACE=0 leaves it out. Arguments:
# package patterns.
set -euo pipefail
cd "$(dirname "$0")/.."

args=(-p --race --timeout=10m --poll-progress-after=60s --poll-progress-interval=30s)
[ -n "${LABEL:-}" ] && args+=(--label-filter="$LABEL")
[ -n "${FOCUS:-}" ] && args+=(--focus="$FOCUS")
[ -n "${CI:-}" ] && args+=(--fail-on-pending --no-color)

echo "specs: building the suite, then hive against real processes"
exec go run github.com/onsi/ginkgo/v2/ginkgo run "${args[@]}" "${@:-./specs/...}" </dev/null
