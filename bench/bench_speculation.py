#!/usr/bin/env python3
"""What drafts gain and cost, on one stream and in batches: the same requests with pool.speculation on and off, in turns.

Edits (the answer repeats most of the prompt), structured output (a grammar forces most of it), a summary (some of it) and prose (neither).
Answers must be equal. Tokens/s are of the whole request, medians of the rounds. The ratio is the median of the rounds' own
ratios, the two servers taking turns to begin, so that a machine whose speed drifts weighs on both; behind it the interval
that holds the true median with 95 % (order statistics). Differences of 3 % want --rounds 41 or so."""

import argparse
import concurrent.futures
import json
import math
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from server_process import Server  # noqa: E402

CODE = '''def tides(days, height):
    result = []
    for day in range(days):
        for hour in range(0, 24, 6):
            level = height * (1 if hour % 12 == 0 else -1)
            result.append({"day": day, "hour": hour, "level": level})
    return result


def highest(result):
    best = None
    for entry in result:
        if best is None or entry["level"] > best["level"]:
            best = entry
    return best
'''
TEXT = ("The tide rises and falls twice a day because the Moon pulls the water of the sea towards it, and the Earth turns "
        "beneath. When Sun and Moon stand in one line the tides are high and are called spring tides; when they stand at "
        "right angles the tides are low and are called neap tides. ")
SCHEMA = {"type": "object", "additionalProperties": False,
          "properties": {"temperature_celsius": {"type": "integer", "minimum": -50, "maximum": 60}, "precipitation_probability": {"type": "integer", "minimum": 0, "maximum": 100},
                         "weather_description": {"enum": ["sunny", "cloudy", "rainy", "snowy"]}, "wind_direction": {"enum": ["north", "south", "east", "west"]}},
          "required": ["temperature_celsius", "precipitation_probability", "weather_description", "wind_direction"]}

SCHEMA_FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}, "max_tokens": 120}
TOWNS = ("Oslo", "Rome", "Lima", "Kyiv", "Bern", "Doha", "Riga", "Bonn", "Baku", "Cork", "Graz", "Jena", "Leon", "Metz", "Nice", "Pisa")


def chat(text, **more):
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 1, **more}


def edit(town="Oslo"):
    code = CODE.replace("tides", f"tides_{town}")
    prompt = f"```python\n{code}```\nThe same code with longer names:\n```python\n" + code[:70].replace("days", "number_of_days")
    return "/v1/completions", {"prompt": prompt, "max_tokens": 200, "temperature": 0}


def schema(town="Oslo"):
    return chat(f"What is the weather in {town}?", **SCHEMA_FORMAT)


def prose(town="Oslo"):
    return chat(f"Write a story about a lighthouse keeper of {town}.", max_tokens=200, temperature=0.8)


BATCHES = [(edit, streams) for streams in (2, 4, 8, 16)] + [(schema, 4), (schema, 8)] + [(prose, streams) for streams in (2, 4, 8, 16)]
CASES = {
    "edit: code": edit(),
    "edit: text again": ("/v1/completions", {"prompt": TEXT + "\n\nOnce more, word for word:\n\n" + TEXT[:20], "max_tokens": 90, "temperature": 0}),
    "schema": schema(),
    "summary": chat("Summarise this in two sentences:\n\n" + TEXT * 2, max_tokens=150),
    "prose": prose(),
    "question": chat("Why is the sky blue?", max_tokens=120),
}


def named(make, streams):
    return f"{make.__name__}, {streams} streams"


def in_turn(servers, turn):
    return list(servers.items())[::1 if turn % 2 == 0 else -1]


def interval(count):
    """Places, in order, of the values between which the median lies with 95 % (with fewer than 6: all of them): the
    largest low with P(Bin(count, 1/2) <= low) <= 2.5 %."""
    below, low = 0.5**count, 0
    while True:
        below += math.comb(count, low + 1) / 2**count
        if below > 0.025:
            return low, count - 1 - low
        low += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a GGUF file")
    parser.add_argument("--binary", default=str(ROOT / "build/tidepool"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    options = parser.parse_args()
    cases = {name: case for name, case in CASES.items() if options.only in name}
    batches = [batch for batch in BATCHES if options.only in named(*batch)]
    servers = {name: Server(binary=options.binary, settings={"TIDEPOOL_POOL_SPECULATION": name}) for name in ("true", "false")}
    with servers["true"], servers["false"]:
        models = {name: server.store(options.model.resolve()) for name, server in servers.items()}
        rates = {case: {name: [] for name in servers} for case in (*cases, *(named(*batch) for batch in batches))}
        for turn in range(options.rounds + 1):
            for case, (path, body) in cases.items():
                said = {}
                for name, server in in_turn(servers, turn):
                    began = time.monotonic()
                    reply = server.ask("POST", path, {"model": models[name], **body})
                    seconds = time.monotonic() - began
                    choice = reply["choices"][0]
                    said[name] = choice.get("text") or choice["message"]["content"]
                    if turn > 0:  # the first loads, and fills the prefix cache
                        rates[case][name].append(reply["usage"]["completion_tokens"] / seconds)
                if said["true"] != said["false"]:
                    sys.exit(f"{case}: the answers differ:\n{json.dumps(said, indent=1)}")
            for make, streams in batches:
                for name, server in in_turn(servers, turn):
                    def ask(town, name=name, server=server, make=make):
                        path, body = make(town)
                        return server.ask("POST", path, {"model": models[name], **body})["usage"]["completion_tokens"]
                    began = time.monotonic()
                    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
                        tokens = sum(pool.map(ask, TOWNS[:streams]))
                    if turn > 0:
                        rates[named(make, streams)][name].append(tokens / (time.monotonic() - began))
        print(f"{'':<20}{'with':>10}{'without':>10}   tokens/s{'ratio':>8}   95 % of {options.rounds} rounds")
        for case, both in rates.items():
            with_, without = (statistics.median(both[name]) for name in servers)
            ratios = sorted(a / b for a, b in zip(both["true"], both["false"]))
            low, high = interval(len(ratios))
            print(f"{case:<20}{with_:>10.0f}{without:>10.0f}{statistics.median(ratios):>19.3f}   "
                  f"{ratios[low]:.3f} to {ratios[high]:.3f}")


if __name__ == "__main__":
    main()
