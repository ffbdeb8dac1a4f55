"""A Tidepool server of a benchmark's own, in a home of its own that goes with it. Only the standard library."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


class Server:
    """A Tidepool server of its own, which ends with the `with` block."""

    def __init__(self, binary, flags=(), settings=None):
        """settings: TIDEPOOL_* variables; those of the caller do not reach the server."""
        self.folder = tempfile.TemporaryDirectory(prefix="tidepool-bench-")
        self.home = pathlib.Path(self.folder.name)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEPOOL_")}
        environment |= {"TIDEPOOL_HOME": str(self.home), **(settings or {})}
        self.log = self.home / "output.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([binary, "serve", "--listen", "127.0.0.1:0", *flags], stdout=log, stderr=log,
                                            env=environment)

    def __enter__(self):
        try:
            deadline = time.monotonic() + 60
            while not (self.home / "server.json").exists():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the server did not start:\n" + self.log.read_text(errors="replace"))
                time.sleep(0.05)
            self.url = json.loads((self.home / "server.json").read_text())["url"]
            self.key = (self.home / "admin.key").read_text().strip()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()

    def ask(self, method, path, body=None, timeout_s=1800):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method, headers={
            "Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as problem:
            sys.exit(f"{method} {path}: {problem.code} {problem.read().decode(errors='replace')}")

    def store(self, path):
        """Imports the file; returns the stored model's id."""
        pull = self.ask("POST", "/api/v1/pulls", {"source": str(path)})
        while pull["state"] not in ("done", "failed", "cancelled"):
            time.sleep(0.2)
            pull = self.ask("GET", "/api/v1/pulls/" + pull["id"])
        if pull["state"] != "done":
            sys.exit(f"Tidepool could not store {path}: {json.dumps(pull.get('error'))}")
        return pull["result"]
