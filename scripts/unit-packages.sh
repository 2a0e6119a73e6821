#!/usr/bin/env bash
# Prints every package but the specs, which need built binaries and run apart.
set -euo pipefail
cd "$(dirname "$0")/.."
go list ./... | grep -v '/specs\(/\|$\)'
