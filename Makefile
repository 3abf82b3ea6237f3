# The commands of the project. `make demo` and `make test` work on a fresh machine.
SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help setup build transforms dist demo test test-full test-data lint fmt bench clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install what is missing (toolchain parts, the wasm target)
	@scripts/setup.sh

build: setup ## target/release/plumb and every shipped component as target/plumb/<view>.wasm
	@# The whole workspace, so that build and tests share one set of compiled dependencies.
	cargo build --release --locked --workspace
	@scripts/build-transforms.sh

dist: build ## target/dist/plumb: the binary of a release, by measured counts and across crates (25 minutes)
	@[ "$$PLUMB_TEST_SKIP_SERVICES" = 1 ] || scripts/setup-tests.sh
	@scripts/dist.sh

demo: build ## the main job end to end on real events, without any service
	@scripts/demo.sh

test: ## what CI runs: lints, unit, property, case, process and command line tests
	@scripts/test.sh

test-full: ## longer campaigns: random kills, a kill at each write of a commit, big generated data
	@scripts/test-full.sh

test-data: build ## the real-data tests: make test-data DATA=../shared/data
	@test -d "$(DATA)" || { echo "say where the data are: make test-data DATA=../shared/data"; exit 2; }
	PLUMB_TEST_DATA="$(abspath $(DATA))" cargo test --release --locked --workspace --test real_data -- --nocapture

lint: ## formatting, clippy, dependency rules
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets --locked -- -D warnings

fmt: ## format everything
	cargo fmt --all

bench: build ## every benchmark (each answers one question as a ratio)
	cargo bench --workspace --benches --locked

clean: ## remove build outputs
	cargo clean
