"""What requests say is in no file, log or metric, whatever endpoint and dialect said it; where a workspace stores bodies, the API
gives them redacted, and the files hold no word of them. Conversations are left out: people keep those, by name."""

import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request

import pytest

from server_process import MODEL, Server, eventually

POOLED = pathlib.Path(__file__).resolve().parent.parent / "src/platform/inference/testdata/pooled"
BINARY = os.environ["TIDEPOOL_BINARY"]


def call(server, method, path, body=None, key=None, headers=None):
    """(status, text)"""
    request = urllib.request.Request(server.url + path, None if body is None else json.dumps(body).encode(), method=method, headers={
        "Authorization": f"Bearer {key or server.key}", "Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode()


def ask(server, method, path, body=None, status=200, **more):
    got, text = call(server, method, path, body, **more)
    assert got == status, (method, path, got, text)
    return json.loads(text)


def requests(embedder, reranker, said):
    """(path, body, headers) of every generating endpoint and dialect, whole and streamed, that says `said`."""
    # The scripted model answers with what its prompt says it should.
    user = {"role": "user", "content": f"[[say:{said}]] {said}"}
    chat = {"model": MODEL, "messages": [{"role": "system", "content": said}, user], "max_tokens": 64}
    tool = {"type": "function", "function": {"name": "f", "description": said, "parameters": {"type": "object"}}}
    flat = {"type": "function", "name": "f", "description": said, "parameters": {"type": "object"}}
    sse = {"X-DashScope-SSE": "enable"}
    for stream in (False, True):
        yield "/v1/chat/completions", {**chat, "stream": stream, "tools": [tool]}, {}
        yield "/compatible-mode/v1/chat/completions", {**chat, "stream": stream}, {}
        yield "/v1/completions", {"model": MODEL, "prompt": user["content"], "max_tokens": 64, "stream": stream}, {}
        yield "/v1/responses", {"model": MODEL, "input": user["content"], "instructions": said, "store": False, "stream": stream,
                                "tools": [flat], "metadata": {"note": said}}, {}
        yield "/v1/messages", {**chat, "messages": [user], "system": said, "stream": stream}, {}
        yield "/anthropic/v1/messages", {**chat, "messages": [user], "stream": stream}, {}
        yield "/api/chat", {"model": MODEL, "messages": [user], "stream": stream}, {}
        yield "/api/generate", {"model": MODEL, "prompt": user["content"], "system": said, "stream": stream}, {}
        yield "/api/generate", {"model": MODEL, "prompt": user["content"], "raw": True, "stream": stream}, {}
        yield "/api/v1/services/aigc/text-generation/generation", {"model": MODEL, "input": {"messages": [user]}}, sse if stream else {}
    for path, field in [("/v1/embeddings", "input"), ("/compatible-mode/v1/embeddings", "input"), ("/api/embed", "input"), ("/api/embeddings", "prompt")]:
        yield path, {"model": embedder, field: said}, {}
    yield "/api/v1/services/embeddings/text-embedding/text-embedding", {"model": embedder, "input": {"texts": [said]}}, {}
    for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/compatible-api/v1/reranks"):
        yield path, {"model": reranker, "query": said, "documents": [said, "other"]}, {}
    yield "/api/v1/services/rerank/text-rerank/text-rerank", {"model": reranker, "input": {"query": said, "documents": [said]}}, {}


# No generation: what they read is still nobody's to keep.
def readings(said):
    yield "/tokenize", {"model": MODEL, "prompt": said}
    yield "/v1/responses/input_tokens", {"model": MODEL, "input": said}
    for path in ("/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"):
        yield path, {"model": MODEL, "messages": [{"role": "user", "content": said}]}
    yield "/v1/chat/completions", {"model": "no-such-model", "messages": [{"role": "user", "content": said}]}
    yield "/v1/chat/completions", {"model": MODEL, "messages": said}


def generating_paths(server):
    """Of /openapi.json: all that make something of a text with a model."""
    document = ask(server, "GET", "/openapi.json")
    tags = {"openai", "responses", "anthropic", "ollama", "bailian", "rerank"}
    out = set()
    for path, item in document["paths"].items():
        fields = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("properties", {})
        if tags & set(item.get("post", {}).get("tags", [])) and "model" in fields and fields.keys() & {
                "messages", "prompt", "input", "query", "documents"}:
            out.add(path)
    return out


def stored_models(server, folder):
    models = []
    for name in ("bge", "cross_encoder"):
        if not (folder / name).exists():
            shutil.copytree(POOLED / name, folder / name, ignore=shutil.ignore_patterns("*.gguf", "expected.json"))
        models.append(server.store(folder / name))
    return models


def files_with(folder, words):
    """(file, word) for each file below that holds one, as UTF-8, UTF-16 or JSON's escapes."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [(str(path.relative_to(folder)), word) for word in words
                      for form in (word.encode(), word.encode("utf-16-le")) if form in data]
    return found


def rows_of(server, ids):
    rows = {row["request_id"]: row for row in ask(server, "GET", "/api/v1/requests?limit=1000")["data"]}
    return {name: rows[name] for name in ids if name in rows}


def send_all(server, models, said, prefix):
    """Sends all; gives {request id: path} of those that were answered."""
    sent = {}
    for number, (path, body, headers) in enumerate(requests(*models, said)):
        name = f"{prefix}-{number}"
        status, text = call(server, "POST", path, body, headers={**headers, "X-Request-Id": name})
        assert status == 200, (path, status, text)
        sent[name] = path
    return sent


def test_nothing_is_kept_of_what_requests_say_unless_a_workspace_says_so(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    marker, answered = "Zanzibar7fQ2xmarker", "Zanzibar7fQ2x"
    with Server("--simulated", home=home, settings={"TIDEPOOL_LOG_LEVEL": "debug"}) as server:
        models = stored_models(server, tmp_path)
        sent = send_all(server, models, marker, "never")
        # The list above is whole: every generating path of the document is in it.
        plain = {path.replace("/compatible-mode", "") for path in sent.values()}
        left_out = {"/api/show"}
        assert generating_paths(server) - {path for path, _ in readings(marker)} - left_out - plain == set()
        for path, body in readings(marker):
            call(server, "POST", path, body)
        # One whose client goes away, one that fails, one in the background whose workspace stores none.
        ask(server, "PATCH", "/api/v1/workspaces/default", {"stored_responses": "never"})
        refused = ask(server, "POST", "/v1/responses", {"model": MODEL, "input": marker, "background": True}, status=403)
        assert refused["error"]["code"] == "responses_not_stored"
        silent = ask(server, "POST", "/v1/responses", {"model": MODEL, "input": f"[[say:{marker}]]"})
        assert silent["store"] is False and marker in json.dumps(silent["output"])
        rows = eventually(lambda: len(rows_of(server, sent)) == len(sent) and rows_of(server, sent))
        assert rows and not any(row["body_stored"] for row in rows.values())
        for name in list(sent)[:3]:
            assert ask(server, "GET", f"/api/v1/requests/{name}/body", status=404)["error"]["code"] == "no_stored_body"
        metrics = call(server, "GET", "/metrics")[1]
        assert answered not in metrics and "tidepool_bodies_stored_total 0" in metrics
        # While it serves: database, write-ahead log, journal, logs.
        assert (home / "tidepool.db-wal").stat().st_size > 0
        assert files_with(home, [answered]) == []
    assert files_with(home, [answered]) == []
    with sqlite3.connect(home / "tidepool.db") as store:
        assert store.execute("SELECT COUNT(*) FROM request_bodies").fetchone() == (0,)
        assert store.execute("SELECT COUNT(*) FROM responses").fetchone() == (0,)


def test_where_a_workspace_stores_bodies_the_api_gives_them_redacted_and_files_hold_no_word(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    word, person, code = "Quokka8wK1zword", "quincy.quokka@example.com", "XQZ-424242"
    said = f"{word} {person} {code}"
    with Server("--simulated", home=home, settings={"TIDEPOOL_LOG_LEVEL": "debug"}) as server:
        models = stored_models(server, tmp_path)
        rule = ask(server, "PATCH", "/api/v1/workspaces/default", {"store_bodies": True, "redact": {"patterns": ["XQZ-\\d+"]}})
        assert rule["store_bodies"] and rule["redact"]["email"]
        sent = send_all(server, models, said, "kept")
        stored = ask(server, "POST", "/v1/responses", {"model": MODEL, "input": f"[[say:{said}]]"}, headers={"X-Request-Id": "kept-response"})
        sent["kept-response"] = "/v1/responses"
        assert eventually(lambda: sum(row["body_stored"] for row in rows_of(server, sent).values()) == len(sent)), \
            [(sent[name], name) for name, row in rows_of(server, sent).items() if not row["body_stored"]]
        for name, path in sent.items():
            body = ask(server, "GET", f"/api/v1/requests/{name}/body")
            text = json.dumps(body)
            assert person not in text and code not in text and "quokka@" not in text, (path, text)
            assert word in body["request"]["text"] and "[redacted:email]" in body["request"]["text"], (path, text)
            assert "[redacted:pattern]" in body["request"]["text"] and body["redactions"] >= 2, (path, text)
            if "embed" in path:
                assert body["answer"]["embeddings"]["count"] == 1, (path, text)
            elif "rank" in path:
                assert body["answer"]["scores"], (path, text)
            else:
                answer = body["answer"]["choices"][0]["content"]
                assert word in answer and "[redacted:email]" in answer, (path, text)
        # The response that was stored is whole for its client.
        assert person in json.dumps(ask(server, "GET", f"/v1/responses/{stored['id']}"))
        backup = tmp_path / "backup.db"
        ask(server, "POST", "/api/v1/backup", {"file": str(backup)}, status=201)
        words = [word, person, code, "quincy"]
        assert files_with(home, words) == [] and not any(w.encode() in backup.read_bytes() for w in words)
        metrics = call(server, "GET", "/metrics")[1]
        assert word not in metrics and f"tidepool_bodies_stored_total {len(sent)}" in metrics
        actions = [row["action"] for row in ask(server, "GET", "/api/v1/audit?limit=1000")["data"]]
        assert actions.count("body.exported") == len(sent) and "workspace.changed" in actions

        # The command line: list, read, forget, turn off.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEPOOL_")} | {"TIDEPOOL_HOME": str(home)}

        def cli(*arguments):
            return subprocess.run([BINARY, *arguments], env=environment, capture_output=True, text=True, timeout=60)
        assert "stored" in cli("requests", "list").stdout
        shown = cli("requests", "body", "kept-0")
        assert shown.returncode == 0 and word in shown.stdout and "[redacted:email]" in shown.stdout, shown
        assert cli("requests", "forget", "kept-0").returncode == 0
        assert cli("requests", "body", "kept-0").returncode != 0
        off = cli("workspace", "set", "default", "--drop-bodies", "--never-store-responses")
        assert off.returncode == 0 and f"{len(sent) - 1} stored bodies were deleted" in off.stdout, off
        ask(server, "GET", "/api/v1/requests/kept-1/body", status=404)
        ask(server, "GET", f"/v1/responses/{stored['id']}", status=404)

        def rows_left():
            with sqlite3.connect(home / "tidepool.db") as store:
                return [store.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("request_bodies", "responses")]
        assert eventually(lambda: rows_left() == [0, 0]), rows_left()
    assert files_with(home, [word, person, code]) == []


def test_storing_is_never_what_an_answer_waits_for(tmp_path):
    """With no room for bodies, and with a store that is full, answers come as before; what is dropped is counted."""
    home = tmp_path / "home"
    home.mkdir()
    with Server("--simulated", home=home, settings={"TIDEPOOL_BODIES_MAX_MEMORY": "1MiB"}) as server:
        ask(server, "PATCH", "/api/v1/workspaces/default", {"store_bodies": True})
        large = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "user": "x" * (2 << 20)}
        assert call(server, "POST", "/v1/chat/completions", large)[0] == 200
        assert 'tidepool_bodies_dropped_total{reason="memory"} 1' in call(server, "GET", "/metrics")[1]


@pytest.mark.parametrize("path, body", [
    ("/v1/responses", {"model": MODEL, "input": "x", "store": True}),
    ("/v1/responses", {"model": MODEL, "input": "x", "previous_response_id": "resp_1"})])
def test_refusals_name_the_switch(tmp_path, path, body):
    with Server("--simulated") as server:
        ask(server, "PATCH", "/api/v1/workspaces/default", {"stored_responses": "never"})
        error = ask(server, "POST", path, body, status=403)["error"]
        assert error["code"] == "responses_not_stored" and "stored_responses" in error["message"], error


def test_secrets_that_the_server_signs_and_asks_with_are_in_no_file(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    token = "hf_QuokkaTokenOfTheHub1234"
    with Server("--simulated", home=home) as server:
        made = ask(server, "PUT", "/api/v1/webhook", {"url": "https://hooks.example.org/quota"})
        ask(server, "POST", "/api/v1/secrets", {"name": "hub.token", "value": token})
        assert made["secret"].startswith("whsec-") and len(made["secret"]) > 40
        kept = [made["secret"], made["secret"].removeprefix("whsec-"), token]
        backup = tmp_path / "backup.db"
        ask(server, "POST", "/api/v1/backup", {"file": str(backup)}, status=201)
        assert files_with(home, kept) == [] and not any(word.encode() in backup.read_bytes() for word in kept)
        assert made["secret"] not in call(server, "GET", "/api/v1/webhook")[1]
        assert not any(word in call(server, "GET", "/api/v1/audit?limit=1000")[1] for word in kept)
    assert files_with(home, kept) == []
    with sqlite3.connect(home / "tidepool.db") as store:
        stored = store.execute("SELECT secret FROM webhooks").fetchone()[0]
        assert stored and made["secret"] not in str(stored)
