#!/usr/bin/env bash
# A real Redis Cluster of three primaries with a replica each, for development and tests, in a folder of its own.
#   redis-cluster.sh start DIR   prints the six addresses once the cluster serves every slot
#   redis-cluster.sh stop DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

[ $# -eq 2 ] || { sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 2; }
command=$1 dir=$2
case $command in
    start)
        addresses=()
        for node in 1 2 3 4 5 6; do
            port=$(free_port)
            addresses+=("$("$here/redis.sh" start "$dir/$node" --port "$port" cluster-enabled yes cluster-node-timeout 2000 \
                cluster-port "$(free_port)" cluster-replica-validity-factor 0 repl-diskless-sync-delay 0)")
        done
        redis-cli --cluster create "${addresses[@]}" --cluster-replicas 1 --cluster-yes >"$dir/create.log" 2>&1 \
            || { cat "$dir/create.log" >&2; fail "the nodes did not form a cluster"; }
        ready() {
            local each
            for each in "${addresses[@]}"; do
                redis-cli -h "${each%:*}" -p "${each#*:}" cluster info | grep -q '^cluster_state:ok' || return 1
                [ "$(redis-cli -h "${each%:*}" -p "${each#*:}" cluster nodes | grep -c slave)" = 3 ] || return 1
            done
        }
        wait_ready "$(cat "$dir/1/pid")" ready
        (IFS=, && echo "${addresses[*]}" | tee "$dir/address")
        ;;
    stop) for node in 1 2 3 4 5 6; do stop_pid "$dir/$node"; done ;;
    *) fail "what is $command?" ;;
esac
