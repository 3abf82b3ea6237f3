#!/usr/bin/env bash
# Sets up what the tests need beside what building needs: strace, which kills a process at a chosen system call, and
# the services: Redis, Java and Maven for Kafka, Python and curl for the S3 server, openssl for certificates. Installs what is missing on Debian
# and Ubuntu, says what to install elsewhere. Quick and silent when all is there.
# With PLUMB_TEST_SKIP_SERVICES=1 the tests that need services are left out, and counted.
set -euo pipefail
cd "$(dirname "$0")/.."

has() { command -v "$1" >/dev/null 2>&1; }
say() { echo "setup: $*" >&2; }
fail() { say "$@"; exit 2; }
java_17() { has java && [ "$(java -version 2>&1 | sed -nE '1s/.* version "([0-9]+).*/\1/p')" -ge 17 ]; }

services=1
[ "${PLUMB_TEST_SKIP_SERVICES:-}" = 1 ] && services=

missing=()
has strace || missing+=(strace)
if [ -n "$services" ]; then
    has redis-server && has redis-cli || missing+=(redis-server)
    java_17 || missing+=(default-jre-headless)
    has mvn || missing+=(maven)
    has curl || missing+=(curl)
    has openssl || missing+=(openssl)
    { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || missing+=(python3-venv)
fi
if [ "${#missing[@]}" -gt 0 ]; then
    has apt-get || fail "the tests need ${missing[*]}: install your system's packages"
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    say "installing ${missing[*]}"
    apt_options=(-o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60)
    "${sudo[@]}" apt-get "${apt_options[@]}" update -qq >&2 || say "apt-get update failed, going on with the lists at hand"
    # A server that the package starts on its own port is in nobody's way.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get "${apt_options[@]}" install -y -qq --no-install-recommends "${missing[@]}" >&2 \
        || fail "the tests need ${missing[*]}, and apt-get could not install them"
fi
[ -n "$services" ] || exit 0
java_17 || fail "the tests need Java 17 or later, this is $(java -version 2>&1 | head -n 1)"
deploy/dev/kafka.sh install
deploy/dev/s3.sh install
