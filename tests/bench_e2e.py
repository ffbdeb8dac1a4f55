"""The bench of a model that nobody has used yet: it is loaded, measured, and the figures make sense."""

import json
import os
import pathlib

import pytest

from cli_e2e import tidepool
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
