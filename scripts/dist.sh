#!/usr/bin/env bash
# The binary of a release, <target>/dist/plumb: across crates (LTO), and by counts of what runs how often
# (profile-guided optimisation). It is built twice: first to count, while it does plumb's jobs (events through the
# embedded log and through Kafka and Redis, features served, training sets, snapshots, an audit), then by those counts.
# Takes 25 minutes on four cores. With PLUMB_TEST_SKIP_SERVICES=1 Kafka and Redis are left out: their code is then
# taken for code that hardly ever runs.
# The process tests run with it by  PLUMB_TEST_BINARY=$PWD/target/dist/plumb cargo test --release ...
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath "${CARGO_TARGET_DIR:-target}")
host=$(rustc -vV | sed -n 's/^host: //p')
built=$target/$host/dist/plumb
components=$(realpath target/plumb)
work=$target/dist-profile

fail() { echo "dist: $*" >&2; exit 2; }
has() { command -v "$1" > /dev/null 2>&1; }

# What brings counts together has to know the format of this compiler's.
find_profdata() {
    local own major
    own=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
    major=$(rustc -vV | sed -nE 's/^LLVM version: ([0-9]+).*/\1/p')
    [ -x "$own" ] || ! has rustup || rustup component add llvm-tools >&2 || true
    if [ -x "$own" ]; then
        echo "$own"
    elif has "llvm-profdata-$major"; then
        echo "llvm-profdata-$major"
    else
        fail "no llvm-profdata for LLVM $major: with rustup run  rustup component add llvm-tools ;" \
            "on Debian  apt-get install llvm-$major"
    fi
}

# With a target named, the flags are not those of build scripts and macros too.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --profile dist --locked --target "$host" -p plumb-runtime --bin plumb
}

# plumb's jobs, as its users have them.
train() {
    local plumb=$work/plumb views=() view
    export PLUMB_TEST_BINARY=$plumb
    scripts/demo.sh
    for view in user_activity user_daily user_spend user_transactions; do
        views+=(--transform "$components/$view.wasm")
    done
    (
        cd "$work"
        "$plumb" generate --events 1000000 --users 20000 --items 20000 --days 90 --seed 7 --out events.parquet
        "$plumb" generate --events 200000 --users 20000 --items 20000 --days 90 --seed 8 --out labels.parquet
        local both=(--events events.parquet --labels labels.parquet)
        "$plumb" join "${views[@]}" "${both[@]}" --out set.parquet
        "$plumb" join "${views[@]}" "${both[@]}" --memory 64MiB --out small.parquet
        "$plumb" backfill "${views[@]}" --events events.parquet --every 1d --out snapshots
        "$plumb" audit set.parquet "${both[@]}" "${views[@]}"
        "$plumb" stats set.parquet > /dev/null
    )
    [ "${PLUMB_TEST_SKIP_SERVICES:-}" = 1 ] || cargo test --release --locked --workspace --test kafka_redis_serving
}

profdata=$(find_profdata)
[ -d "$components" ] || fail "no components in target/plumb: run  make build"
rm -rf "$work"
mkdir -p "$work/counts"
build "-Cprofile-generate=$work/counts"
cp "$built" "$work/plumb"
train
"$profdata" merge -o "$work/plumb.profdata" "$work/counts"/*.profraw
build "-Cprofile-use=$work/plumb.profdata"
mkdir -p "$target/dist"
cp "$built" "$target/dist/plumb.new"
mv "$target/dist/plumb.new" "$target/dist/plumb"
rm -rf "$work"
echo "dist: $target/dist/plumb"
