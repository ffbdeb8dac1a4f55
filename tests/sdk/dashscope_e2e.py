"""The official `dashscope` package for Python, unmodified, with its base address set: Bailian's native interface against the
simulated model and SmolLM2, and the OpenAI client against /compatible-mode/v1."""

import json
import os
import pathlib

import openai
import pytest

dashscope = pytest.importorskip("dashscope")

from server_process import MODEL, Server  # noqa: E402

DATA = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", ""))
SMOLLM2 = DATA / "SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = DATA / "all-MiniLM-L6-v2"
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


def use(server):
    dashscope.base_http_api_url = server.url + "/api/v1"
    dashscope.api_key = server.key


@pytest.fixture(scope="module")
def running():
    with Server("--simulated") as started:
        yield started


@pytest.fixture
def server(running):
    use(running)
    return running


def ask(text):
    return [{"role": "user", "content": text}]


def test_text_and_messages(server):
    reply = dashscope.Generation.call(model=MODEL, prompt="[[say:hello there]]", temperature=0)
    assert reply.status_code == 200 and reply.request_id
    assert reply.output.text == "hello there" and reply.output.finish_reason == "stop"
    assert reply.usage.input_tokens > 0 and reply.usage.output_tokens >= len("hello there")
    reply = dashscope.Generation.call(model=MODEL, messages=ask("[[think:let me see]][[say:42]]"), result_format="message",
                                      enable_thinking=True, thinking_budget=100)
    message = reply.output.choices[0].message
    assert (message.content, message.reasoning_content) == ("42", "let me see")
    cut = dashscope.Generation.call(model=MODEL, prompt="[[say:hello there]]", max_tokens=3)
    assert cut.output.finish_reason == "length"


def test_streams(server):
    def contents(**more):
        replies = list(dashscope.Generation.call(model=MODEL, messages=ask("[[think:hm]][[say:déjà vu 漢字 😀]]"), stream=True,
                                                 result_format="message", **more))
        assert all(reply.status_code == 200 for reply in replies)
        assert [reply.output.choices[0].finish_reason for reply in replies] == ["null"] * (len(replies) - 1) + ["stop"]
        assert replies[-1].usage.output_tokens > 0 and len(replies) > 5
        return [reply.output.choices[0].message for reply in replies]

    pieces = contents(incremental_output=True)
    assert "".join(piece.content for piece in pieces) == "déjà vu 漢字 😀"
    assert "".join(piece.get("reasoning_content", "") for piece in pieces) == "hm"
    whole = contents()
    assert whole[-1].content == "déjà vu 漢字 😀" and whole[-1].reasoning_content == "hm"
    assert all(later.content.startswith(earlier.content) for earlier, later in zip(whole, whole[1:]))
    # incremental_output=False: the client itself asks for pieces and joins them.
    assert contents(incremental_output=False)[-1].content == "déjà vu 漢字 😀"


def test_tools(server):
    said = "<tool_call>\n" + json.dumps({"name": "weather", "arguments": {"city": "Zürich"}}) + "\n</tool_call>"
    messages = ask(f"[[say:{said}]]")
    reply = dashscope.Generation.call(model=MODEL, messages=messages, tools=[WEATHER])
    choice = reply.output.choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call["function"]["name"] == "weather" and json.loads(call["function"]["arguments"]) == {"city": "Zürich"}
    for incremental in (True, False):
        arguments, last = "", ""
        for part in dashscope.Generation.call(model=MODEL, messages=messages, tools=[WEATHER], stream=True,
                                              result_format="message", incremental_output=incremental):
            for piece in part.output.choices[0].message.get("tool_calls") or []:
                arguments += piece["function"]["arguments"]
                last = piece["function"]["arguments"] or last
        assert json.loads(arguments if incremental else last) == {"city": "Zürich"}
    messages += [dict(choice.message), {"role": "tool", "tool_call_id": call["id"], "content": "[[say:It rains.]]"}]
    after = dashscope.Generation.call(model=MODEL, messages=messages, tools=[WEATHER])
    assert after.output.choices[0].message.content == "It rains."


def test_errors(server):
    def failed(**more):
        reply = dashscope.Generation.call(**({"model": MODEL, "prompt": "x"} | more))
        assert reply.message and reply.request_id
        return reply.status_code, reply.code

    assert failed(model="no-such-model") == (404, "ModelNotFound")
    assert failed(temperature=7) == (400, "InvalidParameter")
    assert failed(thinking_budget=-1) == (400, "InvalidParameter")
    assert failed(prompt=None, messages=[{"role": "wizard", "content": "x"}]) == (400, "InvalidParameter")
    assert failed(enable_search=True) == (400, "InvalidParameter")
    assert failed(api_key="tp-wrong") == (401, "InvalidApiKey")
    replies = list(dashscope.Generation.call(model=MODEL, prompt="[[say:hello there]][[fail_after:3]]", stream=True))
    assert replies[-1].status_code >= 500 and replies[-1].code == "InternalError"


def test_compatible_mode(server):
    with openai.OpenAI(base_url=server.url + "/compatible-mode/v1", api_key=server.key, max_retries=0, timeout=60) as client:
        assert MODEL in [model.id for model in client.models.list()]
        reasoning, content = "", ""
        for chunk in client.chat.completions.create(model=MODEL, messages=ask("[[think:let me see]][[say:42]]"), stream=True,
                                                    extra_body={"enable_thinking": True, "thinking_budget": 50}):
            reasoning += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
            content += chunk.choices[0].delta.content or ""
        assert (reasoning, content) == ("let me see", "42")
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages=ask("x"), extra_body={"enable_search": True})


def test_real_models():
    if not SMOLLM2.exists() or not MINILM.exists():
        pytest.skip("the test data is not there")
    with Server() as real:
        use(real)
        reply = dashscope.Generation.call(
            model=real.store(SMOLLM2), messages=ask("Name a city by the sea, as JSON."), result_format="message", seed=7,
            response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": {
                "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"],
                "additionalProperties": False}}})
        assert list(json.loads(reply.output.choices[0].message.content)) == ["city"]
        minilm = real.store(MINILM)
        vectors = dashscope.TextEmbedding.call(model=minilm, input=["the tide rises", "the sea comes in", "bread"], dimension=128)
        assert vectors.status_code == 200, vectors.message
        found = [item["embedding"] for item in sorted(vectors.output["embeddings"], key=lambda item: item["text_index"])]
        assert [len(vector) for vector in found] == [128] * 3 and vectors.usage["total_tokens"] > 6
