"""Accounts through the real binary and its command line: keys, the first owner, backup and restore, the audit log under
tampering, a home from before the store, `--open`."""

import http.client
import json
import re
import sqlite3
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from cli_e2e import tidepool
from server_process import MODEL, Server

PASSWORD = "a long enough password"


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def call(server, method, path, body=None, headers=None):
    """Status, headers and JSON (or text) of the reply."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, method=method,
                                     headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read().decode()
            return reply.status, reply.headers, json.loads(text) if text.startswith("{") else text
    except urllib.error.HTTPError as problem:
        return problem.code, problem.headers, json.loads(problem.read())


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def cli(server, *arguments, **more):
    done = tidepool(server.home, *arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def chat(server, key, status=200):
    got, _, reply = call(server, "POST", "/v1/chat/completions", {
        "model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}, bearer(key))
    assert got == status, reply
    return reply


def test_keys_from_the_command_line(home):
    with Server("--simulated", home=home) as server:
        made = cli(server, "keys", "create", "--name", "X")
        assert re.fullmatch(r"tp-[0-9A-Za-z]{46}", made["key"])
        assert made["role"] == "developer" and made["service"] is True
        chat(server, made["key"])
        assert call(server, "GET", "/api/v1/settings", headers=bearer(made["key"]))[0] == 403
        scoped = cli(server, "keys", "create", "--name", "scoped", "--model", "other:*", "--network", "127.0.0.0/8",
                     "--expires", "90d", "--role", "viewer")
        assert scoped["models"] == ["other:*"] and scoped["expires_at"] > time.time() + 89 * 86400
        listed = cli(server, "keys", "list")["data"]
        assert {"X", "scoped", "operator"} <= {key["name"] for key in listed}
        assert made["key"] not in json.dumps(listed)
        assert "X" in tidepool(server.home, "keys", "list").stdout
        fresh = cli(server, "keys", "rotate", made["id"], "--overlap", "1h")
        chat(server, made["key"])
        chat(server, fresh["key"])
        assert cli(server, "keys", "revoke", made["id"])["revoked_at"]
        assert chat(server, made["key"], 401)["error"]["code"] == "key_revoked"
        wrong = tidepool(server.home, "keys", "create", "--name", "x", "--expires", "soon")
        assert wrong.returncode == 2 and "90d" in wrong.stderr
    with Server("--simulated", home=home) as server:  # all of it is still so
        assert chat(server, made["key"], 401)["error"]["code"] == "key_revoked"
        chat(server, fresh["key"])


def test_a_stream_ends_within_a_second_of_its_keys_revocation(home):
    with Server("--simulated", home=home) as server:
        made = cli(server, "keys", "create", "--name", "stream")
        ended = []

        def follow():
            where = urllib.parse.urlsplit(server.url)
            connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
            connection.request("POST", "/v1/chat/completions", json.dumps({
                "model": MODEL, "stream": True, "messages": [{"role": "user", "content": "[[stall_ms:20]][[tokens:4000]]"}]}),
                {"Content-Type": "application/json", **bearer(made["key"])})
            stream = connection.getresponse()
            try:
                while stream.read1(4096):
                    ended.append(time.monotonic())
            except (http.client.HTTPException, OSError):
                pass
            ended.append(("end", time.monotonic()))

        follower = threading.Thread(target=follow)
        follower.start()
        while len(ended) < 3:
            time.sleep(0.01)
        cli(server, "keys", "revoke", made["id"])
        revoked = time.monotonic()
        follower.join(30)
        assert ended[-1][0] == "end" and ended[-1][1] - revoked < 1
        deadline = time.monotonic() + 20
        while server.ask("GET", "/api/v1/status")["running"]:
            assert time.monotonic() < deadline, "the engine still computes for a revoked key"
            time.sleep(0.02)


def test_prefixes_are_reused_within_a_workspace_only(home):
    prompt = "The same long beginning. " * 40

    def cached(server, key):
        status, _, reply = call(server, "POST", "/v1/chat/completions", {
            "model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": prompt}]}, bearer(key))
        assert status == 200, reply
        return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

    with Server("--simulated", home=home) as server:
        workspace = cli(server, "workspace", "create", "--name", "other")
        ours = [cli(server, "keys", "create", "--name", f"k{i}")["key"] for i in range(2)]
        theirs = cli(server, "keys", "create", "--name", "k", "--workspace", workspace["id"])["key"]
        assert cached(server, ours[0]) == 0
        assert cached(server, ours[1]) > 0, "another key of the workspace"
        assert cached(server, theirs) == 0
        assert cached(server, theirs) > 0


def test_the_first_owner_and_a_forgotten_password(home):
    with Server("--simulated", home=home) as server:
        token = re.search(re.escape(server.url) + r"/setup#(tl-\w+)", server.output()).group(1)
        page = call(server, "GET", "/setup")[2]
        assert "<form" in page or 'id="root"' in page, "the plain page, or the web application where it is built in"
        status, headers, made = call(server, "POST", "/api/v1/links/use", {
            "token": token, "email": "o@example.org", "name": "Olga", "password": PASSWORD})
        assert status == 201, made
        cookie = headers["Set-Cookie"].split(";")[0]
        assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
        as_owner = {"Cookie": cookie, "Tidepool-CSRF": made["csrf_token"]}
        assert call(server, "GET", "/api/v1/sessions/current", headers={"Cookie": cookie})[2]["role"] == "operator"
        assert call(server, "POST", "/api/v1/keys", {"name": "mine"}, {"Cookie": cookie})[0] == 403, "no CSRF token"
        status, _, key = call(server, "POST", "/api/v1/keys", {"name": "mine"}, as_owner)
        assert status == 201 and key["service"] is False
        chat(server, key["key"])
        # Beside the running server, on the machine itself.
        path = cli(server, "admin", "reset-password", "o@example.org")["url"]
        status, _, again = call(server, "POST", "/api/v1/links/use",
                                {"token": path.split("#")[1], "password": "another long password"})
        assert status == 201, again
        deadline = time.monotonic() + 1
        while call(server, "GET", "/api/v1/sessions/current", headers={"Cookie": cookie})[0] == 200:
            assert time.monotonic() < deadline
        assert call(server, "POST", "/api/v1/sessions", {"email": "o@example.org", "password": PASSWORD})[0] == 401
        assert call(server, "POST", "/api/v1/sessions",
                    {"email": "o@example.org", "password": "another long password"})[0] == 201
        # A colleague, by the command line.
        workspace = cli(server, "workspace", "create", "--name", "team")
        link = cli(server, "member", "invite", "d@example.org", "--workspace", workspace["id"])
        status, headers, joined = call(server, "POST", "/api/v1/links/use",
                                       {"token": link["token"], "name": "Dora", "password": PASSWORD})
        assert status == 201 and joined["workspaces"] == [{"id": workspace["id"], "role": "developer"}]
        members = cli(server, "member", "list", "--workspace", workspace["id"])["data"]
        assert [member["email"] for member in members] == ["d@example.org"]
        cli(server, "member", "remove", members[0]["id"])
    with Server("--simulated", home=home) as server:
        assert "/setup#" not in server.output() and "admin.key" in server.output()


def test_the_audit_log_finds_what_was_tampered_with(home):
    def verify(server):
        return tidepool(server.home, "audit", "verify", "--json")

    with Server("--simulated", home=home) as server:
        for i in range(5):
            cli(server, "keys", "create", "--name", f"key {i}")
        good = json.loads(verify(server).stdout)
        assert good["good"] and good["rows"] >= 8
        rows = cli(server, "audit", "list")["data"]
        assert rows[0]["action"] == "key.created" and rows[0]["address"] == "127.0.0.1"
    store = sqlite3.connect(home / "tidepool.db")
    kept = store.execute("SELECT * FROM audit ORDER BY number").fetchall()
    last = kept[-1][0]
    head = (home / "audit.head").read_text()

    def put_back():
        (home / "audit.head").write_text(head)
        store.execute("DELETE FROM audit")
        store.executemany(f"INSERT INTO audit VALUES ({','.join('?' * len(kept[0]))})", kept)
        store.commit()

    for what, statement, row in [
            ("changed", "UPDATE audit SET object = 'key-other' WHERE number = 4", 4),
            ("removed", "DELETE FROM audit WHERE number = 5", 5),
            ("moved", "UPDATE audit SET number = CASE number WHEN 3 THEN -4 WHEN 4 THEN -3 ELSE number END", 3),
            ("cut", f"DELETE FROM audit WHERE number = {last}", last)]:
        store.execute(statement)
        store.execute("UPDATE audit SET number = -number WHERE number < 0")
        store.commit()
        with Server("--simulated", home=home) as server:
            found = verify(server)
            assert found.returncode == 1, what
            verdict = json.loads(found.stdout)
            assert not verdict["good"], what
            assert verdict["bad_row"] == row, (what, verdict)
        put_back()
    store.close()


def test_backup_while_serving_and_restore(home, tmp_path):
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse battery\n")
    plain, whole = tmp_path / "plain.backup", tmp_path / "whole.backup"
    with Server("--simulated", home=home) as server:
        before = cli(server, "keys", "create", "--name", "before")
        assert cli(server, "backup", str(plain))["holds_keys"] is False
        assert cli(server, "backup", str(whole), "--with-keys", "--passphrase-file", str(phrase))["holds_keys"] is True
        assert tidepool(home, "backup", str(plain)).returncode == 1, "never over a file that is there"
        assert b"master" not in whole.read_bytes()
        after = cli(server, "keys", "create", "--name", "after")
        busy = tidepool(home, "restore", str(plain))
        assert busy.returncode == 1 and "stop" in busy.stderr, busy.stderr
    assert tidepool(home, "restore", str(tmp_path / "nothing")).returncode == 1
    done = tidepool(home, "restore", str(plain))
    assert done.returncode == 0, done.stderr
    with Server("--simulated", home=home) as server:
        chat(server, before["key"])
        assert chat(server, after["key"], 401)["error"]["code"] == "invalid_api_key"
        assert tidepool(home, "audit", "verify").returncode == 0
        assert "store.restored" in tidepool(home, "audit", "list").stdout
    # On another machine: only the backup and the passphrase.
    other = tmp_path / "other"
    other.mkdir()
    lost = tidepool(other, "restore", str(plain))
    assert lost.returncode == 1 and "secrets.key" in lost.stderr
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect horse\n")
    assert tidepool(other, "restore", str(whole), "--with-keys", "--passphrase-file", str(wrong)).returncode == 1
    assert tidepool(other, "restore", str(whole)).returncode == 1
    done = tidepool(other, "restore", str(whole), "--with-keys", "--passphrase-file", str(phrase))
    assert done.returncode == 0, done.stderr
    (other / "admin.key").write_text((home / "admin.key").read_text())
    with Server("--simulated", home=other) as server:
        chat(server, before["key"])


def test_a_store_from_a_newer_version_is_refused(home):
    with Server("--simulated", home=home):
        pass
    store = sqlite3.connect(home / "tidepool.db")
    store.execute("INSERT INTO schema_migrations VALUES ('accounts', 999, 'from the future', 0)")
    store.commit()
    store.close()
    with pytest.raises(RuntimeError, match="newer version"):
        with Server("--simulated", home=home):
            pass


def test_secrets_are_kept_encrypted(home):
    with Server("--simulated", home=home) as server:
        assert tidepool(home, "secret", "set", "hub.token", text="hf_very_secret\n").returncode == 0
        assert tidepool(home, "secret", "set", "colour", text="red\n").returncode == 1
        assert [s["name"] for s in cli(server, "secret", "list")["data"]] == ["hub.token"]
        assert "hf_very" not in tidepool(home, "audit", "list", "--json").stdout
    for file in home.iterdir():
        assert not file.is_file() or b"hf_very_secret" not in file.read_bytes(), file
    with Server("--simulated", home=home) as server:
        cli(server, "secret", "rm", "hub.token")
        assert cli(server, "secret", "list")["data"] == []


def test_open_needs_no_key_and_is_workspace_default(home):
    with Server("--simulated", "--open", home=home) as server:
        status, _, who = call(server, "GET", "/api/v1/sessions/current")
        assert status == 200 and who["workspace"] == "default" and who["role"] == "operator" and who["key"] == "open"
        assert "/setup#" not in server.output()
