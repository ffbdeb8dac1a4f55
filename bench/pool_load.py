"""The load of bench_pool.py: schedules, prompts, one streaming client for any OpenAI-compatible server, and the figures.

Deadlines are strict and per token: token i (from 0) of an answer is due at arrival + TTFT + i * TPOT, where the arrival is
the one the schedule says. Tokens that never come are late, whoever is to blame.
"""

import asyncio
import dataclasses
import json
import math
import random
import re
import time

import aiohttp

TTFT_S = 10.0
TPOT_S = 0.1
PROMPT_WORD = re.compile(r"[\u0120\u2581]([a-z]{3,10})")


@dataclasses.dataclass
class Arrival:
    at_s: float
    model: int
    prompt: str
    cancel: str = ""  # "", "waiting" (the client goes before the answer begins) or "answering" (in the middle of it)


def schedule(models, rate, seconds, seed, arrivals="poisson", skew=1.0, cancels=0.0):
    """Poisson arrivals at `rate` in all. `arrivals`: poisson (equal shares) or skewed (shares ~ 1 / rank^skew).

    Exactly rate * seconds of them, at independent uniform times: a Poisson process of which the number is known, so that
    the rate is the stated one in a short run too."""
    rng = random.Random(f"{seed} {models} {arrivals} {skew}")
    weights = [1.0 if arrivals == "poisson" else (rank + 1) ** -skew for rank in range(models)]
    out = []
    for at in sorted(rng.uniform(0, seconds) for _ in range(max(1, round(rate * seconds)))):
        cancel = rng.choice(["waiting", "answering"]) if rng.random() < cancels else ""
        out.append(Arrival(at, rng.choices(range(models), weights)[0], "", cancel))
    return out


def give_prompts(arrivals, words, tokens, seed):
    """A prompt of `tokens` words, each one token; two prompts share nothing, so no prefix cache helps."""
    rng = random.Random(f"{seed} prompts")
    for arrival in arrivals:
        arrival.prompt = "".join(" " + word for word in rng.choices(words, k=tokens))


def common_words(vocabularies):
    """Words that are one token, with the space before them, in every vocabulary."""
    found = [{match[1] for match in map(PROMPT_WORD.fullmatch, tokens) if match} for tokens in vocabularies]
    return sorted(set.intersection(*found))


@dataclasses.dataclass
class Answer:
    model: int
    arrival_s: float  # of the schedule's clock, as every time here
    sent_s: float = math.nan
    times_s: list = dataclasses.field(default_factory=list)  # of each token
    end_s: float = math.nan
    status: int = 0
    outcome: str = ""  # answered, refused, failed, timed_out, cancelled
    problem: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    retry_after: str = ""


class Client:
    """Streams /v1/completions. `models`: names by index; `extra`: fields of this server's dialect."""

    def __init__(self, url, models, key="", extra=None, tokens=64, timeout_s=120.0):
        self.url, self.models, self.extra, self.tokens, self.timeout_s = url, models, extra or {}, tokens, timeout_s
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.zero = 0.0

    def now_s(self):
        return time.perf_counter() - self.zero

    async def ask(self, session, arrival):
        answer = Answer(arrival.model, arrival.at_s, self.now_s())
        try:
            async with asyncio.timeout(self.timeout_s - (answer.sent_s - arrival.at_s)):
                await self._stream(session, arrival, answer)
        except TimeoutError:
            answer.outcome = answer.outcome or ("cancelled" if arrival.cancel == "waiting" else "timed_out")
        except (aiohttp.ClientError, ValueError, KeyError, IndexError, OSError) as problem:
            answer.outcome, answer.problem = "failed", f"{type(problem).__name__}: {problem}"
        answer.end_s = self.now_s()
        return answer

    async def _stream(self, session, arrival, answer):
        body = {"model": self.models[arrival.model], "prompt": arrival.prompt, "max_tokens": self.tokens, "temperature": 0,
                "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, **self.extra}
        async with session.post(self.url + "/v1/completions", json=body, headers=self.headers) as reply:
            answer.status = reply.status
            if reply.status != 200:
                answer.outcome = "refused" if reply.status in (429, 503) else "failed"
                answer.problem = (await reply.text())[:300]
                answer.retry_after = reply.headers.get("Retry-After", "")
                return
            if arrival.cancel == "waiting":
                answer.outcome = "cancelled"
                return
            counted, done = 0, False
            async for line in reply.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    done = True
                    break
                event, now = json.loads(line[6:]), self.now_s()
                if "error" in event:
                    raise ValueError(json.dumps(event["error"])[:300])
                usage = event.get("usage")
                if usage:
                    answer.prompt_tokens = usage["prompt_tokens"]
                    answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
                if event.get("choices") and event["choices"][0].get("text"):
                    # One event is one token, unless a character was held back until it was whole: servers that say how
                    # many there are by now are believed, the others' missing tokens came with the last event.
                    counted = max(counted + 1, (event.get("timings") or {}).get("predicted_n", 0))
                if usage:
                    counted = usage["completion_tokens"]
                answer.times_s += [now] * (counted - len(answer.times_s))
                if arrival.cancel == "answering" and len(answer.times_s) >= self.tokens // 4:
                    answer.outcome = "cancelled"
                    return
        if len(answer.times_s) == self.tokens and done:
            answer.outcome = "answered"
        else:
            answer.outcome, answer.problem = "failed", f"{len(answer.times_s)} tokens, then " + ("[DONE]" if done else "the end")

    async def run(self, arrivals, progress=None):
        """Sends every request at its time, waits for all answers (each at most timeout_s); answers by arrival."""
        answers, tasks = [], []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True),
                                         timeout=aiohttp.ClientTimeout(total=None), read_bufsize=1 << 20) as session:
            self.zero = time.perf_counter()

            async def one(arrival):
                await asyncio.sleep(arrival.at_s - self.now_s())
                if progress:
                    progress.sent += 1
                if arrival.cancel == "waiting":
                    # The reply's header may only come with the first token: the client goes before it.
                    try:
                        answer = await asyncio.wait_for(self.ask(session, arrival), 0.05)
                    except TimeoutError:
                        answer = Answer(arrival.model, arrival.at_s, outcome="cancelled")
                else:
                    answer = await self.ask(session, arrival)
                answers.append(answer)
                if progress:
                    progress.take(answer)

            tasks = [asyncio.create_task(one(arrival)) for arrival in arrivals]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return sorted(answers, key=lambda answer: answer.arrival_s)


def on_time(answer, ttft_s=TTFT_S, tpot_s=TPOT_S):
    return sum(at <= answer.arrival_s + ttft_s + i * tpot_s for i, at in enumerate(answer.times_s))


def percentile(values, share):
    """Nearest rank: the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def figures(answers, tokens=64, ttft_s=TTFT_S, tpot_s=TPOT_S):
    """Of all offered requests but those that the client itself cancelled."""
    offered = [answer for answer in answers if answer.outcome != "cancelled"]
    kinds = {kind: [a for a in offered if a.outcome == kind] for kind in ("answered", "refused", "failed", "timed_out")}
    good = [on_time(answer, ttft_s, tpot_s) for answer in offered]
    admitted = len(offered) - len(kinds["refused"])
    first = [a.times_s[0] - a.arrival_s for a in offered if a.times_s]
    gaps = [max(b - a for a, b in zip(x.times_s, x.times_s[1:])) for x in offered if len(x.times_s) > 1]
    refusals = [a.end_s - a.sent_s for a in kinds["refused"]]
    begin = min((a.arrival_s for a in offered), default=0.0)
    end = max((a.times_s[-1] for a in offered if a.times_s), default=begin)
    received = sum(len(a.times_s) for a in offered)

    def share(part, whole):
        return round(part / whole, 4) if whole else None

    def rounded(value):
        return None if value is None else round(value, 3)

    return {
        "offered": len(offered), "cancelled": len(answers) - len(offered),
        "tokens_on_time": share(sum(good), len(offered) * tokens),
        "tokens_on_time_of_admitted": share(sum(good), admitted * tokens),
        "requests_on_time": share(sum(n == tokens for n in good), len(offered)),
        "answered": len(kinds["answered"]), "failed": len(kinds["failed"]), "timed_out": len(kinds["timed_out"]),
        "refused_429": sum(a.status == 429 for a in kinds["refused"]),
        "refused_503": sum(a.status == 503 for a in kinds["refused"]),
        "refused_without_retry_after": sum(not a.retry_after for a in kinds["refused"]),
        "refusal_max_s": rounded(max(refusals, default=None)),
        "tokens": received, "seconds": rounded(end - begin), "tokens_per_s": rounded(received / (end - begin) if end > begin else 0.0),
        "ttft_p50_s": rounded(percentile(first, 0.5)), "ttft_p99_s": rounded(percentile(first, 0.99)),
        "largest_gap_p50_s": rounded(percentile(gaps, 0.5)), "largest_gap_p99_s": rounded(percentile(gaps, 0.99)),
        "largest_gap_max_s": rounded(max(gaps, default=None)),
        "prompt_tokens_max": max((a.prompt_tokens for a in offered), default=0),
        "cached_tokens_max": max((a.cached_tokens for a in offered), default=0),
        "sent_late_max_s": rounded(max((a.sent_s - a.arrival_s for a in offered), default=0.0)),
        "problems": sorted({a.problem for a in offered if a.problem})[:5],
    }
