#!/usr/bin/env bash
# Reads what plumb writes with DuckDB, Polars, pandas and Spark, as files and as Iceberg and Delta tables (check.py).
# Fetches them, once: packages from PyPI, jars from Maven Central. Works in target/readers.
# With PLUMB_TEST_DATA=DIR (laid out like the shared data) the real events are those of a whole year.
set -euo pipefail
tests=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$tests/../.." && pwd)
. "$root/deploy/dev/common.sh"

plumb=$root/${CARGO_TARGET_DIR:-target}/release/plumb
fetched=("$tests/requirements.txt" "$root/examples/tables/requirements.txt" "$tests/pom.xml")
environment=$cache/readers-$(cat "${fetched[@]}" | cksum | cut -d' ' -f1)

install() {
    [ -f "$environment/complete" ] && return
    command -v java >/dev/null || fail "Spark needs Java 17 or later (Debian: openjdk-17-jre-headless)"
    command -v mvn >/dev/null || fail "the jars of Iceberg and Delta come by Maven (Debian: maven)"
    say "fetching DuckDB, Polars, pandas and Spark"
    mkdir -p "$cache"
    # An environment cannot be moved, so a lock keeps a second installer away.
    (
        flock 9
        [ ! -f "$environment/complete" ] || exit 0
        rm -rf "$environment"
        python3 -m venv "$environment" >&2 || fail "python3 cannot make an environment (Debian: python3-venv)"
        "$environment/bin/pip" install -q --disable-pip-version-check -r "$tests/requirements.txt" >&2 \
            || fail "pip could not fetch the readers"
        mvn -q -B -f "$tests/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
            -DoutputDirectory="$environment/jars" >&2 || fail "Maven could not fetch the jars for Spark"
        touch "$environment/complete"
    ) 9>"$environment.lock" || exit
}

[ -x "$plumb" ] || fail "no $plumb: run  make build"
install
work=$root/target/readers
rm -rf "$work"
mkdir -p "$work"
"$plumb" build "$tests/kinds" -o "$work/kinds.wasm"
events=()
[ -z "${PLUMB_TEST_DATA:-}" ] || events=("$PLUMB_TEST_DATA/events_completejourney.parquet")
# Spark would bind where the host's name points to; Polars would advise another package for planning.
PYTHONDONTWRITEBYTECODE=1 SPARK_LOCAL_IP=127.0.0.1 POLARS_ICEBERG_PLANNER=pyiceberg \
    "$environment/bin/python" "$tests/check.py" "$plumb" "$root/target/plumb" "$environment/jars" "$work" "${events[@]}"
