# What the scripts of this folder share; sourced by them.

# Downloads are kept here, shared by every working tree.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/plumb

say() { echo "${0##*/}: $*" >&2; }
fail() { say "$@"; exit 2; }

# Whether nothing listens on a port of this machine.
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port nobody listens on, below those the kernel gives to clients.
free_port() {
    local port
    for _ in $(seq 1 200); do
        port=$((RANDOM % 10000 + 20000))
        port_is_free "$port" && { echo "$port"; return; }
    done
    fail "no free port found"
}

# Waits until `$2...` succeeds or process `$1` has ended; shows the end of $dir/log when it does not come.
wait_ready() {
    local pid=$1 deadline=$((SECONDS + 60))
    shift
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || { tail -n 20 "$dir/log" >&2; fail "it ended while starting, see $dir/log"; }
        [ "$SECONDS" -lt "$deadline" ] || { kill -9 "$pid"; tail -n 20 "$dir/log" >&2; fail "not ready after 60 s, see $dir/log"; }
        sleep 0.05
    done
}

# Starts `$0 run $dir $@` in the background, waits for `ready`, prints the address.
start_in_background() {
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [ ! -f "$dir/pid" ] || ! kill -0 "$(cat "$dir/pid")" 2>/dev/null || fail "already running in $dir"
    setsid "$0" run "$dir" --port "$port" "$@" >>"$dir/log" 2>&1 </dev/null &
    echo $! >"$dir/pid"
    wait_ready $! ready
    echo "127.0.0.1:$port" >"$dir/address"
    cat "$dir/address"
}

# Ends the process of $1/pid: asked first, killed after 20 s.
stop_pid() {
    local pid
    [ -f "$1/pid" ] || { say "nothing runs in $1"; return; }
    pid=$(cat "$1/pid")
    kill -TERM "$pid" 2>/dev/null || true
    for _ in $(seq 1 400); do
        kill -0 "$pid" 2>/dev/null || { rm -f "$1/pid" "$1/address"; return; }
        sleep 0.05
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$1/pid" "$1/address"
}
