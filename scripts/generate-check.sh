#!/usr/bin/env bash
# Fails when go generate would change a file: a generated page is stale then.
# It compares file by file, so changes that are not committed yet do no harm.
set -euo pipefail
cd "$(dirname "$0")/.."

sums() { find . -type f -not -path './.git/*' -not -path './bin/*' -print0 | sort -z | xargs -0 sha256sum; }

before=$(sums)
go generate ./...
if ! stale=$(diff <(echo "$before") <(sums)); then
	echo "generated files were stale and are written anew, keep them:"
	sed -nE 's/^> [0-9a-f]+ +/  /p' <<<"$stale"
	exit 1
fi
