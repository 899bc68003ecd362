#!/usr/bin/env bash
# One node beside redis-server, both with a log synced every second, on this
# machine and in the same minutes: alternating runs of redis-benchmark, medians
# and their ratio. Without pipelining, and with one of 16, on a key of each kind; then with
# that on a million keys. The node has a linked peer that replicates if PEERS=1.
#
#   benches/redis.sh                 5 runs each, no peer
#   RUNS=9 PEERS=1 benches/redis.sh
#
# Needs redis-server and redis-benchmark, and a release build of tidings.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-5} peers=${PEERS:-0} plain=${PLAIN:-200000} piped=${PIPED:-2000000} clients=${CLIENTS:-50}
tests=${TESTS:-set,get,incr,sadd}
binary=${CARGO_TARGET_DIR:-target}/release/tidings
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
    for _ in $(seq 200); do redis-cli -p "$1" ping >/dev/null 2>&1 && return; sleep 0.05; done
    echo "nothing answers on port $1" >&2
    exit 1
}

redis=$(free_port)
mkdir "$dir/redis"
redis-server --port "$redis" --bind 127.0.0.1 --dir "$dir/redis" --save "" \
    --appendonly yes --appendfsync everysec >"$dir/redis.log" &
pids+=($!)
await "$redis"

"$binary" ca init --realm bench --dir "$dir/ca" >/dev/null
tidings=$(free_port) quic=$(free_port)
node() { # name resp quic [flags]
    "$binary" ca issue "$1" --dir "$dir/ca" --out "$dir/$1" >/dev/null
    "$binary" run --data-dir "$dir/$1" --resp "127.0.0.1:$2" --listen "127.0.0.1:$3" \
        --advertise "127.0.0.1:$3" --http off "${@:4}" >"$dir/$1.log" 2>&1 &
    pids+=($!)
    await "$2"
}
node a "$tidings" "$quic"
if [ "$peers" != 0 ]; then node b "$(free_port)" "$(free_port)" --join "127.0.0.1:$quic"; fi

run() { # port requests flags: lines "TEST ops/s"
    redis-benchmark -p "$1" -t "$tests" -c "$clients" -n "$2" "${@:3}" --csv 2>/dev/null |
        awk -F'","|",|"' 'NR > 1 { print $2, $3 }' | sed 's/ *$//'
}

series() { # label requests flags
    rm -f "$dir"/*.ops
    for _ in $(seq "$runs"); do
        run "$redis" "$2" "${@:3}" | awk -v f="$dir/redis" '{ print $2 > (f "." $1 ".ops"); close(f "." $1 ".ops") }
            { system("cat " f "." $1 ".ops >> " f "." $1 ".all.ops") }'
        run "$tidings" "$2" "${@:3}" | awk -v f="$dir/tidings" '{ print $2 > (f "." $1 ".ops"); close(f "." $1 ".ops") }
            { system("cat " f "." $1 ".ops >> " f "." $1 ".all.ops") }'
    done
    for file in "$dir"/redis.*.all.ops; do
        test=${file#"$dir"/redis.}
        test=${test%.all.ops}
        paste "$file" "$dir/tidings.$test.all.ops" | awk -v test="$test" -v label="$1" '
            { r[NR] = $1; t[NR] = $2; q[NR] = $2 / $1 }
            function median(v, n,   i, j, x) {
                for (i = 2; i <= n; i++) { x = v[i]; for (j = i - 1; j > 0 && v[j] > x; j--) v[j + 1] = v[j]; v[j + 1] = x }
                return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
            }
            END {
                m = median(q, NR)
                printf "%-14s %-5s redis %9.0f/s   tidings %9.0f/s   ratio %.2f (%.2f to %.2f)\n",
                    label, test, median(r, NR), median(t, NR), m, q[1], q[NR]
            }'
    done
}

series "no pipelining" "$plain"
series "pipeline 16" "$piped" -P 16
series "-P 16, spread" "$piped" -P 16 -r 1000000
