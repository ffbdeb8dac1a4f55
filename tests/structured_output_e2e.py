"""Structured output against Python's jsonschema: what comes out under a schema validates, always.

Two sources of schemas: 500 that are generated here, and the JSON-Schema-Test-Suite as the source package of jsonschema
carries it. Under them say something: a model of random weights and SmolLM2 behind the real server, and, for more masks than
a server makes in the time, random tokens drawn over two vocabularies (schema_tool)."""

import collections
import concurrent.futures
import json
import os
import pathlib
import random
import subprocess
import urllib.error
import urllib.request

import jsonschema
import make_pool_models
import make_synthetic_checkpoint as synthetic
import numpy as np
import pytest

from server_process import Server

DATA = pathlib.Path(os.environ.get("TIDEPOOL_TEST_DATA", ""))
TOOL = pathlib.Path(os.environ["TIDEPOOL_BINARY"]).parent / "src/models/grammar/schema_tool"
SMOLLM2 = DATA / "SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = DATA / "llama.cpp/models/ggml-vocab-qwen2.gguf"
SUITE = DATA / "json-schema-test-suite"
CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def ask_tool(questions, *arguments):
    result = subprocess.run([str(TOOL), *arguments], input="\n".join(json.dumps(q) for q in questions) + "\n",
                            stdout=subprocess.PIPE, text=True, check=True, timeout=500)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(questions)
    return answers


# ---- schemas of all kinds, bounded so that answers end

def a_string(r):
    kind = r.randrange(6)
    if kind == 0:
        return {"type": "string", "enum": r.sample(["red", "green", "blue", "é\"x\"", "a\\b", ""], r.randint(1, 4))}
    if kind == 1:
        return {"type": "string", "pattern": r.choice([r"^[a-z]{1,5}$", r"^\d{3}-\d{2}$", r"^(foo|bar)+$", "^[^\\d\\s]{2,4}$", r"^\w+@\w+\.(com|org)$"])}
    if kind == 2:
        return {"type": "string", "format": r.choice(["date", "date-time", "time", "uuid", "ipv4", "ipv6", "email"])}
    low = r.randint(0, 4)
    return {"type": "string", "minLength": low, "maxLength": low + r.randint(0, 8)}


def a_number(r):
    kind = r.randrange(6)
    low = r.choice([-1000, -7.5, -1, 0, 0.25, 3, 99])
    high = low + r.choice([0, 0.5, 1, 2, 10, 12345])
    if kind == 0:
        return {"type": "integer", "multipleOf": r.choice([2, 5, 7, 100])}
    if kind == 1:
        return {"type": "integer", "minimum": int(low), "maximum": int(low) + r.randint(0, 300)}
    if kind == 2:
        return {"type": "number", "minimum": low, "maximum": high}
    if kind == 3:
        return {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + r.choice([0.5, 1, 20])}
    if kind == 4:
        return {"type": "number", r.choice(["minimum", "exclusiveMaximum", "maximum", "exclusiveMinimum"]): low}
    return {"type": r.choice(["integer", "number"])}


def a_schema(r, depth):
    kind = r.randrange(6 if depth <= 0 else 12)
    if kind < 2:
        return a_string(r)
    if kind < 4:
        return a_number(r)
    if kind == 4:
        return {"type": r.choice(["null", "boolean"])}
    if kind == 5:
        return r.choice([{"const": r.choice([1, "x", None, [1, {"a": 2}], 2.5])}, {"enum": [1, "1", True, {"k": []}]}])
    if kind < 9:
        names = r.sample(["a", "b", "name", "x/y", "ü", "long name", "q\"t"], r.randint(0, 4))
        schema = {"type": "object", "properties": {name: a_schema(r, depth - 1) for name in names}}
        schema["required"] = [name for name in names if r.random() < 0.6]
        if r.random() < 0.5:
            schema["additionalProperties"] = r.choice([False, False, {"type": "integer", "minimum": 0, "maximum": 9}])
        if r.random() < 0.2 and names:
            schema["maxProperties"] = max(1, len(schema["required"]), r.randint(0, 4))
        if r.random() < 0.2 and names:
            schema["minProperties"] = 1
        return schema
    if kind == 9:
        schema = {"type": "array", "items": a_schema(r, depth - 1), "maxItems": r.randint(0, 4)}
        schema["minItems"] = r.randint(0, schema["maxItems"])
        return schema
    if kind == 10:
        return {"type": "array", "prefixItems": [a_schema(r, depth - 1) for _ in range(r.randint(1, 3))], "items": False, "minItems": r.randint(0, 1)}
    return r.choice([
        lambda: {"anyOf": [a_schema(r, depth - 1) for _ in range(r.randint(1, 3))]},
        lambda: {"oneOf": [{"type": "object", "properties": {"kind": {"const": k}, "v": a_schema(r, depth - 2)}, "required": ["kind"],
                            "additionalProperties": False} for k in "ab"]},
        lambda: {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}, {"properties": {"a": {"minimum": 3, "maximum": 40}}, "required": ["a"],
                            "additionalProperties": False}]},
        lambda: {"$ref": "#/$defs/tree"},
        lambda: {"type": ["string", "integer", "null"], "maxLength": 3, "minimum": 0, "maximum": 50},
    ])()


TREE = {"type": "object", "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 9},
                                         "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
        "required": ["v"], "additionalProperties": False}


def schemas(count, seed):
    r = random.Random(seed)
    return [{**a_schema(r, 3), "$defs": {"tree": TREE}} for _ in range(count)]


def validate(text, schema):
    jsonschema.Draft202012Validator(schema, format_checker=CHECKER).validate(json.loads(text))


@pytest.mark.parametrize("vocabulary", ["bytes", "smollm2"])
def test_every_finished_answer_validates(vocabulary):
    made = schemas(500, 2026)
    arguments = [] if vocabulary == "bytes" else [str(SMOLLM2)]
    answers = ask_tool([{"schema": s, "seed": i, "max_tokens": 3000 if vocabulary == "bytes" else 700} for i, s in enumerate(made)], *arguments)
    finished = refused = 0
    for schema, answer in zip(made, answers):
        if "error" in answer:
            assert answer["param"].startswith("schema") or "no text can satisfy" in answer["error"], answer
            refused += 1
            continue
        if not answer["finished"]:
            continue
        finished += 1
        try:
            validate(answer["text"], schema)
        except Exception as problem:
            raise AssertionError(f"{answer['text']}\n{json.dumps(schema)}\n{problem}") from None
    print(f"{vocabulary}: {finished} finished and valid, {refused} refused, {500 - finished - refused} unfinished")
    assert finished >= 350 and refused <= 50


def random_weights(path):
    """A Qwen3 of 4 layers and 4,096 tokens in which every token, those that end an answer too, has a random row. Its logits
    are a few tenths apart: at temperature 1.5 next to every token that a grammar allows is drawn sooner or later."""
    shape = json.loads(synthetic.SHAPES.read_text())["pool-tiny"]
    values = synthetic.metadata(shape, "pool-tiny", "Q4_0") | make_pool_models.read_vocabulary(VOCABULARY, shape["vocab"])
    weights = make_pool_models.Weights("structured output", np.ones(shape["vocab"], bool))
    synthetic.write_tensors(shape, "Q4_0", values, weights, path)
    return path


@pytest.mark.skipif(not VOCABULARY.is_file(), reason="no vocabularies in TIDEPOOL_TEST_DATA")
def test_a_model_of_random_weights_behind_the_server(tmp_path):
    """500 schemas, 16 answers in the batch at a time, temperature 1.5."""
    made = schemas(500, 2027)
    with Server() as server:
        model = server.store(random_weights(tmp_path / "random.gguf"))

        def answer(number):
            schema = made[number]
            body = {"model": model, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 250, "temperature": 1.5,
                    "seed": number, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
            request = urllib.request.Request(server.url + "/v1/chat/completions", json.dumps(body).encode(), {
                "Authorization": f"Bearer {server.key}", "Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=120) as reply:
                    choice = json.load(reply)["choices"][0]
            except urllib.error.HTTPError as refused:
                error = json.load(refused)["error"]
                assert refused.code == 400, (number, error)
                return error["code"]
            if choice["finish_reason"] == "stop":
                try:
                    validate(choice["message"]["content"], schema)
                except Exception as problem:
                    raise AssertionError(f"{choice['message']['content']}\n{json.dumps(schema)}\n{problem}") from None
            return choice["finish_reason"], choice["message"]["content"]

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(answer, range(500)))
        request = urllib.request.Request(server.url + "/metrics", headers={"Authorization": f"Bearer {server.key}"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            metrics = reply.read().decode()
    ends = collections.Counter(answer if isinstance(answer, str) else answer[0] for answer in answers)
    said = [answer[1] for answer in answers if answer[0] == "stop"]
    print(dict(ends), f"{len(set(said))} different answers")
    # Refused: only what the grammar says of itself. Cut off: keys and strings that are free to go on for ever.
    assert set(ends) <= {"stop", "length", "unsupported_schema", "unsatisfiable"}, ends
    assert ends["stop"] >= 450 and ends["length"] <= 50, ends
    assert len(set(said)) >= 250
    tokens, steps = (sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name))
                     for name in ("tidepool_completion_tokens_total", "tidepool_steps_total"))
    assert tokens > 3 * steps > 0, "they were answered together"


# Suites whose schemas are refused, whole or for the most part, by keyword.
REFUSED = {"anchor", "contains", "dependentRequired", "dependentSchemas", "dynamicRef", "if-then-else", "maxContains", "minContains", "not",
           "patternProperties", "propertyNames", "refRemote", "unevaluatedItems", "unevaluatedProperties", "uniqueItems", "vocabulary"}


@pytest.mark.skipif(not SUITE.is_dir(), reason="no json-schema-test-suite in TIDEPOOL_TEST_DATA")
def test_the_json_schema_test_suite_decides():
    """An instance that is invalid is never accepted; most that are valid are."""
    groups = [(path.stem, group) for path in sorted(SUITE.glob("*.json")) for group in json.loads(path.read_text())]
    questions = [{"schema": group["schema"], "texts": [json.dumps(test["data"], ensure_ascii=False) for test in group["tests"]]}
                 for _, group in groups]
    answers = ask_tool(questions)
    loose, compiled, accepted, valid = [], 0, 0, 0
    for (stem, group), answer in zip(groups, answers):
        if "error" in answer:
            continue
        compiled += 1
        for test, accepts in zip(group["tests"], answer["accepts"]):
            if accepts and not test["valid"]:
                loose.append((stem, group["description"], test["description"], json.dumps(test["data"])))
            if test["valid"] and stem not in REFUSED:
                valid += 1
                accepted += accepts
    print(f"{compiled} of {len(groups)} schemas compile; of their valid instances {accepted} of {valid} are accepted")
    assert not loose, loose
    assert compiled >= 150 and accepted >= 0.5 * valid


# Of the valid strings of a format's cases, how many must be taken: what is told here and in json_schema.h is narrower than
# the standard (years of four digits; lower case; no leap second; ipv6 written out; uri of http; ASCII hosts).
FORMATS = {"date": 13, "time": 5, "date-time": 4, "duration": 4, "uuid": 6, "ipv4": 2, "ipv6": 1, "hostname": 7, "email": 2, "uri": 3}


@pytest.mark.skipif(not (SUITE / "format").is_dir(), reason="no cases of formats in TIDEPOOL_TEST_DATA")
def test_the_json_schema_test_suite_decides_formats():
    """A format that is taken never lets through a string that the suite calls wrong; any other format is refused by its pointer."""
    groups = [(path.stem, group) for path in sorted((SUITE / "format").glob("*.json")) for group in json.loads(path.read_text())
              if "format" in group["schema"]]
    questions = [{"schema": {"type": "string", "format": group["schema"]["format"]},
                  "texts": [json.dumps(test["data"], ensure_ascii=False) for test in group["tests"]]} for _, group in groups]
    taken = collections.Counter()
    for question, (stem, group), answer in zip(questions, groups, ask_tool(questions)):
        name = question["schema"]["format"]
        if name not in FORMATS:
            assert (answer.get("param"), answer.get("code")) == ("schema/format", "unsupported_schema"), (stem, answer)
            continue
        assert "error" not in answer, answer
        for test, accepts in zip(group["tests"], answer["accepts"]):
            assert not accepts or test["valid"], (stem, test)
            taken[name] += accepts
    print(dict(taken))
    assert {name for _, group in groups for name in [group["schema"]["format"]]} > set(FORMATS)
    assert all(taken[name] >= least for name, least in FORMATS.items()), taken


@pytest.mark.skipif(not SMOLLM2.is_file(), reason="no SmolLM2 in TIDEPOOL_TEST_DATA")
def test_a_real_model_behind_the_server():
    with Server() as server:
        model = server.store(SMOLLM2)
        finished = 0
        for i, schema in enumerate(schemas(40, 7)):
            body = {"model": model, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 200, "temperature": 1.5, "seed": i,
                    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
            try:
                choice = server.ask("POST", "/v1/chat/completions", body)["choices"][0]
            except RuntimeError as refused:
                assert " 400 " in str(refused), refused
                continue
            if choice["finish_reason"] == "stop":
                validate(choice["message"]["content"], schema)
                finished += 1
        assert finished >= 20
        tool = {"type": "function", "function": {"name": "book", "strict": True, "parameters": {
            "type": "object", "properties": {"title": {"type": "string", "maxLength": 20}, "year": {"type": "integer", "minimum": 1900, "maximum": 2026}},
            "required": ["title", "year"], "additionalProperties": False}}}
        for i in range(5):
            choice = server.ask("POST", "/v1/chat/completions", {
                "model": model, "messages": [{"role": "user", "content": "Name a book."}], "tools": [tool], "tool_choice": "required",
                "parallel_tool_calls": False, "temperature": 1.2, "seed": i, "max_tokens": 200})["choices"][0]
            assert choice["finish_reason"] == "tool_calls" and len(choice["message"]["tool_calls"]) == 1
            validate(choice["message"]["tool_calls"][0]["function"]["arguments"], tool["function"]["parameters"])
