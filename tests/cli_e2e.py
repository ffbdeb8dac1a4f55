"""The command line as its users meet it: the real binary, the simulated model, loopback only."""

import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "sdk"))
from server_process import MODEL, Server  # noqa: E402

BINARY = os.environ["TIDEPOOL_BINARY"]


def environment(home, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TIDEPOOL_")}
    return dict(kept, TIDEPOOL_HOME=str(home), LC_ALL="C.UTF-8", TERM="xterm", **more)


def tidepool(home, *arguments, text="", seconds=60, **more):
    return subprocess.run([BINARY, *arguments], input=text, capture_output=True, text=True, timeout=seconds,
                          env=environment(home, **more))


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def test_version_and_help(server):
    assert tidepool(server.home, "version").stdout.startswith("tidepool ")
    assert json.loads(tidepool(server.home, "version", "--json").stdout)["server_url"] == server.url
    helped = tidepool(server.home, "--help")
    assert helped.returncode == 0 and "pull" in helped.stdout and "130 interrupted" in helped.stdout


def test_wrong_usage_is_2_and_suggests(server):
    wrong = tidepool(server.home, "lsit")
    assert wrong.returncode == 2 and "tidepool list" in wrong.stderr
    assert tidepool(server.home, "show").returncode == 2
    assert tidepool(server.home, "run", MODEL, "--nonsense").returncode == 2


def test_lists_as_json_and_tables(server):
    for command in (("list",), ("list", "--catalogue"), ("ps",), ("settings",)):
        reply = tidepool(server.home, *command, "--json")
        assert reply.returncode == 0, reply.stderr
        assert isinstance(json.loads(reply.stdout)["data"], list)
    assert tidepool(server.home, "list", "--catalogue").stdout.splitlines()[0].startswith("NAME")
    assert "smollm2:135m" in tidepool(server.home, "list", "--catalogue").stdout
    assert "\x1b" not in tidepool(server.home, "doctor").stdout


def test_unknown_model_says_what_to_do(server):
    wrong = tidepool(server.home, "run", "no-such-model-anywhere", "hello")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ")


def test_a_wrong_key_is_refused_with_advice(server):
    wrong = tidepool(server.home, "list", "--key", "nonsense")
    assert wrong.returncode == 1 and "TIDEPOOL_API_KEY" in wrong.stderr


def test_run_answers_once(server):
    answer = tidepool(server.home, "run", MODEL, "hello", "--max-tokens", "20")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    piped = tidepool(server.home, "run", MODEL, text="hello from a pipe", seconds=60)
    assert piped.returncode == 0 and piped.stdout.strip()
    reply = json.loads(tidepool(server.home, "run", MODEL, "hello", "--json", "--max-tokens", "5").stdout)
    assert reply["choices"][0]["message"]["role"] == "assistant"
    verbose = tidepool(server.home, "run", MODEL, "hello", "--verbose", "--max-tokens", "20")
    assert "first token" in verbose.stderr


def test_run_without_a_prompt(server):
    assert tidepool(server.home, "run", MODEL).returncode == 1


def test_bad_parameters_name_the_field(server):
    wrong = tidepool(server.home, "run", MODEL, "hello", "--temperature", "-3")
    assert wrong.returncode == 1 and "temperature" in wrong.stderr


class Screen:
    """A command on a pseudo-terminal."""

    def __init__(self, home, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(BINARY, [BINARY, *arguments], environment(home))
        self.seen = ""

    def wait_for(self, pattern, seconds=30):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.seen), f"ended without {pattern!r}: {self.seen!r}"
                    return
        self.seen = re.split(pattern, self.seen, maxsplit=1)[-1]

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"did not end: {self.seen!r}")
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    pass


def test_chat_on_a_terminal(server):
    screen = Screen(server.home, "run", MODEL)
    screen.wait_for(r"/help")
    screen.wait_for(r">>> ")
    screen.type("/help\n")
    screen.wait_for(r"forget the conversation")
    screen.wait_for(r">>> ")
    screen.type("/hepl\n")
    screen.wait_for(r"did you mean /help")
    screen.type("/set temperature abc\n")
    screen.wait_for(r"no value for temperature")
    screen.type("/set max_tokens 8\n")
    screen.type("/set verbose on\n")
    screen.type("hello there\n")
    screen.wait_for(r"whole .* s")  # the numbers after the answer
    screen.wait_for(r">>> ")
    screen.type("\x03")  # Ctrl-C at the prompt: stays
    screen.wait_for(r"Ctrl-D leaves")
    screen.type("/bye\n")
    assert screen.end() == 0
    assert "hello there" in (server.home / "history").read_text().replace("\\040", " ")


def test_starts_a_server_for_itself_and_stops_it():
    with tempfile.TemporaryDirectory(prefix="tidepool-cli-") as folder:
        home = pathlib.Path(folder)
        (home / "tidepool.toml").write_text('listen = "127.0.0.1:0"\n[simulated]\nenabled = true\n')
        try:
            listed = tidepool(home, "list", "--json", seconds=90)
            assert listed.returncode == 0, listed.stderr
            assert "started a server at" in listed.stderr
            again = tidepool(home, "list", "--json")
            assert again.returncode == 0 and "started" not in again.stderr
        finally:
            stopped = tidepool(home, "stop", "--server", seconds=90)
        assert stopped.returncode == 0, stopped.stderr
        assert not (home / "server.json").exists()
        log = home / "logs" / "server.log"
        assert log.stat().st_mode & 0o077 == 0
        assert (home / "admin.key").read_text().strip() not in log.read_text()
        assert tidepool(home, "stop", MODEL).returncode == 1
        assert json.loads(tidepool(home, "ps", "--json").stdout) == {"data": []}
