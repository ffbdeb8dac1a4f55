"""The pool's time is shared by weights: what the rows say each key and workspace got while all of them had work waiting, with
weights that were set through the API. Device seconds are the engine's count of the simulated device's steps. Saturated means that
promises cannot be kept: those of this server are shorter than a step."""

import asyncio
import concurrent.futures
import json
import time

import pytest

from server_process import MODEL, Server

TOKENS = 8        # of an answer: short, so that what straddles the ends of the window is little
STEP_MS = 10
SEQUENCES = 8     # of a step: far fewer than wait
OPEN = 100        # requests that each group keeps open
WARM_S, WINDOW_S = 5.0, 5.0
WINDOWS = 4       # a machine that stood still may spoil one: what waited for it was not there to be served


@pytest.fixture(scope="module")
def server():
    with Server("--simulated", settings={
            "TIDEPOOL_SIMULATED_STEP_MS": str(STEP_MS), "TIDEPOOL_POOL_MAX_SEQUENCES": str(SEQUENCES),
            "TIDEPOOL_POOL_ADMISSION_LOAD": "0",
            "TIDEPOOL_POOL_AGE_BOUND_S": "600", "TIDEPOOL_POOL_SPECULATION": "false", "TIDEPOOL_POOL_CALIBRATE": "false", "TIDEPOOL_LOG_LEVEL": "error"}) as running:
        running.ask("POST", "/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1})  # it has a policy now
        running.ask("POST", "/api/v1/pool/policy", {"model": MODEL, "ttft_s": 0.01, "tpot_s": 0.001})
        yield running


def workspace(server, name, weight):
    made = server.ask("POST", "/api/v1/workspaces", {"name": name})["id"]
    changed = server.ask("PATCH", f"/api/v1/workspaces/{made}", {"weight": weight})
    assert changed["weight"] == weight
    return made


def key(server, where, name, weight=1):
    made = server.ask("POST", "/api/v1/keys", {"name": name, "service": True, "workspace": where})
    if weight != 1:
        assert server.ask("PATCH", f"/api/v1/keys/{made['id']}", {"weight": weight})["weight"] == weight
    return made


class Senders:
    """Keeps requests open under each key until the end of the block."""

    def __init__(self, server, streams):
        self.host, self.port = server.url.split("//")[1].split(":")
        self.streams = streams  # [(key, how many)]
        self.stopping = False
        self.failures = []

    async def _one(self, secret, salt):
        body = json.dumps({"model": MODEL, "max_tokens": TOKENS, "messages": [
            {"role": "user", "content": f"[[tokens:{TOKENS - 1}]]{salt}"}]}).encode()
        head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {secret}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode()
        reader, writer = await asyncio.open_connection(self.host, int(self.port))
        while not self.stopping:
            writer.write(head + body)
            status = (await reader.readline()).split()[1]
            length = 0
            while (line := await reader.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            reply = await reader.readexactly(length)
            if status != b"200":
                self.failures.append(reply)
                break
        writer.close()

    async def _all(self):
        await asyncio.gather(*(self._one(made["key"], f"{made['id']} {i}") for made, count in self.streams for i in range(count)))

    def __enter__(self):
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._work = self._pool.submit(lambda: asyncio.run(self._all()))
        return self

    def __exit__(self, *_):
        self.stopping = True
        self._work.result(60)
        self._pool.shutdown()


def device_seconds(server, by, begin, end):
    rows = server.ask("GET", f"/api/v1/usage?group_by={by}&from={begin}&to={end}&limit=1000")["data"]
    return {row[by]: row["device_seconds"] for row in rows}


def off(seconds, weights):
    """The most that any share errs from its weight's."""
    total, whole = sum(seconds[name] for name in weights), sum(weights.values())
    return max(abs(seconds[name] / total / (weight / whole) - 1) for name, weight in weights.items())


def time_text(at):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"


def test_device_time_follows_the_weights_of_workspaces_and_keys(server):
    # A workspace with fifty keys beside one with a single key: the same weight, the same time. A third has three times their
    # weight, and two keys in it stand 1:3.
    many, single, two = workspace(server, "many", 1), workspace(server, "single", 1), workspace(server, "two", 3)
    fifty = [key(server, many, f"many {i}") for i in range(50)]
    alone = key(server, single, "alone")
    light, heavy = key(server, two, "light"), key(server, two, "heavy", weight=3)
    streams = [(one, 2) for one in fifty] + [(alone, OPEN), (light, OPEN), (heavy, OPEN)]
    worst = []
    with Senders(server, streams) as senders:
        time.sleep(WARM_S)
        for _ in range(WINDOWS):
            begin = time.time()
            time.sleep(WINDOW_S)
            waiting = server.ask("GET", "/api/v1/requests/running?limit=1")["total"]
            end = time.time()
            assert waiting > 3 * SEQUENCES, "too little waits: this shows nothing"
            time.sleep(1)  # rows are visible within a second
            bounds = time_text(begin), time_text(end)
            workspaces = device_seconds(server, "workspace", *bounds)
            keys = device_seconds(server, "key", *bounds)
            worst.append(max(off(workspaces, {many: 1, single: 1, two: 3}), off(keys, {light["id"]: 1, heavy["id"]: 3})))
            print({"many": workspaces.get(many), "single": workspaces.get(single), "two": workspaces.get(two)},
                  {name: keys.get(one["id"]) for name, one in (("light", light), ("heavy", heavy), ("alone", alone))}, worst)
            if worst[-1] <= 0.1:
                break
    assert not senders.failures, senders.failures[:3]
    assert worst[-1] <= 0.1, worst
