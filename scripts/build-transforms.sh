#!/usr/bin/env bash
# Builds every shipped transform to target/plumb/<view>.wasm, the way an author would: with `plumb build`; and the
# examples to target/plumb/examples/<view>.wasm, where no service finds them by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
plumb=${CARGO_TARGET_DIR:-target}/release/plumb
[ -x "$plumb" ] || { echo "no $plumb: run  make build" >&2; exit 2; }
for transform in transforms/*/; do
    "$plumb" build "${transform%/}"
done
mkdir -p "${CARGO_TARGET_DIR:-target}/plumb/examples"
for manifest in examples/*/Cargo.toml; do
    example=$(dirname "$manifest")
    "$plumb" build "$example" -o "${CARGO_TARGET_DIR:-target}/plumb/examples/$(basename "$example").wasm"
done
