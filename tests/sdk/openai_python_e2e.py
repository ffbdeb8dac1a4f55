"""The official `openai` package for Python, unmodified, against the real server with the simulated model."""

import asyncio
import base64
import json
import os
import pathlib
import struct
import time

import openai
import pytest

from server_process import MODEL, Server


@pytest.fixture(scope="module")
def server():
    with Server("--simulated") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=60) as made:
        yield made


def ask(text):
    return [{"role": "user", "content": text}]


def running(client):
    """Requests in the engine, and KV blocks they hold, as the native API tells."""
    models = client.get(str(client.base_url).replace("/v1/", "/api/v1/models"), cast_to=object)
    engine = next(m for m in models["data"] if m["id"] == MODEL).get("engine") or {}
    return engine.get("running", 0) + engine.get("waiting", 0), engine.get("kv_blocks_used", 0)


def wait_idle(client, seconds=20):
    deadline = time.monotonic() + seconds
    while running(client) != (0, 0):
        assert time.monotonic() < deadline, f"still running: {running(client)}"
        time.sleep(0.02)


def test_models(client):
    ids = [model.id for model in client.models.list()]
    assert MODEL in ids
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/no-such-model:Q4_K_M")


def test_chat(client):
    reply = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ask("[[say:hello there]]"), temperature=0, user="me")
    assert reply.headers["x-request-id"]
    assert reply.headers["tidepool-ignored"] == "user"
    answer = reply.parse()
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "hello there"
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_repeated_prompts_are_cached(client):
    messages = ask("[[say:x]] " + "a long shared beginning " * 20)
    client.chat.completions.create(model=MODEL, messages=messages)
    second = client.chat.completions.create(model=MODEL, messages=messages)
    assert second.usage.prompt_tokens_details.cached_tokens >= 256
    assert second.usage.prompt_tokens_details.cached_tokens < second.usage.prompt_tokens


def test_reasoning(client):
    answer = client.chat.completions.create(model=MODEL, messages=ask("[[think:let me see]][[say:42]]"))
    assert answer.choices[0].message.content == "42"
    assert answer.choices[0].message.reasoning_content == "let me see"
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    reasoning, content = "", ""
    for chunk in client.chat.completions.create(
            model=MODEL, messages=ask("[[think:let me see]][[say:42]]"), stream=True):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning_content", None) or ""
        content += delta.content or ""
    assert (reasoning, content) == ("let me see", "42")


def test_streaming_with_usage(client):
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=ask("[[say:streaming works, déjà vu 漢字 😀]]"), stream=True,
        stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "streaming works, déjà vu 漢字 😀"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert len({c.id for c in chunks}) == 1


def test_streaming_helper(client):
    with client.chat.completions.stream(model=MODEL, messages=ask("[[say:helper]]")) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "helper"


WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}}


def say_calls(*calls, before=""):
    said = before + "\n".join(f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
                              for name, arguments in calls)
    return ask(f"[[say:{said}]]")


def test_tool_calls(client):
    messages = say_calls(("weather", {"city": "Oslo", "days": 3}), ("weather", {"city": "Zürich \"x\""}), before="Let me look. ")
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    assert [call.function.name for call in choice.message.tool_calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [
        {"city": "Oslo", "days": 3}, {"city": "Zürich \"x\""}]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    only = client.chat.completions.create(model=MODEL, messages=say_calls(("weather", {"city": "Oslo"})), tools=[WEATHER])
    assert only.choices[0].message.content is None
    # The result goes back, and the conversation goes on.
    call = only.choices[0].message.tool_calls[0]
    after = client.chat.completions.create(model=MODEL, tools=[WEATHER], messages=[
        *say_calls(("weather", {"city": "Oslo"})), only.choices[0].message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "[[say:It rains.]]"}])
    assert after.choices[0].message.content == "It rains." and after.choices[0].finish_reason == "stop"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, tools=[WEATHER], messages=[
            *ask("x"), only.choices[0].message.to_dict(), {"role": "tool", "tool_call_id": "other", "content": "?"}])
    assert wrong.value.param == "messages[2].tool_call_id"


def test_streamed_tool_calls(client):
    messages = say_calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome", "days": 2}))
    chunks = list(client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], stream=True))
    calls = {}
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or []:
            if delta.id:
                assert delta.index not in calls and delta.type == "function" and delta.function.arguments == ""
                calls[delta.index] = [delta.function.name, []]
            else:
                calls[delta.index][1].append(delta.function.arguments)
    assert [(name, json.loads("".join(parts))) for name, parts in calls.values()] == [
        ("weather", {"city": "Oslo"}), ("weather", {"city": "Rome", "days": 2})]
    assert len(calls[0][1]) > 5, "arguments come as they are made"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content is None
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=[WEATHER]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [json.loads(call.function.arguments)["city"] for call in final.choices[0].message.tool_calls] == ["Oslo", "Rome"]


def test_what_is_no_call_is_text(client):
    cut = client.chat.completions.create(
        model=MODEL, messages=say_calls(("weather", {"city": "Oslo"})), tools=[WEATHER], max_tokens=40)
    assert cut.choices[0].finish_reason == "length" and not cut.choices[0].message.tool_calls
    assert cut.choices[0].message.content.startswith("<tool_call>")
    bad = client.chat.completions.create(
        model=MODEL, messages=ask("[[say:<tool_call>{weather: Oslo}</tool_call>]]"), tools=[WEATHER])
    assert bad.choices[0].finish_reason == "stop"
    assert bad.choices[0].message.content == "<tool_call>{weather: Oslo}</tool_call>"
    none = client.chat.completions.create(
        model=MODEL, messages=say_calls(("weather", {})), tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.tool_calls is None and "<tool_call>" in none.choices[0].message.content


def test_structured_output(client):
    """The parse helper: it makes the schema from a class and reads the answer into one."""
    import pydantic

    class Tide(pydantic.BaseModel):
        place: str
        metres: float
        rising: bool

    said = '{"place": "Bodø", "metres": 2.5, "rising": true}'
    answer = client.chat.completions.parse(model=MODEL, messages=ask(f"[[say:{said}]]"), response_format=Tide)
    assert answer.choices[0].message.parsed == Tide(place="Bodø", metres=2.5, rising=True)
    # The model would say something else; it must not.
    forced = client.chat.completions.create(model=MODEL, messages=ask("[[say:maybe]]"), temperature=0,
                                            extra_body={"choice": ["yes", "no"]})
    assert forced.choices[0].message.content in ("yes", "no")
    try:
        call = client.chat.completions.parse(model=MODEL, messages=ask("[[say:nothing]]"), tools=[openai.pydantic_function_tool(Tide)],
                                             tool_choice="required", parallel_tool_calls=False, max_tokens=600)
        if call.choices[0].finish_reason == "tool_calls":  # (it may also end while it reasons)
            assert isinstance(call.choices[0].message.tool_calls[0].function.parsed_arguments, Tide)
    except openai.LengthFinishReasonError:
        pass  # the simulated model may not find the end of a string
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=ask("x"), response_format={
            "type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array", "uniqueItems": True}}})
    assert refused.value.param == "response_format.json_schema.schema/uniqueItems"
    with pytest.raises(openai.BadRequestError) as large:
        client.chat.completions.create(model=MODEL, messages=ask("x"), response_format={
            "type": "json_schema", "json_schema": {"name": "n", "schema": {"description": "x" * (2 << 20)}}})
    assert large.value.code == "schema_too_large"


def test_prefill(client):
    answer = client.chat.completions.create(model=MODEL, messages=[
        *ask("[[say:one two three]]"), {"role": "assistant", "content": "one", "prefix": True}])
    assert answer.choices[0].message.content == " two three"


def test_n_and_limits(client):
    answer = client.chat.completions.create(model=MODEL, messages=ask("[[say:abcdefgh]]"), n=3, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.finish_reason == "length" for choice in answer.choices)
    assert answer.usage.completion_tokens == 12
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(
            model=MODEL, messages=ask("[[say:abcdefgh]]"), n=3, max_completion_tokens=4, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_stop(client):
    answer = client.chat.completions.create(model=MODEL, messages=ask("[[say:one two three]]"), stop=[" three", "zzz"])
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].finish_reason == "stop"
    kept = client.chat.completions.create(model=MODEL, messages=ask("[[say:one two three]]"), stop=" two",
                                          extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].message.content == "one two"


def test_logprobs(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=ask("[[say:abc]]"), logprobs=True, top_logprobs=3, temperature=0)
    tokens = answer.choices[0].logprobs.content
    said = b"".join(bytes(token.bytes) for token in tokens)
    assert said.startswith(b"abc")
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == max(t.logprob for t in token.top_logprobs)
    streamed = b""
    for chunk in client.chat.completions.create(
            model=MODEL, messages=ask("[[say:abc]]"), logprobs=True, temperature=0, stream=True):
        if chunk.choices[0].logprobs:
            streamed += b"".join(bytes(t.bytes) for t in chunk.choices[0].logprobs.content)
    assert streamed == said


def test_tool_calls_of_several_answers_with_logprobs(client):
    messages = say_calls(("weather", {"city": "Oslo"}), before="Look. ")
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], n=2, logprobs=True, top_logprobs=1, temperature=0)
    assert [choice.finish_reason for choice in answer.choices] == ["tool_calls"] * 2
    for choice in answer.choices:
        assert choice.message.content == "Look."
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Oslo"}
        # Of every token that was made, those of the call included.
        said = b"".join(bytes(token.bytes) for token in choice.logprobs.content).decode()
        assert said.startswith("Look. <tool_call>") and "</tool_call>" in said
    assert len({choice.message.tool_calls[0].id for choice in answer.choices}) == 2
    streamed, calls = ["", ""], ["", ""]
    for chunk in client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], n=2, logprobs=True, temperature=0, stream=True):
        for choice in chunk.choices:
            if choice.logprobs:
                streamed[choice.index] += b"".join(bytes(token.bytes) for token in choice.logprobs.content).decode()
            for call in choice.delta.tool_calls or []:
                calls[choice.index] += call.function.arguments or ""
    assert [json.loads(call) for call in calls] == [{"city": "Oslo"}] * 2
    assert all(text.startswith("Look. <tool_call>") and "</tool_call>" in text for text in streamed)


def test_completions(client):
    answer = client.completions.create(model=MODEL, prompt="[[say:done]]", max_tokens=50)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "done"
    many = client.completions.create(model=MODEL, prompt=["[[say:a]]", "[[say:b]]"], n=2, echo=True, max_tokens=50)
    assert [c.text for c in many.choices] == ["[[say:a]]a", "[[say:a]]a", "[[say:b]]b", "[[say:b]]b"]
    text = "".join(c.choices[0].text for c in client.completions.create(
        model=MODEL, prompt="[[say:streamed]]", max_tokens=50, stream=True))
    assert text == "streamed"
    tokens = list("[[say:by tokens]]".encode())
    assert client.completions.create(model=MODEL, prompt=tokens, max_tokens=50).choices[0].text == "by tokens"
    default = client.completions.create(model=MODEL, prompt="[[tokens:100]]")
    assert default.usage.completion_tokens == 16  # OpenAI's default
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="x", suffix="y")
    assert refused.value.param == "suffix"


def test_errors(client, server):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nothing:here", messages=ask("x"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=ask("x"), temperature=9)
    assert wrong.value.param == "temperature"
    assert wrong.value.request_id
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(model=MODEL, messages=ask("x"), tool_choice="required")
    assert tools.value.param == "tool_choice"
    with pytest.raises(openai.BadRequestError) as image:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}])
    assert image.value.param == "messages[0].content[0].type"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=MODEL, messages=ask("x " * 400000), max_tokens=10)
    assert long.value.code == "context_length_exceeded"
    stranger = openai.OpenAI(base_url=server.url + "/v1", api_key="tp-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_failure_inside_a_stream_is_raised(client):
    received = ""
    with pytest.raises(openai.APIError):
        for chunk in client.chat.completions.create(
                model=MODEL, messages=ask("[[fail_after:3]][[say:abcdefghij]]"), stream=True):
            received += chunk.choices[0].delta.content or ""
    assert len(received) <= 3
    wait_idle(client)


def test_closing_a_stream_frees_the_engine(client):
    stream = client.chat.completions.create(
        model=MODEL, messages=ask("[[stall_ms:20]][[tokens:100000]]"), stream=True, max_tokens=2000)
    for number, _ in enumerate(stream):
        if number == 3:
            break
    assert running(client)[0] == 1 and running(client)[1] > 0
    stream.close()
    wait_idle(client)


def test_a_client_that_times_out_frees_the_engine(client):
    impatient = client.with_options(timeout=1.0)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(
            model=MODEL, messages=ask("[[stall_ms:50]][[tokens:100000]]"), max_tokens=2000)
    wait_idle(client)


def test_async_and_many_at_once(server):
    async def one(client, number):
        text = ""
        stream = await client.chat.completions.create(
            model=MODEL, messages=ask(f"[[say:answer number {number}]]"), stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async def main():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0) as client:
            answers = await asyncio.gather(*(one(client, i) for i in range(40)))
            assert answers == [f"answer number {i}" for i in range(40)]
            whole = await client.chat.completions.create(model=MODEL, messages=ask("[[say:async]]"))
            assert whole.choices[0].message.content == "async"
            # A task that is cancelled closes its connection, and that its request.
            task = asyncio.create_task(client.chat.completions.create(
                model=MODEL, messages=ask("[[stall_ms:50]][[tokens:100000]]"), max_tokens=2000))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    with openai.OpenAI(base_url=server.url + "/v1", api_key=server.key) as client:
        wait_idle(client)


def test_a_model_with_pooling_gives_embeddings(client):
    reply = client.embeddings.create(model=MODEL, input=["x", "yz"])
    assert [item.index for item in reply.data] == [0, 1]
    assert all(sum(value * value for value in item.embedding) == pytest.approx(1, abs=1e-3) for item in reply.data)
    assert reply.usage.prompt_tokens == 3


def test_tokenize_and_back(client):
    root = str(client.base_url).removesuffix("/v1/")
    tokens = client.post(root + "/tokenize", cast_to=object, body={"model": MODEL, "text": "héllo", "add_special": False})
    assert tokens["count"] == len("héllo".encode())
    text = client.post(root + "/detokenize", cast_to=object, body={"model": MODEL, "tokens": tokens["tokens"]})
    assert text["text"] == "héllo"
    chat = client.post(root + "/tokenize", cast_to=object, body={"model": MODEL, "messages": ask("hi")})
    assert chat["count"] > len("hi")


MINILM = os.path.join(os.environ.get("TIDEPOOL_TEST_DATA", ""), "all-MiniLM-L6-v2")


@pytest.mark.skipif(not os.path.isdir(MINILM), reason="no all-MiniLM-L6-v2 in TIDEPOOL_TEST_DATA")
def test_embeddings(client):
    root = str(client.base_url).removesuffix("/v1/")
    pull = client.post(root + "/api/v1/pulls", cast_to=object, body={"source": MINILM, "name": "minilm:test"})
    deadline = time.monotonic() + 120
    while pull["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        pull = client.get(root + "/api/v1/pulls/" + pull["id"], cast_to=object)
    assert pull["state"] == "done", pull
    model = pull["result"]
    # The client asks for base64 unless told otherwise.
    answer = client.embeddings.create(model=model, input=["a cat", "a kitten", "the price of oil"])
    cat, kitten, oil = (item.embedding for item in answer.data)
    assert len(cat) == 384 and answer.usage.prompt_tokens > 6
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert dot(cat, cat) == pytest.approx(1, abs=1e-3)
    assert dot(cat, kitten) > dot(cat, oil) + 0.2
    floats = client.embeddings.create(model=model, input="a cat", encoding_format="float").data[0].embedding
    assert floats == pytest.approx(cat, abs=1e-5)
    raw = client.embeddings.with_raw_response.create(model=model, input="a cat", encoding_format="base64").http_response
    packed = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(packed) // 4}f", packed)) == pytest.approx(cat, abs=1e-5)
    short = client.embeddings.create(model=model, input="a cat", dimensions=64).data[0].embedding
    assert len(short) == 64 and dot(short, short) == pytest.approx(1, abs=1e-3)
    with pytest.raises(openai.BadRequestError) as wide:
        client.embeddings.create(model=model, input="a cat", dimensions=1000)
    assert wide.value.param == "dimensions"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=ask("x"))


SMOLLM2 = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="no SmolLM2 in TIDEPOOL_TEST_DATA")
def test_a_real_model_answers_under_schema():
    import typing

    import pydantic

    class City(pydantic.BaseModel):
        name: typing.Annotated[str, pydantic.Field(max_length=20)]
        country: typing.Literal["France", "Norway", "Japan"]
        by_the_sea: bool

    with Server() as server, openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=120) as client:
        model = server.store(SMOLLM2)
        before = client.models.retrieve(model).to_dict()
        answer = client.chat.completions.parse(model=model, messages=ask("Name a city by the sea."), response_format=City, seed=3, max_tokens=200)
        assert isinstance(answer.choices[0].message.parsed, City) and answer.choices[0].finish_reason == "stop"
        with client.chat.completions.stream(model=model, messages=ask("Name a city."), response_format=City, seed=4, max_tokens=200) as stream:
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)
        call = client.chat.completions.parse(model=model, messages=ask("Name a city."), tools=[openai.pydantic_function_tool(City)],
                                             tool_choice="required", parallel_tool_calls=False, seed=5, max_tokens=200)
        assert isinstance(call.choices[0].message.tool_calls[0].function.parsed_arguments, City)
        loaded = client.models.retrieve(model).to_dict()
        assert (before.pop("state"), loaded.pop("state")) == ("stored", "ready")
        assert before == loaded and before["context_length"] == before["max_output_tokens"] == 8192
        assert {"chat", "completion", "structured_output"} <= set(before["capabilities"])


def test_sigterm_lets_answers_end():
    with Server("--simulated") as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0) as client:
            stream = iter(client.chat.completions.create(
                model=MODEL, messages=ask("[[stall_ms:20]][[say:" + "slow " * 10 + "]]"), stream=True))
            text = next(stream).choices[0].delta.content or ""
            server.process.terminate()
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            assert text == "slow " * 10
        assert server.process.wait(60) == 0
