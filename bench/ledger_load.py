#!/usr/bin/env python3
"""Is every token metered once? Streams over many keys with cancels, disconnects and errors against the simulated model, whose
device keeps a count of its own (simulated.tally); then every usage row is compared with that count, to the token, alone and
summed by key and model, and the bill with the rows, to the token and the last digit of its amounts.

    bench/ledger_load.py --seconds 600 --streams 1000 --keys 50      # the soak
    bench/ledger_load.py --kills 200                                 # kill -9 at random moments under load

Only the standard library. Exit status 1 if a row is missing, there twice, or wrong, or the bill is another sum. Rows are read from the store's file with
sqlite3, not through the server.
"""

import argparse
import asyncio
import decimal
import json
import pathlib
import random
import sqlite3
import struct
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from server_process import MODEL, Server  # noqa: E402

INTERVAL_TOKENS = 64  # what a crash may lose of an open request (ledger.journal_tokens)
MAX_TAG = 1_000_000   # of the device's count
PRICES = {"currency": "EUR", "models": [{"model": "*", "tiers": [{"input": "0.9", "cached_input": "0.1", "output": "2.3"}]}]}


class Sent:
    """One request as its client saw it."""

    def __init__(self, tag, key):
        self.tag, self.key = tag, key
        self.sent_at = time.monotonic()
        self.done = False       # [DONE] came
        self.left = False       # the client went away
        self.fails = False      # the model fails in the middle of it
        self.status = None
        self.usage = None
        self.first_s = None

    @property
    def request_id(self):
        return f"load-{self.tag}"


async def ask(host, port, secret, sent, tokens, leave_after=None):
    """Streams one answer of `tokens` tokens; goes away after `leave_after` of its chunks."""
    script = f"[[count:{sent.tag}]][[tokens:{tokens}]]" + (f"[[fail_after:{tokens // 2}]]" if sent.fails else "")
    body = json.dumps({"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens + 8,
                       "messages": [{"role": "user", "content": script}]}).encode()
    payload = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\n"
               f"X-Request-Id: {sent.request_id}\r\nContent-Type: application/json\r\nConnection: close\r\n"
               f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    writer = None
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(payload)
        sent.status = int((await reader.readline()).split()[1])
        chunks = 0
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            if sent.first_s is None:
                sent.first_s = time.monotonic() - sent.sent_at
            if line.startswith(b"data: [DONE]"):
                sent.done = not sent.fails
                return
            if b'"usage":{' in line:
                sent.usage = json.loads(line[6:])["usage"]
            chunks += 1
            if leave_after is not None and chunks >= leave_after:
                sent.left = True
                return
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
        return  # the server was killed
    finally:
        if writer is not None:
            writer.close()


async def drive(url, keys, sents, streams, seconds, seed, next_tag, longest=400):
    """Keeps `streams` requests open for so long; a fifth of the clients leave early, and one answer of fifty fails. Returns
    the next free tag."""
    host, port = url.split("//")[1].split(":")
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    tag = next_tag

    async def one():
        nonlocal tag
        while time.monotonic() < end and tag < MAX_TAG:
            name, secret = rng.choice(keys)
            tokens = rng.randint(1, longest)
            sent = Sent(tag, name)
            tag += 1
            sent.fails = rng.random() < 0.02
            sents.append(sent)
            await ask(host, int(port), secret, sent, tokens, rng.randint(1, tokens) if rng.random() < 0.2 else None)
            if sent.status is None:
                await asyncio.sleep(0.05)  # nobody answers: it was killed
    await asyncio.gather(*(one() for _ in range(streams)))
    return tag


def rows_of(home):
    database = sqlite3.connect(f"file:{home}/tidepool.db?mode=ro", uri=True, timeout=30)
    database.row_factory = sqlite3.Row
    rows = {}
    for row in database.execute("SELECT * FROM usage_rows WHERE request_id LIKE 'load-%'"):
        rows.setdefault(row["request_id"], []).append(dict(row))
    database.close()
    return rows


class Tally:
    def __init__(self, path):
        self.data = pathlib.Path(path).read_bytes()

    def __getitem__(self, tag):
        return struct.unpack_from("<II", self.data, tag * 8)  # positions computed, tokens sampled


def compare(home, tally_path, sents):
    """Every request against the device's own count. Returns (problems, figures)."""
    rows, tally = rows_of(home), Tally(tally_path)
    problems = []
    figures = {"requests": len(sents), "finished": 0, "cancelled": 0, "failed": 0, "interrupted": 0, "prompt_tokens": 0, "tokens": 0,
               "most_lost": 0}
    by_key = {}
    for sent in sents:
        positions, sampled = tally[sent.tag]
        found = rows.get(sent.request_id, [])
        name = f"request {sent.request_id} (key {sent.key})"
        if len(found) > 1:
            problems.append(f"{name}: {len(found)} rows")
            continue
        if not found:
            if sent.done:
                problems.append(f"{name}: finished, and no row")
            elif sampled > INTERVAL_TOKENS:
                problems.append(f"{name}: no row, but the device sampled {sampled} tokens")
            elif sampled:
                figures["most_lost"] = max(figures["most_lost"], sampled)
            continue
        row = found[0]
        figures["prompt_tokens"] += row["prompt_tokens"]
        figures["tokens"] += row["output_tokens"]
        counts = by_key.setdefault((row["key_id"], row["model"]), [0, 0])
        if row["status"] == "interrupted":
            figures["interrupted"] += 1
            lost = sampled - row["output_tokens"]
            figures["most_lost"] = max(figures["most_lost"], lost)
            if sent.done:
                problems.append(f"{name}: its client saw the end, its row says interrupted")
            if not 0 <= lost <= INTERVAL_TOKENS:
                problems.append(f"{name}: the device sampled {sampled}, its row has {row['output_tokens']}")
            continue
        figures[{"done": "finished", "error": "failed"}.get(row["status"], row["status"])] += 1
        counts[0] += row["output_tokens"]
        counts[1] += sampled
        if row["output_tokens"] != sampled:
            problems.append(f"{name} ({row['status']}): the device sampled {sampled}, its row has {row['output_tokens']}")
        # The last token of an answer is not computed on; the step that failed gave none.
        if sampled and row["status"] != "error" and positions != row["prompt_tokens"] + sampled - 1:
            problems.append(f"{name}: {positions} positions computed, its row has {row['prompt_tokens']} prompt tokens")
        if sent.done and sent.usage and (sent.usage["prompt_tokens"], sent.usage["completion_tokens"]) != (
                row["prompt_tokens"], row["output_tokens"]):
            problems.append(f"{name}: the answer said {sent.usage}, its row {row['prompt_tokens']}, {row['output_tokens']}")
    extra = set(rows) - {sent.request_id for sent in sents}
    if extra:
        problems.append(f"rows of nobody: {sorted(extra)[:5]}")
    for (key, model), (metered, counted) in by_key.items():
        if metered != counted:
            problems.append(f"key {key}, model {model}: {metered} output tokens in the rows, {counted} counted by the device")
    figures["keys"] = len(by_key)
    return problems, figures


def compare_bill(server, home):
    """The bills of the months of all rows against the rows' own sums. Returns (problems, figures)."""
    database = sqlite3.connect(f"file:{home}/tidepool.db?mode=ro", uri=True, timeout=30)
    deadline = time.monotonic() + 30
    while True:  # what ended last is stored within a second
        rows = database.execute("SELECT COUNT(*) FROM usage_rows").fetchone()[0]
        time.sleep(1.5)
        if rows == database.execute("SELECT COUNT(*) FROM usage_rows").fetchone()[0] or time.monotonic() > deadline:
            break
    columns = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "amount")
    wanted = {}
    for key, model, *sums in database.execute("SELECT key_id, model, prompt_tokens, cached_tokens, output_tokens, amount_nanos FROM "
                                              "usage_rows"):
        of = wanted.setdefault((key, model), [0] * len(columns))
        for i, value in enumerate([1, *sums]):
            of[i] += value
    months = [m for (m,) in database.execute("SELECT DISTINCT strftime('%Y-%m', finished_ms / 1000, 'unixepoch') FROM usage_rows")]
    database.close()
    billed, total, lines = {}, decimal.Decimal(0), 0
    nanos = lambda amount: int(decimal.Decimal(amount).scaleb(9))  # noqa: E731
    for month in months:
        after = ""
        while after is not None:
            page = server.ask("GET", f"/api/v1/bills?month={month}&limit=1000" + (f"&after={urllib.parse.quote(after)}" if after else ""))
            for line in page["data"]:
                lines += 1
                of = billed.setdefault((line["key"], line["model"]), [0] * len(columns))
                for i, name in enumerate(columns):
                    of[i] += nanos(line[name]) if name == "amount" else line[name]
            after = page["next_cursor"]
        total += sum(decimal.Decimal(amount) for amount in page["totals"].values())
    problems = [f"bill of {key}: {billed.get(key)}, its rows {wanted.get(key)}" for key in sorted(set(wanted) | set(billed))
                if wanted.get(key) != billed.get(key)]
    of_rows = sum(sums[-1] for sums in wanted.values())
    if nanos(total) != of_rows:
        problems.append(f"the bill's total is {total}, its rows are {of_rows} billionths")
    return problems, {"bill_lines": lines, "billed": str(total)}


def settings_for(home, more=None):
    return {"TIDEPOOL_SIMULATED_TALLY": str(pathlib.Path(home) / "tally"), "TIDEPOOL_SIMULATED_STEP_MS": "1",
            "TIDEPOOL_LOG_LEVEL": "error", "TIDEPOOL_POOL_CALIBRATE": "false",
            # A rejected draft is computed by the device and owed by nobody: the tally would not be the meter's.
            "TIDEPOOL_POOL_SPECULATION": "false", **(more or {})}


def make_keys(server, count):
    """[(id, secret)]: the admin's own if one is enough."""
    if count <= 1:
        return [("admin", server.key)]
    return [(made["id"], made["key"]) for made in
            (server.ask("POST", "/api/v1/keys", {"name": f"load {i}", "service": True}) for i in range(count))]


def soak(home, seconds, streams, key_count, seed=1):
    sents = []
    with Server("--simulated", home=home, settings=settings_for(home)) as server:
        keys = make_keys(server, key_count)
        server.ask("POST", "/api/v1/prices", PRICES)
        begin = time.monotonic()
        # An hour of short answers would be more than the device has places to count in.
        asyncio.run(drive(server.url, keys, sents, streams, seconds, seed, 1, longest=400 if seconds <= 900 else 1600))
        took = time.monotonic() - begin
        bill_problems, bill_figures = compare_bill(server, home)
    problems, figures = compare(home, pathlib.Path(home) / "tally", sents)
    figures |= {"seconds": round(took), "streams": streams, "rows_per_s": round(figures["requests"] / took, 1), **bill_figures}
    if took < seconds:
        problems.append(f"no places were left to count in after {took:.0f} s")
    return problems + bill_problems, figures


def kills(home, rounds, streams=32, seed=1):
    rng = random.Random(seed)
    sents, tag = [], 1
    # 3 ms a step: half of the interval is then 100 ms, which a slow disk may take for one write.
    # Few free tokens, so that some rows are free, one is both, and the rest are paid.
    settings = settings_for(home, {"TIDEPOOL_SIMULATED_STEP_MS": "3", "TIDEPOOL_LEDGER_FREE_TOKENS": "5000"})
    for turn in range(rounds):
        with Server("--simulated", home=home, settings=settings) as server:
            if turn == 0:
                server.ask("POST", "/api/v1/prices", PRICES)
            delay = rng.uniform(0.15, 0.8)

            async def run():
                work = asyncio.create_task(drive(server.url, [("admin", server.key)], sents, streams, delay + 1, seed + turn, tag))
                await asyncio.sleep(delay)
                server.process.kill()
                server.process.wait()
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            asyncio.run(run())
            tag = max((sent.tag for sent in sents), default=0) + 1
    with Server("--simulated", home=home, settings=settings) as server:  # closes what the last kill left open
        bill_problems, bill_figures = compare_bill(server, home)
    problems, figures = compare(home, pathlib.Path(home) / "tally", sents)
    return problems + bill_problems, {"kills": rounds, **figures, **bill_figures}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--kills", type=int, default=0, help="kill -9 so many times instead")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidepool-ledger-") as home:
        problems, figures = (kills(home, arguments.kills, seed=arguments.seed) if arguments.kills else
                             soak(home, arguments.seconds, arguments.streams, arguments.keys, arguments.seed))
    print(json.dumps(figures))
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(f"{len(problems)} rows are missing, twice or wrong")


if __name__ == "__main__":
    main()
