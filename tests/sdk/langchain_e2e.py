"""LangChain's OpenAI chat model, unmodified, with tools and structured output, against the simulated model and SmolLM2."""

import json
import os
import pathlib

import pytest

pytest.importorskip("langchain_openai")
from langchain_core.messages import HumanMessage, ToolMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402

from server_process import MODEL, Server  # noqa: E402


@tool
def weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"[[say:It rains in {city} for {days} days.]]"


@pytest.fixture(scope="module")
def chat():
    with Server("--simulated") as server:
        yield ChatOpenAI(model=MODEL, base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=60)


def say(text):
    return HumanMessage(f"[[say:{text}]]")


CALL = "<tool_call>" + json.dumps({"name": "weather", "arguments": {"city": "Oslo", "days": 3}}) + "</tool_call>"


def test_a_tool_is_called_and_its_result_answered(chat):
    model = chat.bind_tools([weather])
    asked = say(CALL)
    answer = model.invoke([asked])
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("weather", {"city": "Oslo", "days": 3})]
    result = weather.invoke(answer.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert model.invoke([asked, answer, result]).content == "It rains in Oslo for 3 days."


def test_streamed_calls_add_up(chat):
    total = None
    for chunk in chat.bind_tools([weather]).stream([say("Look. " + CALL + CALL)]):
        total = chunk if total is None else total + chunk
    assert total.content == "Look."
    assert [call["args"] for call in total.tool_calls] == [{"city": "Oslo", "days": 3}] * 2


def test_structured_output(chat):
    schema = {"title": "Tide", "type": "object", "properties": {"metres": {"type": "number"}}, "required": ["metres"], "additionalProperties": False}
    model = chat.with_structured_output(schema, method="json_schema")
    assert model.invoke([say(json.dumps({"metres": 2.5}))]) == {"metres": 2.5}


SMOLLM2 = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="no SmolLM2 in TIDEPOOL_TEST_DATA")
def test_a_real_model_answers_under_schema():
    schema = {"title": "City", "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "by_the_sea": {"type": "boolean"}},
              "required": ["city", "by_the_sea"], "additionalProperties": False}
    with Server() as server:
        real = ChatOpenAI(model=server.store(SMOLLM2), base_url=server.url + "/v1", api_key=server.key, max_retries=0, timeout=120,
                          max_tokens=200, seed=3)
        question = HumanMessage("Name a city by the sea.")
        for method in ("json_schema", "function_calling"):
            said = real.with_structured_output(schema, method=method, strict=True).invoke([question])
            assert list(said) == ["city", "by_the_sea"] and len(said["city"]) <= 20 and isinstance(said["by_the_sea"], bool)
