#!/usr/bin/env bash
# A real Redis server for development and tests, in a folder of its own.
#   redis.sh start DIR [--port N] [SETTING VALUE]...   prints the address once it answers
#   redis.sh stop DIR
#   redis.sh run DIR --port N [SETTING VALUE]...       in the foreground
# Settings are those of redis.conf, such as  appendonly yes . Nothing is written to disk unless they ask for it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

ready() { [ "$(redis-cli -h 127.0.0.1 -p "$port" ping 2>/dev/null)" = PONG ]; }

[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 2; }
command=$1 dir=$2
shift 2
port=''
[ "${1:-}" = --port ] && { port=$2; shift 2; }
settings=()
while [ $# -gt 0 ]; do
    settings+=("--$1" "${2?a value of $1}")
    shift 2
done
command -v redis-server >/dev/null || fail "no redis-server (Debian: redis-server)"
case $command in
    run)
        mkdir -p "$dir"
        dir=$(cd "$dir" && pwd)
        exec redis-server --port "${port:?--port}" --bind 127.0.0.1 --dir "$dir" --save "" --appendonly no \
            --maxmemory-policy noeviction --loglevel warning "${settings[@]}"
        ;;
    start)
        : "${port:=$(free_port)}"
        words=()
        for word in "${settings[@]}"; do words+=("${word#--}"); done
        start_in_background "${words[@]}"
        ;;
    stop) stop_pid "$dir" ;;
    *) fail "what is $command?" ;;
esac
