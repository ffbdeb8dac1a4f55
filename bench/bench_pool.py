#!/usr/bin/env python3
"""Many models in memory for a few of them: Tidepool against llama.cpp's router, one client, one schedule, in turns.

    bench/bench_pool.py                                    # all of it, about 3 hours
    bench/bench_pool.py --short                            # the rows that the goals speak of, about 40 minutes
    bench/bench_pool.py --minutes 1 --search-runs 0 --scenario 8:poisson:0.1 --side tidepool
    bench/bench_pool.py --quick                            # one minute, Tidepool alone, tiny models: correctness, no speed

A scenario is MODELS:ARRIVALS:RATE: how many models, poisson or skewed (shares ~ 1 / rank; Poisson in time), requests/s of
each model in the mean. The models are Qwen3-0.6B-shaped with weights of their own (tools/make_pool_models.py, 342 MB each),
the last two SmolLM2-135M and Gemma-3-270m (not with --synthetic-only). Prompts are 256 tokens that share no prefix, answers
exactly 64, streamed. Tidepool gets pool.memory for --budget-models models and their KV, the router --models-max. A server
is started for each run; the page cache of its model files is dropped, each model answers once, then the schedule begins.

Token i is on time until arrival + 10 s + i * 0.1 s; the denominator is 64 tokens of every offered request, so what is
refused, fails or takes longer than 120 s is late. The search finds the highest rate at which 0.95 of the tokens are on
time. Memory and processor time: pool_watch.py. Needs aiohttp, numpy and gguf (tests/requirements.txt), and llama-server
(scripts/build_peer).
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import datetime
import json
import math
import os
import pathlib
import platform
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np

import pool_load
import pool_watch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import make_pool_models  # noqa: E402
from server_process import Server  # noqa: E402

PROMPT_TOKENS, ANSWER_TOKENS, TIMEOUT_S = 256, 64, 120.0
WARM_UP_S = 600.0
TARGET = 0.95
OTHERS = 0.1  # processors
SEARCH_STEP = 1.15  # the search ends when the highest good and the lowest bad rate are within this factor
TRACE_RECORDS = 20_000
EFFECT_RUN, EFFECT_LOAD = 2, 4  # EffectKind of src/compute/scheduler/pool_scheduler.h, as in traces
REAL_MODELS = ("SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-Q4_K_M.gguf")
SCENARIOS = ("8:poisson:0.02", "8:poisson:0.05", "8:poisson:0.1", "8:skewed:0.05", "12:poisson:0.033", "12:skewed:0.033",
             "8:poisson:0.4")  # then OVERLOAD
SHORT_SCENARIOS, SHORT_MINUTES, SHORT_SEARCH_MINUTES, SHORT_SEARCH_RUNS = ("8:poisson:0.1", "12:poisson:0.05"), 3, 2, 3
OVERLOAD, OVERLOAD_MINUTES = "8:poisson:1.0", 1
QUICK_MODELS, QUICK_RATE, QUICK_MEMORY, QUICK_CANCELS = 8, 6.0, "48MiB", 0.2


class Scenario:
    def __init__(self, text):
        try:
            models, self.arrivals, rate = text.split(":")
            self.models, self.rate = int(models), float(rate)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not MODELS:ARRIVALS:RATE, as 8:poisson:0.1") from None
        if self.arrivals not in ("poisson", "skewed") or self.models < 1 or self.rate <= 0:
            raise argparse.ArgumentTypeError(f"{text}: arrivals are poisson or skewed, models and rate positive")

    def __str__(self):
        return f"{self.models}:{self.arrivals}:{self.rate:.3g}"


class Progress:
    """A line on a terminal, a line every half minute elsewhere."""

    def __init__(self, label, requests, seconds):
        self.label, self.requests, self.seconds = label, requests, seconds
        self.sent, self.ended, self.answered, self.tokens, self.good = 0, 0, 0, 0, 0
        self.begin = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def take(self, answer):
        if answer.outcome == "cancelled":
            return
        self.ended += 1
        self.answered += answer.outcome == "answered"
        self.tokens += len(answer.times_s)
        self.good += pool_load.on_time(answer)

    def line(self):
        passed = time.monotonic() - self.begin
        done = min(1.0, passed / self.seconds)
        bar = "#" * int(20 * done) + "." * (20 - int(20 * done))
        share = self.good / (ANSWER_TOKENS * self.ended) if self.ended else 1.0
        return (f"{self.label:28} [{bar}] {passed:4.0f}/{self.seconds:.0f} s  {self.sent}/{self.requests} sent, "
                f"{self.sent - self.ended} open, {self.ended - self.answered} failed, {share:.2f} on time")

    async def show(self):
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(1 if self.terminal else 30)
                begin, end = ("\r", "") if self.terminal else ("", "\n")
                print(begin + self.line(), end=end, file=sys.stderr, flush=True)
        if self.terminal:
            print("\r" + " " * 120 + "\r", end="", file=sys.stderr)


def get_json(url, timeout_s=10):
    with urllib.request.urlopen(url, timeout=timeout_s) as reply:
        return json.load(reply)


class Tidepool:
    """One home for all runs of one set of models (what it stores and packs stays), one server for each run."""

    name, extra, switch_rounds = "tidepool", {}, 4

    def __init__(self, arguments, paths, folder):
        self.home = folder / f"tidepool-{len(paths)}"
        self.home.mkdir()
        self.paths, self.binary, self.models = paths, arguments.binary, None
        memory = arguments.pool_memory or str(pool_bytes(paths, arguments.budget_models))
        self.flags = ["--pool-memory", memory, "--pool-trace-records", str(TRACE_RECORDS), *shlex.split(arguments.tidepool_flags)]
        self.folders = [self.home]

    def __enter__(self):
        self.server = Server(*self.flags, binary=self.binary, home=self.home).__enter__()
        self.url, self.key, self.pid = self.server.url, self.server.key, self.server.process.pid
        if self.models is None:
            self.models = [self.server.store(path) for path in self.paths]
        return self

    def __exit__(self, *_):
        self.server.__exit__()

    def loads(self):
        """How many loads there were, and bytes read from disk."""
        pool = self.server.ask("GET", "/api/v1/pool")
        return pool["counters"]["loads"], sum(model.get("bytes_from_disk") or 0 for model in pool["models"])

    def load_times(self):
        """Of each load on record, the oldest first: seconds from the decision to load to the model's first step (which may
        begin before the last layers land, and then shares processors with the load); None when no step followed."""
        return load_times(self.url, self.key)

    def after_run(self):
        """The ledger adds up and everything ended; what the pool says of itself."""
        status = wait_idle(self.server)
        found = {"ledger": status["pool"], "ledger_problems": ledger_problems(status)}
        with contextlib.suppress(RuntimeError):  # not every version has it
            found["pool"] = self.server.ask("GET", "/api/v1/pool")
        return found

    def capacity(self):
        """Seconds of compute for a request alone and for each of eight of one model together, by the engine's bench."""
        rows = self.server.ask("POST", "/api/v1/bench", {"model": self.models[0], "prompt_tokens": PROMPT_TOKENS,
                                                         "generate_tokens": 32, "batch": [1, 8]})["data"]
        rate = {row["id"]: row["tokens_per_s"] for row in rows}
        return {"prefill_tokens_per_s": rate["prefill-1"], "decode_1_tokens_per_s": rate["decode-1"],
                "decode_8_tokens_per_s": rate["decode-8"],
                "request_alone_s": PROMPT_TOKENS / rate["prefill-1"] + ANSWER_TOKENS / rate["decode-1"],
                "request_in_8_s": PROMPT_TOKENS / rate["prefill-1"] + ANSWER_TOKENS / rate["decode-8"]}


class Router:
    """llama-server as a router: a process for each model, at most --models-max of them."""

    name, key, switch_rounds = "llama.cpp router", "", 2
    extra = {"timings_per_token": True}

    def __init__(self, arguments, paths, folder):
        self.binary = pathlib.Path(arguments.llama_server).resolve()
        self.folder = folder / f"router-{len(paths)}"
        self.folder.mkdir()
        for path in paths:
            (self.folder / path.name).symlink_to(path)
        self.paths, self.models = paths, [path.stem for path in paths]
        self.folders = [self.folder]
        # 4096 tokens for its 4 slots: with the default, the model's own context, each of these takes 5 GB and 15 s.
        self.flags = ["--models-max", str(arguments.budget_models), "--ctx-size", "4096",
                      *shlex.split(arguments.router_flags)]

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        library = os.pathsep.join(filter(None, [str(self.binary.parent), os.environ.get("LD_LIBRARY_PATH")]))
        self.log = open(self.folder.with_suffix(".log"), "wb")
        self.process = subprocess.Popen(
            [str(self.binary), "--models-dir", str(self.folder), "--host", "127.0.0.1", "--port", str(port), *self.flags],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, process_group=0,
            env={**os.environ, "LD_LIBRARY_PATH": library})
        self.url, self.pid = f"http://127.0.0.1:{port}", self.process.pid
        deadline = time.monotonic() + 60
        while True:
            try:
                get_json(self.url + "/health")
                return self
            except (OSError, ValueError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    log = self.folder.with_suffix(".log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"llama-server did not start:\n{log}") from None
                time.sleep(0.1)

    def __exit__(self, *_):
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sent)  # its children are in its group
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.log.close()

    def loads(self):
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked, 0  # unknown

    def load_times(self):
        return []

    def after_run(self):
        return {}


def load_times(url, key):
    request = urllib.request.Request(url + "/api/v1/pool/trace", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request) as answer:
        return times_of_loads(json.loads(line) for line in answer)


def times_of_loads(records):
    """Of the records of a trace (src/compute/scheduler/trace.h): for each load that ended, Tidepool.load_times."""
    decided, ran, open_loads, found = {}, {}, {}, []  # by model: when it was to be loaded, and when its first step began
    for record in records:
        at, model = record.get("t", 0), record.get("model")
        if record.get("e") == "load_done" and model in decided:
            begin = decided.pop(model)
            found.append((ran.pop(model) - begin) * 1e-9 if model in ran else None)
            if found[-1] is None:
                open_loads[model] = (len(found) - 1, begin)
        for kind, _, _, of, *_ in record.get("fx", ()):
            if kind == EFFECT_LOAD:
                decided[of] = at
                ran.pop(of, None)
                open_loads.pop(of, None)
            elif kind == EFFECT_RUN and of in decided:
                ran.setdefault(of, at)  # on layers that are still landing
            elif kind == EFFECT_RUN and of in open_loads:
                index, begin = open_loads.pop(of)
                found[index] = (at - begin) * 1e-9
    return found


def pool_bytes(paths, budget_models):
    """Weights and workspace of the largest models, and KV for four requests of each of them, as the router's slots have."""
    weights = sum(sorted((path.stat().st_size for path in paths), reverse=True)[:budget_models])
    workspace = budget_models * (96 << 20)
    kv = budget_models * 4 * (PROMPT_TOKENS + ANSWER_TOKENS) * (112 << 10)  # 28 layers * 2 * 8 heads * 128 * 2 bytes
    return weights + workspace + kv


def ledger_problems(status):
    pool = status["pool"]
    owned = sum(owner["bytes"] for owner in pool["owners"])
    problems = []
    if owned != pool["used_bytes"]:
        problems.append(f"the owners have {owned} bytes, used are {pool['used_bytes']}")
    if pool["used_bytes"] > pool["limit_bytes"]:
        problems.append(f"used are {pool['used_bytes']} bytes of {pool['limit_bytes']}")
    return problems


def wait_idle(server, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        status = server.ask("GET", "/api/v1/status")
        if status["running"] == status["waiting"] == 0:
            return status
        if time.monotonic() > deadline:
            raise RuntimeError(f"requests are left in the server: {status['running']} running, {status['waiting']} waiting")
        time.sleep(0.1)


async def drive(client, arrivals, label, seconds):
    progress = Progress(label, len(arrivals), seconds)
    shown = asyncio.create_task(progress.show())
    try:
        return await client.run(arrivals, progress)
    finally:
        shown.cancel()
        await shown


def told(answer):
    return f"{answer.outcome} {answer.status} {answer.problem}".strip()


def warm_up(side, words, label):
    """Each model answers once, alone: loads work, packed files exist, prompts have the length they should."""
    client = pool_load.Client(side.url, side.models, side.key, side.extra, ANSWER_TOKENS, WARM_UP_S)
    seconds = []
    for model in range(len(side.models)):
        arrivals = [pool_load.Arrival(0.0, model, "")]
        pool_load.give_prompts(arrivals, words, PROMPT_TOKENS, f"warm-up {model}")
        (answer,) = asyncio.run(client.run(arrivals))
        if answer.outcome != "answered":
            raise RuntimeError(f"{label}: {side.models[model]} does not answer: {told(answer)}")
        if abs(answer.prompt_tokens - PROMPT_TOKENS) > 2:  # some models put a token before every prompt
            raise RuntimeError(f"{label}: the prompt has {answer.prompt_tokens} tokens in {side.models[model]}")
        seconds.append(round(answer.end_s, 2))
    return seconds


def measure_switch(side, words):
    """Seconds that a model costs which is not in memory: time to the first token of a short prompt, less that of a second
    one right after it. In turn over all models, twice (Tidepool: four times, for it keeps some of them and only what it
    loaded counts: the pool says so, and whether bytes came from disk; llama.cpp says neither). Tidepool's record of decisions
    also tells the time from the decision to load to the first step, without what that step takes longer and the client's part."""
    client = pool_load.Client(side.url, side.models, side.key, side.extra, 2, TIMEOUT_S)
    costs, cold, (loads, read) = [], [], side.loads()
    counted, loads_before = [], loads
    for number in range(side.switch_rounds * len(side.models)):
        first = []
        for attempt in range(2):
            arrivals = [pool_load.Arrival(0.0, number % len(side.models), "")]
            pool_load.give_prompts(arrivals, words, 8, f"switch {number} {attempt}")
            (answer,) = asyncio.run(client.run(arrivals))
            if answer.outcome != "answered":
                return {"problem": f"{side.models[number % len(side.models)]}: {told(answer)}"}
            first.append(answer.times_s[0] - answer.sent_s)
        before, was_read = loads, read
        loads, read = side.loads()
        if loads == before + 1:
            (costs if read == was_read else cold).append(max(0.0, first[0] - first[1]))
            if read == was_read:
                counted.append(loads - loads_before - 1)
    warm = {f"p{share}_s": round(pool_load.percentile(costs, share / 100), 4) for share in (50, 90)} if costs else {}
    times = side.load_times()
    times = times[len(times) - (loads - loads_before):]
    to_step = [times[index] for index in counted if index < len(times) and times[index] is not None]
    return {**warm, "warm_s": [round(cost, 4) for cost in costs], "cold_s": [round(cost, 4) for cost in cold],
            "decision_to_step_s": [round(time_s, 4) for time_s in to_step]}


def copy_bytes_per_s(size=256 << 20, rounds=5):
    """Memory copied by all processors together, the best of some rounds: bytes copied, not bytes read and written."""
    threads = os.cpu_count() or 1
    parts = [(np.ones(size // threads, np.uint8), np.ones(size // threads, np.uint8)) for _ in range(threads)]
    best = 0.0
    with concurrent.futures.ThreadPoolExecutor(threads) as workers:
        for _ in range(rounds):
            begin = time.perf_counter()
            list(workers.map(lambda pair: np.copyto(*pair), parts))
            best = max(best, size / (time.perf_counter() - begin))
    return best


def measure(side, scenario, words, arguments, minutes=None):
    """One run: figures as a dictionary."""
    label = f"{side.name} {scenario}"
    minutes = minutes or arguments.minutes
    seconds = minutes * 60
    rate = scenario.rate * scenario.models
    arrivals = pool_load.schedule(scenario.models, rate, seconds, arguments.seed, scenario.arrivals)
    pool_load.give_prompts(arrivals, words, PROMPT_TOKENS, arguments.seed)
    pool_watch.forget(side.folders)
    with side:
        warm = [] if arguments.cold else warm_up(side, words, label)
        client = pool_load.Client(side.url, side.models, side.key, side.extra, ANSWER_TOKENS, TIMEOUT_S)
        with pool_watch.Watch(side.pid, side.folders) as watch:
            answers = asyncio.run(drive(client, arrivals, label, seconds))
        row = {"id": f"{scenario} {side.name}", "scenario": str(scenario), "server": side.name, "flags": side.flags,
               "rate_per_s": rate, "minutes": minutes, "warm_up_s": warm,
               **pool_load.figures(answers, ANSWER_TOKENS), **watch.figures(), **side.after_run()}
        if side.name == "tidepool" and not hasattr(side, "found_capacity"):
            side.found_capacity = row["capacity"] = side.capacity()
        if not hasattr(side, "found_switch"):
            side.found_switch = row["switch"] = measure_switch(side, words)
            size = max(path.stat().st_size for path in side.paths)
            row["switch"]["goal_s"] = round(size / (0.8 * copy_bytes_per_s()), 4)
    print_row(row)
    return row


COLUMNS = (("scenario", 16), ("server", 18), ("on time", 8), ("all on", 7), ("failed", 7), ("refused", 9), ("tokens/s", 9),
           ("TTFT p50/p99", 14), ("gap p50/p99", 14), ("private + cached", 16))


def print_header(file=sys.stderr):
    print("".join(f"{name:{width}}" for name, width in COLUMNS), file=file)


def print_row(row, file=sys.stderr):
    def pair(name):
        return "/".join("-" if row[f"{name}_{p}_s"] is None else f"{row[f'{name}_{p}_s']:.1f}" for p in ("p50", "p99"))

    def share(value):
        return "-" if value is None else f"{value:.3f}"

    cells = (row["scenario"], row["server"], share(row["tokens_on_time"]), share(row["requests_on_time"]),
             f"{row['failed'] + row['timed_out']}/{row['offered']}", str(row["refused_429"] + row["refused_503"]),
             f"{row['tokens_per_s']:.1f}", pair("ttft"), pair("largest_gap"),
             " + ".join(f"{row[f'memory_peak_{kind}_bytes'] / 2**30:.1f}" for kind in ("anonymous", "cached")) + " GiB")
    print("".join(f"{cell:{width}}" for cell, (_, width) in zip(cells, COLUMNS)), file=file, flush=True)
    if row["processor_others"] > OTHERS:
        print(f"    other processes used {row['processor_others']:.2f} processors meanwhile: do not compare this row",
              file=file)


def search(side, scenario, rows, words, arguments):
    """The highest rate of a model (requests/s) with enough tokens on time, from the runs there are and some more."""
    def bounds():
        alike = f"{scenario.models}:{scenario.arrivals}:"
        known = [(row["rate_per_s"] / scenario.models, row["tokens_on_time"]) for row in rows
                 if row["server"] == side.name and row["scenario"].startswith(alike)]
        bad = min((rate for rate, share in known if share < TARGET), default=math.inf)
        return max((rate for rate, share in known if share >= TARGET and rate < bad), default=0.0), bad

    for _ in range(arguments.search_runs):
        good, bad = bounds()
        if good > 0 and bad <= good * SEARCH_STEP:
            break
        if good == 0:
            rate = bad / 3 if bad < math.inf else scenario.rate
        else:
            rate = math.sqrt(good * bad) if bad < math.inf else good * 2
        tried = Scenario(f"{scenario.models}:{scenario.arrivals}:{rate:.4f}")
        rows.append(measure(side, tried, words, arguments, arguments.search_minutes))
    good, bad = bounds()
    return {"server": side.name, "models": scenario.models, "arrivals": scenario.arrivals, "target": TARGET,
            "highest_good_rate_per_model": good, "lowest_bad_rate_per_model": None if bad == math.inf else bad}


def judge(rows, found):
    """The goals that these runs can tell something about."""
    ours = [row for row in rows if row["server"] == "tidepool"]
    goals = []
    for row in ours:
        if row["scenario"] == "8:poisson:0.1":
            goals.append(("8 models at 0.1 requests/s: tokens on time >= 0.97, no failure",
                          f"{row['tokens_on_time']:.3f}, {row['failed'] + row['timed_out']} failed",
                          row["tokens_on_time"] >= 0.97 and row["failed"] + row["timed_out"] == 0))
    rates = {entry["server"]: entry["highest_good_rate_per_model"] for entry in found}
    if len(rates) == 2:
        mine, theirs = rates["tidepool"], rates[Router.name]
        ratio = "the router kept it at no rate" if theirs == 0 else f"{mine / theirs:.1f} x"
        goals.append(("highest rate with 0.95 on time >= 3 x the router's", f"{mine:.3f} and {theirs:.3f}: {ratio}",
                      mine > 0 and mine >= 3 * theirs))
    for row in ours:
        if row.get("switch", {}).get("p50_s") is not None:
            switch = row["switch"]
            told, times = "", switch["decision_to_step_s"] or switch["warm_s"]
            if switch["decision_to_step_s"]:
                told = f"p50 {pool_load.percentile(times, 0.5):.3f} s, p90 {pool_load.percentile(times, 0.9):.3f} s, "
            goals.append((f"a switch takes, from the decision to the first step, at most bytes / (0.8 x copy bandwidth) = "
                          f"{switch['goal_s']:.3f} s, and costs the client no more nine times in ten",
                          f"{told}at most {max(times):.3f} s in {len(times)} switches; the client "
                          f"p50 {switch['p50_s']:.3f} s, p90 {switch['p90_s']:.3f} s, at most {max(switch['warm_s']):.3f} s",
                          max(times) <= switch["goal_s"] and switch["p90_s"] <= switch["goal_s"]))
    if ours:
        killed = sum(row["failed"] for row in ours)
        goals.append(("no request ended by the server", f"{killed} failed", killed == 0))
    refused = [row for row in ours if row["refusal_max_s"] is not None]
    if refused:
        slowest = max(row["refusal_max_s"] for row in refused)
        goals.append(("overload is answered by 429 or 503 within 1 s", f"{slowest:.2f} s", slowest <= 1))
        least = min(row["tokens_on_time_of_admitted"] or 0 for row in refused)
        goals.append(("tokens on time of what was admitted >= 0.95", f"{least:.3f}", least >= 0.95))
    return [{"goal": goal, "measured": measured, "met": met} for goal, measured, met in goals]


def print_summary(rows, found, goals):
    print_header(sys.stdout)
    for row in rows:
        print_row(row, sys.stdout)
    for row in rows:
        if "capacity" in row:
            need = {name: row["rate_per_s"] * row["capacity"][name] for name in ("request_alone_s", "request_in_8_s")}
            print(f"\nThis machine computes {row['capacity']['prefill_tokens_per_s']:.0f} tokens/s of prefill, "
                  f"{row['capacity']['decode_1_tokens_per_s']:.0f} of decode alone, "
                  f"{row['capacity']['decode_8_tokens_per_s']:.0f} with eight (0.6B shape): {row['scenario']} needs "
                  f"{need['request_alone_s']:.2f} of it when no two requests share a step, {need['request_in_8_s']:.2f} when "
                  f"eight do. Above 1 nobody can be on time for long.")
    for row in rows:
        if "p50_s" in row.get("switch", {}):
            print(f"{row['server']}: a model that is not in memory costs {row['switch']['p50_s']:.3f} s (p50), "
                  f"{row['switch']['p90_s']:.3f} s (p90), {max(row['switch']['warm_s']):.3f} s (most)")
    for entry in found:
        print(f"{entry['server']}: the highest rate of each of {entry['models']} models with {TARGET} of the tokens on "
              f"time: {entry['highest_good_rate_per_model']:.3f} requests/s (too much: {entry['lowest_bad_rate_per_model'] or '-'})")
    for goal in goals:
        print(f"{'met    ' if goal['met'] else 'NOT MET'}  {goal['goal']}: {goal['measured']}")


def list_models(arguments, count):
    real = [] if arguments.synthetic_only else [arguments.data / name for name in REAL_MODELS]
    if not all(path.is_file() for path in real):
        print(f"bench_pool: {arguments.data} lacks {', '.join(REAL_MODELS)} (scripts/test_data): synthetic models only",
              file=sys.stderr)
        real = []
    made = make_pool_models.make_models("qwen3-0.6b", max(1, count - len(real)), "Q4_0", arguments.vocab, arguments.models)
    return [path.resolve() for path in (*made, *real)][:count]


def bench(arguments, rows, found):
    """Appends to rows and found, so that what was measured is there when a later run fails."""
    sides = {"tidepool": Tidepool, "router": Router}
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=arguments.models) as scratch:
        for count in sorted({scenario.models for scenario in arguments.scenario}):
            paths = list_models(arguments, count)
            words = pool_load.common_words([make_pool_models.tokens_of(path) for path in paths])
            made = [sides[name](arguments, paths, pathlib.Path(scratch)) for name in arguments.side]
            print_header()
            for scenario in arguments.scenario:
                if scenario.models == count:
                    for side in made:
                        rows.append(measure(side, scenario, words, arguments))
            for side in made:  # ours only: what the router does with too much the search shows
                if arguments.overload and arguments.overload.models == count and side.name == "tidepool":
                    rows.append(measure(side, arguments.overload, words, arguments, OVERLOAD_MINUTES))
            first = next(s for s in arguments.scenario if s.models == count)
            if arguments.search_runs and count == arguments.search_models:
                for side in made:
                    found.append(search(side, first, rows, words, arguments))


def quick(binary, models, vocab, seconds=20.0, seed=1):
    """Tiny models, more of them than fit, some clients that go away: returns (figures, what is wrong)."""
    shape = make_pool_models.make_models("pool-tiny", QUICK_MODELS, "Q4_0", vocab, models)
    words = pool_load.common_words([make_pool_models.tokens_of(shape[0])])
    arrivals = pool_load.schedule(QUICK_MODELS, QUICK_RATE, seconds, seed, "poisson", cancels=QUICK_CANCELS)
    pool_load.give_prompts(arrivals, words, PROMPT_TOKENS, seed)
    problems = []

    def unload_all(server, names):
        wait_idle(server)
        for name in names:
            server.ask("POST", f"/api/v1/models/{name}/unload", {})
        owners = server.ask("GET", "/api/v1/status")["pool"]["owners"]
        return {(owner["owner"], owner["kind"]): owner["bytes"] for owner in owners}

    with Server("--pool-memory", QUICK_MEMORY, "--pool-trace-records", str(TRACE_RECORDS), binary=binary) as server:
        names = [server.store(path) for path in shape]
        client = pool_load.Client(server.url, names, server.key, tokens=ANSWER_TOKENS, timeout_s=60)
        for model, name in enumerate(names):
            (answer,) = asyncio.run(client.run([pool_load.Arrival(0.0, model, arrivals[0].prompt)]))
            if answer.outcome != "answered" or answer.prompt_tokens != PROMPT_TOKENS:
                problems.append(f"{name}: {told(answer)} after {answer.prompt_tokens} prompt tokens")
        before = unload_all(server, names)

        async def watched():
            stop, seen = asyncio.Event(), []

            async def look():
                while not stop.is_set():
                    status = await asyncio.to_thread(server.ask, "GET", "/api/v1/status")
                    seen.extend(ledger_problems(status))
                    await asyncio.sleep(0.25)

            looking = asyncio.create_task(look())
            try:
                return await drive(client, arrivals, "quick", seconds), seen
            finally:
                stop.set()
                await looking

        answers, seen = asyncio.run(watched())
        problems += sorted(set(seen))
        kept = wait_idle(server)
        if not any(time_s is not None for time_s in load_times(server.url, server.key)):
            problems.append("the record of decisions tells of no load that a step followed")
        weights = sum(entry["engine"]["weight_bytes"] for entry in server.ask("GET", "/api/v1/models")["data"] if entry.get("engine"))
        held = {entry["id"]: entry["engine"]["kv_blocks_used"] for entry in server.ask("GET", "/api/v1/models")["data"]
                if entry.get("engine") and entry["engine"]["kv_blocks_used"]}
        if held:
            problems.append(f"KV blocks are held by nobody: {held}")
        after = unload_all(server, names)
        if after != before:
            problems.append(f"the ledger was {before} before and is {after} after")
        # By bytes, for a model may have given some of its layers only.
        resident = sum(owner["bytes"] for owner in kept["pool"]["owners"] if owner["kind"] == "weights")
        if resident >= weights:
            problems.append("all models fit into the budget: this run shows nothing")
        server.process.send_signal(signal.SIGTERM)
        if server.process.wait(60) != 0:
            problems.append(f"the server ended with {server.process.returncode}:\n{server.output()[-2000:]}")
    for answer in answers:
        if answer.outcome not in ("answered", "cancelled"):
            problems.append(f"the request of {names[answer.model]} at {answer.arrival_s:.2f} s: {told(answer)}")
    counts = pool_load.figures(answers, ANSWER_TOKENS)
    if counts["cancelled"] == 0:
        problems.append("no client went away: this run shows nothing about it")
    return counts, problems


def report(arguments, rows, found):
    goals = judge(rows, found)
    print_summary(rows, found, goals)
    today = datetime.date.today().isoformat()
    everything = {"date": today, "machine": f"{platform.machine()}, {os.cpu_count()} cores", "seed": arguments.seed, "data": rows,
              "highest_rates": found, "goals": goals}
    for path in filter(None, (arguments.json, ROOT / f"bench/results/pool-{today}.json" if arguments.save else None)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(everything, indent=1) + "\n")
        print(f"written: {path}")


def main():
    data = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", ROOT / "build/test-data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", type=Scenario, action="append", help="may be given often; default: " + " ".join(SCENARIOS))
    parser.add_argument("--side", action="append", choices=("tidepool", "router"), help="may be given twice; default: both")
    parser.add_argument("--short", action="store_true", help="a short form of what --scenario, --minutes and the search say")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--search-minutes", type=float, help="of each run of the search; default: --minutes")
    parser.add_argument("--overload", type=Scenario, help=f"Tidepool alone for {OVERLOAD_MINUTES} minute at much too high a rate"
                        f"; default: {OVERLOAD} when no --scenario is given")
    parser.add_argument("--search-models", type=int, default=8)
    parser.add_argument("--search-runs", type=int, help="most runs a server, 4 unless told; 0: no search")
    parser.add_argument("--budget-models", type=int, default=3)
    parser.add_argument("--pool-memory", help="Tidepool's limit, as 2GiB; default: what --budget-models models and their KV need")
    parser.add_argument("--tidepool-flags", default="")
    parser.add_argument("--router-flags", default="")
    parser.add_argument("--synthetic-only", action="store_true")
    parser.add_argument("--cold", action="store_true", help="no warm-up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--binary", default=os.environ.get("TIDEPOOL_BINARY", str(ROOT / "build" / "tidepool")))
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER", str(ROOT / "build/peer/bin/llama-server")))
    parser.add_argument("--data", type=pathlib.Path, default=data, help="what scripts/test_data fetched")
    parser.add_argument("--vocab", type=pathlib.Path, help="a GGUF with the vocabulary of the synthetic models")
    parser.add_argument("--models", type=pathlib.Path, default=ROOT / "build/pool-models", help="where they are made; 4 GB")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file")
    parser.add_argument("--save", action="store_true", help="write them to bench/results/pool-DATE.json")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    arguments.vocab = arguments.vocab or arguments.data / "llama.cpp/models/ggml-vocab-qwen2.gguf"
    arguments.side = arguments.side or ["tidepool", "router"]
    if arguments.overload is None and not arguments.scenario:
        arguments.overload = Scenario(OVERLOAD)
    arguments.scenario = arguments.scenario or [Scenario(t) for t in (SHORT_SCENARIOS if arguments.short else SCENARIOS)]
    arguments.minutes = arguments.minutes or (SHORT_MINUTES if arguments.short else 5)
    if arguments.search_runs is None:
        arguments.search_runs = SHORT_SEARCH_RUNS if arguments.short else 4
    arguments.search_minutes = arguments.search_minutes or (SHORT_SEARCH_MINUTES if arguments.short else arguments.minutes)
    for name, path in (("tidepool (scripts/build)", arguments.binary), ("the vocabulary (scripts/test_data)", arguments.vocab),
                       *([("llama-server (scripts/build_peer)", arguments.llama_server)]
                         if "router" in arguments.side and not arguments.quick else [])):
        if not pathlib.Path(path).is_file():
            sys.exit(f"{name} is not at {path}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with it
    if arguments.quick:
        counts, problems = quick(arguments.binary, arguments.models / "tiny", arguments.vocab)
        print(json.dumps(counts, indent=2))
        sys.exit("\n".join(problems) if problems else 0)
    arguments.models.mkdir(parents=True, exist_ok=True)
    rows, found = [], []
    try:
        bench(arguments, rows, found)
    finally:
        if rows:
            report(arguments, rows, found)


if __name__ == "__main__":
    main()
