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

# bench, simulate, plan, doctor, load: minutes. pulls: the network. backup: files. pool: another size of it.
# events: endless streams.
LEFT_OUT = r"/(bench|simulate|plan|doctor|backup|pulls)|/pool/|/events$|/load$|/api/pull$"
# It finds ids in replies, that of its own key too: these come last.
ENDS_ITS_KEY = ["post_api_v1_keys_id_rotate", "patch_api_v1_keys_id", "delete_api_v1_keys_id"]
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def server():
    with Server("--simulated", "--accounts-sign-in-attempts", "1000", "--accounts-max-keys", "100000") as running:
        yield running


def fuzz(server, key, folder, *filters):
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    done = subprocess.run(
        [program, "run", server.url + "/openapi.json", "--header", f"Authorization: Bearer {key}", "--checks", CHECKS,
         "--phases", "coverage,fuzzing", "--max-examples", os.environ.get("TIDEPOOL_FUZZ_EXAMPLES", "15"), "--seed", "1",
         "--request-timeout", "30", "--warnings", "off", "--no-color", "--generation-database", "none", *filters],
        capture_output=True, text=True, timeout=500, cwd=folder)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("role", ["operator", "developer"])
def test_every_endpoint(server, role, tmp_path):
    made = tidepool(server.home, "keys", "create", "--name", "fuzz", "--role", role, "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]
    last = [word for operation in ENDS_ITS_KEY for word in ("--exclude-operation-id", operation)]
    fuzz(server, key, tmp_path, "--exclude-path-regex", LEFT_OUT, *last)
    assert tidepool(server.home, "--key", key, "keys", "list").returncode == 0, "it was all for nothing: the key is gone"


def test_what_ends_keys(server, tmp_path):
    made = tidepool(server.home, "keys", "create", "--name", "fuzz", "--role", "admin", "--json")
    fuzz(server, json.loads(made.stdout)["key"], tmp_path,
         *[word for operation in ENDS_ITS_KEY for word in ("--include-operation-id", operation)])
    assert server.ask("GET", "/health")["status"] == "ok"
