"""Eight models in memory for about three, through the real binary: bench_pool.py's short form, for correctness. And the
client and the figures of that bench against a server that misbehaves on purpose and against figures worked out by hand."""

import argparse
import asyncio
import json
import os
import pathlib

import bench_pool
import make_pool_models
import pool_load
import pool_watch
import pytest
from aiohttp import web

VOCABULARY = pathlib.Path(os.environ["TIDEPOOL_TEST_DATA"]) / "llama.cpp/models/ggml-vocab-qwen2.gguf"


@pytest.mark.skipif(not VOCABULARY.exists(), reason="no test data")
def test_more_models_than_fit(tmp_path):
    """Every request that its client waits for is answered with exactly 64 tokens, whatever the other models do; clients go
    away before and inside answers; the ledger adds up at every look, and is in the end what it was in the beginning."""
    counts, problems = bench_pool.quick(os.environ["TIDEPOOL_BINARY"], tmp_path, VOCABULARY)
    assert not problems, "\n".join(problems)
    assert counts["answered"] == counts["offered"] > 50 and counts["tokens"] == 64 * counts["offered"]


def answer(arrival_s, times_s, outcome="answered", status=200, **more):
    return pool_load.Answer(0, arrival_s, arrival_s, list(times_s), outcome=outcome, status=status, **more)


def test_deadlines_are_per_token():
    assert pool_load.on_time(answer(5, [15.0, 15.1, 15.2])) == 3  # each at its deadline
    assert pool_load.on_time(answer(5, [15.01, 15.1, 15.21])) == 1  # one late token does not move the next one's deadline
    # Twice too slow: 0.2 k + 0.85 <= 10 + 0.1 k up to k = 91, with k from 0.
    assert pool_load.on_time(answer(0, [0.2 * k + 0.85 for k in range(300)])) == 92


def test_what_never_comes_is_late():
    got = pool_load.figures([
        answer(0, [1.0, 1.5, 3.0, 3.1]), answer(1, [12.0, 12.1, 12.2, 12.3]),  # the second late by a second, all of it
        answer(2, [], "refused", 429, end_s=2.25, retry_after="3"), answer(3, [], "refused", 503, end_s=3.5),
        answer(4, [5.0, 5.1], "failed"), answer(5, [], "cancelled"), answer(6, [], "timed_out")], tokens=4)
    assert got["offered"] == 6 and got["cancelled"] == 1
    assert got["tokens_on_time"] == round((4 + 0 + 2) / 24, 4)
    assert got["tokens_on_time_of_admitted"] == round(6 / 16, 4)
    assert got["requests_on_time"] == round(1 / 6, 4)
    assert (got["answered"], got["failed"], got["timed_out"], got["refused_429"], got["refused_503"]) == (2, 1, 1, 1, 1)
    assert got["refusal_max_s"] == 0.5 and got["refused_without_retry_after"] == 1
    assert (got["ttft_p50_s"], got["ttft_p99_s"]) == (1.0, 11.0)
    assert (got["largest_gap_p50_s"], got["largest_gap_max_s"]) == (0.1, 1.5)
    assert got["tokens"] == 10 and got["tokens_per_s"] == round(10 / 12.3, 3)


def test_a_schedule_is_its_seed():
    first, again, other = (pool_load.schedule(8, 2.0, 600, seed, "skewed") for seed in (1, 1, 2))
    assert first == again and first != other and len(first) == 1200
    assert all(a.at_s <= b.at_s < 600 for a, b in zip(first, first[1:]))
    share = [sum(a.model == model for a in first) / 1200 for model in range(8)]
    assert share[0] > 0.3 and share[0] > 1.5 * share[1] > share[7]  # 1 / 2.72 = .37, .18, ... .046
    even = pool_load.schedule(8, 2.0, 600, 1)
    assert all(0.09 < sum(a.model == model for a in even) / 1200 < 0.16 for model in range(8))


async def misbehave(request):
    """The prompt says how."""
    body = await request.json()
    how = body["prompt"]
    if how == "refuse":
        return web.json_response({"error": {"message": "later"}}, status=429, headers={"Retry-After": "7"})
    if how == "break":
        return web.json_response({"error": {"message": "broken"}}, status=500)
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await reply.prepare(request)

    async def event(value):
        await reply.write(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

    total = 3 if how == "short" else body["max_tokens"]
    sent = 0
    while sent < total:
        if how == "hang" and sent == 2:
            await asyncio.sleep(4)  # longer than the client waits
        if how == "cut" and sent == 2:
            request.transport.close()
            return reply
        if how == "error" and sent == 2:
            await event({"error": {"message": "the model is gone"}})
            return reply
        sent += 2 if how == "pairs" and sent < total - 1 else 1  # two tokens in one piece of text
        piece = {"choices": [{"text": "x", "finish_reason": None}], "usage": None}
        if how == "counted":
            piece["timings"] = {"predicted_n": sent}
        await event(piece)
        await asyncio.sleep(0.005)
    await event({"choices": [{"text": "", "finish_reason": "length"}]})
    await event({"choices": [], "usage": {"prompt_tokens": 256, "completion_tokens": sent}})
    if how != "unfinished":
        await event(b"[DONE]")
    return reply


def test_the_client_tells_answers_from_failures():
    ways = ("well", "pairs", "counted", "refuse", "break", "short", "cut", "error", "hang", "unfinished")

    async def run():
        application = web.Application()
        application.router.add_post("/v1/completions", misbehave)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        client = pool_load.Client(f"http://127.0.0.1:{port}", ["m"], tokens=8, timeout_s=2)
        arrivals = [pool_load.Arrival(0.01 * i, 0, way) for i, way in enumerate(ways)]
        arrivals.append(pool_load.Arrival(0.2, 0, "well", "answering"))
        try:
            return await client.run(arrivals)
        finally:
            await runner.cleanup()

    answers = asyncio.run(run())
    by_way = dict(zip(ways, answers))
    assert {way: a.outcome for way, a in by_way.items()} == {
        "well": "answered", "pairs": "answered", "counted": "answered", "refuse": "refused", "break": "failed", "short": "failed",
        "cut": "failed", "error": "failed", "hang": "timed_out", "unfinished": "failed"}
    assert answers[-1].outcome == "cancelled" and 2 <= len(answers[-1].times_s) < 8
    assert by_way["refuse"].retry_after == "7" and by_way["well"].prompt_tokens == 256
    assert len(by_way["hang"].times_s) == 2 and 1.9 < by_way["hang"].end_s < 4
    for way in ("well", "pairs", "counted"):
        times = by_way[way].times_s
        assert len(times) == 8 and times == sorted(times) and times[-1] - times[0] > 0.01


def test_pages_in_the_cache_are_counted(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(os.urandom(3 << 20))
    assert pool_watch.cached_bytes(path) == 3 << 20
    assert pool_watch.model_files([tmp_path]) == [path]
    assert pool_watch.anonymous_bytes(os.getpid()) > 1 << 20


class Measured:
    """A side whose runs have an outcome by rate."""

    def __init__(self, name, limit):
        self.name, self.limit, self.runs = name, limit, 0


@pytest.mark.parametrize("limit, runs", [(0.07, 4), (0.002, 6), (1.5, 8)])
def test_the_search_brackets_the_highest_rate(monkeypatch, limit, runs):
    def measure(side, scenario, words, arguments, minutes=None):
        side.runs += 1
        share = 0.99 if scenario.rate <= side.limit else 0.4
        return {"server": side.name, "scenario": str(scenario), "rate_per_s": scenario.rate * 8, "tokens_on_time": share}

    monkeypatch.setattr(bench_pool, "measure", measure)
    side, arguments = Measured("tidepool", limit), argparse.Namespace(search_runs=runs, search_minutes=1)
    start = bench_pool.Scenario("8:poisson:0.05")
    rows = [measure(Measured("another", 9.0), bench_pool.Scenario("8:poisson:3"), [], arguments)]  # of no concern
    rows.append(measure(side, start, [], arguments))
    found = bench_pool.search(side, start, rows, [], arguments)
    assert found["highest_good_rate_per_model"] <= limit < found["lowest_bad_rate_per_model"]
    assert found["lowest_bad_rate_per_model"] <= 1.45 * found["highest_good_rate_per_model"]
    assert side.runs <= runs + 1
    assert [row["server"] for row in rows].count("tidepool") == side.runs


def test_the_time_of_a_load_ends_with_the_first_step():
    def decide(at_ms, *effects):
        return {"t": at_ms * 1_000_000, "e": "decide", "fx": [[kind, 0, 0, model, 0, 28, 0] for kind, model in effects]}

    def done(at_ms, model):
        return {"t": at_ms * 1_000_000, "e": "load_done", "model": model}

    run, load = bench_pool.EFFECT_RUN, bench_pool.EFFECT_LOAD
    times = bench_pool.times_of_loads([
        {"policy": "tidepool", "options": {}},
        decide(1, (load, 7)), done(9, 7), decide(10, (run, 7)),  # one after the other
        decide(20, (load, 8), (run, 7)), decide(25, (run, 8)), decide(27, (run, 8)), done(28, 8),  # on landing layers
        decide(50, (load, 9)), decide(60, (run, 8)), done(61, 9)])  # nobody asked for it any more
    assert [time_s and round(time_s, 6) for time_s in times] == [0.009, 0.005, None]


def test_scenarios_are_checked():
    scenario = bench_pool.Scenario("12:skewed:0.033")
    assert (scenario.models, scenario.arrivals, scenario.rate, str(scenario)) == (12, "skewed", 0.033, "12:skewed:0.033")
    for wrong in ("8", "8:bursty:0.1", "0:poisson:0.1", "8:poisson:-1", "8:poisson:fast"):
        with pytest.raises(argparse.ArgumentTypeError, match="poisson"):
            bench_pool.Scenario(wrong)


@pytest.mark.skipif(not VOCABULARY.exists(), reason="no test data")
def test_pool_models_differ_and_are_kept(tmp_path):
    first, second = make_pool_models.make_models("pool-tiny", 2, "Q4_0", VOCABULARY, tmp_path / "a")
    (again,) = make_pool_models.make_models("pool-tiny", 1, "Q4_0", VOCABULARY, tmp_path / "b")
    (other,) = make_pool_models.make_models("pool-tiny", 1, "Q4_0", VOCABULARY, tmp_path / "c", seed=2)
    assert first.read_bytes() == again.read_bytes()
    weights = [path.read_bytes()[-4_000_000:] for path in (first, second, other)]
    blocks = [{content[at:at + 18] for at in range(0, 900_000, 18)} for content in weights]
    assert len(blocks[0] & blocks[1]) < 10 and len(blocks[0] & blocks[2]) < 10  # but zeros
    made = first.stat().st_mtime_ns
    make_pool_models.make_models("pool-tiny", 1, "Q4_0", VOCABULARY, tmp_path / "a")
    assert first.stat().st_mtime_ns == made
    make_pool_models.make_models("pool-tiny", 1, "Q8_0", VOCABULARY, tmp_path / "a")
    assert first.stat().st_mtime_ns != made
    assert len(make_pool_models.tokens_of(first)) == 4096
    assert len(pool_load.common_words([make_pool_models.tokens_of(path) for path in (second, other)])) > 200
