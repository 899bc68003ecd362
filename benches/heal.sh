#!/usr/bin/env bash
# Two nodes write 10,000 keys each while they do not know of each other, a third of them the same
# keys, and are then linked: two processes on this machine over QUIC with mutual TLS. Prints how
# long a SET takes over RESP at one of them before and while they catch up, and how long that takes.
# What a heal costs in bytes: cargo test --release --test heal -- --nocapture
#
#   benches/heal.sh                      5 heals of 10,000 keys of 12 bytes, values of 88
#   KEYS=100000 RUNS=3 benches/heal.sh
#
# Needs redis-cli, curl and python3, and a release build of tidings.
set -euo pipefail
cd "$(dirname "$0")/.."
keys=${KEYS:-10000} value=${VALUE:-88} runs=${RUNS:-5}
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

await() { # port
    for _ in $(seq 400); do redis-cli -p "$1" ping >/dev/null 2>&1 && return; sleep 0.05; done
    echo "nothing answers on port $1" >&2
    exit 1
}

fill() { # port, first key
    python3 - "$keys" "$value" "$2" <<'END' | redis-cli -p "$1" --pipe >/dev/null
import sys
keys, value, first = map(int, sys.argv[1:])
for n in range(first, first + keys):
    text = f"{n * 2654435761 % 2**64:020d}" * (value // 20 + 1)
    sys.stdout.write(f"*3\r\n$3\r\nSET\r\n$12\r\nkey:{n:08d}\r\n${value}\r\n{text[:value]}\r\n")
END
}

for run in $(seq "$runs"); do
    home=$dir/$run
    "$binary" ca init --realm bench --dir "$home/ca" >/dev/null
    for node in a b; do
        "$binary" ca issue $node --dir "$home/ca" --out "$home/$node" >/dev/null
        declare "quic_$node=$(free_port)" "resp_$node=$(free_port)"
        quic=quic_$node resp=resp_$node
        "$binary" run --data-dir "$home/$node" --http off --listen "127.0.0.1:${!quic}" \
            --resp "127.0.0.1:${!resp}" >"$home/$node.log" 2>&1 &
        pids+=($!)
        await "${!resp}"
    done
    fill "$resp_a" 0
    fill "$resp_b" $((keys - keys / 3))
    python3 - "$run" "$resp_a" "$resp_b" "$quic_b" "$home/a/admin.sock" $((2 * keys - keys / 3)) <<'END'
import socket, subprocess, sys, threading, time
run, resp_a, resp_b, quic_b, admin, wanted = *map(int, sys.argv[1:5]), sys.argv[5], int(sys.argv[6])

def connect(port):
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s

def size(s):
    s.sendall(b"DBSIZE\r\n")
    return int(s.recv(64)[1:])

def sets(s, until):
    took = []
    while not until():
        began = time.perf_counter()
        s.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nlive\r\n$1\r\nx\r\n")
        assert s.recv(64) == b"+OK\r\n"
        took.append(time.perf_counter() - began)
    return took

def told(took):
    took.sort()
    at = lambda share: took[min(len(took) - 1, int(len(took) * share))] * 1e6
    return f"p50 {at(.5):.0f} us, p99 {at(.99):.0f} us, most {took[-1] * 1e6:.0f} us of {len(took)}"

writer, a, b = connect(resp_a), connect(resp_a), connect(resp_b)
end = time.perf_counter() + 2
before = told(sets(writer, lambda: time.perf_counter() > end))
healed = []

def watch():
    while size(a) < wanted + 1 or size(b) < wanted + 1:
        time.sleep(0.002)
    healed.append(time.perf_counter())

began = time.perf_counter()
subprocess.run(["curl", "-s", "--unix-socket", admin, "-X", "POST", "-H", "content-type: application/json",
    "-d", f'{{"address": "127.0.0.1:{quic_b}"}}', "http://tidings/v1/peers"], check=True, stdout=subprocess.DEVNULL)
watcher = threading.Thread(target=watch)
watcher.start()
during = told(sets(writer, lambda: healed))
print(f"{run}: before: {before}; while it heals: {during}; healed after {(healed[0] - began) * 1e3:.0f} ms")
END
done
