#!/usr/bin/env python3
"""What keys, limits, the meter and the store cost a client, over HTTP, with the simulated model.

    bench/ledger_http.py cost  [--rate 500] [--seconds 10] [--rounds 5]     # time to the first and to the last byte
    bench/ledger_http.py noise [--rate 50]  [--seconds 10] [--rounds 5]     # a key at 20 times its limit beside another

cost: the same load in turns against `none` (the gateway and the engine alone), `null store` (metered, rows end in the
journal: both build/src/gateway/metering_server) and `whole` (the binary with a key, limits and budgets of every scope, prices,
SQLite); what `whole` adds to the p99 of the first byte, and its p50 against the null store's; rows/s and the disk's fdatasync.
noise: the p99 of a quiet key's first byte while another sends exactly its limit, and 20 times it, in turns; what sends
the noise is niced, for it shares the server's processors only here.

Each turn of one is compared with the same turn of the other, and the median of the turns counts: a burst of something else on
the machine meets one turn. Requests are sent by the clock, whether answers came or not, over connections that stay open; times are from the moment of
sending. `late_p99_ms` says how late this program itself was, of which a millisecond is its clock's; where it is more, the
figures are its own. Only the standard
library. Exit status 1 beyond the goals (1 ms, 1.2 times; 1.2 times), with --check.
"""

import argparse
import collections
import json
import multiprocessing
import os
import pathlib
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from server_process import MODEL, Server  # noqa: E402

WARM_S = 1.0


class Connection:
    """One request at a time on a connection that stays open."""

    __slots__ = ("socket", "lane", "sent_at", "first_at", "tail", "left", "status")

    def __init__(self, lane, address):
        self.lane, self.sent_at = lane, None
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)


class Lane:
    """What one key sends at a steady rate, and what came of it."""

    def __init__(self, url, key, rate, tokens):
        host, port = url.split("//")[1].split(":")
        self.address, self.rate = (host, int(port)), rate
        body = json.dumps({"model": MODEL, "stream": True, "max_tokens": tokens + 8,
                           "messages": [{"role": "user", "content": f"[[tokens:{tokens}]]"}]}).encode()
        self.payload = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
                        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
        self.idle = []
        self.first_ms, self.end_ms, self.late_ms = [], [], []
        self.statuses = collections.Counter()

    def clear(self):
        self.first_ms, self.end_ms, self.late_ms = [], [], []
        self.statuses = collections.Counter()


def drive(lanes, seconds):
    """Sends for so long, then waits for the answers. Connections are opened beforehand, more where they are wanted."""
    selector = selectors.DefaultSelector()
    clock = time.perf_counter

    def connect(lane):
        connection = Connection(lane, lane.address)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    for lane in lanes:
        lane.idle = [connect(lane) for _ in range(32)]
    start = clock() + 0.05
    due, left = [start] * len(lanes), [round(lane.rate * seconds) for lane in lanes]
    end, open_requests = start + seconds, 0
    while True:
        now = clock()
        if not any(left) and open_requests == 0:
            break
        if now >= end + 30:
            raise RuntimeError(f"{open_requests} requests have no answer after 30 s")
        for i, lane in enumerate(lanes):
            while left[i] and due[i] <= now:
                connection = lane.idle.pop() if lane.idle else connect(lane)
                connection.first_at, connection.tail, connection.left, connection.status = None, b"", None, None
                connection.sent_at = clock()
                lane.late_ms.append((connection.sent_at - due[i]) * 1e3)
                connection.socket.send(lane.payload)
                open_requests += 1
                left[i] -= 1
                due[i] += 1 / lane.rate
        wait = max(0.0, min((due[i] for i in range(len(lanes)) if left[i]), default=clock() + 0.05) - clock())
        for ready, _ in selector.select(wait):
            connection = ready.data
            data = connection.socket.recv(65536)
            now = clock()
            if connection.sent_at is None:
                selector.unregister(connection.socket)
                connection.lane.idle.remove(connection)  # the server closed an idle one
                continue
            if not data:
                raise RuntimeError("the server closed a connection within an answer")
            if take(connection, data, now):
                lane = connection.lane
                lane.statuses[connection.status] += 1
                if connection.status == 200:
                    lane.first_ms.append((connection.first_at - connection.sent_at) * 1e3)
                    lane.end_ms.append((now - connection.sent_at) * 1e3)
                connection.sent_at = None
                lane.idle.append(connection)
                open_requests -= 1
    for lane in lanes:
        for connection in lane.idle:
            connection.socket.close()
        lane.idle = []
    selector.close()


def take(connection, data, now):
    """One piece of an answer; True at its end."""
    data = connection.tail + data
    if connection.status is None:
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            connection.tail = data
            return False
        head, data = data[:head_end].lower(), data[head_end + 4:]
        connection.status = int(head[9:12])
        at = head.find(b"content-length:")
        connection.left = None if at < 0 else int(head[at + 15:].split(b"\r\n", 1)[0])
    if connection.first_at is None and b"data: {" in data:
        connection.first_at = now
    if connection.left is not None:
        connection.left -= len(data)
        connection.tail = b""
        return connection.left <= 0
    connection.tail = data[-16:]
    return data.endswith(b"0\r\n\r\n")  # the last chunk


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def figures(lanes):
    def of(name, share):
        return round(percentile([v for lane in lanes for v in getattr(lane, name)], share), 3)
    return {"requests": sum(sum(lane.statuses.values()) for lane in lanes),
            "first_p50_ms": of("first_ms", 0.5), "first_p99_ms": of("first_ms", 0.99),
            "end_p50_ms": of("end_ms", 0.5), "end_p99_ms": of("end_ms", 0.99), "late_p99_ms": of("late_ms", 0.99),
            "first_p99_ms_of_turns": [round(percentile(lane.first_ms, 0.99), 3) for lane in lanes]}


def median(values):
    return round(statistics.median(values), 3)


def ratio(ones, others, name, share):
    return median(percentile(getattr(one, name), share) / percentile(getattr(other, name), share)
                  for one, other in zip(ones, others))


def fdatasync_ms(folder):
    """Appends of 4 KiB into zeros that are there already, as the journal's."""
    path = pathlib.Path(folder) / "sync"
    times = []
    with open(path, "w+b", buffering=0) as file:
        file.write(bytes(4 << 20))
        os.fdatasync(file.fileno())
        for i in range(200):
            os.pwrite(file.fileno(), b"x" * 4096, i * 4096)
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begin) * 1e3)
    path.unlink()
    return round(percentile(times, 0.5), 3), round(percentile(times, 0.99), 3)


class MeteringServer:
    """build/src/gateway/metering_server: the gateway without the ledger, or without the store."""

    def __init__(self, kind, step_ms, folder):
        self.command = [str(ROOT / "build/src/gateway/metering_server"), kind, str(step_ms)]
        self.environment = os.environ | {"TMPDIR": str(folder)}
        self.key = "none"

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=self.environment)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"{self.command[0]} did not start; cmake -B build -DTIDEPOOL_BENCH=ON, ninja -C build metering_server")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)


def settings(step_ms):
    return {"TIDEPOOL_SIMULATED_STEP_MS": str(step_ms), "TIDEPOOL_LOG_LEVEL": "error", "TIDEPOOL_POOL_CALIBRATE": "false",
            "TIDEPOOL_POOL_SPECULATION": "false"}


def set_rules(server):
    """Every kind of rule at work, none refusing. Returns a service key's secret."""
    made = server.ask("POST", "/api/v1/keys", {"name": "bench", "service": True})
    for scope in ("organisation:default", "workspace:default", f"key:{made['id']}"):
        server.ask("PUT", "/api/v1/limits", {"scope": scope, "requests_per_minute": 10**8, "tokens_per_minute": 10**11,
                                             "tokens_per_day": 10**12, "concurrent_requests": 10**6})
        server.ask("POST", "/api/v1/budgets", {"scope": scope, "amount": "1000000000"})
    server.ask("POST", "/api/v1/prices", {"currency": "EUR", "models": [
        {"model": "*", "tiers": [{"input": "1", "cached_input": "1", "output": "2"}]}]})
    return made["key"]


def rows_stored(server):
    return server.ask("GET", "/api/v1/usage")["data"][0]["requests"]


def cost(arguments, folder):
    """In turns, each on a server that has just been started: what comes and goes on the machine meets all three."""
    lanes = {"none": [], "null store": [], "whole": []}
    out = {"rate_per_s": arguments.rate, "seconds": arguments.seconds * arguments.rounds}
    syncs = []
    stored, stored_s = 0, 0.0
    for turn in range(arguments.rounds):
        syncs.append(fdatasync_ms(folder))
        for kind, kept in lanes.items():
            home = pathlib.Path(folder) / f"{kind.replace(' ', '-')}-{turn}"
            home.mkdir()
            whole = kind == "whole"
            with (Server("--simulated", home=home, settings=settings(arguments.step_ms)) if whole else
                  MeteringServer("none" if kind == "none" else "null", arguments.step_ms, home)) as server:
                lane = Lane(server.url, set_rules(server) if whole else server.key, arguments.rate, arguments.tokens)
                drive([lane], WARM_S)
                lane.clear()
                begin = time.perf_counter()
                before = rows_stored(server) if whole else 0
                drive([lane], arguments.seconds)
                if set(lane.statuses) != {200}:
                    raise RuntimeError(f"{kind}: {dict(lane.statuses)}")
                if whole:
                    wanted = before + sum(lane.statuses.values())
                    while rows_stored(server) < wanted and time.perf_counter() - begin < arguments.seconds + 10:
                        time.sleep(0.01)
                    stored += rows_stored(server) - before
                    stored_s += time.perf_counter() - begin
                kept.append(lane)
    out["fdatasync_p50_ms"], out["fdatasync_p99_ms"] = (median(values) for values in zip(*syncs))
    for kind, kept in lanes.items():
        out[kind] = figures(kept)
    for name, share in (("p99", 0.99), ("p50", 0.5)):
        out[f"added_to_first_{name}_ms"] = median(percentile(whole.first_ms, share) - percentile(none.first_ms, share)
                                                  for whole, none in zip(lanes["whole"], lanes["none"]))
    for name in ("first", "end"):
        out[f"{name}_p50_against_null_store"] = ratio(lanes["whole"], lanes["null store"], f"{name}_ms", 0.5)
    out["usage_rows_per_s"] = round(stored / stored_s, 1)
    good = (out["added_to_first_p99_ms"] < 1 and out["first_p50_against_null_store"] <= 1.2 and
            out["end_p50_against_null_store"] <= 1.2)
    return out, good


def noise(arguments, folder):
    """One server; the noisy key is a process of its own, so that its load does not delay the quiet one's clock."""
    out = {"limit_per_s": arguments.rate, "quiet_per_s": arguments.quiet_rate, "seconds": arguments.seconds * arguments.rounds}
    quiet = {1: [], 20: []}
    refused = {1: 0, 20: 0}
    with Server("--simulated", home=folder, settings=settings(arguments.step_ms)) as server:
        noisy = server.ask("POST", "/api/v1/keys", {"name": "noisy", "service": True})
        other = server.ask("POST", "/api/v1/keys", {"name": "quiet", "service": True})
        server.ask("PUT", "/api/v1/limits", {"scope": f"key:{noisy['id']}", "requests_per_minute": int(arguments.rate * 60),
                                             "burst_s": 1})
        drive([Lane(server.url, other["key"], arguments.quiet_rate, arguments.tokens)], WARM_S)
        for _ in range(arguments.rounds):
            for times in (1, 20):
                told = multiprocessing.Queue()
                process = multiprocessing.Process(target=make_noise, args=(
                    told, server.url, noisy["key"], arguments.rate * times, arguments.tokens, arguments.seconds + WARM_S))
                process.start()
                time.sleep(WARM_S)
                lane = Lane(server.url, other["key"], arguments.quiet_rate, arguments.tokens)
                drive([lane], arguments.seconds)
                statuses = told.get(timeout=60)
                process.join()
                if set(lane.statuses) != {200} or set(statuses) - {200, 429}:
                    raise RuntimeError(f"quiet: {dict(lane.statuses)}, noisy: {statuses}")
                refused[times] += statuses.get(429, 0)
                quiet[times].append(lane)
    for times, kept in quiet.items():
        out[f"noisy_at_{times}x"] = figures(kept) | {"noisy_refused": refused[times]}
    out["first_p99_ratio"] = ratio(quiet[20], quiet[1], "first_ms", 0.99)
    return out, out["first_p99_ratio"] <= 1.2


def make_noise(told, url, key, rate, tokens, seconds):
    os.nice(19)  # it stands for another machine: the server and the quiet sender come first
    lane = Lane(url, key, rate, tokens)
    drive([lane], seconds)
    told.put(dict(lane.statuses))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "noise"))
    parser.add_argument("--rate", type=float, help="requests/s: of all (500), or the noisy key's limit (50)")
    parser.add_argument("--quiet-rate", type=float, default=100, help="noise: requests/s of the other key")
    parser.add_argument("--seconds", type=float, default=10, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=6, help="of each answer")
    parser.add_argument("--step-ms", type=float, help="modelled time of a step of the device (cost: 0; noise: 1)")
    parser.add_argument("--check", action="store_true", help="fail beyond the goals")
    arguments = parser.parse_args()
    os.environ.setdefault("TIDEPOOL_BINARY", str(ROOT / "build/tidepool"))
    arguments.rate = arguments.rate or (500 if arguments.what == "cost" else 50)
    if arguments.step_ms is None:
        arguments.step_ms = 0 if arguments.what == "cost" else 1
    with tempfile.TemporaryDirectory(prefix="tidepool-ledger-http-") as folder:
        out, good = (cost if arguments.what == "cost" else noise)(arguments, folder)
    print(json.dumps(out, indent=2))
    if arguments.check and not good:
        sys.exit("beyond the goals")


if __name__ == "__main__":
    main()
