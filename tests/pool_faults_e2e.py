"""What goes wrong around a running pool, through the real binary: a packed file that is cut under a running model, kill -9 in
the middle of answers and of packing, ten thousand requests for a model that is not there, many first requests at once; and
what is kept over a restart: prefix caches of pinned models, the record of decisions."""

import concurrent.futures
import copy
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.parse

import pytest

from cli_e2e import eventually, tidepool
from server_process import MODEL, Server

REAL_MODEL = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = pytest.mark.skipif(not REAL_MODEL.exists(), reason="no test data")
SETTINGS = {"TIDEPOOL_POOL_MEMORY": "900MiB", "TIDEPOOL_POOL_WARM_MEMORY": "256MiB"}


def body(model, tokens, prompt, **more):
    return {"model": model, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0,
            "messages": [{"role": "user", "content": prompt}], **more}


def chat(server, model, tokens, prompt="Tell me about the sea."):
    return server.ask("POST", "/v1/chat/completions", body(model, tokens, prompt), timeout_s=180)


def text_of(reply):
    return reply["choices"][0]["message"]["content"]


class Stream:
    """A streamed answer in a thread of its own: text so far, and how it ended."""

    def __init__(self, server, model, tokens, prompt="Tell me about the sea."):
        self.text, self.error, self.finish = "", None, None
        url = urllib.parse.urlsplit(server.url)
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=180)
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body(model, tokens, prompt, stream=True)), {
            "Authorization": f"Bearer {server.key}", "Content-Type": "application/json"})
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            reply = self.connection.getresponse()
            for line in reply:
                line = line.decode().strip()
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    self.error = event["error"]
                for choice in event.get("choices", []):
                    self.text += choice.get("delta", {}).get("content") or ""
                    self.finish = choice.get("finish_reason") or self.finish
        except (OSError, http.client.HTTPException, ValueError) as problem:
            self.error = self.error or {"message": str(problem)}

    def wait(self, seconds=180):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the answer does not end"


def second_model(server, folder):
    """The same weights under other bytes: a blob, a packed file and memory of its own."""
    copy = folder / "second.gguf"
    data = bytearray(REAL_MODEL.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    return server.store(copy)


def pool(server):
    return server.ask("GET", "/api/v1/pool")


def test_a_packed_file_cut_under_a_running_model(tmp_path):
    """Its requests end with a clear error, the other model's answer goes on as if nothing had been, and the next request
    finds the file packed again. Cut in the middle, to nothing, and by less than a page (which no signal tells)."""
    with Server(settings=SETTINGS) as server:
        good, bad = server.store(REAL_MODEL), second_model(server, tmp_path)
        expected = text_of(chat(server, good, 150))
        before = text_of(chat(server, bad, 20))
        for cut in (lambda size: size // 2, lambda size: 0, lambda size: size - 100):
            packed = max((server.home / "packed").glob("*.weights"), key=lambda path: path.stat().st_mtime)
            running, other = Stream(server, bad, 900), Stream(server, good, 150)
            eventually(lambda: len(running.text) > 20 and len(other.text) > 0, "both run")
            os.truncate(packed, cut(packed.stat().st_size))
            running.wait()
            other.wait()
            assert running.error and running.error["code"] in ("weights_lost", "packed_file_damaged"), running.error
            assert "packed" in running.error["message"]
            assert other.error is None and other.text == expected
            for attempt in range(20):  # it is being taken out and packed again
                try:
                    assert text_of(chat(server, bad, 20)) == before
                    break
                except RuntimeError as problem:
                    assert "503" in str(problem) and attempt < 19, problem
                    time.sleep(0.25)
        assert server.process.poll() is None
        state = pool(server)
        assert state["memory"]["used_bytes"] == sum(owner["bytes"] for owner in state["memory"]["owners"])
        assert state["packed_cache"]["misses"] + state["packed_cache"]["rebuilds"] == 5
        eventually(lambda: all(not m["active"] for m in pool(server)["models"]), "nothing is left running")


def test_kill_9_in_the_middle(tmp_path):
    """Of answers, then of packing: the store, packed files and keys are whole, and answers are the same afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    with Server(settings=SETTINGS, home=home) as server:
        model, key = server.store(REAL_MODEL), server.key
        expected = text_of(chat(server, model, 30))
        streams = [Stream(server, model, 900, f"{i}: tell me about the sea.") for i in range(4)]
        eventually(lambda: all(stream.text for stream in streams), "answers run")
        server.process.kill()
        server.process.wait()
    with Server(settings=SETTINGS, home=home) as server:
        assert server.key == key
        assert text_of(chat(server, model, 30)) == expected
        packings = pool(server)["packed_cache"]
        assert packings["hits"] == 1 and packings["misses"] + packings["rebuilds"] == 0, "what was packed is used again"
        other = second_model(server, tmp_path)
        threading.Thread(target=lambda: Stream(server, other, 5), daemon=True).start()
        eventually(lambda: list((home / "packed").glob("*.tmp")) or len(list((home / "packed").glob("*.weights"))) > 1,
                   "it is being packed")
        server.process.kill()
        server.process.wait()
    with Server(settings=SETTINGS, home=home) as server:
        assert text_of(chat(server, model, 30)) == expected
        assert text_of(chat(server, other, 5))
        assert not list((home / "packed").glob("*.tmp"))
        assert {entry["id"] for entry in server.ask("GET", "/api/v1/models")["data"]} >= {model, other}


def test_ten_thousand_requests_for_an_unknown_model():
    """Each is told so at once; nothing is loaded, kept or leaked, and a model that is there answers meanwhile."""
    with Server("--simulated", settings={**SETTINGS, "TIDEPOOL_POOL_KV_READY": "0"}) as server:
        url = urllib.parse.urlsplit(server.url)
        threads_before = len(list(pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()))

        def memory():
            lines = pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024

        def ask_many(number):
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
            statuses = set()
            for i in range(1250):
                connection.request("POST", "/v1/chat/completions", json.dumps(body(f"nobody-{number}-{i}", 5, "Hi")), {
                    "Authorization": f"Bearer {server.key}", "Content-Type": "application/json"})
                reply = connection.getresponse()
                error = json.loads(reply.read())["error"]
                statuses.add((reply.status, error["code"], error["param"], f"nobody-{number}-{i}" in error["message"]))
            return statuses

        chat(server, MODEL, 5)
        list(concurrent.futures.ThreadPoolExecutor(8).map(ask_many, range(8)))  # buffers and arenas have their size
        before = memory()
        with concurrent.futures.ThreadPoolExecutor(9) as clients:
            told = [clients.submit(ask_many, number) for number in range(8)]
            answered = chat(server, MODEL, 5)
        assert answered["usage"]["completion_tokens"] == 5
        assert set.union(*(future.result() for future in told)) == {(404, "model_not_found", "model", True)}
        assert not any("nobody" in owner["owner"] for owner in pool(server)["memory"]["owners"])
        assert len(pool(server)["models"]) == 1
        assert memory() - before < 8 << 20, "10,000 more names cost nothing that stays"
        assert len(list(pathlib.Path(f"/proc/{server.process.pid}/task").iterdir())) <= threads_before + 8


def test_many_first_requests_are_one_load(tmp_path):
    with Server(settings=SETTINGS) as server:
        model = server.store(REAL_MODEL)
        with concurrent.futures.ThreadPoolExecutor(12) as clients:
            replies = list(clients.map(lambda _: text_of(chat(server, model, 8)), range(12)))
        assert len(set(replies)) == 1
        state = pool(server)
        assert state["packed_cache"]["misses"] == 1 and state["packed_cache"]["hits"] == 0
        (entry,) = state["models"]
        assert entry["loads"] == 1 and entry["state"] == "ready"


def test_prefix_caches_of_pinned_models_over_a_restart(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    settings = {**SETTINGS, "TIDEPOOL_POOL_PREFIX_FILES": "64MiB"}
    prompt = "Here is a list of numbers: " + " ".join(str(i * 7919 % 1000) for i in range(60)) + ". Say something about it."

    def cached(reply):
        return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

    with Server(settings=settings, home=home) as server:
        model = server.store(REAL_MODEL)
        settings["TIDEPOOL_MODELS_PIN"] = model
    with Server(settings=settings, home=home) as server:
        eventually(lambda: any(m["id"] == model and m["pinned"] for m in pool(server)["models"]), "it is pinned")
        first = chat(server, model, 10, prompt)
        assert cached(first) == 0
        again = chat(server, model, 10, prompt)
        assert cached(again) >= 96 and text_of(again) == text_of(first)
    (file,) = (home / "prefixes").iterdir()
    assert file.stat().st_size < 64 << 20 and file.stat().st_mode & 0o077 == 0
    with Server(settings=settings, home=home) as server:
        restored = chat(server, model, 10, prompt)
        assert cached(restored) == cached(again) and text_of(restored) == text_of(first)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with Server(settings=settings, home=home) as server:
        damaged = chat(server, model, 10, prompt)
        assert cached(damaged) == 0 and text_of(damaged) == text_of(first)
    del settings["TIDEPOOL_MODELS_PIN"]
    with Server(settings=settings, home=home) as server:
        chat(server, model, 2, prompt)
    assert not list((home / "prefixes").iterdir()), "nothing is kept of a model that is not pinned any more"


def test_a_recorded_pool_is_replayed_and_is_a_workload(tmp_path):
    """The record of a real pool's decisions: decided again, equal but where it was changed; and its requests simulated."""
    with Server("--simulated", settings={**SETTINGS, "TIDEPOOL_POOL_TRACE_RECORDS": "20000"}) as server:
        for i in range(5):
            chat(server, MODEL, 3 + i, f"{i}: hello")
        headers = {"Authorization": f"Bearer {server.key}"}
        url = urllib.parse.urlsplit(server.url)

        def lines(path):
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
            connection.request("GET", path, headers=headers)
            reply = connection.getresponse()
            assert reply.status == 200
            return reply.read().decode().splitlines()

        decisions = [json.loads(line) for line in lines("/api/v1/pool/trace")]
        assert sum(record.get("e") == "arrive" for record in decisions) == 5
        recorded = tmp_path / "decisions.jsonl"

        def replay(records, *more):
            recorded.write_text("".join(json.dumps(record) + "\n" for record in records))
            return tidepool(server.home, "sim", "--replay", str(recorded), *more)

        decided = sum(record.get("e") == "decide" for record in decisions)
        assert decided > 5
        same = replay(decisions)
        assert same.returncode == 0 and same.stdout.startswith(f"{decided} decisions in ") and "all equal" in same.stdout, same.stderr
        told = json.loads(replay(decisions, "--json").stdout)
        assert told["equal"] is True and told["decisions"] == decided and told["policy"] == "tidepool"
        # One effect changed: found, with both sides, and an error.
        changed = copy.deepcopy(decisions)
        at = next(i for i, record in enumerate(changed) if any(effect[6] > 0 for effect in record.get("fx", [])))
        next(effect for effect in changed[at]["fx"] if effect[6] > 0)[6] += 1
        other = replay(changed)
        assert other.returncode == 1 and "recorded" in other.stderr and "seen" in other.stderr and not other.stdout, other.stderr
        assert json.loads(replay(changed, "--json").stdout)["equal"] is False
        for wrong, says in (([{"incomplete": True}, *decisions], "larger bound"),
                            ([{**decisions[0], "policy": "lru"}], "lru"), ([], "no decision"), ([{"t": 0, "e": "surprise"}], "line 1"),
                            ([*decisions[:3], {"t": 0, "e": "grown", "job": 77}, {"t": 0, "e": "step_done", "value": 1}], "nothing that was asked")):
            reply = replay(wrong)
            assert reply.returncode != 0 and re.search(says, reply.stderr), (says, reply.returncode, reply.stderr)
        requests = lines("/api/v1/pool/trace/requests")
        assert [json.loads(line)["output_tokens"] for line in requests] == [3, 4, 5, 6, 7]
        trace = tmp_path / "trace.jsonl"
        trace.write_text("\n".join(requests) + "\n")
        reply = tidepool(server.home, "sim", "--workload", str(trace), "--devices", "1xH20", "--models", "1xqwen2.5-7b", "--json")
        assert reply.returncode == 0, reply.stderr
        (result,) = json.loads(reply.stdout)["data"]
        assert result["requests"] == 5
    with Server("--simulated", settings=SETTINGS) as server:
        with pytest.raises(RuntimeError, match="pool.trace_records"):
            server.ask("GET", "/api/v1/pool/trace")
