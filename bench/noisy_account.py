#!/usr/bin/env python3
"""What one account's flood does to another on the real pool: p99 of the quiet one's time to its first token, noisy / calm.

    bench/noisy_account.py                       # 4 models in memory for 3, two rounds of 2 minutes a side
    bench/noisy_account.py --models 1 --check    # one model for both; fails above the goal of 1.2

Two keys of one workspace, so each has half of the device. The quiet one sends 0.8 of its share; the noisy one sends exactly
its share (calm) or --noise times that (noisy), what is refused included. The device's whole is --rate requests/s of 256
tokens in and 64 out: what it serves with everything on time. Half of the models are the quiet one's, half the noisy one's;
of an odd number they have one in common. Calm and noisy runs take turns, the order turned about each round, each on a server
of its own; percentiles are of all rounds together. Models, budget and client are bench_pool.py's."""

import argparse
import asyncio
import json
import os
import pathlib
import shutil
import sys
import tempfile
import types
import urllib.request

import bench_pool
import pool_load
import pool_watch

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOAL = 1.2
QUIET_SHARE = 0.8


def schedules(options, noise, seed):
    """Arrivals of the quiet and of the noisy account; models by index."""
    share = options.rate / 2
    seconds = options.minutes * 60
    half = (options.models + 1) // 2
    quiet = pool_load.schedule(half, QUIET_SHARE * share, seconds, f"{seed} quiet")
    noisy = pool_load.schedule(half, noise * share, seconds, f"{seed} noisy")
    for arrival in noisy:
        arrival.model = options.models - 1 - arrival.model
    return quiet, noisy


async def drive(clients, arrivals):
    return await asyncio.gather(*(client.run(part) for client, part in zip(clients, arrivals)))


def run(side, options, words, noise, seed):
    arrivals = schedules(options, noise, seed)
    for name, part in zip(("quiet", "noisy"), arrivals):
        pool_load.give_prompts(part, words, bench_pool.PROMPT_TOKENS, f"{seed} {name} {noise}")
    pool_watch.forget(side.folders)
    with side:
        bench_pool.warm_up(side, words, "warm-up")
        keys = [side.server.ask("POST", "/api/v1/keys", {"name": f"{name}-{seed}-{noise}"})["key"] for name in ("quiet", "noisy")]
        clients = [pool_load.Client(side.url, side.models, key, {}, bench_pool.ANSWER_TOKENS) for key in keys]
        quiet, noisy = asyncio.run(drive(clients, arrivals))
        side.after_run()
        if options.traces:
            name = "calm" if noise == 1 else "noisy"
            request = urllib.request.Request(side.url + "/api/v1/pool/trace", headers={"Authorization": f"Bearer {side.key}"})
            with urllib.request.urlopen(request) as answer, open(options.traces / f"{name}-{seed}.jsonl", "wb") as file:
                shutil.copyfileobj(answer, file)
    return quiet, noisy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--budget-models", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2.5, help="requests/s that the device serves on time")
    parser.add_argument("--noise", type=float, default=8.0, help="times its share")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--check", action="store_true", help=f"fail above {GOAL}")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--traces", type=pathlib.Path, help="a folder for each run's record of decisions, for tidepool sim --replay")
    parser.add_argument("--binary", default=os.environ.get("TIDEPOOL_BINARY", str(ROOT / "build" / "tidepool")))
    options = parser.parse_args()
    if options.models < 1 or options.rounds < 1 or options.rate <= 0 or options.minutes <= 0 or options.noise <= 1:
        parser.error("--models and --rounds are at least 1, --rate and --minutes positive, --noise more than 1")
    data = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", ROOT / "build" / "test-data"))
    pool_arguments = types.SimpleNamespace(
        binary=options.binary, pool_memory=None, budget_models=min(options.budget_models, options.models),
        tidepool_flags="--pool-trace-records 1000000" if options.traces else "",
        models=ROOT / "build/pool-models", vocab=data / "llama.cpp/models/ggml-vocab-qwen2.gguf", data=data, synthetic_only=True)
    if options.traces:
        options.traces.mkdir(parents=True, exist_ok=True)
    pool_arguments.models.mkdir(parents=True, exist_ok=True)
    paths = bench_pool.list_models(pool_arguments, options.models)
    words = pool_load.common_words([bench_pool.make_pool_models.tokens_of(path) for path in paths])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scratch-", dir=pool_arguments.models))
    first = {"calm": [], "noisy": []}
    counts = {name: {"quiet_refused": 0, "quiet_late": 0, "noisy_offered": 0, "noisy_refused": 0} for name in first}
    try:
        side = bench_pool.Tidepool(pool_arguments, paths, folder)
        for seed in range(options.rounds):
            for name in list(first)[::1 if seed % 2 == 0 else -1]:
                quiet, noisy = run(side, options, words, options.noise if name == "noisy" else 1.0, seed)
                broken = [answer for answer in quiet if answer.outcome not in ("answered", "refused")]
                if broken:
                    sys.exit(f"the quiet account: {bench_pool.told(broken[0])}")
                first[name] += [a.times_s[0] - a.arrival_s if a.times_s else float("inf") for a in quiet]
                of = counts[name]
                of["quiet_refused"] += sum(a.outcome == "refused" for a in quiet)
                of["quiet_late"] += sum(pool_load.on_time(a) < bench_pool.ANSWER_TOKENS for a in quiet)
                of["noisy_offered"] += len(noisy)
                of["noisy_refused"] += sum(a.outcome == "refused" for a in noisy)
                print(f"round {seed + 1} of {options.rounds}, {name}: {len(quiet)} quiet requests, p50 "
                      f"{pool_load.percentile([a.times_s[0] - a.arrival_s for a in quiet if a.times_s], .5):.2f} s", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = {name: {"requests": len(values), "ttft_p50_s": pool_load.percentile(values, 0.5),
                   "ttft_p99_s": pool_load.percentile(values, 0.99), **counts[name]} for name, values in first.items()}
    ratio = rows["noisy"]["ttft_p99_s"] / rows["calm"]["ttft_p99_s"]
    for name, row in rows.items():
        print(f"{name:6} quiet account: {row['requests']} requests, first token p50 {row['ttft_p50_s']:.2f} s, p99 "
              f"{row['ttft_p99_s']:.2f} s, {row['quiet_refused']} refused, {row['quiet_late']} with a late token; the other: "
              f"{row['noisy_refused']} of {row['noisy_offered']} refused")
    print(f"p99 noisy / calm: {ratio:.2f} (goal: at most {GOAL})")
    if options.json:
        options.json.write_text(json.dumps({"options": {k: str(v) for k, v in vars(options).items()}, **rows, "ratio": ratio},
                                           indent=1) + "\n")
    if options.check and ratio > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
