"""The pool as its operator sees and steers it, through the real binary: budgets while requests run, pins, policies, live
events, the command line, a model that is broken. One small model of real weights under three names."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import threading
import time
import urllib.error
import urllib.request

import pytest

from cli_e2e import Screen, eventually, start, tidepool
from server_process import MODEL, Server

REAL_MODEL = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"
MIB = 1 << 20


@pytest.fixture(scope="module")
def server():
    with Server("--simulated", settings={"TIDEPOOL_POOL_MEMORY": "900MiB", "TIDEPOOL_POOL_WARM_MEMORY": "256MiB"}) as running:
        yield running


@pytest.fixture(scope="module")
def model(server):
    if not REAL_MODEL.exists():
        pytest.skip("no test data")
    return server.store(REAL_MODEL)


def chat(server, model, tokens, done, prompt="Tell me about the sea."):
    done.append(server.ask("POST", "/v1/chat/completions", {
        "model": model, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0,
        "messages": [{"role": "user", "content": prompt}]}, timeout_s=120))


def state_of(server, model):
    return next((m for m in server.ask("GET", "/api/v1/pool")["models"] if m["id"] == model), None)


@contextlib.contextmanager
def events(server):
    request = urllib.request.Request(server.url + "/api/v1/pool/events", headers={"Authorization": f"Bearer {server.key}"})
    with urllib.request.urlopen(request, timeout=30) as stream:
        def read():
            name = "message"
            for line in stream:
                line = line.decode().rstrip("\n")
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])
        yield read()


def test_state_says_who_owns_what(server):
    state = server.ask("GET", "/api/v1/pool")
    assert state["memory"]["limit_bytes"] == 900 * MIB and state["memory"]["over_bytes"] == 0
    assert sum(owner["bytes"] for owner in state["memory"]["owners"]) == state["memory"]["used_bytes"]
    assert state["device"]["cordoned"] is False and state["counters"]["decisions"] >= 0
    assert any(m["id"] == MODEL for m in state["models"])


def kept_ready(server):
    owners = server.ask("GET", "/api/v1/pool")["memory"]["owners"]
    return sum(owner["bytes"] for owner in owners if owner["kind"] == "reserve" and owner["owner"] == "kv_reserve")


def test_memory_for_kv_is_ready_and_makes_way(server):
    eventually(lambda: kept_ready(server) > 192 * MIB, "memory for KV is ready")
    limit = server.ask("GET", "/api/v1/pool")["memory"]["limit_bytes"]
    used = server.ask("GET", "/api/v1/pool")["memory"]["used_bytes"]
    reply = server.ask("POST", "/api/v1/pool/resize", {"memory": used - 128 * MIB})
    assert reply["memory"]["over_bytes"] == 0, "it goes before anything else, at once"
    assert kept_ready(server) <= 128 * MIB
    server.ask("POST", "/api/v1/pool/resize", {"memory": limit})


def test_resize_below_use_kills_nobody(server, model):
    done, threads = [], []
    chat(server, model, 1, done)  # its weights are in memory
    limit = server.ask("GET", "/api/v1/pool")["memory"]["limit_bytes"]
    for i in range(3):
        threads.append(threading.Thread(target=chat, args=(server, model, 100, done, f"{i}: tell me about the sea.")))
        threads[-1].start()
    eventually(lambda: active(server, model) == 3, "requests run")  # with all of their KV
    memory = server.ask("GET", "/api/v1/pool")["memory"]
    # As much as one of them needs: 9 MiB are a slab of KV.
    lower = 9 * MIB + sum(owner["bytes"] for owner in memory["owners"] if owner["kind"] in ("weights", "scratch"))
    assert lower < memory["used_bytes"]
    reply = server.ask("POST", "/api/v1/pool/resize", {"memory": lower})
    assert reply["memory"]["limit_bytes"] == lower and "until the server starts again" in reply["note"]
    for thread in threads:
        thread.join(100)
    eventually(lambda: server.ask("GET", "/api/v1/pool")["memory"]["over_bytes"] == 0, "it has drained when they had ended")
    server.ask("POST", "/api/v1/pool/resize", {"memory": "900MiB", "warm_memory": "25%"})
    assert len(done) == 4, "every request was answered"
    assert all(reply["usage"]["completion_tokens"] == 100 for reply in done[1:])
    state = server.ask("GET", "/api/v1/pool")
    assert state["memory"]["limit_bytes"] == limit and state["memory"]["used_bytes"] <= limit


@pytest.mark.skipif(not REAL_MODEL.exists(), reason="no test data")
def test_resize_below_live_reservations_drains_first_and_says_so():
    """KV of 4 answers of 250 tokens is in memory, and room for as much as one of them is left beside the weights: they take
    turns, their KV moves to the host and comes back, and every one is answered in full."""
    with Server(settings={"TIDEPOOL_POOL_MEMORY": "900MiB", "TIDEPOOL_POOL_WARM_MEMORY": "256MiB"}) as server:
        model, done = server.store(REAL_MODEL), []
        threads = [threading.Thread(target=chat, args=(server, model, 250, done, f"{i}: tell me about the sea.")) for i in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: active(server, model) == 4, "all have begun")
        owners = server.ask("GET", "/api/v1/pool")["memory"]["owners"]
        held = {kind: sum(owner["bytes"] for owner in owners if owner["kind"] == kind) for kind in ("weights", "kv", "scratch")}
        limit = held["weights"] + held["scratch"] + 11 * MIB
        assert held["kv"] > 11 * MIB, owners
        before = server.ask("GET", "/api/v1/pool")["memory"]["limit_bytes"]
        with pytest.raises(RuntimeError, match="409.*pool_in_use"):  # not one of them could end
            server.ask("POST", "/api/v1/pool/resize", {"memory": held["weights"] + held["scratch"]})
        assert server.ask("GET", "/api/v1/pool")["memory"]["limit_bytes"] == before
        reply = server.ask("POST", "/api/v1/pool/resize", {"memory": limit})
        assert not done, "they still run"
        assert reply["draining"] is True and reply["memory"]["over_bytes"] > 0 and reply["memory"]["limit_bytes"] == limit
        assert "Nothing is killed; nothing new is taken until it has drained." in reply["note"]
        eventually(lambda: server.ask("GET", "/api/v1/pool")["memory"]["over_bytes"] == 0, "it has drained")
        assert len(done) < 4 and server.ask("GET", "/api/v1/pool")["counters"]["spills"] > 0, "before they have ended"
        for thread in threads:
            thread.join(120)
        assert [answer["usage"]["completion_tokens"] for answer in done] == [250] * 4, "what was promised is kept"
        state = server.ask("GET", "/api/v1/pool")
        assert state["counters"]["restores"] == state["counters"]["spills"] and state["counters"]["drops"] == 0
        again = server.ask("POST", "/api/v1/pool/resize", {"memory": "900MiB"})
        assert again["draining"] is False and "drained" not in again["note"]


# Many steps that take 30 ms each: whoever asks for this is there for seconds, on any machine.
SLOW = "[[stall_ms:30]][[tokens:{}]]"


def ask_slowly(server, tokens, done):
    done.append(server.ask("POST", "/v1/chat/completions", {
        "model": MODEL, "max_tokens": tokens, "messages": [{"role": "user", "content": SLOW.format(tokens)}]}, timeout_s=120))


def active(server, model=MODEL):
    entry = state_of(server, model)
    return entry["active"] if entry else 0


def test_idle_weights_leave_when_the_pool_shrinks_and_come_back(server, model):
    done = []
    server.ask("POST", "/api/v1/pool/policy", {"model": model, "pinned": False})
    chat(server, model, 1, done)
    server.ask("POST", "/api/v1/pool/resize", {"memory": "48MiB"})
    eventually(lambda: server.ask("GET", "/api/v1/pool")["memory"]["over_bytes"] == 0, "it has drained")
    assert state_of(server, model)["segments"]["resident"] < 30
    server.ask("POST", "/api/v1/pool/resize", {"memory": "900MiB"})
    chat(server, model, 2, done)
    assert done[-1]["usage"]["completion_tokens"] == 2


def test_pins_and_time_to_live(server, model):
    done = []
    pinned = server.ask("POST", "/api/v1/pool/policy", {"model": model, "pinned": True})
    assert pinned["pinned"] and pinned["pinned_by"] == "operator"

    def resident():
        segments = state_of(server, model)["segments"]
        return segments["resident"] > 0 and segments["resident"] == sum(segments.values())
    eventually(resident, "a pinned model is resident")
    # Scale to zero: the time to live passes, the weights go; the next request brings them back.
    server.ask("POST", "/api/v1/pool/policy", {"model": model, "pinned": False, "idle_ttl_s": 0.2})
    eventually(lambda: state_of(server, model)["segments"]["resident"] == 0, "idle weights have left")
    chat(server, model, 2, done)
    assert done[0]["usage"]["completion_tokens"] == 2
    assert state_of(server, model)["arrivals"] > 0
    server.ask("POST", "/api/v1/pool/policy", {"model": model, "idle_ttl_s": -1})


@pytest.mark.parametrize("path,body,says", [
    ("policy", {"model": MODEL, "ttft_s": -1}, "ttft_s"), ("policy", {"model": "nothing-such", "pinned": True}, "nothing-such"),
    ("policy", {"model": MODEL, "pined": True}, "pined"), ("policy", {"model": MODEL}, "nothing to change"),
    ("resize", {"memory": "8 apples"}, "memory"), ("resize", {"memory": 1}, "at least 16 MiB"),
    ("resize", {"memory": "900TiB"}, "the machine has"), ("resize", {}, "memory"),
    ("cordon", {"cordoned": "yes"}, "cordoned")])
def test_errors_name_the_field(server, path, body, says):
    with pytest.raises(RuntimeError, match=re.escape(says)):
        server.ask("POST", f"/api/v1/pool/{path}", body)


def test_events_tell_what_happens(server, model):
    done = []
    server.ask("POST", f"/api/v1/models/{model}/unload", {"force": True})
    with events(server) as stream:
        name, first = next(stream)
        assert name == "state" and first["memory"]["limit_bytes"] > 0
        threading.Thread(target=chat, args=(server, model, 4, done), daemon=True).start()
        seen, states, began, sent = [], 0, time.monotonic(), time.time()
        for name, data in stream:
            seen.append(name)
            states += name == "state"
            if name in ("load", "loaded"):
                assert data["model"] == model and data["bytes"] > 0 and sent - 1 < data["time"] < time.time() + 1
            if {"load", "loaded", "switch", "model"} <= set(seen):
                break
            assert time.monotonic() - began < 25, seen
        assert states <= 4 * (time.monotonic() - began) + 2, "at most four a second"
        assert seen.index("load") < seen.index("loaded")


def test_cordoned_takes_nothing_new(server, model):
    assert "nothing new begins" in tidepool(server.home, "pool", "cordon").stdout
    try:
        assert "cordoned" in tidepool(server.home, "pool").stdout
        with pytest.raises(RuntimeError, match="503|429"):
            chat(server, model, 2, [])
    finally:
        assert tidepool(server.home, "pool", "uncordon").returncode == 0
    done = []
    chat(server, model, 2, done)
    assert done


def test_a_cordon_lets_everything_end(server, model):
    """Cordoned while answers run: none is cut, what comes is told why, and it runs again when it is let."""
    done, real, threads = [], [], []
    chat(server, model, 1, real)  # its weights are in memory
    for i in range(4):
        threads.append(threading.Thread(target=ask_slowly, args=(server, 100 + i, done)))
    threads.append(threading.Thread(target=chat, args=(server, model, 60, real)))
    for thread in threads:
        thread.start()
    eventually(lambda: active(server) == 4 and (active(server, model) == 1 or len(real) == 2), "all have begun")
    assert tidepool(server.home, "pool", "cordon").returncode == 0
    try:
        assert server.ask("GET", "/api/v1/pool")["device"]["cordoned"] is True and not done
        with pytest.raises(RuntimeError, match=r"503.*no_device.*cordoned|503.*cordoned.*no_device"):
            ask_slowly(server, 2, [])
        for thread in threads:
            thread.join(120)
        assert sorted(reply["usage"]["completion_tokens"] for reply in done) == [100, 101, 102, 103]
        assert all(reply["choices"][0]["finish_reason"] in ("stop", "length") for reply in done)
        assert real[1]["usage"]["completion_tokens"] == 60
        eventually(lambda: active(server) + active(server, model) == 0, "nothing runs")
    finally:
        assert tidepool(server.home, "pool", "uncordon").returncode == 0
    chat(server, model, 2, real)
    assert real[2]["usage"]["completion_tokens"] == 2


@pytest.mark.skipif(not REAL_MODEL.exists(), reason="no test data")
def test_a_full_pool_says_so_at_once():
    """429: why, how many wait before, and when to come again; those who were let in are answered. Forty prompts of 500 tokens at
    once are seconds of work, and first tokens are promised within half a second."""
    with Server(settings={"TIDEPOOL_POOL_MEMORY": "900MiB"}) as server:
        model, answered, refused = server.store(REAL_MODEL), [], []
        prompt = "Tell me about the sea. " * 80
        chat(server, model, 8, [], prompt)  # what a step takes is learned
        server.ask("POST", "/api/v1/pool/policy", {"model": model, "ttft_s": 0.5})

        def ask(number):
            request = urllib.request.Request(server.url + "/v1/chat/completions", json.dumps({
                "model": model, "max_tokens": 4, "min_tokens": 4, "messages": [{"role": "user", "content": f"{number} {prompt}"}]}).encode(),
                {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=120) as reply:
                    answered.append(json.load(reply))
            except urllib.error.HTTPError as problem:
                refused.append((problem.code, dict(problem.headers), json.load(problem)["error"]))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(answered) + len(refused) == 40 and answered and len(refused) >= 10, (len(answered), len(refused))
        for code, headers, error in refused:
            assert code == 429 and error["code"] == "pool_overloaded" and error["type"] == "rate_limit_error", error
            place = re.fullmatch(rf"the pool is busy: with this request for {re.escape(model)} \((\d+) wait before it\) it could not keep its "
                                 r"promise of a first token within 0\.5 s and a steady stream after it; try again in (\d+) s", error["message"])
            assert place and 0 <= int(place[1]) < 40, error
            assert int(headers["Retry-After"]) == pytest.approx(int(place[2]), abs=1) and int(headers["Retry-After"]) >= 1
        assert all(reply["usage"]["completion_tokens"] == 4 for reply in answered)
        assert server.ask("GET", "/api/v1/pool")["counters"]["rejected"] == len(refused)


def test_commands(server, model):
    shown = tidepool(server.home, "ps").stdout
    assert shown.startswith("NAME") and model in shown and "SLACK" in shown
    assert tidepool(server.home, "pin", model).stdout.startswith(f"{model} stays in memory")
    assert f"{model} *" in tidepool(server.home, "ps").stdout
    assert "makes way" in tidepool(server.home, "unpin", model).stdout
    pool = tidepool(server.home, "pool").stdout
    assert re.search(r"memory +\d.* of 944 MB", pool) and "OWNER" in pool and "switches/s" in pool
    assert json.loads(tidepool(server.home, "pool", "--json").stdout)["policy"] == "tidepool"
    assert "until the server starts again" in tidepool(server.home, "pool", "resize", "900MiB", "--warm", "128MiB").stdout
    for wrong, code in ((("pool", "resize"), 2), (("pool", "9GiB"), 2), (("pool", "resize", "1KiB"), 1), (("pin",), 2),
                        (("pin", "smolm2:135m"), 1)):
        reply = tidepool(server.home, *wrong)
        assert reply.returncode == code and reply.stderr, (wrong, reply.stderr)


def test_watching(server, model):
    screen = Screen(server.home, "ps", "--watch")
    screen.wait_for("NAME")
    first = screen.seen
    tidepool(server.home, "pin", model)
    screen.wait_for(re.escape(model + " *"))
    assert "\x1b[2J" not in screen.seen and "\x1b[" in first + screen.seen
    screen.type("\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(screen.pid, 0)[1]) == 0
    os.close(screen.fd)
    tidepool(server.home, "unpin", model)
    lines = start(server.home, "ps", "--watch")
    eventually(lambda: True, "")
    line = lines.stdout.readline()
    lines.terminate()
    lines.communicate(timeout=20)
    line = line if isinstance(line, str) else line.decode()
    assert re.match(r"\d\d:\d\d:\d\d \S+ \w+", line) and "\x1b" not in line


def test_watching_shows_the_pool_at_work(model, server):
    """All that the issue of a pool is about: models, their weights by layer, who runs and who waits, slack, switches."""
    server.ask("POST", f"/api/v1/models/{model}/unload", {"force": True})
    screen = Screen(server.home, "ps", "--watch", size=(40, 150))
    screen.wait_for(r"NAME +WEIGHTS +LAYERS +SIZE +ACTIVE +QUEUE +SLACK +LOAD")
    done, threads = [], []
    for _ in range(70):  # a step has 64 sequences
        threads.append(threading.Thread(target=ask_slowly, args=(server, 60, done)))
        threads[-1].start()
    row = screen.row(MODEL, lambda cells: cells["active"] == "64" and int(cells["queue"]) > 0 and cells["slack"] != "-")
    assert row["weights"] == "resident" and re.fullmatch(r"[\d.]+ s( late)?", row["slack"]) and re.fullmatch(r"\d+%", row["load"])
    chat(server, model, 4, done)  # cold: loaded, one switch
    row = screen.row(model, lambda cells: cells["weights"] == "resident")
    assert row["layers"] == "█" * 12 and re.fullmatch(r"[\d.]+ MB", row["size"])
    screen.wait_for(r"memory [\d.]+ MB of 944 MB +warm [\d.]+ \w*B of [\d.]+ MB")
    screen.wait_for(r"load \d+%, (0\.0[1-9]|0\.[1-9]\d|[1-9]\d*\.\d\d) switches/s, \d+% of the time lost to switching")
    for thread in threads:
        thread.join(120)
    screen.row(MODEL, lambda cells: cells["active"] == "0" and cells["queue"] == "0" and cells["slack"] == "-")
    server.ask("POST", "/api/v1/pool/resize", {"memory": "48MiB"})
    row = screen.row(model, lambda cells: re.match(r"warm|cold|part \d+/32", cells["weights"]) is not None)
    assert re.fullmatch("█*[▒·]+", row["layers"]) and len(row["layers"]) == 12, "the last layers go first"
    server.ask("POST", "/api/v1/pool/resize", {"memory": "900MiB"})
    screen.type("\x03")
    assert screen.end() == 0
    assert len(done) == 71


def test_metrics(server):
    request = urllib.request.Request(server.url + "/metrics", headers={"Authorization": f"Bearer {server.key}"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        text = reply.read().decode()
    for name in ("tidepool_pool_load ", 'tidepool_pool_events_total{event="switch"}', "tidepool_pool_switch_share ",
                 'tidepool_pool_slack_seconds{model="scripted"}', "tidepool_warm_used_bytes ",
                 "tidepool_pool_kv_ready_bytes ", "tidepool_pool_kv_ready_taken_bytes_total "):
        assert "\n" + name in text, name


def test_two_names_of_one_file_count_once(server, model, tmp_path):
    twin = tmp_path / "twin.gguf"
    shutil.copy(REAL_MODEL, twin)
    other, done = server.store(twin), []
    assert other != model
    for name in (model, other, model, other):
        chat(server, name, 2, done)
    state = server.ask("GET", "/api/v1/pool")
    weights = [owner["bytes"] for owner in state["memory"]["owners"] if owner["kind"] == "weights" and owner["bytes"] > MIB]
    assert len(weights) == 1, "the ledger has them once"
    assert state["device"]["weight_bytes"] == weights[0], "and so has the scheduler"
    assert len({reply["choices"][0]["message"]["content"] for reply in done}) == 1
    server.ask("POST", f"/api/v1/models/{other}/unload", {"force": True})
    chat(server, model, 2, done)


def test_a_broken_model_is_left_alone_and_harms_no_other(server, model, tmp_path):
    copy = tmp_path / "second.gguf"
    data = bytearray(REAL_MODEL.read_bytes())
    data[-1] ^= 1  # other bytes: a blob of its own
    copy.write_bytes(data)
    other = server.store(copy)
    done = []
    chat(server, other, 1, done)
    # Damaged on disk where it was packed: packed again.
    server.ask("POST", f"/api/v1/models/{other}/unload", {"force": True})
    packed = max((server.home / "packed").glob("*.weights"), key=lambda path: path.stat().st_mtime)
    def packings():
        cache = server.ask("GET", "/api/v1/pool")["packed_cache"]
        return cache["misses"] + cache["rebuilds"]
    before = packings()
    with open(packed, "r+b") as file:
        file.seek(packed.stat().st_size // 2)
        file.write(b"\xff" * 4096)
    for _ in range(4):  # the first may be told
        try:
            chat(server, other, 1, done)
            break
        except RuntimeError as problem:
            assert "503" in str(problem) or "422" in str(problem), problem
            time.sleep(0.2)
    assert done[-1]["choices"][0]["message"]["content"] == done[0]["choices"][0]["message"]["content"]
    assert packings() > before
    # Its blob is gone: a clear error, then quarantine; the other model answers all the time.
    server.ask("POST", f"/api/v1/models/{other}/unload", {"force": True})
    for blob in (server.home / "models").rglob("*"):
        if blob.is_file() and not blob.is_symlink() and blob.stat().st_size == copy.stat().st_size and \
                blob.read_bytes()[-1] == data[-1]:
            blob.unlink()
    errors = []
    for _ in range(4):
        with pytest.raises(RuntimeError) as problem:
            chat(server, other, 1, done)
        errors.append(str(problem.value))
        chat(server, model, 1, done)
    assert "model_quarantined" in errors[-1] and "tried again in" in errors[-1], errors
    entry = server.ask("GET", f"/api/v1/models/{other}")
    assert entry["state"] == "quarantined" and entry["retry_in_s"] > 0 and entry["error"]["message"]
    assert "quarantined" in tidepool(server.home, "ps").stdout
    assert tidepool(server.home, "stop", other).returncode == 0, "lets it be tried at once"
