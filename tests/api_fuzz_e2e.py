"""Schemathesis reads /openapi.json and sends what fits it and what does not, as the operator and as a developer: no 5xx, and
every reply as described."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from cli_e2e import tidepool
from server_process import Server

# bench, simulate, plan, doctor, load: minutes. pulls: the network. backup: files. pool: another size of it, an endless stream.
LEFT_OUT = r"/(bench|simulate|plan|doctor|backup|pulls)|/pool/|/load$"
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def server():
    with Server("--simulated", "--accounts-sign-in-attempts", "1000", "--accounts-max-organisations", "1000000") as running:
        yield running


@pytest.mark.parametrize("role", ["operator", "developer"])
def test_every_endpoint(server, role, tmp_path):
    key = server.key
    if role != "operator":
        made = tidepool(server.home, "keys", "create", "--name", "fuzz", "--role", role, "--json")
        key = json.loads(made.stdout)["key"]
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    done = subprocess.run(
        [program, "run", server.url + "/openapi.json", "--header", f"Authorization: Bearer {key}", "--checks", CHECKS,
         "--phases", "coverage,fuzzing", "--max-examples", os.environ.get("TIDEPOOL_FUZZ_EXAMPLES", "15"), "--seed", "1",
         "--exclude-path-regex", LEFT_OUT, "--request-timeout", "30", "--warnings", "off", "--no-color",
         "--generation-database", "none"],
        capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert server.ask("GET", "/health")["status"] == "ok"
