"""The Responses API through the official `openai` package for Python, unmodified: the simulated model, and SmolLM2 where it is in
the test data. The order of a stream's events is checked on the wire, by an automaton that names each step."""

import json
import os
import pathlib
import time

import httpx2 as httpx
import openai
import pydantic
import pytest

from server_process import MODEL, Server


@pytest.fixture(scope="module")
def server():
    with Server("--simulated", "--simulated-context-length=100000") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=60) as made:
        yield made


WEATHER = {"type": "function", "name": "weather", "description": "The weather of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}


def say_calls(*calls, before="", think=""):
    said = before + "\n".join(f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
                              for name, arguments in calls)
    return (f"[[think:{think}]]" if think else "") + f"[[say:{said}]]"


def events_of(reply):
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
        events.append(data)
    return events


def wire(server, body):
    return events_of(httpx.post(server.url + "/v1/responses", json={"model": MODEL, "stream": True, **body}, timeout=60,
                                headers={"authorization": f"Bearer {server.key}"}))


def check_order(events, first=0):
    """Exactly what a stream of responses may say; returns the last response."""
    begin = ["response.created", "response.in_progress"]
    if events[1]["type"] == "response.queued":
        begin.insert(1, "response.queued")
    state, item, text, index, part = "begin", None, "", -1, None
    done_items = []
    for number, event in enumerate(events):
        kind = event["type"].removeprefix("response.")
        assert event["sequence_number"] == first + number
        if number < len(begin):
            assert event["type"] == begin[number] and event["response"]["output"] == []
            assert event["response"]["status"] == ("queued" if number < 2 and len(begin) == 3 else "in_progress")
            state = "between"
            continue
        if kind in ("completed", "incomplete", "failed"):
            assert state == "between" and number == len(events) - 1
            assert event["response"]["output"] == done_items
            return event["response"]
        assert event["output_index"] == index + (kind == "output_item.added")
        if kind == "output_item.added":
            assert state == "between"
            item, text, index = event["item"], "", index + 1
            assert item["status"] == "in_progress" and item.get("content", item.get("summary", [])) == [] and item.get("arguments", "") == ""
            state = "arguments" if item["type"] == "function_call" else "item"
        elif kind in ("content_part.added", "reasoning_summary_part.added"):
            assert state == "item" and event["item_id"] == item["id"] and event["part"]["text"] == ""
            part, state = event["part"]["type"], "part"
        elif kind in ("output_text.delta", "reasoning_text.delta", "reasoning_summary_text.delta"):
            assert state == "part" and kind == {"output_text": "output_text", "reasoning_text": "reasoning_text",
                                                "summary_text": "reasoning_summary_text"}[part] + ".delta"
            assert event["item_id"] == item["id"]
            text += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done", "reasoning_summary_text.done"):
            assert state == "part" and event["text"] == text and event["item_id"] == item["id"]
            state = "text done"
        elif kind in ("content_part.done", "reasoning_summary_part.done"):
            assert state == "text done" and event["part"]["text"] == text
            state = "part done"
        elif kind == "function_call_arguments.delta":
            assert state == "arguments" and event["item_id"] == item["id"]
            text += event["delta"]
        elif kind == "function_call_arguments.done":
            assert state == "arguments" and event["arguments"] == text and event["name"] == item["name"]
            state = "part done"
        elif kind == "output_item.done":
            assert state == "part done" and event["item"]["id"] == item["id"] and event["item"]["status"] != "in_progress"
            assert text == (event["item"].get("arguments") if item["type"] == "function_call"
                            else (event["item"].get("content") or event["item"]["summary"])[0]["text"])
            done_items.append(event["item"])
            state = "between"
        else:
            raise AssertionError(event["type"])
    raise AssertionError("no last event")


def test_create(client):
    raw = client.responses.with_raw_response.create(model=MODEL, input="[[say:hello there]]", temperature=0, user="me",
                                                    metadata={"project": "tides"})
    assert raw.headers["tidepool-ignored"] == "user"
    answer = raw.parse()
    assert answer.object == "response" and answer.id.startswith("resp_") and answer.status == "completed"
    assert answer.output_text == "hello there" and [item.type for item in answer.output] == ["message"]
    assert answer.usage.input_tokens > 0 and answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.metadata == {"project": "tides"} and answer.temperature == 0 and answer.error is None
    cut = client.responses.create(model=MODEL, input="[[say:one two three]]", max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens" and cut.output_text == "one"


def test_items_and_instructions(client):
    answer = client.responses.create(model=MODEL, instructions="Be brief.", input=[
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello", "annotations": []}]},
        {"role": "user", "content": "[[say:again]]"}])
    assert answer.output_text == "again" and answer.instructions == "Be brief."


def test_order_of_events(server):
    response = check_order(wire(server, {"input": "[[say:hello, déjà vu 漢字 😀]]"}))
    assert response["output"][0]["content"][0]["text"] == "hello, déjà vu 漢字 😀"
    response = check_order(wire(server, {"input": "[[think:hm]][[say:42]]"}))
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    response = check_order(wire(server, {"input": "[[think:hm]][[say:42]]", "reasoning": {"summary": "auto"}}))
    assert response["output"][0]["summary"] == [{"type": "summary_text", "text": "hm"}]
    response = check_order(wire(server, {"tools": [WEATHER], "input": say_calls(
        ("weather", {"city": "Oslo", "days": 3}), ("weather", {"city": "Zürich"}), before="Let me look. ", think="a city")}))
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Oslo", "days": 3}, {"city": "Zürich"}]
    assert check_order(wire(server, {"input": "[[say:one two]]", "max_output_tokens": 2}))["status"] == "incomplete"
    check_order(wire(server, {"input": "[[say:<tool_call>{weather: Oslo}</tool_call>]]", "tools": [WEATHER]}))
    check_order(wire(server, {"input": say_calls(("weather", {"city": "Oslo"})), "tools": [WEATHER], "max_output_tokens": 40}))
    failed = check_order(wire(server, {"input": "[[fail_after:3]][[say:abcdefghij]]"}))
    assert failed["status"] == "failed" and failed["error"]["code"] == "server_error"


def test_order_check_notices_wrong_orders(server):
    events = wire(server, {"input": say_calls(("weather", {"city": "Oslo"}), think="hm"), "tools": [WEATHER]})
    check_order(events)

    def renumbered(changed):
        return [{**event, "sequence_number": number} for number, event in enumerate(changed)]

    for i in range(len(events) - 1):
        if events[i]["type"] != events[i + 1]["type"]:
            with pytest.raises((AssertionError, KeyError)):
                check_order(renumbered([*events[:i], events[i + 1], events[i], *events[i + 2:]]))
        with pytest.raises((AssertionError, KeyError, TypeError)):
            check_order(renumbered(events[:i] + events[i + 1:]))
    with pytest.raises(AssertionError):
        check_order(events[:-1])


def test_streaming_helper(client):
    class Tide(pydantic.BaseModel):
        place: str
        metres: float

    said = '[[say:{"place":"Bodø","metres":2.5}]]'
    text = ""
    with client.responses.stream(model=MODEL, input=said, text_format=Tide) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
        final = stream.get_final_response()
    assert json.loads(text) == {"place": "Bodø", "metres": 2.5}
    assert final.output_parsed == Tide(place="Bodø", metres=2.5)
    parsed = client.responses.parse(model=MODEL, input=said, text_format=Tide)
    assert parsed.output_parsed == Tide(place="Bodø", metres=2.5)


def test_function_calls(client):
    answer = client.responses.create(model=MODEL, input=say_calls(("weather", {"city": "Oslo", "days": 3}), before="Let me look. "),
                                     tools=[WEATHER])
    call = next(item for item in answer.output if item.type == "function_call")
    assert answer.output_text == "Let me look." and json.loads(call.arguments) == {"city": "Oslo", "days": 3}
    after = client.responses.create(model=MODEL, tools=[WEATHER], previous_response_id=answer.id, input=[
        {"type": "function_call_output", "call_id": call.call_id, "output": "[[say:It rains.]]"}])
    assert after.output_text == "It rains."
    # The same without the store: the client sends everything again.
    again = client.responses.create(model=MODEL, tools=[WEATHER], store=False, input=[
        {"role": "user", "content": "weather?"}, *[item.to_dict() for item in answer.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "[[say:It rains again.]]"}])
    assert again.output_text == "It rains again."
    none = client.responses.create(model=MODEL, input=say_calls(("weather", {"city": "Oslo"})), tools=[WEATHER], tool_choice="none")
    assert "<tool_call>" in none.output_text
    nothing = {"type": "function", "name": "ping", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
    for choice in ({"type": "function", "name": "ping"},
                   {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "ping"}]}):
        forced = client.responses.create(model=MODEL, input="[[say:nothing]]", tools=[WEATHER, nothing], tool_choice=choice,
                                         parallel_tool_calls=False, max_output_tokens=300, temperature=0)
        assert [(item.name, json.loads(item.arguments)) for item in forced.output if item.type == "function_call"] == [("ping", {})]


def test_previous_response(client):
    first = client.responses.create(model=MODEL, input="[[say:one]]")
    second = client.responses.create(model=MODEL, input="[[say:two]]", previous_response_id=first.id)
    third = client.responses.create(model=MODEL, input="[[say:three]]", previous_response_id=second.id)
    assert third.output_text == "three" and third.previous_response_id == second.id
    # The turns before are in the prompt.
    assert third.usage.input_tokens > second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(model=MODEL, input="x", previous_response_id=second.id)
    assert gone.value.param == "previous_response_id"


def test_truncation(client):
    long = [{"role": "user" if i % 2 == 0 else "assistant", "content": "x" * 4000} for i in range(40)]
    long.append({"role": "user", "content": "[[say:fits]]"})
    with pytest.raises(openai.BadRequestError) as full:
        client.responses.create(model=MODEL, input=long, max_output_tokens=50)
    assert full.value.code == "context_length_exceeded"
    assert client.responses.create(model=MODEL, input=long, max_output_tokens=50, truncation="auto").output_text == "fits"


def test_stored_responses(client):
    made = client.responses.create(model=MODEL, input=[{"role": "user", "content": "hi"}, {"role": "user", "content": "[[say:kept]]"}])
    found = client.responses.retrieve(made.id)
    assert found.output_text == "kept" and found.usage == made.usage and found.to_dict() == made.to_dict()
    items = client.responses.input_items.list(made.id, order="asc", limit=1)
    assert items.data[0].content[0].text == "hi" and items.has_more
    assert [item.content[0].text for item in client.responses.input_items.list(made.id, limit=1)] == ["[[say:kept]]", "hi"]
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)
    unkept = client.responses.create(model=MODEL, input="[[say:x]]", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(client.responses.create(model=MODEL, input="[[say:x]]").id)


def test_other_workspaces_do_not_see_them(server, client):
    made = client.responses.create(model=MODEL, input="[[say:mine]]")
    workspace = server.ask("POST", "/api/v1/workspaces", {"name": "another"})["id"]
    key = server.ask("POST", "/api/v1/keys", {"name": "theirs", "workspace": workspace})["key"]
    theirs = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
    for attempt in (theirs.responses.retrieve, theirs.responses.delete, theirs.responses.cancel, theirs.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            attempt(made.id)
    with pytest.raises(openai.NotFoundError):
        theirs.responses.create(model=MODEL, input="x", previous_response_id=made.id)
    assert client.responses.retrieve(made.id).output_text == "mine"


def wait_for(client, response, *states):
    deadline = time.monotonic() + 30
    while response.status not in states:
        assert time.monotonic() < deadline, response
        time.sleep(0.02)
        response = client.responses.retrieve(response.id)
    return response


def test_background(client):
    started = client.responses.create(model=MODEL, input="[[stall_ms:5]][[say:made in the background]]", background=True)
    assert started.status in ("queued", "in_progress") and started.background and started.output == []
    ended = wait_for(client, started, "completed")
    assert ended.output_text == "made in the background" and ended.usage.output_tokens > 0
    # It is cancelled, and what was said of it is kept.
    long = client.responses.create(model=MODEL, input="[[stall_ms:20]][[tokens:100000]]", background=True, max_output_tokens=5000)
    assert client.responses.cancel(long.id).status == "cancelled"
    cancelled = wait_for(client, client.responses.retrieve(long.id), "cancelled")
    assert client.responses.cancel(long.id).status == "cancelled" and cancelled.error is None
    failed = client.responses.create(model=MODEL, input="[[fail_after:3]][[say:abcdefghij]]", background=True)
    assert wait_for(client, failed, "failed").error.code == "server_error"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nothing:here", input="x", background=True)


def test_a_revoked_key_ends_what_it_began(server, client):
    made = server.ask("POST", "/api/v1/keys", {"name": "short-lived"})
    theirs = openai.OpenAI(base_url=server.url + "/v1", api_key=made["key"], max_retries=0)
    response = theirs.responses.create(model=MODEL, input="[[stall_ms:20]][[tokens:100000]]", background=True, max_output_tokens=5000)
    server.ask("DELETE", f"/api/v1/keys/{made['id']}")
    assert wait_for(client, client.responses.retrieve(response.id), "failed").error.code == "server_error"


def test_input_tokens(client):
    first = client.responses.create(model=MODEL, input="[[say:one]]")
    asked = {"model": MODEL, "input": "[[say:two]]", "previous_response_id": first.id}
    counted = client.responses.input_tokens.count(**asked).input_tokens
    assert counted == client.responses.create(**asked).usage.input_tokens > first.usage.input_tokens


def test_background_streams_can_be_taken_up(server, client):
    text, seen, response_id = "", -1, None
    with client.responses.create(model=MODEL, input="[[stall_ms:10]][[say:" + "slow " * 30 + "]]", background=True, stream=True) as stream:
        for event in stream:
            response_id = response_id or event.response.id
            seen = event.sequence_number
            text += event.delta if event.type == "response.output_text.delta" else ""
            if len(text) > 20:
                break
    assert client.responses.retrieve(response_id).status == "in_progress", "it goes on without its client"
    for event in client.responses.retrieve(response_id, stream=True, starting_after=seen):
        assert event.sequence_number == seen + 1
        seen = event.sequence_number
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == "slow " * 30 and event.type == "response.completed"
    headers = {"authorization": f"Bearer {server.key}"}
    whole = events_of(httpx.get(f"{server.url}/v1/responses/{response_id}?stream=true", headers=headers))
    assert check_order(whole)["status"] == "completed"
    other = client.responses.create(model=MODEL, input="[[say:x]]")
    with pytest.raises(openai.BadRequestError) as gone:
        list(client.responses.retrieve(other.id, stream=True))
    assert gone.value.code == "events_gone"


def test_long_answers(server, client):
    """Their events are more than a connection's buffer, and the last ones repeat the whole text."""
    asked = {"input": "[[repeat:4000:long ]]", "max_output_tokens": 30000}
    text = "long " * 4000
    assert check_order(wire(server, asked))["output"][0]["content"][0]["text"].strip() == text.strip()
    made = wait_for(client, client.responses.create(model=MODEL, background=True, **asked), "completed")
    events = events_of(httpx.get(f"{server.url}/v1/responses/{made.id}?stream=true&starting_after=5",
                                 headers={"authorization": f"Bearer {server.key}"}, timeout=60))
    assert [event["sequence_number"] for event in events] == list(range(6, 6 + len(events)))
    assert events[-1]["type"] == "response.completed" and len(events) > 15000


def test_a_restart_fails_what_ran(tmp_path):
    with Server("--simulated", home=tmp_path) as first:
        with openai.OpenAI(base_url=first.url + "/v1", api_key=first.key, max_retries=0) as client:
            kept = client.responses.create(model=MODEL, input="[[say:kept]]").id
            lost = client.responses.create(model=MODEL, input="[[stall_ms:50]][[tokens:100000]]", background=True, max_output_tokens=5000).id
        first.process.kill()
        first.process.wait()
    with Server("--simulated", "--http-drain-timeout-s=0", home=tmp_path) as second:
        with openai.OpenAI(base_url=second.url + "/v1", api_key=second.key, max_retries=0) as client:
            assert client.responses.retrieve(kept).output_text == "kept"
            response = client.responses.retrieve(lost)
            assert response.status == "failed" and response.error.code == "server_error"
            running = client.responses.create(model=MODEL, input="[[stall_ms:50]][[tokens:100000]]", background=True, max_output_tokens=5000).id
            second.process.terminate()
            assert second.process.wait(60) == 0
    with Server("--simulated", home=tmp_path) as third:
        with openai.OpenAI(base_url=third.url + "/v1", api_key=third.key, max_retries=0) as client:
            assert client.responses.retrieve(running).status == "failed"


def test_logprobs(client):
    answer = client.responses.create(model=MODEL, input="[[say:abc]]", include=["message.output_text.logprobs"], top_logprobs=2, temperature=0)
    tokens = answer.output[0].content[0].logprobs
    assert b"".join(bytes(token.bytes) for token in tokens).startswith(b"abc") and len(tokens[0].top_logprobs) == 2


WRONG = [
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
    ({"input": []}, "input"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, {"type": "function_call_output", "call_id": "d", "output": "x"}]},
     "input[1].call_id"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, {"role": "user", "content": "x"}]}, "input[1]"),
    ({"input": "x", "tool_choice": "required"}, "tool_choice"),
    ({"input": "x", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
    ({"input": "x", "tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "no"}]}},
     "tool_choice.tools[0].name"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"input": "x", "tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"input": "x", "background": True, "store": False}, "background"),
    ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    ({"input": "x", "thinking_budget": -1}, "thinking_budget"),
    ({"input": "x", "reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"input": "x", "reasoning": {"effort": "none"}, "enable_thinking": True}, "enable_thinking"),
    ({"input": "x", "conversation": "conv_1"}, "conversation"),
    ({"input": "x", "truncation": "some"}, "truncation"),
    ({"input": "x", "metadata": {"a": 1}}, "metadata"),
    ({"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array", "uniqueItems": True}}}},
     "text.format.schema/uniqueItems"),
]


@pytest.mark.parametrize("body, param", WRONG)
def test_wrong_requests_are_told_what_is_wrong(client, body, param):
    with pytest.raises(openai.BadRequestError) as wrong:
        client.post("/responses", cast_to=object, body={"model": MODEL, **body})
    assert wrong.value.param == param and wrong.value.code and str(wrong.value)


def test_wrong_queries(server, client):
    made = client.responses.create(model=MODEL, input="[[say:x]]").id
    headers = {"authorization": f"Bearer {server.key}"}
    for query, param in (("stream=true&starting_after=x", "starting_after"), ("frob=1", "frob")):
        reply = httpx.get(f"{server.url}/v1/responses/{made}?{query}", headers=headers)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == param
    for query, param in (("limit=0", "limit"), ("order=up", "order"), ("after=nothing", "after")):
        reply = httpx.get(f"{server.url}/v1/responses/{made}/input_items?{query}", headers=headers)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == param


SMOLLM2 = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="no SmolLM2 in TIDEPOOL_TEST_DATA")
def test_a_real_model_answers_under_a_schema():
    class Weather(pydantic.BaseModel):
        raining: bool
        degrees: int

    with Server() as server:
        model = server.store(SMOLLM2)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=300)
        parsed = client.responses.parse(model=model, input="It rains in Oslo, at 9 degrees.", text_format=Weather, temperature=0, max_output_tokens=100)
        assert isinstance(parsed.output_parsed, Weather)
        with client.responses.stream(model=model, input="The sun shines in Rome, at 30 degrees.", text_format=Weather, temperature=0,
                                     max_output_tokens=100) as stream:
            for _ in stream:
                pass
            final = stream.get_final_response()
        assert isinstance(final.output_parsed, Weather)
        goes_on = client.responses.create(model=model, input="And now?", previous_response_id=final.id, max_output_tokens=5)
        assert goes_on.usage.input_tokens > final.usage.input_tokens
