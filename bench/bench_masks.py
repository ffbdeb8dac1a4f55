#!/usr/bin/env python3
"""What constrained decoding costs a step: a batch of streams with and without a grammar, in turns.

    bench/bench_masks.py build/bench-data/qwen3-0.6b-shape-Q4_0.gguf         # 152k tokens; goal: less than 5 % of a step

Each stream's answer is as long as the others', so the time for all of them is the time of as many steps. "schema": a JSON
schema whose strings may go on for ever; "choice of words": a regular expression that leaves few tokens. Without drafts of
what is forced (pool.speculation off), which would make the constrained answers the faster ones."""

import argparse
import concurrent.futures
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from server_process import Server  # noqa: E402

SCHEMA = {"type": "object", "properties": {"text": {"type": "string", "minLength": 100000}}, "required": ["text"],
          "additionalProperties": False}
CASES = {
    "none": {},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "text", "schema": SCHEMA}}},
    "choice of words": {"regex": "(?:tide|moon|shore|wave|salt| )+"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a GGUF file")
    parser.add_argument("--binary", default=str(ROOT / "build/tidepool"))
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings = {"TIDEPOOL_POOL_SPECULATION": "false", "TIDEPOOL_POOL_ADMISSION_LOAD": "0"}
    with Server(binary=options.binary, settings=settings) as server:
        model = server.store(options.model.resolve())

        def ask(number, more):
            reply = server.ask("POST", "/v1/chat/completions", {
                "model": model, "messages": [{"role": "user", "content": f"Stream {number}: "}], "max_tokens": options.tokens,
                "temperature": 0.8, "top_p": 0.95, "seed": number, "ignore_eos": True, **more})
            if reply["usage"]["completion_tokens"] != options.tokens:
                sys.exit(f"an answer has {reply['usage']['completion_tokens']} tokens, not {options.tokens}")

        seconds = {case: [] for case in CASES}
        for turn in range(options.rounds + 1):
            for case, more in CASES.items():
                began = time.monotonic()
                with concurrent.futures.ThreadPoolExecutor(options.streams) as pool:
                    list(pool.map(lambda number: ask(number, more), range(options.streams)))
                if turn > 0:  # the first loads, and makes the masks
                    seconds[case].append(time.monotonic() - began)
    print(f"{options.streams} streams, {options.tokens} tokens each, {options.model.name}, {options.rounds} rounds")
    print(f"{'':<18}{'ms a step':>10}{'min-max':>16}{'over none':>11}")
    for case, taken in seconds.items():
        steps = [1e3 * value / options.tokens for value in taken]
        over = statistics.median(a / b for a, b in zip(taken, seconds["none"])) - 1
        print(f"{case:<18}{statistics.median(steps):>10.1f}{min(steps):>9.1f}-{max(steps):<6.1f}{100 * over:>9.1f} %")


if __name__ == "__main__":
    main()
