#!/usr/bin/env bash
# The main job end to end on the embedded defaults: real events through WASM transforms into window state, an
# online and an offline store, an HTTP answer, a training set, an audit and a consistency check, all from one
# component file. Works in target/demo, leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
# Another binary than that of `make build` where one is named.
plumb=$(realpath "${PLUMB_TEST_BINARY:-$target/release/plumb}")
components=$(realpath target/plumb)
work=target/demo
rm -rf "$work"
mkdir -p "$work"

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { echo "\$ plumb $*"; "$plumb" "$@"; }

server=
stop_server() {
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        kill -TERM "$server"
        wait "$server" || true
    fi
    server=
}
trap stop_server EXIT

config=$work/plumb.toml
cat > "$config" <<TOML
data_dir = "$work/data"

[source]
kind = "log"

[transforms]
paths = ["$components/*.wasm"]

[serve]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
metrics_listen = "127.0.0.1:0"
TOML

step "1. Events: 20,000 real purchases, and generated views, carts and ratings beside them"
run generate --events 20000 --users 400 --items 300 --days 5 --seed 7 --start 2017-01-01T00:00:00Z --out "$work/generated.jsonl"
run produce examples/data/completejourney_purchases.csv --config "$config"
run produce "$work/generated.jsonl" --config "$config"

step "2. Ingest: WASM transforms -> window state -> online store + offline Parquet"
run run --config "$config" --until-end --no-serve
echo "archive: $(find "$work/data/offline/events" -name '*.parquet' | wc -l) Parquet files, $(du -sh "$work/data/offline/events" | cut -f1)"

step "3. Serve over HTTP"
"$plumb" serve --config "$config" > "$work/serve.log" 2>&1 &
server=$!
address=
for _ in $(seq 1 600); do
    address=$(sed -nE 's/.*"listen":"([^"]+)".*/\1/p' "$work/data/owner" 2>/dev/null || true)
    [ -n "$address" ] && curl -sf "http://$address/ready" > /dev/null && break
    kill -0 "$server" 2>/dev/null || { cat "$work/serve.log"; exit 1; }
    sleep 0.1
done
as_of=2017-01-06T00:30:00Z
ask() { echo "\$ curl -X POST http://$address$1 -d '$2'"; curl -sS --fail-with-body -H 'content-type: application/json' -X POST "http://$address$1" -d "$2"; echo; }
ask /features/vector "{\"user_id\":\"1228\",\"item_id\":\"1082185\",\"as_of\":\"$as_of\"}"

step "4. A point-in-time training set"
awk -F, -v OFS=, 'NR == 1 {print "user_id,item_id,event_time,label"} NR > 1 && NR % 10 == 0 {print $3, $4, $2, NR % 3 == 0}' \
    examples/data/completejourney_purchases.csv > "$work/labels.csv"
transforms=(--transform "$components/user_activity.wasm" --transform "$components/item_activity.wasm")
run join "${transforms[@]}" --events "$work/data/offline/events/default" --labels "$work/labels.csv" \
    --features 'user_activity:*,item_activity:*' --out "$work/training.parquet"

step "5. Leakage audit"
run audit "$work/training.parquet" --labels "$work/labels.csv" --events "$work/data/offline/events/default" "${transforms[@]}"

step "6. Online against offline, to the bit"
run check --config "$config" --entity user --sample 500 --exact --at "$as_of"
run check --config "$config" --entity item --sample 500 --exact --at "$as_of"
stop_server

step "Next"
cat <<NEXT
  $target/release/plumb new my_view && $target/release/plumb build my_view   write a transform of your own
  $target/release/plumb inspect target/plumb/user_activity.wasm              what a component declares
  $target/release/plumb run --config $config                      run the service (set [run] serve = true)
  make test                                                          everything, tested
NEXT
