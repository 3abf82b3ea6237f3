#!/usr/bin/env bash
# Longer campaigns than `make test` has time for. Prints the seconds of each stage and what the tests report.
#   laws             the laws of core and pipeline with 2,000 cases each (PROPTEST_CASES), an eighth of that of whole
#                    schedules of processes that share a log, of which one takes 0.7 s: ten minutes on two busy cores
#   kills            the embedded service: a hundred random kills under load, one at every write and fsync of a commit
#   Kafka: kills     a hundred random kills under load, one at every call of a commit, twenty zombies, two owners, a
#                    rebalance storm of five minutes, rolling restarts; the same of snapshots
#   Kafka: faults    the broker away for 70 s, a full disk, damage, gaps, S3 answering 5xx for ten minutes
#   Kafka: S3        sixty kills and 120 refusals in the middle of commits, with a reader of the bucket
#   Redis: faults    emptied, hung for 30 s, slow, reset, cut, half open, failing over; single and Cluster
#   soak             three processes for five minutes with something happening every few seconds (PLUMB_TEST_SOAK)
#   readers          DuckDB, Polars, pandas and Spark read the archive, snapshots and training sets; Iceberg and Delta
#                    tables of snapshots, with PLUMB_TEST_DATA=DIR over a year of real events
#   all other tests  everything else of the workspace's whole tests
#   generated events 5 million (PLUMB_TEST_EVENTS) through the whole path, checked both ways
# A stage alone: scripts/test-full.sh STAGE..., as in `scripts/test-full.sh soak "Kafka: S3"`.
set -euo pipefail
cd "$(dirname "$0")/.."
total_start=$SECONDS
plumb=$PWD/${CARGO_TARGET_DIR:-target}/release/plumb
components=$PWD/target/plumb
events=${PLUMB_TEST_EVENTS:-5000000}

wanted=("$@")

# Whether a stage was asked for; all are if none was named.
is_wanted() {
    [ "${#wanted[@]}" -gt 0 ] || return 0
    local each
    for each in "${wanted[@]}"; do [ "$each" = "$1" ] && return 0; done
    return 1
}

stage() {
    local name=$1 start=$SECONDS
    shift
    is_wanted "$name" || return 0
    echo "== $name"
    # Not by `||`, with which bash goes on after what fails inside a function.
    local status
    set +e
    (set -e; "$@")
    status=$?
    set -e
    [ "$status" -eq 0 ] || { echo "== $name FAILED after $((SECONDS - start)) s"; exit 1; }
    echo "== $name: $((SECONDS - start)) s"
}

cargo_test() { cargo test --release --locked "$@"; }

# Generates, ingests from the file, checks both ways and joins; stops at the first that is not as it should be.
big_run() (
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cd "$folder"
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
    cd /
)

# PROPTEST_CASES counts for every property, also for those that ask for another number themselves.
laws() {
    local schedules=any_schedule_leaves_what_one_process_would
    cargo_test -p plumb-core -p plumb-pipeline -- --skip "$schedules"
    PROPTEST_CASES=$((PROPTEST_CASES / 8)) cargo_test -p plumb-pipeline --lib "$schedules"
}

# The tests of the whole but for those with a stage of their own.
other_tests() {
    local file name tests=()
    for file in tests/tests/*.rs; do
        name=$(basename "$file" .rs)
        case $name in
            kill | kafka_process | kafka_snapshots | kafka_faults | kafka_s3 | kafka_soak | redis_faults | redis_cluster) ;;
            *) tests+=(--test "$name") ;;
        esac
    done
    cargo_test --workspace "${tests[@]}"
}

scripts/setup.sh
scripts/setup-tests.sh
make --no-print-directory build
export PLUMB_TEST_FULL=1 PROPTEST_CASES=${PROPTEST_CASES:-2000}
stage "laws" laws
stage "kills" cargo_test --workspace --test kill -- --nocapture
stage "Kafka: kills" cargo_test --workspace --test kafka_process --test kafka_snapshots -- --nocapture --test-threads 2
stage "Kafka: faults" cargo_test --workspace --test kafka_faults -- --nocapture --test-threads 2
stage "Kafka: S3" cargo_test --workspace --test kafka_s3 -- --nocapture --test-threads 2
stage "Redis: faults" cargo_test --workspace --test redis_faults --test redis_cluster -- --nocapture --test-threads 2
stage "soak" cargo_test --workspace --test kafka_soak -- --nocapture
stage "readers" tests/readers/run.sh
stage "all other tests" other_tests
stage "generated events" big_run
echo "all stages: $((SECONDS - total_start)) s"
