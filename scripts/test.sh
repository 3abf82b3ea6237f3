#!/usr/bin/env bash
# The test stages, cheapest first; prints the seconds of each and stops at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
total_start=$SECONDS
passed=0
# Tests that leave themselves out write a line here.
PLUMB_TEST_SKIPPED=$(mktemp)
export PLUMB_TEST_SKIPPED
trap 'rm -f "$PLUMB_TEST_SKIPPED"' EXIT

stage() {
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@" || { echo "== $name FAILED after $((SECONDS - start)) s"; exit 1; }
    echo "== $name: $((SECONDS - start)) s"
}

# A distribution's Rust may come without these tools; what they check does not depend on the machine.
lint() {
    if cargo "$1" --version > /dev/null 2>&1; then
        stage "$1" cargo "$@"
    else
        echo "== $1: not installed here, left out (rustup component add $1)"
    fi
}

# Runs `cargo test` and adds up what its runners report.
cargo_tests() {
    local log count
    log=$(mktemp)
    cargo test --release --locked "$@" 2>&1 | tee "$log" || { rm -f "$log"; return 1; }
    count=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$log" | awk '{s += $1} END {print s + 0}')
    passed=$((passed + count))
    rm -f "$log"
}

stage "set-up" scripts/setup.sh
stage "set-up of the tests" scripts/setup-tests.sh
lint fmt --all --check
stage "build" make --no-print-directory build
lint clippy --release --workspace --all-targets --locked -- -D warnings
stage "unit, property and integration tests" cargo_tests --workspace
stage "demo" scripts/demo.sh
stage "benchmarks compile" cargo check --release --locked --workspace --benches
echo "all stages: $((SECONDS - total_start)) s"
skipped=$(wc -l < "$PLUMB_TEST_SKIPPED")
echo "$((passed - skipped)) passed, 0 failed$([ "$skipped" = 0 ] || echo ", $skipped skipped: they need services")"
