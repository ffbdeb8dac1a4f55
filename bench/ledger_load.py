#!/usr/bin/env python3
"""Is every token metered once? Streams over many keys with cancels, disconnects and errors against simulated models, whose
device keeps a count of its own (simulated.tally): which model computed how many positions and sampled how many tokens; then
every usage row is compared with that count, to the token, what was found in the prefix cache too, alone and summed by key and
model, and the bill with the rows, to the token and the last digit of its amounts.

    bench/ledger_load.py --seconds 600 --streams 1000 --keys 50      # the soak
    bench/ledger_load.py --kills 200                                 # kill -9 at random moments under load

Only the standard library. Exit status 1 if a row is missing, there twice, or wrong, or the bill is another sum. Rows are read from the store's file with
sqlite3, not through the server.
"""

import argparse
import asyncio
import collections
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
COMPUTED_TAGS = 500_000  # of the device's count: a tag N has a second entry under this + N
MAX_TAG = COMPUTED_TAGS - 1
MODELS = (MODEL, f"{MODEL}-2", f"{MODEL}-3")  # with simulated.models = 3
PRICES = {"currency": "EUR", "models": [{"model": "*", "tiers": [{"input": "0.9", "cached_input": "0.1", "output": "2.3"}]}]}


class Sent:
    """One request as its client saw it. `turn`: it is asked again, word for word, when the turn before it is over."""

    def __init__(self, tag, key, model=MODEL, turn=0):
        self.tag, self.key, self.model, self.turn = tag, key, model, turn
        self.script = ""
        self.sent_at = time.monotonic()
        self.done = False       # [DONE] came
        self.left = False       # the client went away
        self.fails = False      # the model fails in the middle of it
        self.status = None
        self.usage = None
        self.first_s = None

    @property
    def request_id(self):
        return f"load-{self.tag}-{self.turn}"

    @property
    def prompt_bytes(self):
        return len(self.script.encode())


def script_of(tag, tokens, fails, filler=0):
    """The tag comes first: the device knows the prompt by it."""
    return f"[[count:{tag}]][[tokens:{tokens}]]" + (f"[[fail_after:{tokens // 2}]]" if fails else "") + "x" * filler


async def ask(host, port, secret, sent, tokens, leave_after=None):
    """Streams one answer of `tokens` tokens; goes away after `leave_after` of its chunks."""
    body = json.dumps({"model": sent.model, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens + 8,
                       "messages": [{"role": "user", "content": sent.script}]}).encode()
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


async def drive(url, keys, sents, streams, seconds, seed, next_tag, longest=400, models=(MODEL,), again=0.0):
    """Keeps `streams` requests open for so long; a fifth of the clients leave early, one answer of fifty fails, and a share
    `again` is asked a second time, so that its prompt is found in the cache. Returns the next free tag."""
    host, port = url.split("//")[1].split(":")
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    tag = next_tag

    async def one():
        nonlocal tag
        while time.monotonic() < end and tag < MAX_TAG:
            name, secret = rng.choice(keys)
            model, tokens, fails = rng.choice(models), rng.randint(1, longest), rng.random() < 0.02
            own, tag = tag, tag + 1
            script = script_of(own, tokens, fails, rng.choice((0, 0, 100, 200)))
            for turn in range(2 if rng.random() < again else 1):
                sent = Sent(own, name, model, turn)
                sent.script, sent.fails = script, fails
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


Counted = collections.namedtuple("Counted", "positions sampled model computed")


class Tally:
    def __init__(self, path):
        self.data = pathlib.Path(path).read_bytes()

    def __getitem__(self, tag):
        # chips::TallyEntry: positions reached, tokens sampled; and the scripted model's number, positions computed.
        return Counted(*struct.unpack_from("<II", self.data, tag * 8), *struct.unpack_from("<II", self.data, (COMPUTED_TAGS + tag) * 8))


def reached(row):
    """The last position that was computed for this row. An answer's last token is not computed on; the step that failed computed
    on the last one and gave none."""
    return row["prompt_tokens"] + (row["output_tokens"] if row["status"] == "error" else max(0, row["output_tokens"] - 1))


def add(sums, key, values):
    sums[key] = [a + b for a, b in zip(sums.get(key, [0] * len(values)), values)]


def compare(home, tally_path, sents, models=(MODEL,), crashes=False):
    """Every request against the device's own count. `crashes`: of open requests an interval may be lost. Returns (problems,
    figures)."""
    rows, tally = rows_of(home), Tally(tally_path)
    problems = []
    figures = {"requests": len(sents), "finished": 0, "cancelled": 0, "failed": 0, "interrupted": 0, "prompt_tokens": 0,
               "cached_tokens": 0, "tokens": 0, "most_lost": 0}
    # What the template adds to a prompt of so many bytes, each a token.
    added = collections.Counter(sent.usage["prompt_tokens"] - sent.prompt_bytes for sent in sents if sent.usage).most_common(1)
    prompts = {sent.tag: sent.prompt_bytes + added[0][0] for sent in sents} if added else {}
    metered, counted = {}, {}  # by key and model: requests, prompt, cached and output tokens
    by_tag = {}
    for sent in sents:
        found = rows.get(sent.request_id, [])
        name = f"request {sent.request_id} (key {sent.key}, {sent.model})"
        of_tag = by_tag.setdefault(sent.tag, [])
        if len(found) > 1:
            problems.append(f"{name}: {len(found)} rows")
            continue
        if not found:
            sampled = tally[sent.tag].sampled
            if sent.done:
                problems.append(f"{name}: finished, and no row")
            elif sent.status == 200 and not crashes:
                problems.append(f"{name}: answered, and no row")
            elif sampled > INTERVAL_TOKENS and sent.turn == 0:
                problems.append(f"{name}: no row, but the device sampled {sampled} tokens")
            elif sampled:
                figures["most_lost"] = max(figures["most_lost"], sampled)
            continue
        row = found[0]
        of_tag.append((sent, row))
        figures["prompt_tokens"] += row["prompt_tokens"]
        figures["cached_tokens"] += row["cached_tokens"]
        figures["tokens"] += row["output_tokens"]
        figures[{"done": "finished", "error": "failed"}.get(row["status"], row["status"])] += 1
        if row["model"] != sent.model or sent.key not in ("admin", row["key_id"]):
            problems.append(f"{name}: its row is of {row['key_id']}, {row['model']}")
        # The prompt is owed whole once there is a token; before that, as far as it was computed.
        prompt = prompts.get(sent.tag)
        whole = row["output_tokens"] > 0 or row["status"] in ("done", "error")
        if prompt is not None and (row["prompt_tokens"] != prompt if whole else row["prompt_tokens"] > prompt):
            problems.append(f"{name} ({row['status']}): its prompt has {prompt} tokens, its row {row['prompt_tokens']}")
        if row["cached_tokens"] > row["prompt_tokens"]:
            problems.append(f"{name}: {row['cached_tokens']} of {row['prompt_tokens']} prompt tokens are cached")
        if row["status"] == "interrupted":
            if sent.done:
                problems.append(f"{name}: its client saw the end, its row says interrupted")
        elif sent.done and sent.usage and (sent.usage["prompt_tokens"], sent.usage["completion_tokens"]) != (
                row["prompt_tokens"], row["output_tokens"]):
            problems.append(f"{name}: the answer said {sent.usage}, its row {row['prompt_tokens']}, {row['output_tokens']}")
    for tag, of_tag in by_tag.items():
        if not of_tag:
            continue
        device, sent = tally[tag], of_tag[0][0]
        of_rows = [row for _, row in of_tag]
        name = f"prompt {tag} (key {sent.key}, {sent.model}, {', '.join(row['status'] for row in of_rows)})"
        if device.model not in (0, models.index(sent.model) + 1):
            problems.append(f"{name}: computed by the model {device.model}")
        output = sum(row["output_tokens"] for row in of_rows)
        computed = sum(reached(row) - row["cached_tokens"] for row in of_rows)
        if any(row["status"] == "interrupted" for row in of_rows):
            lost = device.sampled - output
            figures["most_lost"] = max(figures["most_lost"], lost)
            if not 0 <= lost <= INTERVAL_TOKENS:
                problems.append(f"{name}: the device sampled {device.sampled}, its row has {output}")
            if computed > device.computed or max(map(reached, of_rows)) > device.positions:
                problems.append(f"{name}: its row says {computed} positions were computed, {device}")
            continue
        for what, said, true in (("tokens", output, device.sampled), ("computed positions", computed, device.computed),
                                 ("positions", max(map(reached, of_rows)), device.positions)):
            if said != true:
                problems.append(f"{name}: {said} {what} in the rows, {true} counted by the device")
        # The same as sums. How far the device got with all turns, had it found nothing, less what it computed: what it found.
        prompt = sum(prompts.get(tag, 0) if row["output_tokens"] or row["status"] == "error" else
                     min(prompts.get(tag, 0), device.positions) if len(of_rows) == 1 else row["prompt_tokens"] for row in of_rows)
        ended = sum(1 for row in of_rows if row["status"] != "error" and row["output_tokens"])
        model = models[device.model - 1] if device.model else sent.model
        # That each request has one row, and each row its request, is looked at above and below, one by one: the device does not
        # know of those that ended before it.
        add(counted, (sent.key, model), (len(of_rows), prompt, prompt + device.sampled - ended - device.computed, device.sampled))
        for row in of_rows:
            add(metered, (sent.key if sent.key == "admin" else row["key_id"], row["model"]),
                (1, row["prompt_tokens"], row["cached_tokens"], row["output_tokens"]))
    for key in sorted(set(metered) | set(counted)):
        if metered.get(key) != counted.get(key):
            problems.append(f"key and model {key}: {metered.get(key)} in the rows, {counted.get(key)} counted (requests, prompt, cached, "
                            "output)")
    extra = set(rows) - {sent.request_id for sent in sents}
    if extra:
        problems.append(f"rows of nobody: {sorted(extra)[:5]}")
    figures |= {"keys": len({key for key, _ in metered}), "models": len({model for _, model in metered}), "key_models": len(metered)}
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
    # Few free tokens of each model, so that most are paid.
    more = {"TIDEPOOL_SIMULATED_MODELS": str(len(MODELS)), "TIDEPOOL_LEDGER_FREE_TOKENS": "20000"}
    with Server("--simulated", home=home, settings=settings_for(home, more)) as server:
        keys = make_keys(server, key_count)
        server.ask("POST", "/api/v1/prices", PRICES)
        begin = time.monotonic()
        # An hour of short answers would be more than the device has places to count in.
        asyncio.run(drive(server.url, keys, sents, streams, seconds, seed, 1, longest=400 if seconds <= 900 else 1600, models=MODELS,
                          again=0.25))
        took = time.monotonic() - begin
        bill_problems, bill_figures = compare_bill(server, home)
    problems, figures = compare(home, pathlib.Path(home) / "tally", sents, MODELS)
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
    problems, figures = compare(home, pathlib.Path(home) / "tally", sents, crashes=True)
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
