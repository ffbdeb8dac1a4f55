"""The official `ollama` package for Python, unmodified, against the real server: the simulated model, and SmolLM2 under schema."""

import asyncio
import json
import os
import pathlib
import time

import pytest

ollama = pytest.importorskip("ollama")

from server_process import MODEL, Server  # noqa: E402

DATA = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", ""))
SMOLLM2 = DATA / "SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = DATA / "all-MiniLM-L6-v2"


def connect(server):
    return ollama.Client(host=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=60)


@pytest.fixture(scope="module")
def server():
    with Server("--simulated") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return connect(server)


def ask(text):
    return [{"role": "user", "content": text}]


def test_chat(client):
    answer = client.chat(model=MODEL, messages=ask("[[say:hello there]]"), options={"temperature": 0, "num_ctx": 4096})
    assert answer.message.role == "assistant" and answer.message.content == "hello there"
    assert answer.done and answer.done_reason == "stop"
    assert answer.prompt_eval_count > 0 and answer.eval_count >= len("hello there")
    assert answer.total_duration >= answer.eval_duration > 0
    cut = client.chat(model=MODEL + ":latest", messages=ask("[[say:hello there]]"), options={"num_predict": 3})
    assert cut.done_reason == "length" and cut.eval_count == 3
    stopped = client.chat(model=MODEL, messages=ask("[[say:hello there]]"), options={"stop": [" t"]})
    assert stopped.message.content == "hello"


def test_streams_and_thinking(client):
    parts = list(client.chat(model=MODEL, messages=ask("[[think:let me see]][[say:déjà vu 漢字 😀]]"), stream=True, think=True))
    assert "".join(part.message.thinking or "" for part in parts) == "let me see"
    assert "".join(part.message.content or "" for part in parts) == "déjà vu 漢字 😀"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 5 and parts[-1].eval_count > 0
    whole = client.chat(model=MODEL, messages=ask("[[think:let me see]][[say:42]]"))
    assert (whole.message.thinking, whole.message.content) == ("let me see", "42")


def weather(city: str, days: int = 1) -> str:
    """
    The weather of a city.

    Args:
      city: its name
      days: how many
    """
    return f"[[say:It rains in {city} for {days} days.]]"


def say_calls(*arguments):
    said = "\n".join(f"<tool_call>\n{json.dumps({'name': 'weather', 'arguments': a})}\n</tool_call>" for a in arguments)
    return ask(f"[[say:{said}]]")


def test_tools(client):
    """The client makes the tool from a function; its results go back without ids."""
    messages = say_calls({"city": "Oslo", "days": 3}, {"city": "Rome"})
    answer = client.chat(model=MODEL, messages=messages, tools=[weather])
    calls = answer.message.tool_calls
    assert [(call.function.name, dict(call.function.arguments)) for call in calls] == [
        ("weather", {"city": "Oslo", "days": 3}), ("weather", {"city": "Rome"})]
    streamed = [call for part in client.chat(model=MODEL, messages=messages, tools=[weather], stream=True)
                for call in part.message.tool_calls or []]
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]
    messages.append(answer.message)
    for call in calls:
        messages.append({"role": "tool", "tool_name": call.function.name, "content": weather(**call.function.arguments)})
    after = client.chat(model=MODEL, messages=messages, tools=[weather])
    assert after.message.content == "It rains in Oslo for 3 days.It rains in Rome for 1 days." and not after.message.tool_calls


def test_generate(client):
    answer = client.generate(model=MODEL, prompt="[[say:hi]]", system="be kind")
    assert answer.response == "hi" and answer.done
    parts = [part.response for part in client.generate(model=MODEL, prompt="[[say:a longer answer]]", stream=True)]
    assert "".join(parts) == "a longer answer" and len(parts) > 5
    raw = client.generate(model=MODEL, raw=True,
                          prompt="<|im_start|>user\n[[say:raw]]<|im_end|>\n<|im_start|>assistant\n")
    assert raw.response == "raw"
    loaded = client.generate(model=MODEL)
    assert loaded.done_reason == "load" and loaded.response == ""


def test_structured_output(client):
    schema = {"type": "object", "properties": {"metres": {"type": "number"}}, "required": ["metres"], "additionalProperties": False}
    answer = client.chat(model=MODEL, messages=ask('[[say:{"metres": 2.5}]]'), format=schema)
    assert json.loads(answer.message.content) == {"metres": 2.5}


def test_logprobs(client):
    answer = client.chat(model=MODEL, messages=ask("[[say:ab]]"), logprobs=True, top_logprobs=2)
    assert [token.token for token in answer.logprobs][:2] == ["a", "b"]
    assert len(answer.logprobs[0].top_logprobs) == 2


def test_errors(client, server):
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat(model="no-such-model", messages=ask("x"))
    assert missing.value.status_code == 404 and "no-such-model" in missing.value.error
    with pytest.raises(ollama.ResponseError) as missing:
        list(client.chat(model="no-such-model", messages=ask("x"), stream=True))
    assert missing.value.status_code == 404
    for wrong in ({"options": {"temperature": -1}}, {"messages": [{"role": "user", "content": "x", "images": [b"png"]}]},
                  {"messages": [{"role": "wizard", "content": "x"}]}, {"messages": ask("x") + [{"role": "tool", "content": "?"}]}):
        with pytest.raises(ollama.ResponseError) as refused:
            client.chat(**({"model": MODEL, "messages": ask("x")} | wrong))
        assert refused.value.status_code == 400 and refused.value.error
    with pytest.raises(ollama.ResponseError) as nobody:
        ollama.Client(host=server.url).list()
    assert nobody.value.status_code == 401
    with pytest.raises(ollama.ResponseError) as failed:
        list(client.chat(model=MODEL, messages=ask("[[say:hello there]][[fail_after:3]]"), stream=True))
    assert failed.value.error


def test_many_at_once(server):
    async def run():
        client = ollama.AsyncClient(host=server.url, headers={"Authorization": f"Bearer {server.key}"})
        answers = await asyncio.gather(*(client.chat(model=MODEL, messages=ask(f"[[say:answer {i}]]")) for i in range(24)))
        assert [answer.message.content for answer in answers] == [f"answer {i}" for i in range(24)]
    asyncio.run(run())


def test_leaving_a_stream_cancels(client, server):
    stream = client.chat(model=MODEL, messages=ask("[[stall_ms:20]][[tokens:100000]]"), stream=True)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 20
    while True:
        engine = next(m for m in server.ask("GET", "/api/v1/models")["data"] if m["id"] == MODEL)["engine"]
        if engine["running"] + engine["waiting"] == 0:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def real():
    if not SMOLLM2.exists() or not MINILM.exists():
        pytest.skip("the test data is not there")
    with Server() as running:
        yield running


def test_pull_list_show_delete(real):
    """Pulls are Tidepool's: here a file of this machine, which its owner may name."""
    client = connect(real)
    statuses = [part.status for part in client.pull(str(SMOLLM2), stream=True)]
    assert statuses[-1] == "success"
    model = next(m for m in client.list().models if "smollm2" in m.model.lower())
    assert model.size > 50_000_000 and len(model.digest) == 64 and model.details.format == "gguf"
    assert model.details.family == "llama" and model.details.parameter_size == "134.52M"
    assert client.ps().models == []
    shown = client.show(model.model)
    assert "completion" in shown.capabilities and shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 8192 and "im_start" in shown.template
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "rising": {"type": "boolean"}},
              "required": ["city", "rising"], "additionalProperties": False}
    answer = client.chat(model=model.model, messages=ask("Name a city by the sea, as JSON."), format=schema, options={"seed": 7})
    said = json.loads(answer.message.content)
    assert set(said) == {"city", "rising"} and isinstance(said["rising"], bool) and len(said["city"]) <= 20
    assert [m.model for m in client.ps().models] == [model.model]
    assert client.ps().models[0].expires_at is not None
    assert client.generate(model=model.model, keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert client.delete(model.model).status == "success"
    assert client.list().models == []
    with pytest.raises(ollama.ResponseError) as gone:
        client.show(model.model)
    assert gone.value.status_code == 404


def test_embeddings(real):
    client = connect(real)
    model = real.store(MINILM)
    vectors = client.embed(model=model, input=["the tide rises", "the sea comes in", "a recipe for bread"]).embeddings
    assert len(vectors) == 3 and all(abs(sum(x * x for x in v) - 1) < 1e-3 for v in vectors)
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))  # noqa: E731
    assert dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2]) + 0.1
    assert len(client.embed(model=model, input="x", dimensions=64).embeddings[0]) == 64
    assert len(client.embeddings(model=model, prompt="x").embedding) == len(vectors[0])
    long = "tide " * 5000
    assert len(client.embed(model=model, input=long).embeddings) == 1, "cut unless told"
    with pytest.raises(ollama.ResponseError) as refused:
        client.embed(model=model, input=long, truncate=False)
    assert refused.value.status_code == 400
    assert client.show(model).capabilities == ["embedding"]
