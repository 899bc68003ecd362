#!/usr/bin/env python3
"""What it costs to bring a node up to date, beside other software at the same tasks, in one run on this machine.

    benches/reconciliation.py                 everything, some minutes
    benches/reconciliation.py --short         the same with 10,000 keys and the dev profile, under a minute; its figures mean little
    benches/reconciliation.py --without-peers tidings alone, and the raw transport

It runs in a network of its own, with nothing but a loopback device, whose counters tell what was carried: bytes of
UDP payload, of both directions, the same count for all. Needs unshare, ip and redis-cli. Builds what it measures; the
peers (benches/peers) are a crate apart, of which CI knows nothing.
"""

import base64
import http.client
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHORT = "--short" in sys.argv
PEERS = "--without-peers" not in sys.argv
INSIDE = "RECONCILIATION_BINARIES"
PAIRS = 1 if SHORT else 5
SMALL = 10_000 if SHORT else 100_000
LARGE = 10_000 if SHORT else 1_000_000
MISSING = [1, 10, 100, 1_000]
HEADERS = 14 + 20 + 8  # Ethernet, IPv4 and UDP, of a packet on the loopback device
PATIENCE = 120


def build():
    """What is to be measured, built; paths by name."""
    options = ["--message-format=json-render-diagnostics"] + ([] if SHORT else ["--release"])
    build = ["cargo", "build"] + options
    jobs = [(build + ["--bin", "tidings", "--bench", "reconcile", "--bench", "raw_quic"], None)]
    jobs.append((["cargo", "test", "--no-run", "--test", "heal"] + options, None))
    if PEERS:
        target = os.path.join(ROOT, "target", "peers")
        jobs.append((build + ["--locked", "--manifest-path", "benches/peers/Cargo.toml"], target))
    found = {}
    for command, target in jobs:
        env = dict(os.environ, CARGO_TARGET_DIR=target) if target else None
        output = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
        for message in map(json.loads, output.splitlines()):
            if message.get("executable"):
                found[message["target"]["name"]] = message["executable"]
    return found


def move_in(binaries):
    """Starts this script anew in a network of its own."""
    os.environ[INSIDE] = json.dumps(binaries)
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    os.execvp("unshare", unshare + [sys.executable] + sys.argv)


def carried():
    """Bytes of UDP payload that have gone over the loopback device."""
    with open("/proc/net/dev") as table:
        row = next(line.split(":")[1].split() for line in table if line.strip().startswith("lo:"))
    return int(row[8]) - HEADERS * int(row[9])


class Admin(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("tidings")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Node:
    """A node of its own process, with its data in a directory."""

    def __init__(self, name, quic, *arguments):
        self.home, self.quic = os.path.join(DIR, name), quic
        listen = f"127.0.0.1:{quic}"
        binary = BINARIES["tidings"]
        if not os.path.exists(self.home):
            run(binary, "ca", "issue", name, "--dir", f"{DIR}/ca", "--out", self.home)
        self.log = open(self.home + ".log", "a")
        self.process = subprocess.Popen(
            [binary, "run", "--data-dir", self.home, "--http", "off", "--listen", listen, "--advertise", listen]
            + list(arguments),
            stdout=self.log,
            stderr=self.log,
        )
        RUNNING.append(self.process)

    def keys(self):
        try:
            admin = Admin(os.path.join(self.home, "admin.sock"))
            admin.request("GET", "/v1/status")
            return json.load(admin.getresponse())["keys"]
        except (OSError, http.client.HTTPException):
            return -1

    def await_keys(self, keys):
        patience = time.monotonic() + PATIENCE
        while self.keys() != keys:
            if time.monotonic() > patience or self.process.poll() is not None:
                sys.exit(f"{self.home} does not get there: {open(self.log.name).read()[-2000:]}")
            time.sleep(0.005)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def write(port, numbers, size):
    """Sets keys to values that no compression makes much smaller."""
    chance = random.Random(size)
    commands = []
    for n in numbers:
        value = base64.b64encode(chance.randbytes(size))[:size].decode()
        commands.append(f"*3\r\n$3\r\nSET\r\n$12\r\nkey:{n:08d}\r\n${size}\r\n{value}\r\n")
    subprocess.run(
        ["redis-cli", "-p", str(port), "--pipe"], input="".join(commands), text=True, check=True, stdout=subprocess.PIPE
    )


def settle():
    """Lets what is under way arrive, and the log get to the disk."""
    time.sleep(0.2 if SHORT else 2)


def timed(start, keys):
    """Starts a node; how long until it shows so many keys, and what was carried until then."""
    began, before = time.monotonic(), carried()
    node = start()
    node.await_keys(keys)
    return node, time.monotonic() - began, carried() - before


def blank(source, keys, times, between=lambda: None):
    """A node without anything takes everything."""
    found = []
    for n in range(times):
        between()
        start = lambda: Node(f"blank-{keys}-{n}", 7500, "--resp", "off", "--join", f"127.0.0.1:{source.quic}")
        node, took, moved = timed(start, keys)
        found.append((took, moved))
        node.stop()
        shutil.rmtree(node.home)
    return found


def small(times):
    """Small keys: a blank node, and one that was away while some were written."""
    source = Node("small", 7501, "--resp", "127.0.0.1:7400")
    source.await_keys(0)
    write(7400, (20 * n for n in range(SMALL)), 16)
    settle()
    rows = {"blank": blank(source, SMALL, times)}
    join = ["--resp", "off", "--join", f"127.0.0.1:{source.quic}"]
    other = Node("away", 7502, *join)
    other.await_keys(SMALL)
    keys = SMALL
    for n, missing in enumerate(MISSING):
        rows[str(missing)] = []
        for again in range(times):
            settle()
            other.stop()
            step = SMALL // missing
            write(7400, (20 * i * step + 1 + again * len(MISSING) + n for i in range(missing)), 16)
            keys += missing
            settle()
            other, took, moved = timed(lambda: Node("away", 7502, *join), keys)
            rows[str(missing)].append((took, moved))
    other.stop()
    source.stop()
    return rows


def raw(megabytes):
    """What QUIC alone carries: MB/s."""
    line = run(BINARIES["raw_quic"], env=dict(os.environ, MEGABYTES=str(megabytes)))
    return float(line.split(", ")[1].split()[0])


def large_source():
    return Node("large", 7503, "--resp", "127.0.0.1:7401", "--log-memory", "0")


def large():
    """A million rows of 100 bytes: in turn with the raw transport (raw MB/s, seconds, bytes); and resumed, by who was killed (seconds, bytes)."""
    source = large_source()
    source.await_keys(0)
    for first in range(0, LARGE, 100_000):
        write(7401, range(first, min(LARGE, first + 100_000)), 88)
    source.await_keys(LARGE)
    settle()
    rates = []
    blanks = blank(source, LARGE, PAIRS, lambda: rates.append(raw(max(2, LARGE * 118 // 1_000_000))))
    whole = median([moved for _, moved in blanks])
    resumed = {}
    for victim in ["receiver", "sender"]:
        for n in range(1 if SHORT else 3):
            source, found = resume(source, f"{victim}-{n}", victim, whole)
            resumed.setdefault(victim, []).append(found)
    source.stop()
    return [(rate, took, moved) for rate, (took, moved) in zip(rates, blanks)], resumed


def resume(source, name, victim, whole):
    """A blank node takes everything; when half of it has been carried, one side is killed and started again."""
    start = lambda: Node(name, 7504, "--resp", "off", "--join", f"127.0.0.1:{source.quic}")
    began, before = time.monotonic(), carried()
    node = start()
    while carried() - before < whole / 2:
        time.sleep(0.001)
    killed = node if victim == "receiver" else source
    killed.process.kill()
    killed.process.wait()
    if victim == "receiver":
        node = start()
    else:
        source = large_source()
    node.await_keys(LARGE)
    found = time.monotonic() - began, carried() - before
    node.stop()
    shutil.rmtree(node.home)
    return source, found


def peers(which, times):
    rows = {}
    for _ in range(times):
        arguments = [which, str(SMALL), "16"] + [str(missing) for missing in MISSING]
        for line in run(BINARIES["peers"], *arguments).splitlines():
            what, took, moved = line.split()
            rows.setdefault(what, []).append((float(took), int(moved)))
    return rows


def median(values):
    return statistics.median(values)


def amount(number):
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def cell(found):
    times, bytes_ = zip(*found)
    took = median(times)
    took = f"{1000 * took:.0f} ms" if took >= 0.01 else f"{1000 * took:.1f} ms"
    return f"{took}, {amount(median(bytes_))}"


def goal(what, value, bound, unit=""):
    print(f"  {'holds' if value <= bound else 'FAILS':<6} {what}: {value:,.2f}{unit}, goal at most {bound:,}{unit}")


def main():
    run("ip", "link", "set", "lo", "up")
    run(BINARIES["tidings"], "ca", "init", "--realm", "bench", "--dir", f"{DIR}/ca")
    print(f"\nTwo engines and a link that counts, {LARGE:,} cells of 100 bytes:\n", flush=True)
    print(run(BINARIES["reconcile"], "--bench", env=dict(os.environ, CELLS=str(LARGE))), flush=True)

    print("Two sides that wrote while they were apart (tests/heal.rs):\n")
    heal = run(BINARIES["heal"], "--nocapture", "--test-threads", "1", stderr=subprocess.STDOUT)
    print("\n".join("  " + line.split("; sent by each")[0] for line in heal.splitlines() if "nodes lacked" in line) + "\n", flush=True)

    found, resumed = large()
    rates, times, moved = ([row[n] for row in found] for n in range(3))
    rows = LARGE * 100
    shares = [rows / took / 1e6 / rate for rate, took, _ in found]
    print(f"A blank node takes {LARGE:,} rows of 100 bytes, in turn with the raw transport, medians of {PAIRS}:\n")
    print(f"  raw QUIC   {median(rates):6.0f} MB/s  ({min(rates):.0f} to {max(rates):.0f})")
    print(f"  blank node {rows / median(times) / 1e6:6.0f} MB/s of rows, {median(times):.2f} s ({min(times):.2f} to {max(times):.2f}), {amount(median(moved))}")
    print(f"  share of the raw transport {median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})\n", flush=True)

    print("Killed when half had been carried, and started again; seconds from the first start, bytes beyond those of a run without:\n")
    repeated = {}
    for victim, runs in resumed.items():
        took, more = (median(column) for column in zip(*runs))
        repeated[victim] = max(0, more - median(moved))
        print(f"  the {victim:<9} {took:.2f} s, {amount(repeated[victim])}")
    print(flush=True)

    names = ["reconcile", "chitchat"] if PEERS else []
    tables = {name: {} for name in ["tidings"] + names}
    for _ in range(1 if SHORT else 3):
        for name in names:
            for what, more in peers(name, 1).items():
                tables[name].setdefault(what, []).extend(more)
    tables["tidings"] = small(1 if SHORT else 3)
    print(f"{SMALL:,} rows of 12 + 16 bytes; time and bytes of UDP payload, medians of {1 if SHORT else 3}:\n")
    print(f"| missing | {' | '.join(tables)} |")
    print(f"|---|{'---|' * len(tables)}")
    for what in ["blank"] + [str(missing) for missing in MISSING]:
        print(f"| {what} | {' | '.join(cell(table[what]) for table in tables.values())} |")

    before = carried()
    raw(0)
    print(f"\nA connection of the raw transport alone, opened and closed: {amount(carried() - before)}")

    if SHORT:
        return
    print("\nGoals:\n")
    took, size = (median(column) for column in zip(*tables["tidings"]["blank"]))
    if PEERS:
        goal("blank, small keys, time over that of reconcile", took / median([t for t, _ in tables["reconcile"]["blank"]]), 1.0)
    goal("blank, small keys, bytes", size / 1e6, 4, " MB")
    goal("blank, rows of 100 bytes, raw throughput over ours", 1 / median(shares), 2)
    goal("blank, rows of 100 bytes, bytes beyond the rows", 100 * (median(moved) - rows) / rows, 3, " %")
    for victim, more in repeated.items():
        goal(f"what a kill of the {victim} repeats, in blocks of 256 KiB", more / (256 << 10), 1)
    print("\nWhat equal nodes, missing ops and heals may cost is held to its bounds above: those runs fail beyond them.")


if INSIDE in os.environ:
    BINARIES = json.loads(os.environ[INSIDE])
    DIR = tempfile.mkdtemp()
    RUNNING = []
    try:
        main()
    finally:
        for process in RUNNING:
            process.kill()
            process.wait()
        shutil.rmtree(DIR)
else:
    move_in(build())
