"""What an operator's calls changed is in the audit log with what was before: policies, budgets of the pool, the cordon, pulls."""

import time

import pytest

from server_process import MODEL, Server


@pytest.fixture(scope="module")
def server():
    with Server("--simulated") as running:
        yield running


def newest(server, action, wanted=lambda row: True):
    deadline = time.monotonic() + 10
    while True:
        rows = [row for row in server.ask("GET", "/api/v1/audit?limit=100")["data"] if row["action"] == action and wanted(row)]
        if rows:
            return rows[0]
        assert time.monotonic() < deadline, action
        time.sleep(0.05)


def test_policies_with_what_was_promised_before(server):
    server.ask("POST", "/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1})  # it has a state now
    first = server.ask("POST", "/api/v1/pool/policy", {"model": MODEL, "ttft_s": 3, "weight": 2})
    second = server.ask("POST", "/api/v1/pool/policy", {"model": MODEL, "ttft_s": 4})
    row = newest(server, "POST /api/v1/pool/policy", lambda row: row["after"]["ttft_s"] == 4)
    assert row["before"]["model"] == row["after"]["model"] == MODEL
    assert row["before"]["ttft_s"] == first["ttft_s"] == 3 and row["before"]["weight"] == 2, row
    assert row["after"]["ttft_s"] == second["ttft_s"] == 4 and row["after"]["weight"] == 2, row
    assert row["after"]["request"] == {"model": MODEL, "ttft_s": 4} and row["after"]["status"] == 200
    assert set(row["before"]) <= set(row["after"])
    earlier = newest(server, "POST /api/v1/pool/policy", lambda row: row["after"]["ttft_s"] == 3)
    assert earlier["before"]["ttft_s"] != 3, earlier


def test_budgets_and_the_cordon_with_what_was_before(server):
    before = server.ask("GET", "/api/v1/pool")["memory"]["limit_bytes"]
    server.ask("POST", "/api/v1/pool/resize", {"memory": before - (1 << 20)})
    row = newest(server, "POST /api/v1/pool/resize")
    assert row["before"]["memory"] == before and row["after"]["memory"] == before - (1 << 20), row
    server.ask("POST", "/api/v1/pool/cordon", {"cordoned": True})
    row = newest(server, "POST /api/v1/pool/cordon")
    assert row["before"]["cordoned"] is False and row["after"]["cordoned"] is True, row
    server.ask("POST", "/api/v1/pool/cordon", {"cordoned": False})


def test_what_was_refused_is_no_change(server):
    def policies():
        return [row for row in server.ask("GET", "/api/v1/audit?limit=100")["data"] if row["action"] == "POST /api/v1/pool/policy"]
    before = policies()
    with pytest.raises(RuntimeError):
        server.ask("POST", "/api/v1/pool/policy", {"model": "no-such-model", "ttft_s": 3})
    server.ask("POST", "/api/v1/pool/cordon", {"cordoned": False})  # what comes later is there
    newest(server, "POST /api/v1/pool/cordon", lambda row: row["before"]["cordoned"] is False)
    assert policies() == before
    assert server.ask("GET", "/api/v1/audit/verify")["good"]
