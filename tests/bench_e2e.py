"""The engine's bench: a model that nobody has used yet is loaded and measured, and the figures mean what they say."""

import json
import os
import pathlib
import re
import sys
import urllib.request

import pytest

from cli_e2e import tidepool
from server_process import MODEL as MODEL_SIMULATED
from server_process import Server

MODEL = pathlib.Path(os.environ["TIDEPOOL_TEST_DATA"]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.skipif(not MODEL.exists(), reason="no test data")
def test_first_bench_loads_the_model():
    with Server("--simulated") as server:
        pulled = tidepool(server.home, "pull", str(MODEL), "--name", "small:bench")
        assert pulled.returncode == 0, pulled.stderr
        done = tidepool(server.home, "bench", "small:bench", "--prompt-tokens", "32", "--generate-tokens", "4",
                        "--batch", "1,2", "--json", seconds=300)
        assert done.returncode == 0, done.stderr
        rows = {row["id"]: row for row in json.loads(done.stdout)["data"]}
        assert set(rows) == {"prefill-1", "decode-1", "decode-2"}
        for row in rows.values():
            assert row["tokens_per_s"] > 0 and row["limit"] >= 0


@pytest.mark.skipif(not MODEL.exists(), reason="no test data")
def test_depth_is_context_before_the_measured_tokens():
    """Oracle: the server's own counters. The tokens of every prompt are prefilled once, those generated are as many as asked
    for, and what does not fit into the context is refused by name."""
    with Server("--simulated", settings={"TIDEPOOL_MODELS_CONTEXT_LENGTH": "512"}) as server:
        model = server.store(MODEL)

        def bench(**request):
            return server.ask("POST", "/api/v1/bench", {"model": model, "prompt_tokens": 0, "repeat": 2, **request})["data"]

        def counted(name):
            with urllib.request.urlopen(urllib.request.Request(
                    server.url + "/metrics", headers={"Authorization": f"Bearer {server.key}"}), timeout=60) as reply:
                lines = reply.read().decode().splitlines()
            return sum(float(line.split()[-1]) for line in lines if re.match(name + r"[{ ]", line))

        (row,) = bench(batch=[3], depth=100, generate_tokens=5)
        assert (row["id"], row["batch"], row["tokens"], row["depth"]) == ("decode-3", 3, 5, 100)
        assert row["tokens_per_s"] > 0 and row["seconds"] == pytest.approx(15 / row["tokens_per_s"])
        assert counted("tidepool_completion_tokens_total") == 3 * 3 * 6  # 3 streams, three times; each after the prefill's token
        # The prompts come again: their whole blocks of 16 are found in the prefix cache.
        assert counted("tidepool_cached_tokens_total") >= 2 * 3 * 80
        assert [row["test"] for row in bench(prompt_tokens=40, batch=[])] == ["prefill"]
        with pytest.raises(RuntimeError, match="context_length_exceeded"):
            bench(batch=[1], depth=500, generate_tokens=12)
        with pytest.raises(RuntimeError, match="depth"):
            bench(batch=[1], depth=0)


@pytest.mark.parametrize("batch", [1, 4])
def test_only_tokens_made_together_count(batch):
    """Oracle: the simulated device, whose steps sleep 20 ms: no step of `batch` streams can make more than batch / 20 ms. The
    prompts take several steps of 64 tokens, so the streams begin apart, and what the first ones make alone is not counted."""
    settings = {"TIDEPOOL_SIMULATED_STEP_MS": "20", "TIDEPOOL_POOL_MAX_BATCH_TOKENS": "64", "TIDEPOOL_POOL_PREFIX_CACHE": "false"}
    with Server("--simulated", settings=settings) as server:
        (row,) = server.ask("POST", "/api/v1/bench", {"model": MODEL_SIMULATED, "prompt_tokens": 0, "depth": 100,
                                                      "batch": [batch], "generate_tokens": 20, "repeat": 1})["data"]
        assert 0 < row["tokens_per_s"] <= batch / 0.020


@pytest.mark.skipif(not MODEL.exists(), reason="no test data")
def test_bytes_and_operations_of_a_step():
    """bench/gguf_size.py reads headers by itself. Oracle: what the engine loaded. Norms are f32 there and padding differs."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
    from gguf_size import StepSize
    size = StepSize.of(MODEL)
    with Server("--simulated") as server:
        reply = server.ask("POST", "/api/v1/bench", {"model": server.store(MODEL), "prompt_tokens": 8, "batch": [], "repeat": 1})
    assert size.parameters == reply["parameters"]
    assert size.weight_bytes == pytest.approx(reply["weight_bytes"], rel=0.01)
    assert size.kv_token_bytes == 30 * 3 * (64 + 64) * 2  # layers, KV heads, keys and values, f16
