#!/usr/bin/env bash
# Builds every shipped transform to target/plumb/<view>.wasm, the way an author would: with `plumb build`.
set -euo pipefail
cd "$(dirname "$0")/.."
plumb=${CARGO_TARGET_DIR:-target}/release/plumb
[ -x "$plumb" ] || { echo "no $plumb: run  make build" >&2; exit 2; }
for transform in transforms/*/; do
    "$plumb" build "${transform%/}"
done
