"""What is wrong with a request is told in the shape of the dialect that it speaks, and is never the server's fault."""

import concurrent.futures
import json
import pathlib
import time

import httpx2 as httpx
import pytest

from server_process import MODEL, Server


@pytest.fixture(scope="module")
def server():
    with Server("--simulated") as running:
        yield running


def openai_error(body):
    assert set(body) == {"error"} and {"message", "type", "param", "code"} <= set(body["error"])
    return body["error"]["message"]


def anthropic_error(body):
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error" and body["request_id"]
    return body["error"]["message"]


def ollama_error(body):
    assert set(body) == {"error"} and isinstance(body["error"], str)
    return body["error"]


def bailian_error(body):
    assert body["code"] == "InvalidParameter" and body["request_id"]
    return body["message"]


USER = {"role": "user", "content": "x"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
OPENAI_TOOL = {"type": "function", "function": FUNCTION}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "one", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
# A schema that is only too large; one whose alternatives double with every level; and one that never ends.
LARGE = {"type": "object", "description": "x" * (2 << 20)}
BOMB = {"$ref": "#/$defs/0", "$defs": {
    **{str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}, {"type": "object", "anyOf": [{"$ref": f"#/$defs/{i + 1}"}, {"required": [str(i)]}]}]}
       for i in range(40)}, "40": {"type": "object", "properties": {str(i): {"not": {}} for i in range(40)}}}}
DEEP = {"type": "object"}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"a": DEEP, "b": {"type": "array", "items": DEEP, "uniqueItems": True}}, "required": ["a"]} if _ < 12 else {
        "type": "array", "items": DEEP}


def chat(path, more=()):
    return {
        "path": path, "error": openai_error, "base": {"model": MODEL, "messages": [USER]},
        "cases": {
            "choice without tools": {"tool_choice": "required"},
            "choice of no tool": {"tools": [OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "role": {"messages": [{"role": "wizard", "content": "x"}]},
            "result without call": {"messages": [USER, {"role": "tool", "tool_call_id": "one", "content": "y"}]},
            "ids": {"messages": [USER, CALL, {"role": "tool", "tool_call_id": "two", "content": "y"}]},
            "image": {"messages": [{"role": "user", "content": [IMAGE]}]},
            "budget": {"thinking_budget": -1},
            **{name: {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}
               for name, schema in (("large", LARGE), ("bomb", BOMB), ("deep", DEEP))},
            "large tool": {"tools": [{"type": "function", "function": {"name": "f", "parameters": LARGE}}]}}}


DIALECTS = {
    "chat": chat("/v1/chat/completions"),
    "bailian compatible": chat("/compatible-mode/v1/chat/completions"),
    "responses": {
        "path": "/v1/responses", "error": openai_error, "base": {"model": MODEL, "input": "x"},
        "cases": {
            "choice without tools": {"tool_choice": "required"},
            "choice of no tool": {"tools": [{"type": "function", **FUNCTION}], "tool_choice": {"type": "function", "name": "g"}},
            "role": {"input": [{"role": "wizard", "content": "x"}]},
            "result without call": {"input": [{"type": "function_call_output", "call_id": "one", "output": "y"}]},
            "ids": {"input": [{"type": "function_call", "call_id": "one", "name": "f", "arguments": "{}"},
                              {"type": "function_call_output", "call_id": "two", "output": "y"}]},
            "image": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]},
            "budget": {"thinking_budget": -1},
            **{name: {"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}
               for name, schema in (("large", LARGE), ("bomb", BOMB), ("deep", DEEP))},
            "large tool": {"tools": [{"type": "function", "name": "f", "parameters": LARGE}]}}},
    "anthropic": {
        "path": "/v1/messages", "error": anthropic_error, "base": {"model": MODEL, "max_tokens": 9, "messages": [USER]},
        "cases": {
            "choice without tools": {"tool_choice": {"type": "any"}},
            "choice of no tool": {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "g"}},
            "role": {"messages": [{"role": "wizard", "content": "x"}]},
            "result without call": {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "one", "content": "y"}]}]},
            "ids": {"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "one", "name": "f", "input": {}}]},
                                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "two", "content": "y"}]}]},
            "image": {"messages": [{"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}]}]},
            "budget": {"thinking": {"type": "enabled", "budget_tokens": -5}},
            **{name: {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
               for name, schema in (("large", LARGE), ("bomb", BOMB), ("deep", DEEP))},
            "large tool": {"tools": [{"name": "f", "input_schema": LARGE}]}}},
    "ollama": {  # (has neither ids that must be there nor budgets)
        "path": "/api/chat", "error": ollama_error, "base": {"model": MODEL, "messages": [USER]},
        "cases": {
            "role": {"messages": [{"role": "wizard", "content": "x"}]},
            "result without call": {"messages": [USER, {"role": "tool", "tool_name": "f", "content": "y"}]},
            "ids": {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "one", "function": {"name": "f", "arguments": {}}}]},
                                 {"role": "tool", "tool_call_id": "two", "content": "y"}]},
            "image": {"messages": [{"role": "user", "content": "x", "images": ["AA=="]}]},
            "effort": {"think": "maximal"},
            "choice without tools": {"tool_choice": "required"},
            "choice of no tool": {"tools": [OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            **{name: {"format": schema} for name, schema in (("large", LARGE), ("bomb", BOMB), ("deep", DEEP))},
            "large tool": {"tools": [{"type": "function", "function": {"name": "f", "parameters": LARGE}}]}}},
    "bailian": {
        "path": "/api/v1/services/aigc/text-generation/generation", "error": bailian_error,
        "base": {"model": MODEL, "input": {"messages": [USER]}, "parameters": {"result_format": "message"}},
        "cases": {
            "choice without tools": {"parameters": {"tool_choice": {"type": "function", "function": {"name": "g"}}}},
            "choice of no tool": {"parameters": {"tools": [OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}},
            "role": {"input": {"messages": [{"role": "wizard", "content": "x"}]}},
            "result without call": {"input": {"messages": [USER, {"role": "tool", "tool_call_id": "one", "content": "y"}]}},
            "ids": {"input": {"messages": [USER, CALL, {"role": "tool", "tool_call_id": "two", "content": "y"}]}},
            "image": {"input": {"messages": [{"role": "user", "content": [IMAGE]}]}},
            "budget": {"parameters": {"thinking_budget": -1}},
            **{name: {"parameters": {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}}
               for name, schema in (("large", LARGE), ("bomb", BOMB), ("deep", DEEP))},
            "large tool": {"parameters": {"tools": [{"type": "function", "function": {"name": "f", "parameters": LARGE}}]}}}},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_is_told_in_its_own_shape(server, dialect):
    spoken = DIALECTS[dialect]

    def send(content):
        return httpx.post(server.url + spoken["path"], content=content, timeout=60,
                          headers={"content-type": "application/json", "authorization": f"Bearer {server.key}"})

    good = send(json.dumps({**spoken["base"], "stream": False} if dialect == "ollama" else spoken["base"]))
    assert good.status_code == 200, good.text
    bodies = {name: json.dumps({**spoken["base"], **more}) for name, more in spoken["cases"].items()}
    bodies["no JSON"] = "{\"model\": "
    bodies["twice"] = json.dumps(spoken["base"])[:-1] + ', "model": "other"}'
    bodies["UTF-8"] = json.dumps(spoken["base"]).encode().replace(b'"x"', b'"\xff\xc3("')
    assert b"\xff" in bodies["UTF-8"]
    for name, body in bodies.items():
        reply = send(body)
        assert reply.status_code == 400, f"{dialect}, {name}: {reply.status_code} {reply.text[:500]}"
        message = spoken["error"](reply.json())
        assert 10 < len(message) < 1000, f"{dialect}, {name}: {message[:2000]}"
    assert server.ask("GET", "/health")["status"] == "ok"


def doubling(word, levels):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    for _ in range(levels):
        schema = {word: [schema, schema]}
    return schema


# What each is refused for: the code and the beginning of the field. (grammar_test.cc has more, with the bounds of compiling.)
SCHEMA_BOMBS = {
    "2 MB": (LARGE, "schema_too_large", ""),
    "anyOf inside allOf": (BOMB, "unsupported_schema", "/$defs/0/allOf/1"),
    "anyOf written out": (doubling("anyOf", 12), "grammar_too_complex", ""),
    "deep": (DEEP, "json_too_deep", None),
    "a list times a list": ({"enum": list(range(5000)), "allOf": [{"minimum": 0}] * 5000}, "schema_too_complex", "/allOf/"),
    "oneOf of many": ({"oneOf": [{"const": number} for number in range(5000)]}, "schema_too_complex", "/oneOf"),
    "half of many properties": ({"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(3000)}, "minProperties": 1500},
                                "schema_too_complex", ""),
    "properties": ({"type": "object", "properties": {f"p{i}": {} for i in range(10000)}}, "json_too_large", None),
    "giant pattern": ({"type": "string", "pattern": "a" * 400000}, "unsupported_schema", "/pattern"),
    "pattern of repetitions": ({"type": "string", "pattern": "^(((a{0,1000}){0,1000}){0,1000}){0,1000}$"}, "grammar_too_complex", ""),
    "pattern of gaps": ({"type": "string", "pattern": "(.*a.{0,500})" * 4000}, "grammar_too_large", ""),
}
# These cost nothing: repetitions are counted, and what is referred to is compiled once.
CHEAP_SCHEMAS = {
    "minItems": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
    "maxLength": {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": 10**9} for i in range(2000)}},
    "references": {"$ref": "#/$defs/0", "$defs": {**{str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)}, "40": {"type": "null"}}},
    "a long name": {"type": "object", "properties": {"n" * 400000: {"type": "null"}}},
}


def peak_bytes(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def test_schema_bombs_are_told_by_code_in_time_and_memory(server):
    def send(schema, max_tokens=9):
        began = time.monotonic()
        reply = httpx.post(server.url + "/v1/chat/completions", timeout=60, headers={"authorization": f"Bearer {server.key}"}, json={
            "model": MODEL, "messages": [USER], "max_tokens": max_tokens,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}})
        return reply, time.monotonic() - began

    send({"type": "null"})
    before = peak_bytes(server)
    for name, (schema, code, at) in SCHEMA_BOMBS.items():
        reply, took_s = send(schema)
        assert reply.status_code == 400, f"{name}: {reply.status_code} {reply.text[:500]}"
        error = reply.json()["error"]
        assert error["code"] == code, f"{name}: {str(error)[:1000]}"
        assert at is None or error["param"].startswith("response_format.json_schema.schema" + at), f"{name}: {str(error)[:1000]}"
        assert took_s < 10, f"{name}: {took_s:.1f} s"
    for name, schema in CHEAP_SCHEMAS.items():
        reply, took_s = send(schema)
        assert reply.status_code == 200, f"{name}: {reply.status_code} {reply.text[:500]}"
        assert took_s < 10, f"{name}: {took_s:.1f} s"
    grown = peak_bytes(server) - before
    assert grown < 384 << 20, f"{grown >> 20} MiB"


def test_a_schema_asked_for_by_many_at_once_is_compiled_once(server):
    """By the counters that operators see."""
    def counters():
        text = httpx.get(server.url + "/metrics", headers={"authorization": f"Bearer {server.key}"}).text
        return [float(next(line for line in text.splitlines() if line.startswith(f"tidepool_grammar_{name}_total")).split()[-1])
                for name in ("compiled", "reused")]

    # Some tenths of a second to compile: the others come meanwhile.
    schema = {"type": "object", "properties": {f"once{i}": {"type": "string", "maxLength": 7} for i in range(1500)}, "additionalProperties": False}
    before = counters()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: httpx.post(
            server.url + "/v1/chat/completions", timeout=60, headers={"authorization": f"Bearer {server.key}"}, json={
                "model": MODEL, "messages": [USER], "max_tokens": 3,
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}).status_code, range(8)))
    assert replies == [200] * 8
    assert [after - was for after, was in zip(counters(), before)] == [1, 7]
