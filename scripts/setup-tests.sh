#!/usr/bin/env bash
# Sets up what the tests need beside what building needs: strace, which kills a process at a chosen system call.
set -euo pipefail

command -v strace >/dev/null 2>&1 && exit 0
command -v apt-get >/dev/null 2>&1 || { echo "setup: the tests need strace: install your system's package" >&2; exit 2; }
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
echo "setup: installing strace" >&2
apt_options=(-o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60)
"${sudo[@]}" apt-get "${apt_options[@]}" update -qq >&2 || echo "setup: apt-get update failed, going on with the lists at hand" >&2
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get "${apt_options[@]}" install -y -qq --no-install-recommends strace >&2 \
    || { echo "setup: the tests need strace, and apt-get could not install it" >&2; exit 2; }
