#!/usr/bin/env bash
# An S3-compatible server for development and tests; its objects live in memory and end with it.
#   s3.sh start DIR [--port N] [--bucket NAME]...   prints the endpoint's address once it answers; any keys do
#   s3.sh stop DIR
#   s3.sh run DIR --port N                          in the foreground
#   s3.sh install                                   makes its Python environment, once
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

environment=$cache/s3-$(cksum <"$here/requirements.txt" | cut -d' ' -f1)

install() {
    [ -f "$environment/complete" ] && return
    command -v python3 >/dev/null || fail "the S3 server needs Python 3.9 or later (Debian: python3-venv)"
    say "fetching the S3 server"
    mkdir -p "$cache"
    # An environment cannot be moved, so a lock keeps a second installer away.
    (
        flock 9
        [ ! -f "$environment/complete" ] || exit 0
        rm -rf "$environment"
        python3 -m venv "$environment" >&2 || fail "python3 cannot make an environment (Debian: python3-venv)"
        "$environment/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" >&2 \
            || fail "pip could not fetch the S3 server"
        touch "$environment/complete"
    ) 9>"$environment.lock" || exit
}

ready() { curl -sf -o /dev/null "http://127.0.0.1:$port/"; }

[ $# -ge 1 ] || { sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 2; }
command=$1
[ "$command" = install ] && { install; exit; }
dir=${2:?a folder}
shift 2
port='' buckets=()
while [ $# -gt 0 ]; do
    case $1 in
        --port) port=$2 ;;
        --bucket) buckets+=("$2") ;;
        *) fail "what is $1?" ;;
    esac
    shift 2
done
case $command in
    run)
        install
        mkdir -p "$dir" && cd "$dir"
        exec "$environment/bin/python" "$here/s3.py" "${port:?--port}"
        ;;
    start)
        install
        : "${port:=$(free_port)}"
        start_in_background
        for each in "${buckets[@]}"; do curl -sSf -o /dev/null -X PUT "http://127.0.0.1:$port/$each"; done
        ;;
    stop) stop_pid "$dir" ;;
    *) fail "what is $command?" ;;
esac
