"""A Tidepool server of one's own, for tests and benches: the real binary on a free loopback port. Only the standard library."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

MODEL = "scripted"  # the simulated model, there with the flag --simulated
START_S = 60
STOP_S = 60


class Server:
    """`with Server("--simulated") as server:` serves until the end of the block; server.url, server.key, server.home."""

    def __init__(self, *flags, binary=None, settings=None, home=None):
        """binary: $TIDEPOOL_BINARY unless told. settings: TIDEPOOL_* variables; those of the caller do not reach the
        server. home: a folder that is there and stays (one server at a time); without it a new one that goes in the end."""
        self.binary = str(binary or os.environ["TIDEPOOL_BINARY"])
        self.flags = flags
        self.settings = settings or {}
        self._given_home = home

    def __enter__(self):
        self._folder = None if self._given_home else tempfile.TemporaryDirectory(prefix="tidepool-server-")
        self.home = pathlib.Path(self._given_home or self._folder.name)
        self.log_path = self.home / "output.log"
        info = self.home / "server.json"
        info.unlink(missing_ok=True)  # of a server that was killed
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEPOOL_")}
        environment |= {"TIDEPOOL_HOME": str(self.home), **self.settings}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([self.binary, "serve", "--listen", "127.0.0.1:0", *self.flags],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            self.url = self._wait_for_url(info)
            self.key = (self.home / "admin.key").read_text().strip()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_for_url(self, info):
        deadline = time.monotonic() + START_S
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.output()}")
            try:
                return json.loads(info.read_text())["url"]
            except (OSError, ValueError, KeyError):
                time.sleep(0.002)  # not there yet, or being written

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output = self.output()
        if self._folder:
            self._folder.cleanup()

    def output(self):
        return self._output if hasattr(self, "_output") else self.log_path.read_text(errors="replace")

    def ask(self, method, path, body=None, timeout_s=1800):
        """One JSON request with the admin's key; an error is raised with the server's message."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method, headers={
            "Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as problem:
            raise RuntimeError(f"{method} {path}: {problem.code} {problem.read().decode(errors='replace')}") from None

    def store(self, path):
        """Imports the file; returns the stored model's id."""
        pull = self.ask("POST", "/api/v1/pulls", {"source": str(path)})
        while pull["state"] not in ("done", "failed", "cancelled"):
            time.sleep(0.1)
            pull = self.ask("GET", "/api/v1/pulls/" + pull["id"])
        if pull["state"] != "done":
            raise RuntimeError(f"Tidepool could not store {path}: {json.dumps(pull.get('error'))}")
        return pull["result"]


def eventually(condition, seconds=30):
    """What the condition gave, once it is something, or in the end."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.05)


class StreamedAnswer(threading.Thread):
    """An answer of so many tokens of the simulated model, as the client sees it that it streams to."""

    def __init__(self, server, tokens):
        super().__init__(daemon=True)
        self.events, self.usage, self.done, self.request_id = 0, None, False, None
        self.request = urllib.request.Request(server.url + "/v1/chat/completions", json.dumps({
            "model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens + 9,
            "messages": [{"role": "user", "content": f"[[tokens:{tokens}]]"}]}).encode(), headers={
                "Authorization": f"Bearer {server.key}", "Content-Type": "application/json"})
        self.start()

    def run(self):
        with urllib.request.urlopen(self.request, timeout=60) as reply:
            self.request_id = reply.headers["X-Request-Id"]
            for line in reply:
                if line.startswith(b"data: [DONE]"):
                    self.done = True
                elif line.startswith(b"data: "):
                    self.events += 1
                    self.usage = json.loads(line[6:]).get("usage") or self.usage
