#!/usr/bin/env bash
# Runs golangci-lint in a pinned version, built once into bin/tools by this
# machine's own Go, so that linter and code agree on the language version.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.15.0
tool=bin/tools/golangci-lint-$version

if [ ! -x "$tool" ]; then
	echo "lint: building golangci-lint $version, once, some minutes"
	# -s -w: half the link time and half the size; nobody debugs the linter here.
	# mod=mod, outside of this module: its dependencies are none of ours.
	(cd / && GOFLAGS=-mod=mod GOBIN="$OLDPWD/bin/tools" CGO_ENABLED=0 \
		go install -ldflags '-s -w' "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version")
	mv bin/tools/golangci-lint "$tool"
fi

echo "lint: golangci-lint $version"
exec "$tool" run --timeout=10m ./...
