#!/usr/bin/env bash
# Sets up what building plumb needs: cargo and a C compiler, and a compiler for components (target
# wasm32-unknown-unknown): from rustup where that works, else Debian's packages. Installs what is missing on
# Debian and Ubuntu, says what to install elsewhere. Quick and silent when all is there.
set -euo pipefail

target=wasm32-unknown-unknown
rust_min=95
debian_packages=(rustc-web cargo-web rust-web-src lld-22)
# Each package archive and toolchain is asked once; hanging mirrors are given up.
apt_options=(-o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60)

say() { echo "setup: $*" >&2; }
fail() { say "$@"; exit 2; }
has() { command -v "$1" >/dev/null 2>&1; }

# rustup puts itself here without touching the PATH of running shells.
if ! has cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    fail "cargo is in ${CARGO_HOME:-$HOME/.cargo}/bin, which is not in PATH: run  . \"${CARGO_HOME:-$HOME/.cargo}/env\""
fi

apt_updated=
apt_install() {
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        has sudo || fail "not root and no sudo: as root run  apt-get install $*"
        sudo=(sudo)
    fi
    if [ -z "$apt_updated" ]; then
        "${sudo[@]}" apt-get "${apt_options[@]}" update -qq >&2 || say "apt-get update failed, going on with the lists at hand"
        apt_updated=1
    fi
    say "installing $*"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get "${apt_options[@]}" install -y -qq --no-install-recommends "$@" >&2
}

# Debian's compiler for components: rustc, the library's sources, LLVM's linker.
debian_rustc() {
    [ -x /usr/bin/rustc ] || return 1
    [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.toml" ] || return 1
    compgen -c wasm-ld >/dev/null
}

# Whether the rustc that cargo uses has the target's standard library.
has_target() {
    local libraries
    has rustc || return 1
    libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null) || return 1
    compgen -G "$libraries/libstd-*" >/dev/null
}

rust_minor() { rustc --version 2>/dev/null | sed -nE 's/^rustc 1\.([0-9]+)\..*/\1/p'; }

new_enough() {
    local minor
    minor=$(rust_minor)
    [ -n "$minor" ] && [ "$minor" -ge "$rust_min" ]
}

# 1. A linker for the host.
if ! has cc; then
    has apt-get || fail "no C compiler (cc): install gcc or clang with your system's packages, then run this again"
    apt_install gcc libc6-dev || fail "no C compiler (cc), and apt-get could not install gcc"
fi

# 2. Rust for the host.
if ! has cargo || ! new_enough; then
    if has rustup; then
        say "rustc is $(rustc --version 2>/dev/null || echo missing), 1.$rust_min is needed: asking rustup"
        rustup update stable >&2 || true
    fi
    if { ! has cargo || ! new_enough; } && has apt-get; then
        apt_install "${debian_packages[@]}" || true
        hash -r
    fi
    if ! has cargo || ! new_enough; then
        fail "Rust 1.$rust_min or later is needed, found $(rustc --version 2>/dev/null || echo none):" \
            "install it from https://rustup.rs, then run this again"
    fi
fi

# 3. A compiler for components.
if ! has_target && ! debian_rustc; then
    if has rustup; then
        say "adding the target $target"
        rustup target add "$target" >&2 || say "rustup could not add $target, trying the system's packages"
    fi
    if ! has_target && has apt-get; then
        apt_install "${debian_packages[@]}" || true
        hash -r
    fi
    if ! has_target && ! debian_rustc; then
        fail "no compiler for components: with rustup run  rustup target add $target ;" \
            "on Debian or Ubuntu without it  apt-get install ${debian_packages[*]} ;" \
            "elsewhere install your system's package of rust's standard library for $target"
    fi
fi
