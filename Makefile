# What a person needs is `make run` and `make test`; `make` alone lists the rest.
# Go, gcc (for the race detector) and make are all that has to be installed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Setting CGO_CFLAGS replaces Go's own "-O2 -g", hence all three words. The third
# silences the GPU binding, which still declares what the driver has deprecated.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -X main.version=$(VERSION)
FUZZTIME ?= 10s
BENCH    ?=
# The specs' own packages; they need the built binaries and run apart from the unit tests.
SPECS    := ./specs/...

.PHONY: help build run test unit race specs specs-cgroup2 fuzz bench lint fmt-check vet generate generate-check check clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/hive and bin/fakeworker
	@echo "build: hive $(VERSION)"
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/hive ./cmd/fakeworker

run: build ## build, then start a hive with demo workers on this host (Ctrl-C ends it)
	@bin/hive demo

test: race specs ## everything: unit tests under the race detector, then the specs on real processes

unit: ## unit tests alone, without the race detector (fast)
	@go test $$(scripts/unit-packages.sh)

race: ## unit tests under the race detector
	@echo "race: unit tests under the race detector"
	@go test -race $$(scripts/unit-packages.sh)

specs: ## behaviour specs on the built binaries (LABEL='!slow' picks some)
	@scripts/specs.sh $(SPECS)

specs-cgroup2: ## cgroup v2 specs in a small virtual machine (installs qemu and a kernel by apt; root)
	@CGO_ENABLED=0 go test -c -o bin/cgroup.test ./cgroup
	@scripts/cgroup2-vm.sh bin/cgroup.test -test.v

fuzz: ## each fuzz target for FUZZTIME (10s)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

bench: build ## what hive costs beside a plain loop (BENCH=-write puts it into docs/bench.md)
	@go run ./bench $(BENCH)

lint: ## golangci-lint with .golangci.yml
	@scripts/lint.sh

fmt-check:
	@out=$$(gofmt -l $$(find . -name '*.go' -not -path './.git/*')); \
	[ -z "$$out" ] || { echo "not formatted, run gofmt -w on:"; echo "$$out"; exit 1; }

vet:
	@go vet ./...

generate: ## write docs/worker-states.md and whatever else is generated
	@go generate ./...

generate-check:
	@scripts/generate-check.sh

check: ## exactly what CI runs
	@scripts/check.sh

clean: ## remove what was built
	rm -rf bin
	go clean -testcache
