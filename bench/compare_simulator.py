#!/usr/bin/env python3
"""Does the simulator tell the truth? One schedule, served by the real server and simulated with a profile fitted to it.

Starts a server, fits a profile with `tidepool bench --profile` (or takes --profile), sends a Poisson schedule over the API with
streaming, records what came (JSONL: arrival_s, model, prompt_tokens, output_tokens), simulates that record and prints
makespan, share of tokens on time and first-token times side by side. Goal: makespan and attainment within 15 %.

usage: TIDEPOOL_BINARY=build/tidepool bench/compare_simulator.py MODEL.gguf [MODEL.gguf ...] [--rate 1] [--seconds 60]
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from server_process import Server  # noqa: E402

BINARY = os.environ.get("TIDEPOOL_BINARY", str(ROOT / "build/tidepool"))


def tidepool(server, *arguments, seconds=3600):
    environment = {**os.environ, "TIDEPOOL_HOME": str(server.home), "TIDEPOOL_URL": server.url}
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=seconds, env=environment)
    if done.returncode != 0:
        sys.exit(f"tidepool {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def ask(server, model, prompt, tokens, began, out):
    """One streamed completion; times of tokens since `began`."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True, "temperature": 0,
            "stream_options": {"include_usage": True}}
    request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode(),
                                     {"Authorization": "Bearer " + server.key, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as reply:
            for line in reply:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if event.get("usage"):
                    out["usage"] = event["usage"]
                if event.get("choices") and event["choices"][0].get("text"):
                    out["times"].append(time.monotonic() - began)
    except OSError as problem:
        out["error"] = str(problem)


def drive(server, models, rate, seconds, tokens, words, seed):
    rng = random.Random(seed)
    schedule, at = [], rng.expovariate(rate)
    while at < seconds:
        # Every prompt begins differently: no prefix cache helps.
        prompt = " ".join(str(rng.randrange(10000)) for _ in range(words))
        schedule.append({"at": at, "model": rng.choice(models), "prompt": prompt, "times": []})
        at += rng.expovariate(rate)
    threads, began = [], time.monotonic()
    for number, item in enumerate(schedule):
        time.sleep(max(0, item["at"] - (time.monotonic() - began)))
        threads.append(threading.Thread(target=ask, args=(server, item["model"], item["prompt"], tokens, began, item)))
        threads[-1].start()
        print(f"\r{number + 1} of {len(schedule)} sent", end="", file=sys.stderr, flush=True)
    for thread in threads:
        thread.join()
    print(file=sys.stderr)
    return schedule


def real_figures(schedule, ttft, tpot, tokens):
    on_time = sum(at <= item["at"] + ttft + i * tpot for item in schedule for i, at in enumerate(item["times"]))
    last = max((item["times"][-1] for item in schedule if item["times"]), default=0)
    firsts = sorted(item["times"][0] - item["at"] for item in schedule if item["times"])
    pick = lambda share: firsts[min(len(firsts) - 1, int(share * len(firsts)))] if firsts else 0
    return {"makespan_s": last - schedule[0]["at"], "tokens_on_time": on_time / (tokens * len(schedule)),
            "ttft_p50_s": pick(0.5), "ttft_p99_s": pick(0.99)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--words", type=int, default=80, help="of a prompt")
    parser.add_argument("--ttft", type=float, default=10)
    parser.add_argument("--tpot", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", type=pathlib.Path, help="a profile that holds all models; else one is fitted")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(binary=BINARY) as server:
        names, merged = [], None
        for path in arguments.models:
            tidepool(server, "pull", str(path.resolve()))
            names = [row["id"] for row in json.loads(tidepool(server, "list", "--json"))["data"]]
        for name in names if arguments.profile is None else []:
            file = pathlib.Path(folder) / "profile.json"
            tidepool(server, "bench", name, "--profile", str(file))
            found = json.loads(file.read_text())
            merged = merged or found
            merged["models"].update(found["models"])
            merged["shapes"].update(found["shapes"])
        profile = arguments.profile or pathlib.Path(folder) / "merged.json"
        if arguments.profile is None:
            profile.write_text(json.dumps(merged))
        schedule = drive(server, names, arguments.rate, arguments.seconds, arguments.tokens, arguments.words, arguments.seed)
        failed = [item for item in schedule if "usage" not in item]
        if failed:
            print(f"{len(failed)} requests failed, e.g. {failed[0].get('error', 'no usage')}", file=sys.stderr)
        trace = pathlib.Path(folder) / "trace.jsonl"
        usual = next((item["usage"]["prompt_tokens"] for item in schedule if "usage" in item), arguments.words)
        trace.write_text("".join(json.dumps({
            "arrival_s": item["at"], "model": item["model"], "prompt_tokens": item.get("usage", {}).get("prompt_tokens", usual),
            "output_tokens": arguments.tokens}) + "\n" for item in schedule))
        models = pathlib.Path(folder) / "models.json"
        models.write_text(json.dumps([{"name": name, "like": name} for name in names]))
        reply = json.loads(tidepool(server, "sim", "--workload", str(trace), "--models", str(models), "--profile", str(profile),
                                    "--devices", "1xhere", "--ttft", str(arguments.ttft), "--tpot", str(arguments.tpot), "--json"))
    real, simulated = real_figures(schedule, arguments.ttft, arguments.tpot, arguments.tokens), reply["data"][0]
    errors = {}
    for field, value in real.items():
        errors[field] = abs(simulated[field] - value) / max(value, 1e-9)
        print(f"{field:<16} real {value:8.3f}   simulated {simulated[field]:8.3f}   error {errors[field]:6.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"real": real, "simulated": simulated, "errors": errors}, indent=1) + "\n")
    sys.exit(0 if errors["makespan_s"] < 0.15 and errors["tokens_on_time"] < 0.15 else 1)


main()
