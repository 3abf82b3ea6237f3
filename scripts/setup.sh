#!/usr/bin/env bash
# Sets up what building plumb needs: a C compiler, Rust, and a compiler for components (the target
# wasm32-unknown-unknown) from rustup where that works, else from Debian's packages. Installs what is missing
# on Debian and Ubuntu, says what to install elsewhere. Quick and silent when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

target=wasm32-unknown-unknown
rust_minor_min=$(sed -nE 's/^rust-version = "1\.([0-9]+)"/\1/p' Cargo.toml)
# Debian's Rust for its browsers is recent, and comes with the library's sources.
debian_rust=(rustc-web rust-web-src lld-22)
apt_options=(-o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60)

say() { echo "setup: $*" >&2; }
fail() { say "$@"; exit 2; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        say "not root and no sudo; as root run  $*"
        return 1
    fi
}

apt_update() {
    has apt-get || return 1
    [ -z "${apt_updated:-}" ] || return 0
    apt_updated=1
    as_root apt-get "${apt_options[@]}" update -qq >&2 || say "apt-get update failed, going on with the lists at hand"
}

# Whether apt can install a package.
offered() { apt_update && [ -n "$(apt-cache policy "$1" 2>/dev/null | sed -nE 's/^  Candidate: ([^(].*)/\1/p')" ]; }

apt_install() {
    apt_update || return 1
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get "${apt_options[@]}" install -y -qq --no-install-recommends "$@" >&2 || return 1
    hash -r
}

# Whether the Rust that cargo uses is recent enough for the host.
host_rust() {
    local minor
    has cargo && has rustc || return 1
    minor=$(rustc --version 2>/dev/null | sed -nE 's/^rustc 1\.([0-9]+)\..*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$rust_minor_min" ]
}

# Whether that Rust has the target's standard library.
own_target() {
    local libraries
    libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null) || return 1
    compgen -G "$libraries/libstd-*" >/dev/null
}

# Whether Debian's compiler, the library's sources and LLVM's linker are there; `plumb build` then takes those.
debian_target() {
    [ -x /usr/bin/rustc ] || return 1
    [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.toml" ] || return 1
    [ -n "$(compgen -c wasm-ld)" ]
}

# 1. C and C++ compilers, make and two libraries: the linker of host builds, and the Kafka client is C.
if ! has cc; then
    apt_install gcc libc6-dev || fail "no C compiler (cc): install gcc or clang with your system's packages"
fi
kafka_client=()
has c++ || kafka_client+=(g++)
has make || kafka_client+=(make)
has pkg-config || kafka_client+=(pkg-config)
{ has pkg-config && pkg-config --exists openssl; } || kafka_client+=(libssl-dev)
{ has pkg-config && pkg-config --exists zlib; } || kafka_client+=(zlib1g-dev)
if [ "${#kafka_client[@]}" -gt 0 ]; then
    apt_install "${kafka_client[@]}" || fail "the Kafka client needs a C++ compiler, make, pkg-config, OpenSSL and zlib:" \
        "install ${kafka_client[*]} (or what your system calls them)"
fi

# 2. Rust for the host.
if ! has cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    fail "cargo is not in PATH: run  . \"${CARGO_HOME:-$HOME/.cargo}/env\"  first"
fi
if ! host_rust && has rustup; then
    say "Rust 1.$rust_minor_min or later is needed: asking rustup"
    rustup toolchain install stable --profile minimal >&2 || true
fi
if ! host_rust && offered rustc-web; then
    apt_install "${debian_rust[@]}" cargo-web || true
fi
if ! host_rust && ! has rustup && offered rustup; then
    apt_install rustup && rustup default stable >&2 || true
    hash -r
fi
host_rust || fail "Rust 1.$rust_minor_min or later is needed, found $(rustc --version 2>/dev/null || echo none):" \
    "install it from https://rustup.rs, then run this again"

# 3. A compiler for components.
if ! own_target && ! debian_target; then
    if has rustup; then
        rustup target add "$target" >&2 || say "rustup could not add $target"
    fi
    if ! own_target && offered rust-web-src; then
        apt_install "${debian_rust[@]}" || true
    fi
    own_target || debian_target || fail "no compiler for components:" \
        "with rustup run  rustup target add $target ;" \
        "on Debian 12 without it  apt-get install ${debian_rust[*]} cargo-web ;" \
        "elsewhere install your system's package of Rust's standard library for $target"
fi
