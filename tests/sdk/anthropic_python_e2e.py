"""The official `anthropic` package for Python, unmodified, against the real server: the simulated model, and SmolLM2 where it is
in the test data. The order of a stream's events is checked on the wire, by an automaton that names each step."""

import json
import os
import pathlib
import time

import anthropic
import httpx2 as httpx
import pydantic
import pytest

from server_process import MODEL, Server


@pytest.fixture(scope="module")
def server():
    with Server("--simulated") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with anthropic.Anthropic(base_url=server.url + "/anthropic", api_key=server.key, max_retries=0, timeout=60) as made:
        yield made


def ask(text):
    return [{"role": "user", "content": text}]


WEATHER = {"name": "weather", "description": "The weather of a city.", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}


def say_calls(*calls, before="", think=""):
    said = before + "\n".join(f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
                              for name, arguments in calls)
    return ask((f"[[think:{think}]]" if think else "") + f"[[say:{said}]]")


def wire(server, body, path="/v1/messages", headers=None):
    """The events of a stream as they came: [(event name, data)]."""
    reply = httpx.post(server.url + path, json={"model": MODEL, "max_tokens": 500, "stream": True, **body}, timeout=60,
                       headers={"x-api-key": server.key, "anthropic-version": "2023-06-01", **(headers or {})})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in reply.text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: "), lines
        data = json.loads(lines[1].removeprefix("data: "))
        assert data["type"] == lines[0].removeprefix("event: ")
        events.append((data["type"], data))
    return events


def check_order(events):
    """Exactly what Anthropic's stream may say; returns the blocks as [(type, text, input JSON)]."""
    deltas = {"text": {"text_delta": "text"}, "tool_use": {"input_json_delta": "partial_json"},
              "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"}}
    state, blocks, kind, signed = "begin", [], None, False
    for name, data in events:
        if name == "ping":
            assert data == {"type": "ping"} and state != "begin"
        elif state == "begin":
            assert name == "message_start"
            message = data["message"]
            assert message["type"] == "message" and message["role"] == "assistant" and message["content"] == []
            assert message["stop_reason"] is None and message["stop_sequence"] is None and message["usage"]["input_tokens"] > 0
            state = "between"
        elif state == "between" and name == "content_block_start":
            assert data["index"] == len(blocks)
            kind, signed = data["content_block"]["type"], False
            empty = {"text": {"type": "text", "text": ""}, "thinking": {"type": "thinking", "thinking": "", "signature": ""}}
            if kind in empty:
                assert data["content_block"] == empty[kind]
            else:
                assert data["content_block"]["input"] == {} and data["content_block"]["id"].startswith("toolu_")
            blocks.append([kind, "", data["content_block"].get("name")])
            state = "block"
        elif state == "block" and name == "content_block_delta":
            assert data["index"] == len(blocks) - 1 and not signed
            field = deltas[kind][data["delta"]["type"]]
            signed = field == "signature"
            if not signed:
                blocks[-1][1] += data["delta"][field]
        elif state == "block" and name == "content_block_stop":
            assert data["index"] == len(blocks) - 1 and (kind != "thinking" or signed)
            state = "between"
        elif state == "between" and name == "message_delta":
            assert set(data["delta"]) == {"stop_reason", "stop_sequence"} and data["usage"]["output_tokens"] > 0
            state = "ending"
        elif state == "ending" and name == "message_stop":
            state = "end"
        else:
            raise AssertionError(f"{name} while in state {state}")
    assert state == "end"
    return [tuple(block) for block in blocks]


def test_message(client):
    raw = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=100, messages=ask("[[say:hello there]]"), system="Be brief.", extra_body={"temperature": 0},
        metadata={"user_id": "me"})
    assert raw.headers["tidepool-ignored"] == "metadata" and raw.headers["request-id"]
    answer = raw.parse()
    assert answer.type == "message" and answer.role == "assistant" and answer.id.startswith("msg_")
    assert [block.type for block in answer.content] == ["text"] and answer.content[0].text == "hello there"
    assert answer.stop_reason == "end_turn" and answer.stop_sequence is None
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0
    assert answer._request_id


def test_both_paths_and_both_ways_to_send_a_key(server):
    plain = anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0)
    assert plain.messages.create(model=MODEL, max_tokens=9, messages=ask("[[say:a]]")).content[0].text == "a"
    bearer = anthropic.Anthropic(base_url=server.url + "/anthropic", auth_token=server.key, max_retries=0)
    assert bearer.messages.create(model=MODEL, max_tokens=9, messages=ask("[[say:b]]")).content[0].text == "b"
    # x-api-key is a key everywhere.
    assert httpx.get(server.url + "/api/v1/sessions/current", headers={"x-api-key": server.key}).status_code == 200
    assert httpx.get(server.url + "/api/v1/sessions/current", headers={"x-api-key": "tp-wrong"}).status_code == 401


def test_keys_keep_their_limits(server):
    """A key for one endpoint and another model is refused in Anthropic's shape."""
    scoped = server.ask("POST", "/api/v1/keys", {"name": "narrow", "models": ["another:model"]})["key"]
    narrow = anthropic.Anthropic(base_url=server.url + "/anthropic", api_key=scoped, max_retries=0)
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        narrow.messages.create(model=MODEL, max_tokens=9, messages=ask("x"))
    assert refused.value.body["error"]["type"] == "permission_error"


def test_prompt_cache_is_reported(client):
    system = [{"type": "text", "text": "a long shared beginning " * 20, "cache_control": {"type": "ephemeral"}}]
    first = client.messages.create(model=MODEL, max_tokens=20, system=system, messages=ask("[[say:x]]"))
    second = client.messages.create(model=MODEL, max_tokens=20, system=system, messages=ask("[[say:x]]"))
    assert second.usage.cache_read_input_tokens >= 256 and second.usage.cache_creation_input_tokens == 0
    total = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert second.usage.input_tokens + second.usage.cache_read_input_tokens == total
    counted = client.messages.count_tokens(model=MODEL, system=system, messages=ask("[[say:x]]"))
    assert counted.input_tokens == total


def test_stream_helper(client):
    text, kinds = "", []
    with client.messages.stream(model=MODEL, max_tokens=200,
                                messages=ask("[[think:let me see]][[say:streaming works, déjà vu 漢字 😀]]"),
                                thinking={"type": "adaptive"}) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "text":
                text += event.text
        final = stream.get_final_message()
    assert text == "streaming works, déjà vu 漢字 😀"
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == "let me see" and final.content[0].signature
    assert final.content[1].text == text and final.stop_reason == "end_turn"
    assert final.usage.output_tokens > len("let me see")
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"


def test_order_of_events(server):
    assert check_order(wire(server, {"messages": ask("[[say:hello]]")})) == [("text", "hello", None)]
    assert check_order(wire(server, {"messages": ask("[[think:hm]][[say:42]]"), "thinking": {"type": "adaptive"}})) == [
        ("thinking", "hm", None), ("text", "42", None)]
    blocks = check_order(wire(server, {
        "messages": say_calls(("weather", {"city": "Oslo", "days": 3}), ("weather", {"city": "Zürich"}), before="Let me look. ", think="a city"),
        "tools": [WEATHER], "thinking": {"type": "enabled", "budget_tokens": 400}}))
    assert [block[0] for block in blocks if block[1].strip()] == ["thinking", "text", "tool_use", "tool_use"]
    assert [json.loads(block[1]) for block in blocks if block[0] == "tool_use"] == [{"city": "Oslo", "days": 3}, {"city": "Zürich"}]
    assert [block[2] for block in blocks if block[0] == "tool_use"] == ["weather", "weather"]
    # Cut off at once: still a whole stream. And what is no call after all.
    assert check_order(wire(server, {"messages": ask("[[say:hello]]"), "max_tokens": 1}))
    check_order(wire(server, {"messages": ask("[[say:<tool_call>{weather: Oslo}</tool_call>]]"), "tools": [WEATHER]}))
    check_order(wire(server, {"messages": say_calls(("weather", {"city": "Oslo"})), "tools": [WEATHER], "max_tokens": 40}))
    hidden = check_order(wire(server, {"messages": ask("[[think:hm]][[say:42]]"),
                                       "thinking": {"type": "adaptive", "display": "omitted"}}))
    assert hidden == [("thinking", "", None), ("text", "42", None)]


def test_order_check_notices_wrong_orders(server):
    """The automaton itself: any two events that change places are noticed."""
    events = [event for event in wire(server, {
        "messages": say_calls(("weather", {"city": "Oslo"}), think="hm"), "tools": [WEATHER],
        "thinking": {"type": "adaptive"}}) if event[0] != "ping"]
    check_order(events)
    for i in range(len(events) - 1):
        if events[i][0] != events[i + 1][0]:
            with pytest.raises((AssertionError, KeyError)):
                check_order([*events[:i], events[i + 1], events[i], *events[i + 2:]])
        if events[i][0] != "content_block_delta":
            with pytest.raises((AssertionError, KeyError)):
                check_order(events[:i] + events[i + 1:])


def test_tool_use_and_its_result(client):
    messages = say_calls(("weather", {"city": "Oslo", "days": 3}), before="Let me look. ")
    answer = client.messages.create(model=MODEL, max_tokens=300, messages=messages, tools=[WEATHER])
    assert answer.stop_reason == "tool_use"
    assert [block.type for block in answer.content] == ["text", "tool_use"]
    call = answer.content[1]
    assert call.name == "weather" and call.input == {"city": "Oslo", "days": 3} and call.id.startswith("toolu_")
    after = client.messages.create(model=MODEL, max_tokens=300, tools=[WEATHER], messages=[
        *messages, {"role": "assistant", "content": [block.to_dict() for block in answer.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "[[say:It rains.]]"}]}])
    assert after.content[0].text == "It rains." and after.stop_reason == "end_turn"
    with client.messages.stream(model=MODEL, max_tokens=300, messages=messages, tools=[WEATHER]) as stream:
        final = stream.get_final_message()
    assert final.content[1].input == {"city": "Oslo", "days": 3} and final.stop_reason == "tool_use"
    none = client.messages.create(model=MODEL, max_tokens=300, messages=messages, tools=[WEATHER], tool_choice={"type": "none"})
    assert none.stop_reason == "end_turn" and "<tool_call>" in none.content[0].text
    forced = client.messages.create(model=MODEL, max_tokens=300, messages=ask("[[say:nothing]]"), tools=[WEATHER, {
        "name": "ping", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}],
        tool_choice={"type": "tool", "name": "ping", "disable_parallel_tool_use": True}, extra_body={"temperature": 0})
    assert forced.stop_reason == "tool_use"
    assert [(block.name, block.input) for block in forced.content if block.type == "tool_use"] == [("ping", {})]


def test_thinking_goes_back(client):
    first = client.messages.create(model=MODEL, max_tokens=200, messages=ask("[[think:hm]][[say:one]]"), thinking={"type": "adaptive"})
    again = client.messages.create(model=MODEL, max_tokens=200, thinking={"type": "adaptive"}, messages=[
        *ask("x"), {"role": "assistant", "content": [block.to_dict() for block in first.content]}, *ask("[[say:two]]")])
    assert again.content[-1].text == "two"


def test_stops_and_prefill(client):
    stopped = client.messages.create(model=MODEL, max_tokens=100, messages=ask("[[say:one two three]]"), stop_sequences=["zzz", " three"])
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", " three", "one two")
    cut = client.messages.create(model=MODEL, max_tokens=3, messages=ask("[[say:one two three]]"))
    assert cut.stop_reason == "max_tokens" and cut.content[0].text == "one"
    goes_on = client.messages.create(model=MODEL, max_tokens=100, messages=[
        *ask("[[say:one two three]]"), {"role": "assistant", "content": "one"}])
    assert goes_on.content[0].text == " two three"


def test_structured_output(client):
    class Tide(pydantic.BaseModel):
        place: str
        metres: float

    answer = client.messages.parse(model=MODEL, max_tokens=200, messages=ask('[[say:{"place":"Bodø","metres":2.5}]]'), output_format=Tide)
    assert answer.parsed_output == Tide(place="Bodø", metres=2.5)


def test_beta_namespace(client):
    answer = client.beta.messages.create(model=MODEL, max_tokens=20, messages=ask("[[say:beta]]"), betas=["some-beta-2026-01-01"])
    assert answer.content[0].text == "beta"
    assert client.beta.messages.count_tokens(model=MODEL, messages=ask("x")).input_tokens > 0


def test_models(client):
    page = client.models.list()
    assert MODEL in [model.id for model in page] and page.first_id
    one = client.models.retrieve(MODEL)
    assert one.type == "model" and one.display_name == MODEL and one.created_at.year >= 1970 and one.max_input_tokens > 0
    assert one.capabilities.structured_outputs.supported and one.capabilities.thinking.types.disabled.supported and not one.capabilities.image_input.supported
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.models.retrieve("no-such-model")
    assert missing.value.body["error"]["type"] == "not_found_error"


def test_the_shared_path_of_models(server):
    """/v1/models speaks the dialect of whoever asks."""
    openai_shape = httpx.get(server.url + "/v1/models", headers={"x-api-key": server.key}).json()
    anthropic_shape = httpx.get(server.url + "/v1/models", headers={"x-api-key": server.key, "anthropic-version": "2023-06-01"}).json()
    assert openai_shape["object"] == "list" and anthropic_shape["data"][0]["type"] == "model" and "has_more" in anthropic_shape
    wrong = httpx.get(server.url + "/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert wrong.status_code == 401 and wrong.json()["error"]["type"] == "authentication_error"


WRONG = [
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": []}, "messages"),
    ({"messages": ask([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}])}, "messages[0].content[0].type"),
    ({"messages": ask([{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}])}, "messages[0].content[0].tool_use_id"),
    ({"messages": [*ask("x"), {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
                   *ask([{"type": "tool_result", "tool_use_id": "b", "content": "x"}])]}, "messages[2].content[0].tool_use_id"),
    ({"messages": [*ask("x"), {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
                   *ask("and?")]}, "messages[2].content"),
    ({"messages": ask("x"), "tool_choice": {"type": "any"}}, "tool_choice"),
    ({"messages": ask("x"), "tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
    ({"messages": ask("x"), "tools": [WEATHER], "tool_choice": {"type": "auto", "name": "weather"}}, "tool_choice.name"),
    ({"messages": ask("x"), "tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"messages": ask("x"), "tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"messages": ask("x"), "thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
    ({"messages": ask("x"), "thinking": {"type": "enabled", "budget_tokens": 101}}, "thinking.budget_tokens"),
    ({"messages": ask("x"), "thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"messages": ask("x"), "max_tokens": 0}, "max_tokens"),
    ({"messages": ask("x"), "mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"messages": ask("x"), "output_config": {"format": {"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}}}},
     "uniqueItems"),
]


@pytest.mark.parametrize("body, place", WRONG)
def test_wrong_requests_are_told_what_is_wrong(server, client, body, place):
    given = {"model": MODEL, "max_tokens": 100, **body}
    with pytest.raises(anthropic.BadRequestError) as wrong:
        client.post("/v1/messages", cast_to=object, body=given)
    error = wrong.value.body
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error" and error["request_id"]
    assert place in error["error"]["message"], error
    assert wrong.value.request_id == error["request_id"]


def test_errors_before_the_handler_have_the_shape_too(server, client):
    headers = {"x-api-key": server.key, "content-type": "application/json"}
    url = server.url + "/v1/messages"
    cases = [(httpx.post(url, content=b"{}", headers={"content-type": "application/json"}), 401, "authentication_error"),
             (httpx.post(url, content=b"{\xff", headers=headers), 400, "invalid_request_error"),
             (httpx.post(url, content=b'{"a":"' + b"\xff" + b'"}', headers=headers), 400, "invalid_request_error"),
             (httpx.post(url, content=b"{}", headers={**headers, "content-type": "text/plain"}), 415, "invalid_request_error"),
             (httpx.post(url, content=b" " * (17 << 20), headers=headers), 413, "request_too_large")]
    for reply, status, kind in cases:
        assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind), reply.text
        assert reply.json()["type"] == "error"
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nothing:here", max_tokens=9, messages=ask("x"))
    assert missing.value.body["error"]["type"] == "not_found_error"


def test_a_failure_inside_a_stream_is_raised(server, client):
    with pytest.raises(anthropic.APIStatusError):
        with client.messages.stream(model=MODEL, max_tokens=100, messages=ask("[[fail_after:3]][[say:abcdefghij]]")) as stream:
            for _ in stream:
                pass
    events = wire(server, {"messages": ask("[[fail_after:3]][[say:abcdefghij]]")})
    assert events[-1][0] == "error" and events[-1][1]["error"]["type"] == "api_error" and events[-1][1]["request_id"]


def test_leaving_a_stream_frees_the_engine(server, client):
    def running():
        engine = next(m for m in server.ask("GET", "/api/v1/models")["data"] if m["id"] == MODEL).get("engine") or {}
        return engine.get("running", 0) + engine.get("waiting", 0)

    with client.messages.stream(model=MODEL, max_tokens=2000, messages=ask("[[stall_ms:20]][[tokens:100000]]")) as stream:
        for number, _ in enumerate(stream):
            if number == 3:
                break
        assert running() == 1
    deadline = time.monotonic() + 20
    while running():
        assert time.monotonic() < deadline
        time.sleep(0.02)


SMOLLM2 = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="no SmolLM2 in TIDEPOOL_TEST_DATA")
def test_a_real_model_answers_under_a_schema():
    class Weather(pydantic.BaseModel):
        raining: bool
        degrees: int

    with Server() as server:
        model = server.store(SMOLLM2)
        client = anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0, timeout=300)
        answer = client.messages.parse(model=model, max_tokens=100, extra_body={"temperature": 0}, messages=ask("It rains in Oslo, at 9 degrees."), output_format=Weather)
        assert isinstance(answer.parsed_output, Weather)
        with client.messages.stream(model=model, max_tokens=12, messages=ask("Say hello.")) as stream:
            final = stream.get_final_message()
        assert final.content[0].text and final.usage.output_tokens <= 12
        forced = client.messages.create(model=model, max_tokens=200, extra_body={"temperature": 0}, messages=ask("The weather in Oslo?"), tools=[{
            "name": "weather", "input_schema": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                                                "required": ["city"], "additionalProperties": False}}], tool_choice={"type": "any"})
        assert forced.stop_reason == "tool_use"
        assert next(block for block in forced.content if block.type == "tool_use").input["city"] in ("Oslo", "Rome")
