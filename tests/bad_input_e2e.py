"""What is wrong with a request is told in the shape of the dialect that it speaks, and is never the server's fault."""

import json

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
