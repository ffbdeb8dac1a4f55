"""SQL in every text of every creating or changing call: what is taken comes back letter for letter, what is not is refused by
name, nothing is a server's fault, and no table loses a row or changes one that it should not."""

import json
import re
import sqlite3
import urllib.error
import urllib.parse
import urllib.request

import pytest

from server_process import MODEL, Server

SQL = ["'; DROP TABLE api_keys; --", "x' OR '1'='1", "'); DELETE FROM usage_rows; --", '"; UPDATE users SET is_operator = 1; --',
       "$1 || $2", "\\'; SELECT 1; --", "%27%20OR%201=1", "' UNION SELECT box FROM secrets --", "/**/;ATTACH DATABASE 'x' AS y;"]
# Minutes, the network or files: no SQL is behind them that the others lack.
LEFT_OUT = ("/bench", "/simulate", "/plan", "/backup", "/load", "/unload", "/pool/", "/pulls", "/api/pull", "/settings")


@pytest.fixture(scope="module")
def server():
    with Server("--simulated", "--accounts-sign-in-attempts", "1000") as running:
        yield running


def call(server, method, path, body=None, key=None, who=None):
    """`who`: the headers of another caller; {}: nobody."""
    request = urllib.request.Request(server.url + path, None if body is None else json.dumps(body).encode(), method=method, headers={
        "Content-Type": "application/json", **({"Authorization": f"Bearer {key or server.key}"} if who is None else who)})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            status, text = reply.status, reply.read().decode()
    except urllib.error.HTTPError as problem:
        status, text = problem.code, problem.read().decode()
    return status, text


def resolve(schema, document):
    while "$ref" in schema:
        target = document
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def strings(schema, document, at=(), depth=0):
    """The places of a body that hold text, as paths; a list's first item is the step 0."""
    schema = resolve(schema, document)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "string" in kinds or not schema.get("type"):
        if at:
            yield at
    if depth < 4:
        for name, item in schema.get("properties", {}).items():
            yield from strings(item, document, (*at, name), depth + 1)
        if "array" in kinds:
            yield from strings(schema.get("items", {"type": "string"}), document, (*at, 0), depth + 1)


def put(body, at, value):
    """The body with the value there; what is on the way is made."""
    if not at:
        return value
    step, rest = at[0], at[1:]
    if step == 0:
        return [put(body[0] if isinstance(body, list) and body else None, rest, value)]
    made = dict(body) if isinstance(body, dict) else {}
    made[step] = put(made.get(step), rest, value)
    return made


# Bodies that work, so that the texts in them get as far as the store.
def good_bodies():
    return {
        ("POST", "/api/v1/organisations"): {"name": "n"}, ("POST", "/api/v1/workspaces"): {"name": "n"},
        ("POST", "/api/v1/keys"): {"name": "n", "service": True}, ("POST", "/api/v1/invitations"): {"email": "n@example.org", "role": "viewer"},
        ("POST", "/api/v1/budgets"): {"scope": "workspace:default", "amount": "1000000"},
        ("PUT", "/api/v1/limits"): {"scope": "workspace:default", "requests_per_minute": 1000000},
        ("PUT", "/api/v1/quotas"): {"model": MODEL, "stop_when_exhausted": False},
        ("POST", "/api/v1/bills/adjustments"): {"organisation": "default", "amount": "1", "reason": "r"},
        ("POST", "/api/v1/prices"): {"currency": "EUR", "models": [{"model": "*", "tiers": [{"input": "0", "output": "0"}]}]},
        ("POST", "/api/v1/prices/dry_run"): {"book": {"currency": "EUR", "models": []}},
        ("POST", "/api/v1/deployments"): {"name": "n", "base": MODEL}, ("POST", "/api/v1/deployments/fit"): {"base": MODEL},
        ("PUT", "/api/v1/webhook"): {"url": "https://example.org/hook"}, ("POST", "/api/v1/secrets"): {"name": "hub.token", "value": "v"},
        ("POST", "/api/v1/conversations"): {"title": "t", "model": MODEL},
        ("PATCH", "/api/v1/workspaces/{id}"): {"weight": 1},
        ("POST", "/api/v1/sessions"): {"email": "n@example.org", "password": "p"}, ("POST", "/api/v1/links/find"): {"token": "t"},
        ("POST", "/api/v1/links/use"): {"token": "t", "email": "n@example.org", "name": "n", "password": "a long enough password"},
        ("POST", "/api/v1/password"): {"old_password": "p", "new_password": "a long enough password"},
        ("POST", "/v1/chat/completions"): {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]},
        ("POST", "/v1/completions"): {"model": MODEL, "max_tokens": 1, "prompt": "x"},
        ("POST", "/v1/responses"): {"model": MODEL, "max_output_tokens": 1, "input": "x"},
        ("POST", "/v1/messages"): {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]},
    }


def counts(server):
    with sqlite3.connect(server.home / "tidepool.db") as store:
        names = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: store.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0] for name in names}


def test_sql_in_every_field_of_the_document(server):
    document = json.loads(call(server, "GET", "/openapi.json")[1])
    good = good_bodies()
    made_key = json.loads(call(server, "POST", "/api/v1/keys", {"name": "stays", "service": True})[1])
    before = counts(server)
    tried, taken = 0, 0
    for path, item in document["paths"].items():
        for method in ("post", "put", "patch"):
            schema = item.get(method, {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if schema is None or any(part in path for part in LEFT_OUT):
                continue
            places = list(strings(schema, document))
            target = path.replace("{id...}", "none").replace("{id}", "default").replace("{turn}", "t").replace("{share}", "s")
            for number, place in enumerate(places):
                sql = SQL[number % len(SQL)]
                body = put(good.get((method.upper(), path), {}), place, sql)
                status, text = call(server, method.upper(), target, body)
                assert status < 500, (method, path, place, sql, status, text)
                tried += 1
                taken += status < 300
    assert tried > 200 and taken > 30, (tried, taken)
    after = counts(server)
    assert set(before) <= set(after)
    # Quotas, idempotent replies and the like are counted by themselves; nothing goes.
    assert all(after[name] >= before[name] for name in before), (before, after)
    status, text = call(server, "GET", "/api/v1/keys/" + made_key["id"])
    assert status == 200 and json.loads(text)["revoked_at"] is None
    assert call(server, "GET", "/v1/models", key=made_key["key"])[0] == 200
    verdict = json.loads(call(server, "GET", "/api/v1/audit/verify")[1])
    assert verdict["good"], verdict


@pytest.mark.parametrize("sql", SQL)
def test_what_is_taken_comes_back_letter_for_letter(server, sql):
    made, model = {}, sql.replace("*", "")
    sql += " -- by itself"  # names of workspaces are there once
    for path, body, field in [("/api/v1/organisations", {"name": sql}, "name"), ("/api/v1/workspaces", {"name": sql}, "name"),
                              ("/api/v1/keys", {"name": sql, "service": True, "models": [model]}, "name"),
                              ("/api/v1/conversations", {"title": sql, "model": MODEL}, "title")]:
        status, text = call(server, "POST", path, body)
        assert status == 201, (path, status, text)
        made[path] = json.loads(text)
        status, text = call(server, "GET", f"{path}/{made[path]['id']}")
        if path == "/api/v1/conversations":
            assert json.loads(text).get("conversation", json.loads(text))["title"] == sql, text
        else:
            assert json.loads(text)[field] == sql, text
    assert json.loads(call(server, "GET", "/api/v1/keys/" + made["/api/v1/keys"]["id"])[1])["models"] == [model]
    status, text = call(server, "PATCH", "/api/v1/workspaces/" + made["/api/v1/workspaces"]["id"], {"name": sql + " again"})
    assert status == 200 and json.loads(text)["name"] == sql + " again"
    status, text = call(server, "POST", "/api/v1/bills/adjustments", {"organisation": "default", "amount": "1", "reason": sql})
    assert status == 201 and json.loads(text)["reason"] == sql
    rows = json.loads(call(server, "GET", "/api/v1/audit?limit=50")[1])["data"]
    assert any(isinstance(row["after"], dict) and row["after"].get("name") == sql for row in rows)


@pytest.mark.parametrize("sql", SQL)
def test_sql_in_paths_and_queries(server, sql):
    quoted = urllib.parse.quote(sql, safe="")
    before = counts(server)
    document = json.loads(call(server, "GET", "/openapi.json")[1])
    for path, item in document["paths"].items():
        if "get" not in item or path.endswith("/events") or "/pool/" in path or path in ("/api/v1/doctor",):
            continue
        if "{" in path:
            target = path
            for hole in ("{id...}", "{id}", "{turn}", "{share}"):
                target = target.replace(hole, quoted)
            status, text = call(server, "GET", target)
            assert 400 <= status < 500, (target, status, text)
        for parameter in item["get"].get("parameters", []):
            if parameter["in"] == "query" and "{" not in path:
                status, text = call(server, "GET", f"{path}?{parameter['name']}={quoted}")
                assert status < 500, (path, parameter["name"], status, text)
    for path in ("/api/v1/keys/", "/api/v1/members/", "/api/v1/budgets/", "/api/v1/conversations/", "/v1/responses/", "/api/v1/secrets/"):
        assert 400 <= call(server, "DELETE", path + quoted)[0] < 500
    after = counts(server)
    assert all(after[name] >= before[name] for name in before), (before, after)


def session_of(server, email, password):
    """The headers of a session, by signing in; None where that is refused."""
    request = urllib.request.Request(server.url + "/api/v1/sessions", json.dumps({"email": email, "password": password}).encode(),
                                     headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            cookie, csrf = reply.headers["Set-Cookie"].split(";")[0], json.load(reply)["csrf_token"]
    except urllib.error.HTTPError as problem:
        assert problem.code in (400, 401), (problem.code, problem.read())
        return None
    return {"Cookie": cookie, "Tidepool-CSRF": csrf}


def operators(server):
    with sqlite3.connect(server.home / "tidepool.db") as store:
        return store.execute("SELECT COUNT(*) FROM users WHERE is_operator <> 0").fetchone()[0]


def test_sql_in_setting_up_joining_and_signing_in(server):
    """Names and passwords may be anything: they work, letter for letter; addresses and tokens may not, and are refused."""
    passwords = [sql + " -- and long enough" for sql in SQL]
    setup = re.search(r"/setup#(\S+)", server.output()).group(1)
    before = counts(server)
    for sql in SQL:
        for path, body in [("links/find", {"token": sql}), ("links/use", {"token": sql, "email": "o@example.org", "name": "o", "password": passwords[0]}),
                           ("links/use", {"token": setup, "email": sql, "name": "o", "password": passwords[0]})]:
            status, text = call(server, "POST", "/api/v1/" + path, body, who={})
            assert 400 <= status < 500, (path, body, status, text)
    status, text = call(server, "POST", "/api/v1/links/use", {"token": setup, "email": "owner@example.org", "name": SQL[0], "password": passwords[0]}, who={})
    assert status == 201 and json.loads(text)["user"]["name"] == SQL[0], text
    assert operators(server) == 1
    for number, (sql, password) in enumerate(zip(SQL, passwords)):
        email, other = f"member{number}@example.org", passwords[number - 1]
        status, text = call(server, "POST", "/api/v1/invitations", {"email": sql, "role": "viewer"})
        assert status == 400, text
        status, text = call(server, "POST", "/api/v1/invitations", {"email": email, "role": "viewer"})
        token = json.loads(text)["token"]
        status, text = call(server, "POST", "/api/v1/links/use", {"token": token, "name": sql, "password": password}, who={})
        assert status == 201 and json.loads(text)["user"]["name"] == sql, text
        assert session_of(server, email, other) is None and session_of(server, sql, password) is None
        assert session_of(server, email + sql, password) is None
        session = session_of(server, email, password)
        status, text = call(server, "GET", "/api/v1/sessions/current", who=session)
        assert status == 200 and json.loads(text)["user"]["name"] == sql and json.loads(text)["role"] == "viewer", text
        assert call(server, "POST", "/api/v1/password", {"old_password": other, "new_password": "a long enough password"}, who=session)[0] in (400, 401, 403)
        assert call(server, "POST", "/api/v1/password", {"old_password": password, "new_password": other}, who=session)[0] == 200
        assert session_of(server, email, password) is None and session_of(server, email, other) is not None
        # A reset link is a link as the others are.
        members = json.loads(call(server, "GET", "/api/v1/members?limit=1000")[1])["data"]
        (member,) = [one for one in members if one["email"] == email]
        assert member["name"] == sql and member["role"] == "viewer", member
        status, text = call(server, "POST", f"/api/v1/members/{member['id']}/reset", {})
        assert status == 201, text
        status, text = call(server, "POST", "/api/v1/links/use", {"token": json.loads(text)["token"], "password": password}, who={})
        assert status == 201, text
        assert session_of(server, email, other) is None and session_of(server, email, password) is not None
    assert operators(server) == 1, "UPDATE users did not run"
    after = counts(server)
    assert all(after[name] >= before[name] for name in before if name not in ("links", "sessions")), (before, after)
    assert json.loads(call(server, "GET", "/api/v1/audit/verify")[1])["good"]
