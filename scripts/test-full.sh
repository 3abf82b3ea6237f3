#!/usr/bin/env bash
# Longer campaigns than `make test` has time for: a kill at every call of every commit and a hundred random kills
# under load, the laws with more cases, and 5 million generated events through the whole path. Prints the seconds
# of each stage.
set -euo pipefail
cd "$(dirname "$0")/.."
total_start=$SECONDS
plumb=$PWD/${CARGO_TARGET_DIR:-target}/release/plumb
components=$PWD/target/plumb
events=${PLUMB_TEST_EVENTS:-5000000}

stage() {
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@" || { echo "== $name FAILED after $((SECONDS - start)) s"; exit 1; }
    echo "== $name: $((SECONDS - start)) s"
}

cargo_test() { cargo test --release --locked "$@"; }

# Generates, ingests from the file, checks both ways and joins; stops at the first that is not as it should be.
big_run() {
    local folder
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' RETURN
    pushd "$folder" >/dev/null
    cat >plumb.toml <<TOML
data_dir = "data"
[source]
kind = "file"
path = "events.parquet"
[transforms]
paths = ["$components/user_activity.wasm", "$components/item_activity.wasm"]
[offline]
url = "file:data/offline"
TOML
    "$plumb" generate --events "$events" --users 200000 --items 20000 --days 60 --seed 7 --out events.parquet
    "$plumb" run --until-end
    "$plumb" check --entity user --sample 500 --exact
    "$plumb" check --entity item --sample 500 --exact
    local both=(--transform "$components/user_activity.wasm" --transform "$components/item_activity.wasm")
    "$plumb" generate --events 100000 --users 200000 --items 20000 --days 60 --seed 8 --out labels.parquet
    "$plumb" join "${both[@]}" --events events.parquet --labels labels.parquet --out set.parquet
    du -sh data events.parquet set.parquet
    popd >/dev/null
}

stage "set-up" scripts/setup.sh
stage "set-up of the tests" scripts/setup-tests.sh
stage "build" make --no-print-directory build
export PLUMB_TEST_FULL=1 PROPTEST_CASES=${PROPTEST_CASES:-2000}
stage "laws: core" cargo_test -p plumb-core
stage "laws: pipeline" cargo_test -p plumb-pipeline
stage "kills" cargo_test --workspace --test kill -- --nocapture
stage "laws: whole" cargo_test -p plumb-tests
stage "$events generated events" big_run
echo "all stages: $((SECONDS - total_start)) s"
