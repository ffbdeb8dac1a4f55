"""The store in PostgreSQL through the real binary: the recipe of docs/postgresql.md, word for word, and what happens without its files."""

import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile

import pytest

from server_process import MODEL, Server

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

    def __enter__(self):
        self.run("initdb", "-D", "data", "-U", "tidepool", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        # Its output goes to a file: a pipe would stay open as long as the server.
        self.run("pg_ctl", "-D", "data", "-w", "-t", "60", "-l", "server.log", "-o", f"-c listen_addresses='' -c unix_socket_directories={self.folder}", "start")
        return self

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
