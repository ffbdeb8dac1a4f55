"""Meters, limits and money through the real binary: rows against the device's own count over kills and a soak, limits as a
client meets them, bills, a full disk, the command line."""

import argparse
import concurrent.futures
import contextlib
import csv
import hmac
import http.server
import io
import json
import os
import pathlib
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

import ledger_http
import ledger_load
from server_process import MODEL, Server, StreamedAnswer, eventually

BINARY = os.environ["TIDEPOOL_BINARY"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("ledger-home")
    with Server("--simulated", home=home, settings=ledger_load.settings_for(home)) as running:
        yield running


def call(server, method, path, body=None, key=None, headers=None):
    """(status, headers, JSON or text)"""
    request = urllib.request.Request(server.url + path, None if body is None else json.dumps(body).encode(), method=method, headers={
        "Authorization": f"Bearer {key or server.key}", "Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            status, replied, text = reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as problem:
        status, replied, text = problem.code, problem.headers, problem.read().decode()
    return status, replied, json.loads(text) if "json" in replied["Content-Type"] else text


def chat(server, script="[[tokens:5]]", key=None, **fields):
    return call(server, "POST", "/v1/chat/completions", {
        "model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": script}], **fields}, key=key)


def new_key(server, name, **fields):
    status, _, made = call(server, "POST", "/api/v1/keys", {"name": name, "service": True, **fields})
    assert status == 201, made
    return made


def usage_of(server, key_id, **more):
    query = "&".join(f"{k}={v}" for k, v in {"key": key_id, **more}.items())
    return call(server, "GET", f"/api/v1/usage?{query}")[2]["data"]


def cli(server, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEPOOL_")}
    return subprocess.run([BINARY, *arguments], env=environment | {"TIDEPOOL_HOME": str(server.home)}, capture_output=True, text=True,
                          timeout=60)


# ---- the truth of the rows ---------------------------------------------------------------------------


def test_twenty_kills_lose_no_row_and_repeat_none(tmp_path):
    problems, figures = ledger_load.kills(tmp_path, rounds=int(os.environ.get("LEDGER_KILLS", "20")))
    assert not problems, "\n".join(problems[:20])
    assert figures["finished"] > 20 and figures["interrupted"] > 5 and float(figures["billed"]) > 0, figures
    print(figures)


def test_a_thousand_streams_over_fifty_keys_are_metered_exactly(tmp_path):
    seconds = float(os.environ.get("LEDGER_SECONDS", "30"))
    problems, figures = ledger_load.soak(tmp_path, seconds, streams=1000, key_count=50)
    assert not problems, "\n".join(problems[:20])
    assert figures["keys"] == 50 and figures["models"] == 3 and figures["key_models"] >= 100, figures
    assert figures["cancelled"] > 20 and figures["failed"] > 5 and figures["cached_tokens"] > 1000, figures
    assert figures["bill_lines"] >= 50 and float(figures["billed"]) > 0, figures
    print(figures)


# ---- limits ------------------------------------------------------------------------------------------


def test_a_limit_is_told_by_headers_and_refused_by_name(server):
    key = new_key(server, "limited")
    status, _, limit = call(server, "PUT", "/api/v1/limits", {"scope": f"key:{key['id']}", "requests_per_minute": 2, "tokens_per_minute": 100000})
    assert status == 200 and limit["requests_per_minute"] == 2, limit
    status, headers, _ = chat(server, key=key["key"])
    assert status == 200
    assert headers["x-ratelimit-limit-requests"] == "2" and headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-limit-tokens"] == "100000" and int(headers["x-ratelimit-remaining-tokens"]) < 100000
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    chat(server, key=key["key"])
    status, headers, body = chat(server, key=key["key"])
    assert status == 429 and body["error"]["code"] == "rate_limit_exceeded", body
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(headers["Retry-After"]) <= 60 and "ask an owner or admin" in body["error"]["message"]
    status, _, _ = call(server, "DELETE", f"/api/v1/limits?scope=key:{key['id']}")
    assert status == 200
    assert chat(server, key=key["key"])[0] == 200
    rows = eventually(lambda: [r for r in usage_of(server, key["id"]) if r["requests"] == 3])
    assert rows, "three answers, three rows; the refusal is not one"


def test_bad_limits_are_refused_by_field(server):
    for body, field in [({"scope": "key:nobody", "requests_per_minute": 1}, None),
                        ({"scope": "planet:earth", "requests_per_minute": 1}, "scope"),
                        ({"scope": "organisation:default", "requests_per_minute": -1}, "requests_per_minute"),
                        ({"scope": "organisation:default", "tokens_per_day": 10**30}, "tokens_per_day"),
                        ({"scope": "organisation:default", "tokens_per_day": 1.5}, "tokens_per_day"),
                        ({"scope": "organisation:default", "surprise": 1}, "surprise"),
                        ({"scope": "organisation:default", "burst_s": 0}, "burst_s"),
                        ({}, "scope")]:
        status, _, reply = call(server, "PUT", "/api/v1/limits", body)
        assert 400 <= status < 500, (body, reply)
        if field:
            assert reply["error"]["param"] == field, reply
    assert call(server, "GET", "/api/v1/limits")[2]["data"] == []


def test_two_hundred_at_once_against_a_quota_for_ten(server):
    key = new_key(server, "ten")
    first = chat(server, "[[tokens:9]]", key=key["key"], max_tokens=10)[2]
    each = first["usage"]["prompt_tokens"] + 10
    used = first["usage"]["total_tokens"]
    call(server, "PUT", "/api/v1/limits", {"scope": f"key:{key['id']}", "tokens_per_day": used + 10 * each})
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(lambda _: chat(server, "[[tokens:9]]", key=key["key"], max_tokens=10), range(200)))
    codes = [status for status, _, _ in replies]
    assert codes.count(200) == 10 and codes.count(429) == 190, {c: codes.count(c) for c in codes}
    assert {body["error"]["code"] for status, _, body in replies if status == 429} == {"quota_exhausted"}


def test_a_noisy_key_does_not_slow_another(server):
    noisy, quiet = new_key(server, "noisy"), new_key(server, "quiet")
    call(server, "PUT", "/api/v1/limits", {"scope": f"key:{noisy['id']}", "requests_per_minute": 600, "burst_s": 1})
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = [pool.submit(chat, server, "[[tokens:2]]", noisy["key"]) for _ in range(300)]
        assert chat(server, key=quiet["key"])[0] == 200
        codes = [r.result()[0] for r in replies]
    assert codes.count(429) > 200 and set(codes) <= {200, 429}, {c: codes.count(c) for c in codes}
    assert usage_of(server, quiet["id"])[0]["errors"] == 0


def test_the_bench_of_noise_measures_what_it_says(tmp_path):
    arguments = argparse.Namespace(rate=20, quiet_rate=20, seconds=1, rounds=1, tokens=2, step_ms=1)
    figures, _ = ledger_http.noise(arguments, tmp_path)  # raises where the quiet key is refused
    exact, noisy = figures["noisy_at_1x"], figures["noisy_at_20x"]
    assert exact["requests"] == noisy["requests"] == 20 and 0 < exact["first_p50_ms"] <= exact["first_p99_ms"] <= exact["end_p99_ms"]
    # Two seconds at 400/s against 20/s, with a burst of one second's worth and a little for a slow machine.
    assert exact["noisy_refused"] <= 4 and noisy["noisy_refused"] >= 800 - 20 * 5, figures


# ---- free quotas, budgets, prices, bills -------------------------------------------------------------


def test_the_free_quota_is_shown_and_its_switch_turns_both_ways(server):
    chat(server)
    quota = eventually(lambda: call(server, "GET", "/api/v1/quotas")[2]["data"])
    assert quota and quota[0]["model"] == MODEL and quota[0]["total"] == 1_000_000 and 0 < quota[0]["used"] < 1_000_000
    assert 89 < (quota[0]["expires_at"] - quota[0]["granted_at"]) / 86400 < 91
    for switch in (True, False):
        status, _, changed = call(server, "PUT", "/api/v1/quotas", {"model": MODEL, "stop_when_exhausted": switch})
        assert status == 200 and changed["stop_when_exhausted"] is switch, changed
    status, _, changed = call(server, "PUT", "/api/v1/quotas", {"model": MODEL, "total": 1, "stop_when_exhausted": True})
    assert status == 200
    status, _, body = chat(server)
    assert status == 429 and body["error"]["code"] == "quota_exhausted" and "stop when exhausted" in body["error"]["message"]
    call(server, "PUT", "/api/v1/quotas", {"model": MODEL, "total": 1_000_000, "stop_when_exhausted": False})
    assert chat(server)[0] == 200


def test_prices_budgets_and_the_bill(server):
    assert call(server, "GET", "/api/v1/prices")[2]["priced"] is False
    book = {"currency": "EUR", "models": [{"model": "*", "tiers": [{"input": "1000", "cached_input": "1000", "output": "2000"}]}]}
    month = time.strftime("%Y-%m", time.gmtime())
    status, _, dry = call(server, "POST", "/api/v1/prices/dry_run", {"book": book, "month": month})
    assert status == 200 and dry["requests"] > 0 and dry["was"] == "0.00", dry
    call(server, "PUT", "/api/v1/quotas", {"model": MODEL, "total": 0})
    status, _, made = call(server, "POST", "/api/v1/prices", book, headers={"Idempotency-Key": "book-1"})
    assert status == 201 and made["version"] == 1, made
    again = call(server, "POST", "/api/v1/prices", book, headers={"Idempotency-Key": "book-1"})
    assert again[2]["version"] == 1 and again[1]["Idempotent-Replayed"] == "true"
    key = new_key(server, "paying")
    usage = chat(server, "[[tokens:9]]", key=key["key"])[2]["usage"]
    micros = usage["prompt_tokens"] * 1000 + usage["completion_tokens"] * 2000
    row = eventually(lambda: [r for r in usage_of(server, key["id"], group_by="key") if r["requests"]])[0]
    assert row["amount"] == f"{micros / 1e6:.6f}".rstrip("0").ljust(4, "0"), (row, micros)
    status, _, budget = call(server, "POST", "/api/v1/budgets", {"scope": f"key:{key['id']}", "amount": row["amount"]})
    assert status == 201 and budget["spent"] == row["amount"], budget
    status, headers, body = chat(server, key=key["key"])
    assert status == 429 and body["error"]["code"] == "budget_exhausted", body
    for amount in ("-1", "1e9", "99999999999999999999", 5, "0.0000000001", ""):
        assert call(server, "POST", "/api/v1/budgets", {"scope": f"key:{key['id']}", "amount": amount})[0] == 400, amount
    assert call(server, "DELETE", f"/api/v1/budgets/{budget['id']}")[0] == 200
    assert chat(server, key=key["key"])[0] == 200
    status, _, adjusted = call(server, "POST", "/api/v1/bills/adjustments", {
        "organisation": "default", "amount": "-0.01", "reason": "a gift"})
    assert status == 201, adjusted
    bill = eventually(lambda: (lambda b: b if b["usage"]["requests"] == sum(line["requests"] for line in b["data"]) else None)(
        call(server, "GET", "/api/v1/bills?limit=1000")[2]))
    from decimal import Decimal
    total = sum((Decimal(line["amount"]) for line in bill["data"] + bill["adjustments"] if line["currency"] == "EUR"), Decimal(0))
    assert Decimal(bill["totals"]["EUR"]) == total and bill["adjustments"][0]["reason"] == "a gift"
    text = call(server, "GET", "/api/v1/bills/csv")[2]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r for r in rows if r["kind"] == "total" and r["currency"] == "EUR"][0]["amount"] == bill["totals"]["EUR"]
    assert Decimal([r for r in rows if r["kind"] == "adjustment"][0]["amount"]) == Decimal("-0.01")


def test_requests_and_history(server):
    status, headers, _ = chat(server)
    request_id = headers["X-Request-Id"]
    row = eventually(lambda: (lambda s, _, b: b if s == 200 else None)(*call(server, "GET", f"/api/v1/requests/{request_id}")), 1.0)
    assert row and row["status"] == "done" and row["model"] == MODEL and row["output_tokens"] > 0, "visible within one second"
    page = call(server, "GET", "/api/v1/requests?limit=1")[2]
    assert page["has_more"] and len(page["data"]) == 1
    following = call(server, "GET", f"/api/v1/requests?limit=1&after={page['next_cursor']}")[2]
    assert following["data"][0]["id"] != page["data"][0]["id"]
    series = call(server, "GET", "/api/v1/query_range?metric=output_tokens&group_by=model&step=60")[2]["data"]
    assert series[0]["model"] == MODEL and series[0]["points"][-1][1] > 0
    refused = call(server, "GET", "/api/v1/query_range?metric=refusals&step=60")
    assert refused[0] == 200
    amounts = call(server, "GET", "/api/v1/query_range?metric=amount&step=60")[2]["data"]
    assert all(isinstance(value, str) for one in amounts for _, value in one["points"]), amounts
    for path in ("/api/v1/usage?group_by=x", "/api/v1/usage?from=yesterday", "/api/v1/usage?limit=0", "/api/v1/usage?after=zz&group_by=key",
                 "/api/v1/query_range?metric=passwords", "/api/v1/query_range?from=1&step=1", "/api/v1/requests?sql=1",
                 "/api/v1/bills?month=2026-13"):
        assert call(server, "GET", path)[0] == 400, path


def test_files_of_lists_hold_what_the_lists_say_and_are_on_the_record(server):
    """Oracle: Python's csv reads the cells, the same list as JSON says what they are."""
    key = new_key(server, "=exported, \"twice\"")
    for _ in range(2):
        chat(server, key=key["key"])
    eventually(lambda: [row for row in usage_of(server, key["id"]) if row["requests"] == 2])

    def cell(value):
        if value is None:
            return ""
        if isinstance(value, (dict, list)):
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return json.dumps(value) if not isinstance(value, str) else value

    def compare(path, query, rows=None):
        status, headers, text = call(server, "GET", f"{path}?{query}&format=csv")
        assert status == 200 and headers["Content-Type"] == "text/csv; charset=utf-8", text
        logged = call(server, "GET", "/api/v1/audit?limit=1")[2]["data"][0]
        assert logged["after"]["endpoint"] == path and logged["address"] == "127.0.0.1" and logged["key"], logged
        read = list(csv.DictReader(io.StringIO(text, newline="")))
        assert logged["after"]["rows"] == len(read) == int(headers["Tidepool-Rows"])
        for found, wanted in zip(read, rows if rows is not None else call(server, "GET", f"{path}?{query}")[2]["data"], strict=True):
            for name, text_of_cell in found.items():
                plain = cell(wanted[name])
                guarded = isinstance(wanted[name], str) and plain[:1] in ("=", "+", "-", "@") and not plain[1:].replace(".", "", 1).isdigit()
                if isinstance(wanted[name], float):
                    assert float(text_of_cell) == wanted[name], (name, found)
                elif isinstance(wanted[name], (dict, list)):
                    assert json.loads(text_of_cell) == wanted[name], (name, found)
                else:
                    assert text_of_cell == ("'" if guarded else "") + plain, (name, found)
        return logged["action"]

    assert compare("/api/v1/usage", f"group_by=model&key={key['id']}") == "usage.exported"
    assert compare("/api/v1/usage", f"key={key['id']}") == "usage.exported"
    assert compare("/api/v1/requests", f"key={key['id']}") == "requests.exported"
    before = call(server, "GET", "/api/v1/audit?limit=50")[2]["data"]
    assert any(row["action"] == "key.created" for row in before)
    assert compare("/api/v1/audit", "limit=50", before) == "audit.exported"
    whole = call(server, "GET", "/api/v1/bills?format=json")
    assert whole[0] == 200 and 'filename="bill-' in whole[1]["Content-Disposition"] and whole[2]["next_cursor"] is None
    assert call(server, "GET", "/api/v1/audit?limit=1")[2]["data"][0]["action"] == "bill.exported"
    done = cli(server, "usage", "--by", "key", "--csv")
    assert any(row["key"] == key["id"] for row in csv.DictReader(io.StringIO(done.stdout))), done.stderr
    done = cli(server, "bill", "--json")
    assert json.loads(done.stdout)["organisation"] == "default", done.stderr
    logged = call(server, "GET", "/api/v1/audit?limit=1")[2]["data"][0]
    assert (logged["action"], logged["after"]["format"]) == ("bill.exported", "json"), logged


def test_a_foreign_key_sees_nothing(server):
    other = call(server, "POST", "/api/v1/organisations", {"name": "others"})[2]
    workspace = call(server, "POST", "/api/v1/workspaces", {"name": "theirs", "organisation": other["id"]})[2]
    stranger = new_key(server, "stranger", workspace=workspace["id"], role="admin")
    mine = new_key(server, "mine")
    chat(server, key=mine["key"])
    eventually(lambda: usage_of(server, mine["id"])[0]["requests"])
    see = lambda path: call(server, "GET", path, key=stranger["key"])  # noqa: E731
    assert see("/api/v1/usage")[2]["data"][0]["requests"] == 0
    assert see("/api/v1/requests")[2]["data"] == []
    for path in ("/api/v1/limits", "/api/v1/quotas", "/api/v1/budgets"):
        assert see(path)[2]["data"] == [], path
    for path in ("/api/v1/usage?organisation=default", "/api/v1/usage?workspace=default", "/api/v1/bills?organisation=default"):
        assert see(path)[0] in (403, 404), path
    assert call(server, "PUT", "/api/v1/limits", {"scope": f"key:{mine['id']}", "requests_per_minute": 1}, key=stranger["key"])[0] in (403, 404)
    assert call(server, "POST", "/api/v1/prices", {"currency": "EUR", "models": []}, key=stranger["key"])[0] == 403


def test_the_command_line_tells_the_same(server):
    usage = json.loads(cli(server, "usage", "--by", "model", "--json").stdout)["data"]
    assert usage[0]["model"] == MODEL and "margin" in usage[0]
    assert MODEL in cli(server, "usage", "--by", "model").stdout
    for command in ("usage", "bill", "prices", "quota", "budget", "limits"):
        done = cli(server, command, "--json")
        assert done.returncode == 0 and isinstance(json.loads(done.stdout), dict), (command, done.stderr)
        assert cli(server, command).returncode == 0, command
    key = new_key(server, "by-cli")
    done = cli(server, "limits", f"key:{key['id']}", "--requests-per-minute", "5", "--json")
    assert json.loads(done.stdout)["data"][0]["requests_per_minute"] == 5, done.stderr
    assert cli(server, "limits", "--remove", key["id"]).returncode == 0
    assert cli(server, "limits", "nonsense:x", "--requests-per-minute", "5").returncode == 1
    rows = json.loads(cli(server, "audit", "list", "--limit", "2", "--json").stdout)["data"]
    before = json.loads(cli(server, "audit", "list", "--limit", "1", "--before", str(rows[0]["number"]), "--json").stdout)["data"]
    assert before == rows[1:] and before[0]["number"] == rows[0]["number"] - 1


class Receiver(http.server.ThreadingHTTPServer):
    """Takes POSTs on a free port of 127.0.0.1; answers with `status`."""

    def __init__(self, status=204):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.server.taken.append((self.headers["Tidepool-Signature"], body))
                self.send_response(self.server.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.taken, self.status = [], status
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/hook"


def run(server, *arguments, code=0):
    done = cli(server, *arguments)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def test_adjustments_and_csv_by_the_command_line(server):
    made = json.loads(run(server, "bill", "adjust", "--organisation", "default", "--amount", "-0.000001", "--reason", "a credit, \"ours\"",
                          "--month", "2026-01", "--currency", "CHF", "--json"))
    assert made["amount"] == "-0.000001" and made["currency"] == "CHF" and made["month"] == "2026-01", made
    listed = json.loads(run(server, "bill", "adjustments", "--month", "2026-01", "--json"))["data"]
    assert [one["id"] for one in listed] == [made["id"]]
    assert "a credit" in run(server, "bill", "adjustments", "--month", "2026-01")
    assert "-0.000001" in run(server, "bill", "--month", "2026-01")
    rows = list(csv.DictReader(io.StringIO(run(server, "bill", "--csv", "--month", "2026-01"))))
    assert [(row["amount"], row["reason"]) for row in rows if row["kind"] == "adjustment"] == [("-0.000001", "a credit, \"ours\"")]
    assert [row["amount"] for row in rows if row["kind"] == "total"] == ["-0.000001"]
    run(server, "bill", "--csv", "--json", code=2)
    run(server, "bill", "adjust", "--organisation", "default", "--amount", "1", code=2)  # without a reason
    assert "organisation" in run(server, "bill", "adjust", "--organisation", "nobody", "--amount", "1", "--reason", "x", code=1)
    assert "amount" in run(server, "bill", "adjust", "--organisation", "default", "--amount", "1e3", "--reason", "x", code=1)


def test_budgets_quotas_and_limits_by_the_command_line(server):
    key = new_key(server, "budgeted")["id"]
    made = json.loads(run(server, "budget", key, "--amount", "12.5", "--period", "day", "--thresholds", "10,90", "--tell", "--json"))["data"][0]
    assert (made["scope"], made["amount"], made["period"], made["thresholds"], made["block"]) == (f"key:{key}", "12.50", "day", [10, 90], False)
    changed = json.loads(run(server, "budget", key, "--amount", "1", "--id", made["id"], "--json"))["data"][0]
    assert changed["id"] == made["id"] and changed["amount"] == "1.00" and changed["thresholds"] == [50, 80, 100] and changed["block"]
    assert "50,80,100" in run(server, "budget")
    run(server, "budget", key, "--amount", "1", "--thresholds", "90,10", code=1)
    assert "XXX" in run(server, "budget", key, "--amount", "1", "--currency", "XXX", code=1)
    assert json.loads(run(server, "budget", "--remove", made["id"], "--json"))["deleted"]
    run(server, "limits", key, "--tokens-per-minute", "600", "--burst", "7", "--model", MODEL)
    run(server, "limits", key, "--concurrent", "3")
    limits = json.loads(run(server, "limits", key, "--json"))["data"]
    assert [(one["model"], one["tokens_per_minute"], one["concurrent_requests"], one["burst_s"]) for one in limits] == [("*", None, 3, 60), (MODEL, 600, None, 7)]
    run(server, "limits", "--remove", key, "--model", MODEL)
    run(server, "limits", "--remove", key)
    quota = json.loads(run(server, "quota", MODEL, "--days", "10", "--json"))["data"][0]
    assert 9.9 < (quota["expires_at"] - time.time()) / 86400 < 10.1
    run(server, "quota", MODEL, "--days", "90")


def test_pages_are_one_list_to_the_command_line(server):
    key = new_key(server, "many limits")["id"]
    for i in range(12):
        call(server, "PUT", "/api/v1/limits", {"scope": f"key:{key}", "model": f"m{i:02}", "requests_per_minute": i})
    first = call(server, "GET", f"/api/v1/limits?scope=key:{key}&limit=5")[2]
    assert len(first["data"]) == 5 and first["has_more"]
    rest = call(server, "GET", f"/api/v1/limits?scope=key:{key}&limit=1000&after={first['next_cursor']}")[2]
    assert [one["model"] for one in first["data"] + rest["data"]] == [f"m{i:02}" for i in range(12)] and not rest["has_more"]
    whole = json.loads(run(server, "limits", key, "--json"))
    assert len(whole["data"]) == 12 and whole["has_more"] is False
    for i in range(12):
        run(server, "limits", "--remove", key, "--model", f"m{i:02}") if i == 0 else call(server, "DELETE", f"/api/v1/limits?scope=key:{key}&model=m{i:02}")


def test_a_webhook_by_the_command_line(tmp_path):
    with Receiver() as receiver, Server("--simulated", settings={"TIDEPOOL_LEDGER_WEBHOOK_PRIVATE": "true"}) as server:
        assert "none" in run(server, "webhook", "show")
        run(server, "webhook", "test", code=1)
        secret = json.loads(run(server, "webhook", "set", receiver.url, "--json"))["secret"]
        assert receiver.url in run(server, "webhook", "show")
        assert "secret" not in json.loads(run(server, "webhook", "show", "--json"))
        assert json.loads(run(server, "webhook", "test", "--json"))["delivered"]
        signature, body = receiver.taken[0]
        assert json.loads(body)["type"] == "webhook.test"
        at = signature.split(",")[0].removeprefix("t=")
        assert signature == f"t={at},v1=" + hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
        receiver.status = 500
        assert "500" in run(server, "webhook", "test", code=1)
        receiver.status = 204
        receiver.taken.clear()

        # Free tokens: a fifth left, then nothing; then what is spent of a budget. Once each, signed.
        def told(count):
            assert eventually(lambda: len(receiver.taken) >= count, 20), receiver.taken
            for signature, body in receiver.taken:
                at = signature.split(",")[0].removeprefix("t=")
                assert signature == f"t={at},v1=" + hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
            return [json.loads(body) for _, body in receiver.taken]

        each = chat(server, "[[tokens:9]]", max_tokens=10)[2]["usage"]["total_tokens"]
        assert call(server, "PUT", "/api/v1/quotas", {"model": MODEL, "total": 10 * each})[0] == 200
        for _ in range(7):
            chat(server, "[[tokens:9]]", max_tokens=10)
        (low,) = told(1)
        assert low["type"] == "quota.low" and low["data"]["percent_left"] == 20 and low["data"]["model"] == MODEL, low
        assert (low["data"]["organisation"], low["data"]["total_tokens"], low["data"]["used_tokens"]) == ("default", str(10 * each), str(8 * each)), low
        for _ in range(4):
            chat(server, "[[tokens:9]]", max_tokens=10)
        low, exhausted = told(2)
        assert exhausted["type"] == "quota.exhausted" and exhausted["data"]["percent_left"] == 0, exhausted
        assert exhausted["data"]["used_tokens"] == str(10 * each) and exhausted["id"] != low["id"], exhausted
        assert call(server, "POST", "/api/v1/prices", {"currency": "EUR", "models": [{"model": "*", "tiers": [{"input": "1000", "output": "1000"}]}]})[0] == 201
        status, _, budget = call(server, "POST", "/api/v1/budgets", {
            "scope": "workspace:default", "amount": f"{each / 1e3 * 2.5:.4f}", "thresholds": [30, 90], "block": False})
        assert status == 201 and budget["currency"] == "EUR", budget
        for _ in range(4):
            chat(server, "[[tokens:9]]", max_tokens=10)
        low, exhausted, first, second = told(4)
        for body, percent, times in ((first, 30, 1), (second, 90, 3)):
            assert body["type"] == "budget.threshold" and body["data"]["threshold_percent"] == percent, body
            data = body["data"]
            assert (data["budget"], data["scope"], data["currency"]) == (budget["id"], "workspace:default", "EUR"), data
            assert (float(data["amount"]), float(data["spent"])) == (float(budget["amount"]), each * times / 1e3), data
        time.sleep(1.2)  # longer than notices are gathered for
        assert len(receiver.taken) == 4
        run(server, "webhook", "remove")
        assert json.loads(run(server, "webhook", "show", "--json"))["url"] is None
        receiver.shutdown()
    # Elsewhere nothing leads to private addresses.
    with Server("--simulated") as server:
        assert "private" in run(server, "webhook", "set", "http://127.0.0.1:9/x", code=1)


def test_help_names_every_option(server):
    for command, words in {"bill": ["--csv", "adjust", "--month"], "bill adjust": ["--amount", "--reason", "--currency"], "budget": ["--thresholds", "--id", "--tell", "--currency"],
                           "limits": ["--burst", "--concurrent", "--max-output"], "webhook": ["show", "set", "test", "remove"], "quota": ["--days", "--stop"]}.items():
        text = run(server, *command.split(), "--help")
        assert all(word in text for word in words), (command, text)


def test_open_meters_everything_under_workspace_default(tmp_path):
    with Server("--simulated", "--open", home=tmp_path, settings=ledger_load.settings_for(tmp_path)) as server:
        def ask(path, body, headers=None):
            request = urllib.request.Request(server.url + path, json.dumps({"model": MODEL, **body}).encode(), headers={"Content-Type": "application/json", **(headers or {})})
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.read()

        messages = [{"role": "user", "content": "[[tokens:3]]"}]
        asked = [("chat.completions", "/v1/chat/completions", {"messages": messages}, None),
                 # SDKs insist on sending some key.
                 ("chat.completions", "/v1/chat/completions", {"messages": messages}, {"Authorization": "Bearer sk-anything"}),
                 ("completions", "/v1/completions", {"prompt": "[[tokens:3]]"}, None),
                 ("embeddings", "/v1/embeddings", {"input": "a"}, None),
                 ("messages", "/v1/messages", {"messages": messages, "max_tokens": 5}, None),
                 ("chat", "/api/chat", {"messages": messages, "stream": False}, None)]
        for _, path, body, headers in asked:
            ask(path, body, headers)
        rows = eventually(lambda: (lambda r: r if len(r) == len(asked) else None)(ledger_load.sqlite3.connect(tmp_path / "tidepool.db").execute(
            "SELECT organisation, workspace, key_id, member, status, prompt_tokens FROM usage_rows").fetchall()))
        assert rows and {row[:5] for row in rows} == {("default", "default", "open", "", "done")} and all(row[5] > 0 for row in rows), rows
        with urllib.request.urlopen(server.url + "/api/v1/usage?group_by=workspace") as reply:
            shown = json.load(reply)["data"]
        assert [(one["workspace"], one["requests"]) for one in shown] == [("default", len(asked))]
        # What there is not is not found before any limit is looked at.
        with pytest.raises(urllib.error.HTTPError) as missing:
            ask("/v1/chat/completions", {"model": "no-such-model", "messages": messages})
        assert missing.value.code == 404


def test_embeddings_tell_what_limits_have_left(server):
    key = new_key(server, "embedding")
    call(server, "PUT", "/api/v1/limits", {"scope": f"key:{key['id']}", "requests_per_minute": 1, "tokens_per_minute": 1000})
    body = {"model": MODEL, "input": "some words"}
    status, headers, _ = call(server, "POST", "/v1/embeddings", body, key=key["key"])
    assert status == 200 and headers["x-ratelimit-remaining-requests"] == "0" and int(headers["x-ratelimit-remaining-tokens"]) < 1000
    status, headers, reply = call(server, "POST", "/v1/embeddings", body, key=key["key"])
    assert status == 429 and reply["error"]["code"] == "rate_limit_exceeded", reply
    assert headers["x-ratelimit-limit-requests"] == "1" and headers["x-ratelimit-remaining-requests"] == "0" and int(headers["Retry-After"]) >= 1
    assert int(headers["x-ratelimit-remaining-tokens"]) < 1000
    status, headers, _ = call(server, "POST", "/v1/embeddings", {**body, "model": "no-such-model"}, key=key["key"])
    assert status == 404 and "x-ratelimit-limit-requests" not in headers


# ---- what goes wrong ---------------------------------------------------------------------------------


def fill(path):
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with pytest.raises(OSError):
                while True:
                    file.write(b"x" * size)


def test_a_full_disk_refuses_new_work_and_recovers(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    seen = {}  # request id -> what its client was told

    def note(request_id, usage):
        assert request_id not in seen
        seen[request_id] = usage["prompt_tokens"], usage["completion_tokens"]

    def ask():
        status, headers, body = chat(server)
        if status == 200:
            note(headers["X-Request-Id"], body["usage"])
        return status, headers, body

    def rows():
        with contextlib.closing(sqlite3.connect(f"file:{disk}/tidepool.db?mode=ro", uri=True)) as store:
            return sorted(store.execute("SELECT request_id, prompt_tokens, output_tokens, status FROM usage_rows"))

    try:
        settings = ledger_load.settings_for(tmp_path, {"TIDEPOOL_LEDGER_JOURNAL_SEGMENT": "64KiB"})
        with Server("--simulated", home=disk, settings=settings) as server:
            for turn in range(2):
                assert ask()[0] == 200
                running = [StreamedAnswer(server, 1200) for _ in range(4)]
                assert eventually(lambda: all(one.events > 5 for one in running))
                ballast = disk / "ballast"
                fill(ballast)
                refused = None
                for _ in range(2000):
                    reply = ask()
                    if reply[0] != 200:
                        refused = reply
                        break
                assert refused and refused[0] == 503 and refused[2]["error"]["code"] == "disk_full", refused
                message = refused[2]["error"]["message"]
                assert str(disk) in message and "No space left" in message and int(refused[1]["Retry-After"]) >= 1, refused
                # (What is posted to the store frees a segment of the journal, and so a moment's room.)
                assert {ask()[0] for _ in range(20)} <= {200, 503}
                # What was running ends whole; changes are refused for the same reason.
                for one in running:
                    one.join(60)
                    assert one.done and one.usage["completion_tokens"] >= 1200, one.usage
                    note(one.request_id, one.usage)
                fill(disk / "more")
                for _ in range(2000):  # the store's log may have room in what it had taken before
                    status, headers, body = call(server, "POST", "/api/v1/organisations", {"name": "n" * 150})
                    if status != 201:
                        break
                assert status == 503 and body["error"]["code"] == "store_full" and "tidepool.db" in body["error"]["message"], (status, body)
                assert call(server, "GET", "/api/v1/usage")[0] == 200 and call(server, "GET", "/health")[0] == 200
                ballast.unlink()
                (disk / "more").unlink()
                # Room again: without a restart each row is there once, as its client was told, and none of the refused.
                assert eventually(lambda: ask()[0] == 200, 30), "recovery without a restart"
                told = sorted((request, prompt, output, "done") for request, (prompt, output) in seen.items())
                assert eventually(lambda: rows() == told, 30), (turn, set(told) ^ set(rows()))
            usage = call(server, "GET", "/api/v1/usage")[2]["data"][0]
            assert (usage["requests"], usage["prompt_tokens"], usage["output_tokens"]) == (
                len(seen), sum(prompt for prompt, _ in seen.values()), sum(output for _, output in seen.values())), usage
            assert call(server, "POST", "/api/v1/organisations", {"name": "n"})[0] == 201
            assert call(server, "GET", "/api/v1/audit/verify")[2]["good"]
    finally:
        subprocess.run(["umount", str(disk)])
