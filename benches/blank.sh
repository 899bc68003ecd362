#!/usr/bin/env bash
# A blank node takes all that a peer has, over QUIC with mutual TLS, durably: two processes on
# this machine. Prints how long from the start of the blank one until both show the same number
# of keys. benches/reconciliation.py does this in turn with the raw transport.
#
#   benches/blank.sh                     1,000,000 keys of 12 bytes, values of 88
#   KEYS=100000 VALUE=16 benches/blank.sh
#
# Needs redis-cli, curl, and a release build of tidings.
set -euo pipefail
cd "$(dirname "$0")/.."
keys=${KEYS:-1000000} value=${VALUE:-88}
binary=$PWD/${CARGO_TARGET_DIR:-target}/release/tidings
[ -x "$binary" ] || { echo "build it first: cargo build --release" >&2; exit 2; }

dir=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

status() { # node
    curl -s --unix-socket "$dir/$1/admin.sock" http://tidings/v1/status
}

shown() { # node
    status "$1" 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["keys"])' 2>/dev/null || echo 0
}

start() { # node, further arguments
    local node=$1
    shift
    "$binary" run --data-dir "$dir/$node" --http off "$@" >"$dir/$node.log" 2>&1 &
    pids+=($!)
}

await() { # node, keys
    for _ in $(seq 30000); do [ "$(shown "$1")" = "$2" ] && return; sleep 0.02; done
    echo "$1 does not get there" >&2
    tail "$dir/$1.log" >&2
    exit 1
}

"$binary" ca init --realm bench --dir "$dir/ca" >/dev/null
for node in a b; do "$binary" ca issue $node --dir "$dir/ca" --out "$dir/$node" >/dev/null; done
quic=$(free_port) resp=$(free_port)
start a --listen "127.0.0.1:$quic" --advertise "127.0.0.1:$quic" --resp "127.0.0.1:$resp" --log-memory 0
await a 0
python3 - "$keys" "$value" <<'END' | redis-cli -p "$resp" --pipe >/dev/null
import sys
keys, value = int(sys.argv[1]), int(sys.argv[2])
out = sys.stdout
for n in range(keys):
    text = f"{n * 2654435761 % 2**64:020d}" * (value // 20 + 1)
    out.write(f"*3\r\n$3\r\nSET\r\n$12\r\nkey:{n:08d}\r\n${value}\r\n{text[:value]}\r\n")
END
await a "$keys"
began=$(date +%s.%N)
start b --listen "127.0.0.1:$(free_port)" --resp off --join "127.0.0.1:$quic"
await b "$keys"
ended=$(date +%s.%N)
python3 - "$keys" "$value" "$began" "$ended" <<'END'
import sys
keys, value, began, ended = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
rows, took = keys * (12 + value), ended - began
print(f"{keys} keys of 12 + {value} B: {took:.2f} s from the start of the blank node, {rows / took / 1e6:.0f} MB/s of rows")
END
