"""Starts the real binary with the simulated model, in a home of its own, on a port of its own."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

MODEL = "scripted"


class Server:
    """`with Server() as server:` serves until the end of the block; server.url, server.key."""

    def __init__(self, *flags, binary=None):
        self.binary = binary or os.environ["TIDEPOOL_BINARY"]
        self.flags = flags

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="tidepool-sdk-")
        self.home = pathlib.Path(self._folder.name)
        self.log_path = self.home / "output.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEPOOL_")}
        environment["TIDEPOOL_HOME"] = str(self.home)
        self._log = open(self.log_path, "wb")
        self.process = subprocess.Popen(
            [self.binary, "serve", "--listen", "127.0.0.1:0", "--simulated", *self.flags],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + 60
        info = self.home / "server.json"
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"the server did not start:\n{self.output()}")
            if info.exists():
                try:
                    self.url = json.loads(info.read_text())["url"]
                    break
                except (ValueError, KeyError):
                    pass  # being written
            time.sleep(0.02)
        self.key = (self.home / "admin.key").read_text().strip()
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        self._output = self.log_path.read_text(errors="replace")
        self._folder.cleanup()

    def output(self):
        return self._output if hasattr(self, "_output") else self.log_path.read_text(errors="replace")
