"""The store in PostgreSQL through the real binary: the recipe of docs/postgresql.md, word for word, what happens without its
files, and without PostgreSQL itself: usage waits on disk, within bounds, and nothing else hangs."""

import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest

from server_process import MODEL, Server, StreamedAnswer, eventually

BINARY = os.environ["TIDEPOOL_BINARY"]
DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "postgresql.md"
PROGRAMS = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))


class Postgresql:
    """A cluster of the test's own on a Unix socket. PostgreSQL refuses root: then it runs as its own user."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tidepool-pg-", dir="/tmp"))
        self.user = None
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self.user = next(name for name in ("postgres", "nobody") if name in names)
            shutil.chown(self.folder, self.user)

    def run(self, program, *arguments):
        done = subprocess.run([str(PROGRAMS[-1] / program), *arguments], cwd=self.folder, user=self.user, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        assert done.returncode == 0, (program, arguments, done.stdout)
        return done.stdout

    def __enter__(self):
        self.run("initdb", "-D", "data", "-U", "tidepool", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        self.start()
        return self

    def start(self):
        # Its output goes to a file: a pipe would stay open as long as the server.
        self.run("pg_ctl", "-D", "data", "-w", "-t", "60", "-l", "server.log", "-o", f"-c listen_addresses='' -c unix_socket_directories={self.folder}", "start")

    def processes(self):
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        return [postmaster, *map(int, pathlib.Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())]

    def crash(self):
        """An immediate shutdown: every connection is cut, nothing is said."""
        postmaster = self.processes()[0]
        os.kill(postmaster, signal.SIGQUIT)
        deadline = time.monotonic() + 60
        while (self.folder / "data" / "postmaster.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not (self.folder / "data" / "postmaster.pid").exists()

    def freeze(self, frozen):
        """Every connection stays, and nothing is answered, as where the network is gone."""
        for process in self.processes():
            try:
                os.kill(process, signal.SIGSTOP if frozen else signal.SIGCONT)
            except ProcessLookupError:
                pass  # a worker that has ended meanwhile

    def rows(self, name, sql):
        """As tuples of texts."""
        text = self.run("psql", "-h", str(self.folder), "-U", "tidepool", "-d", name, "-A", "-t", "-F", "|", "-c", sql)
        return [tuple(line.split("|")) for line in text.splitlines()]

    def __exit__(self, *_):
        self.run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self, name):
        self.run("createdb", "-h", str(self.folder), "-U", "tidepool", name)
        return f"host={self.folder} user=tidepool dbname={name}"


@pytest.fixture(scope="module")
def postgresql():
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed (scripts/setup --tests)")
    with Postgresql() as running:
        yield running


def recipe(heading):
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S).group(1)
    return re.findall(r"```sh\n(.*?)```", section, re.S)


def shell(commands, home, connection, backup):
    environment = os.environ | {"TIDEPOOL_HOME": str(home), "TIDEPOOL_STORE_POSTGRESQL": connection, "BACKUP": str(backup),
                                "PATH": f"{PROGRAMS[-1]}:{pathlib.Path(BINARY).parent}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-eu", "-c", commands], env=environment, capture_output=True, text=True, timeout=120)


def serve(home, connection):
    home.mkdir(exist_ok=True)
    return Server("--simulated", home=home, settings={"TIDEPOOL_STORE_POSTGRESQL": connection, "TIDEPOOL_POOL_CALIBRATE": "false"})


def chat(server):
    return server.ask("POST", "/v1/chat/completions", {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "[[tokens:3]]"}]})


def verdict(server):
    return server.ask("GET", "/api/v1/audit/verify")


def test_the_recipe_restores_what_was_and_the_audit_log_is_whole(postgresql, tmp_path):
    (backup_commands,), (restore_commands, verify) = recipe("Back up"), recipe("Restore")
    assert verify.strip() == "tidepool audit verify"
    first, second = postgresql.database("one"), postgresql.database("two")
    home, backup, fresh = tmp_path / "home", tmp_path / "backup", tmp_path / "fresh"
    with serve(home, first) as server:
        key = server.ask("POST", "/api/v1/keys", {"name": "kept", "service": True})
        server.ask("POST", "/api/v1/prices", {"currency": "EUR", "models": [{"model": "*", "tiers": [{"input": "1", "output": "2"}]}]})
        server.ask("PUT", "/api/v1/limits", {"scope": f"key:{key['id']}", "requests_per_minute": 7})
        for _ in range(3):
            chat(server)
        while server.ask("GET", "/api/v1/usage")["data"][0]["requests"] < 3:
            pass
        done = shell(backup_commands, home, first, backup)  # while serving
        assert done.returncode == 0, done.stderr
        rows = verdict(server)["rows"]
        server.ask("POST", "/api/v1/keys", {"name": "made after the dump", "service": True})
        assert "The store is PostgreSQL" in subprocess.run([BINARY, "backup", str(tmp_path / "x")], capture_output=True, text=True, env={
            **os.environ, "TIDEPOOL_HOME": str(home)}).stderr
    assert sorted(file.name for file in backup.iterdir()) == ["admin.key", "audit.head", "secrets.key", "tidepool.dump"]
    assert backup.stat().st_mode & 0o777 == 0o700

    # Another machine: nothing but the backup.
    done = shell(restore_commands, fresh, second, backup)
    assert done.returncode == 0, done.stderr
    with serve(fresh, second) as server:
        assert server.key == key_of(home)
        done = shell(verify, fresh, second, backup)
        assert done.returncode == 0 and "whole" in done.stdout, (done.stdout, done.stderr)
        assert verdict(server)["good"] and verdict(server)["rows"] >= rows
        names = {one["name"] for one in server.ask("GET", "/api/v1/keys?limit=1000")["data"]}
        assert "kept" in names and "made after the dump" not in names
        assert server.ask("GET", "/api/v1/usage")["data"][0]["requests"] == 3
        assert server.ask("GET", "/api/v1/limits")["data"][0]["requests_per_minute"] == 7
        assert server.ask("GET", "/api/v1/prices")["current"]["version"] == 1
        # It goes on: keys work, rows and audit rows are added.
        server.key = key["key"]
        chat(server)
        server.key = key_of(fresh)
        server.ask("DELETE", f"/api/v1/keys/{key['id']}")
        assert verdict(server)["good"]


def key_of(home):
    return (home / "admin.key").read_text().strip()


def test_without_its_files_a_restored_database_is_not_what_it_was(postgresql, tmp_path):
    (backup_commands,), (restore_commands, _) = recipe("Back up"), recipe("Restore")
    first = postgresql.database("three")
    home, backup = tmp_path / "home", tmp_path / "backup"
    with serve(home, first) as server:
        server.ask("POST", "/api/v1/keys", {"name": "before", "service": True})
        assert shell(backup_commands, home, first, backup).returncode == 0
        server.ask("POST", "/api/v1/keys", {"name": "after", "service": True})
        head = (home / "audit.head").read_bytes()
    # The key file of another installation: refused at the start.
    wrong, other = tmp_path / "wrong", postgresql.database("four")
    assert shell(restore_commands, wrong, other, backup).returncode == 0
    (wrong / "secrets.key").unlink()
    with pytest.raises(RuntimeError, match="secrets.key"):
        serve(wrong, other).__enter__()
    # A head that is newer than the dump: rows were cut off, and it says so.
    cut, last = tmp_path / "cut", postgresql.database("five")
    assert shell(restore_commands, cut, last, backup).returncode == 0
    (cut / "audit.head").write_bytes(head)
    with serve(cut, last) as server:
        assert not verdict(server)["good"], verdict(server)
    # Into a database that is not empty nothing is restored.
    assert shell(restore_commands, cut, last, backup).returncode != 0


# ---- a lost PostgreSQL -------------------------------------------------------------------------------


def call(server, method, path, body=None, headers=None):
    """(status, JSON or text, headers, seconds)"""
    request = urllib.request.Request(server.url + path, None if body is None else json.dumps(body).encode(), method=method, headers={
        "Content-Type": "application/json", **(headers or {"Authorization": f"Bearer {server.key}"})})
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            status, replied, text = reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as problem:
        status, replied, text = problem.code, problem.headers, problem.read().decode()
    return status, json.loads(text) if "json" in replied["Content-Type"] else text, replied, time.monotonic() - began


def say(server, tokens=3):
    return call(server, "POST", "/v1/chat/completions", {
        "model": MODEL, "max_tokens": tokens + 9, "messages": [{"role": "user", "content": f"[[tokens:{tokens}]]"}]})


PASSWORD = "a long enough password"
STORED = [("POST", "/api/v1/sessions", {"email": "ann@example.org", "password": PASSWORD}, 201), ("GET", "/api/v1/usage", None, 200),
          ("GET", "/api/v1/requests", None, 200), ("GET", "/api/v1/bills", None, 200), ("GET", "/api/v1/audit", None, 200),
          ("GET", "/api/v1/members", None, 200), ("GET", "/api/v1/conversations", None, 200),
          ("POST", "/api/v1/keys", {"name": "k", "service": True}, 201), ("POST", "/api/v1/workspaces", {"name": "w"}, 201),
          ("PUT", "/api/v1/limits", {"scope": "workspace:default", "requests_per_minute": 1000000}, 200),
          ("POST", "/api/v1/budgets", {"scope": "workspace:default", "amount": "1000000"}, 201)]
MAX_UNPOSTED = 12


def test_a_lost_postgresql_is_buffered_on_disk_then_refuses_work(postgresql, tmp_path):
    home, connection = tmp_path / "home", postgresql.database("lost")
    settings = {"TIDEPOOL_STORE_POSTGRESQL": connection, "TIDEPOOL_POOL_CALIBRATE": "false", "TIDEPOOL_SIMULATED_STEP_MS": "15",
                "TIDEPOOL_LEDGER_MAX_UNPOSTED_ROWS": str(MAX_UNPOSTED), "TIDEPOOL_STORE_QUERY_TIMEOUT_S": "2"}
    home.mkdir()
    seen = {}  # request id -> what its client was told

    def is_stored():
        rows = postgresql.rows("lost", "SELECT request_id, prompt_tokens, output_tokens, status FROM usage_rows")
        return sorted(rows) == sorted((request, str(prompt), str(output), "done") for request, (prompt, output) in seen.items())

    def note(request_id, usage):
        assert request_id not in seen
        seen[request_id] = usage["prompt_tokens"], usage["completion_tokens"]

    def take(reply):
        assert reply[0] == 200, reply
        note(reply[2]["X-Request-Id"], reply[1]["usage"])

    with Server("--simulated", home=home, settings=settings) as server:
        invited = call(server, "POST", "/api/v1/invitations", {"email": "ann@example.org", "role": "viewer"})[1]
        joined = call(server, "POST", "/api/v1/links/use", {"token": invited["token"], "name": "Ann", "password": PASSWORD}, {"Accept": "*/*"})
        assert joined[0] == 201, joined
        for method, path, body, status in STORED:
            assert call(server, method, path, body)[0] == status, path
        take(say(server))
        assert eventually(is_stored)

        # In the middle of answers: they go on, whole, and their rows wait on the disk.
        answers = [StreamedAnswer(server, 240) for _ in range(4)]
        assert eventually(lambda: all(answer.events > 5 for answer in answers))
        postgresql.crash()
        try:
            for answer in answers:
                answer.join(60)
                assert answer.done and answer.usage["completion_tokens"] >= 240, answer.usage
                note(answer.request_id, answer.usage)
            assert list((home / "ledger").glob("journal-*"))
            # New work is taken as long as the buffer lasts, and then refused with the reason.
            refused = None
            while refused is None and len(seen) < 10 * MAX_UNPOSTED:
                reply = say(server)
                if reply[0] == 200:
                    take(reply)
                else:
                    refused = reply
            assert refused and refused[0] == 503 and refused[1]["error"]["code"] == "usage_store_behind", refused
            assert "ledger.max_unposted_rows" in refused[1]["error"]["message"] and int(refused[2]["Retry-After"]) >= 1
            buffered = len(seen) - 1
            assert MAX_UNPOSTED <= buffered <= MAX_UNPOSTED + 4, buffered
            wanted = {f"tidepool_ledger_unposted_rows {buffered}", "tidepool_ledger_ready 0"}
            assert eventually(lambda: wanted <= set(call(server, "GET", "/metrics")[1].splitlines())), wanted
            # What needs the store says so, at once; what does not goes on.
            for method, path, body, _ in STORED:
                status, reply, headers, seconds = call(server, method, path, body)
                assert status == 503 and reply["error"]["code"] == "store_unavailable" and "PostgreSQL" in reply["error"]["message"], (path, status, reply)
                assert int(headers["Retry-After"]) >= 1 and seconds < 10, (path, seconds)
            for path in ("/health", "/v1/models", "/api/v1/models", "/api/v1/status", "/metrics"):
                assert call(server, "GET", path)[0] == 200, path
            assert say(server)[0] == 503
        finally:
            postgresql.start()
        # It is back: every row once, as its client was told; none of the refused. Nothing was restarted.
        assert eventually(is_stored), (seen, postgresql.rows("lost", "SELECT request_id, prompt_tokens, output_tokens, status FROM usage_rows"))
        assert eventually(lambda: say_and_take(server, take))
        for method, path, body, status in STORED[:7]:
            assert eventually(lambda: call(server, method, path, body)[0] == status), path
        assert verdict(server)["good"]
        assert eventually(is_stored)
        sums = call(server, "GET", "/api/v1/usage")[1]["data"][0]
        assert (sums["requests"], sums["prompt_tokens"], sums["output_tokens"]) == (
            len(seen), sum(prompt for prompt, _ in seen.values()), sum(output for _, output in seen.values()))

        # One that hangs, instead of being gone, holds nobody up for ever either.
        postgresql.freeze(True)
        try:
            take(say(server))
            for method, path, body, _ in STORED[:2]:
                status, reply, _, seconds = call(server, method, path, body)
                assert status == 503 and seconds < 20, (path, status, reply, seconds)
            take(say(server))
        finally:
            postgresql.freeze(False)
        assert eventually(is_stored)

        # And where this server dies before PostgreSQL is back, its journal has what it owes.
        postgresql.crash()
        try:
            for _ in range(3):
                take(say(server))
            server.process.kill()
            server.process.wait()
        finally:
            postgresql.start()
    with Server("--simulated", home=home, settings=settings) as server:
        assert eventually(is_stored)
        take(say(server))
        assert eventually(is_stored)


def say_and_take(server, take):
    reply = say(server)
    if reply[0] == 200:
        take(reply)
    return reply[0] == 200
