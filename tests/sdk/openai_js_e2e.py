"""The official `openai` package for JavaScript against the real server: runs openai_client.mjs with Node."""

import os
import pathlib
import shutil
import subprocess

import pytest

from server_process import Server

SMOLLM2 = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"
MODULES = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "npm_openai"


@pytest.mark.skipif(not (MODULES / "node_modules" / "openai").is_dir(), reason="no npm package openai in TIDEPOOL_TEST_DATA")
def test_javascript_client():
    node = shutil.which("node")
    assert node, "the openai package is there, but Node.js is not"
    script = pathlib.Path(__file__).with_name("openai_client.mjs")
    with Server("--simulated") as server:
        real = [server.store(SMOLLM2)] if SMOLLM2.is_file() else []
        result = subprocess.run([node, str(script), server.url, server.key, str(MODULES), *real], timeout=300,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("ok ") == 12 + len(real), result.stdout
