#!/usr/bin/env python3
"""Compares Tidepool's chat templates with jinja2 set up the way transformers does it.

usage: template_oracle.py RENDERER [--templates FOLDER] [--random N] [--seed S] [--show N]

RENDERER is build/.../template_render_lines. Every *.jinja file of FOLDER is rendered over a matrix of conversations,
and N random templates are generated; the texts must be equal byte for byte, or both sides must fail. Exits 1 when
they differ. Needs the package jinja2, nothing else.
"""
import argparse
import collections
import copy
import datetime
import glob
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import warnings

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1753920000  # 2025-07-31 00:00:00 UTC
os.environ["TZ"] = "UTC"
time.tzset()
warnings.simplefilter("ignore")  # Python warns about odd constants in the code that jinja2 generates


class GenerationBlocks(jinja2.ext.Extension):
    """{% generation %}: a block that prints its content, as transformers' tracker does."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _body(self, context, caller):
        return caller()


def check_name(name):
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("underscore-prefixed attribute on a namespace")


class CheckedNamespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def make_environment():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment.filters["tojson"] = tojson
    # Some templates expect this one although transformers does not offer it; Tidepool does.
    environment.filters["from_json"] = json.loads
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(NOW).strftime(f)
    environment.globals["namespace"] = CheckedNamespace
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    return environment


# ---- conversations

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <now> & \"here\" in Zürich.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name"},
                "days": {"type": "integer", "minimum": 1, "default": 3},
                "units": {"type": "string", "enum": ["metric", "imperial"], "description": "Which units"},
                "parts": {"type": "array", "items": {"type": "string"}},
                "exact": {"type": ["boolean", "null"]},
                "place": {
                    "type": "object",
                    "properties": {"lat": {"type": "number"}, "lon": {"type": "number", "description": "°"}},
                    "required": ["lat"],
                },
            },
            "required": ["city"],
        },
    },
}
SIMPLE = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
RICH = {
    "type": "function",
    "function": {
        "name": "search.web",
        "description": "Searches.\nSecond line.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                "filters": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "number", "maximum": 1.5e20}}}},
                "nothing": {"type": "null"},
                "any": {},
                "deep": {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string", "enum": ["x"]}}}}},
                "free": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "required": ["query", "filters"],
            "additionalProperties": False,
        },
        "response": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
    },
}


def call(name, arguments, as_text=False, identifier="call00001"):
    return {
        "id": identifier,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments) if as_text else arguments},
    }


def conversations():
    system = {"role": "system", "content": "You are terse.\nAnswer in German."}
    user = {"role": "user", "content": "Hello, wie geht's? 你好 🌊"}
    hi = {"role": "assistant", "content": "Gut! <b>&</b>"}
    result = {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": '{"t": 21.5}'}
    args = {"city": "Zürich", "days": 2, "exact": True, "none": None, "place": {"lat": 47.4}, "parts": ["a", "b\n"]}
    yield "user", [user]
    yield "system", [system, user]
    yield "turns", [user, hi, {"role": "user", "content": "And now?"}]
    yield "system-turns", [system, user, hi, {"role": "user", "content": "  spaces \n"}, {"role": "assistant", "content": "done"}, user]
    yield "ends-assistant", [system, user, hi]
    yield "empty", []
    yield "only-system", [system]
    yield "empty-content", [{"role": "user", "content": ""}]
    yield "null-content", [user, {"role": "assistant", "content": None}, user]
    yield "think", [user, {"role": "assistant", "content": "<think>\nhm, <ok>\n</think>\n\nYes."}, {"role": "user", "content": "Why?"}]
    yield "think-last", [user, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}]
    yield "reasoning", [user, {"role": "assistant", "content": "Yes.", "reasoning_content": "hm\nhm"}, {"role": "user", "content": "Why?"}]
    yield "reasoning-last", [system, user, {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}]
    yield "thinking", [user, {"role": "assistant", "content": "Yes.", "thinking": "hm", "reasoning": "hmm"}, {"role": "user", "content": "Why?"}]
    for as_text in (False, True):
        kind = "text" if as_text else "object"
        one = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", args, as_text)]}
        yield f"call-{kind}", [user, one, result, {"role": "assistant", "content": "21.5 degrees"}, {"role": "user", "content": "Thanks"}]
        yield f"call-open-{kind}", [system, user, one, result]
        two = {
            "role": "assistant",
            "content": None,
            "reasoning_content": "two calls",
            "tool_calls": [call("get_weather", {"city": "A"}, as_text, "call00001"), call("now", {}, as_text, "call00002")],
        }
        yield f"calls-{kind}", [system, user, two, result, {"role": "tool", "tool_call_id": "call00002", "name": "now", "content": "12:00"}, {"role": "assistant", "content": "ok"}, user]
        words = {"role": "assistant", "content": "Let me look.", "tool_calls": [call("now", {"x": 1.5, "y": [1, {"z": "é"}]}, as_text)]}
        yield f"call-words-{kind}", [user, words, dict(result, content="plain")]
    noid = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "now", "arguments": {"a": "b"}}}]}
    yield "call-noid", [user, noid, {"role": "tool", "content": "12:00"}]
    flat = {"role": "assistant", "content": "", "tool_calls": [{"name": "now", "arguments": {"a": 1}}]}
    yield "call-flat", [user, flat, {"role": "tool", "name": "now", "content": {"k": [1, 2.0, None, True]}}]
    yield "tool-parts", [user, words, {"role": "tool", "tool_call_id": "call00001", "content": [{"type": "text", "text": "r1"}, {"type": "text", "text": "r2"}]}]
    parts = [{"type": "text", "text": "Look:"}, {"type": "image"}, {"type": "text", "text": " what?"}]
    yield "parts", [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    yield "parts-system", [{"role": "system", "content": [{"type": "text", "text": "S"}]}, {"role": "user", "content": parts}]
    yield "parts-url", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "text", "text": "?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}, user]
    yield "developer", [{"role": "developer", "content": "Dev."}, user]
    yield "late-system", [user, hi, system, user]
    yield "two-users", [user, user]
    yield "odd-role", [user, {"role": "critic", "content": "bad"}]
    yield "assistant-first", [hi, user]
    yield "function-role", [user, {"role": "function", "name": "now", "content": "12:00"}, user]
    yield "tool-only", [system, user, {"role": "tool", "content": "x"}, user]
    yield "prefix", [user, {"role": "assistant", "content": "Sure", "prefix": True}]
    yield "unicode", [{"role": "user", "content": "ǅ ß İ \u2028 \u00a0 \ufeff \x1f tab\t\"quotes\" 'single' \\ back"}]


def settings():
    base = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": False}
    for generation in (False, True):
        yield dict(base, add_generation_prompt=generation)
        yield dict(base, add_generation_prompt=generation, tools=[WEATHER, SIMPLE])
        yield dict(base, add_generation_prompt=generation, enable_thinking=True, thinking=True)
        yield dict(base, add_generation_prompt=generation, enable_thinking=False, thinking=False)
        yield dict(base, add_generation_prompt=generation, tools=[RICH], enable_thinking=True, thinking=True, reasoning_effort="low")
    yield dict(base, tools=None, documents=None, add_generation_prompt=True)
    yield dict(base, tools=[], add_generation_prompt=True, date_string="26 Jul 2024")
    yield dict(base, tools=[WEATHER["function"]], add_generation_prompt=True)
    yield dict(base, documents=[{"title": "T", "text": "Body", "content": "C"}, {"title": "U", "text": "é", "content": "D"}], add_generation_prompt=True)
    yield dict(base, tools=[SIMPLE], builtin_tools=["browser", "python", "code_interpreter"], tools_in_user_message=False, add_generation_prompt=True)
    yield dict(base, preserve_thinking=True, clear_thinking=False, reasoning_effort="high", model_identity="You are X.", add_generation_prompt=True)
    yield dict(base, response_format={"type": "json_object"}, json_schema={"type": "object"}, add_vision_id=True, continue_final_message=True)
    yield {"add_generation_prompt": True}


def template_cases(folder, every):
    number = 0
    for path in sorted(glob.glob(os.path.join(folder, "*.jinja"))):
        with open(path, encoding="utf-8") as file:
            source = file.read()
        for (name, messages), (i, variables) in itertools.product(conversations(), enumerate(settings())):
            number += 1
            if number % every != 0:
                continue
            yield f"{os.path.basename(path)} [{name}, settings {i}]", source, dict(copy.deepcopy(variables), messages=messages)


# ---- random templates

VARIABLES = {
    "s": "Hello, wörld <b>", "e": "", "w": "  padded\t\n", "ml": "one\ntwo\n\nthree", "n": 7, "m": -3, "z": 0, "f": 2.5,
    "g": -1e20, "t": True, "u": False, "no": None, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "ll": [[1, "x"], [2, "y"]],
    "d": {"a": 1, "b": [1, 2], "items": "own", "Key": {"x": "y"}}, "em": [], "ed": {}, "mix": [1, "a", None, 2.0, True],
    "ms": [{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "content": None, "n": 1}, {"role": "user", "n": 3}],
}
STRINGS = ["'a'", "'b c'", "', '", "''", "'\\n'", "'é🌊'", "\"it's\"", "'%s'", "'%d|%5.2f'", "'{}-{}'", "'role'", "'user'", "'x'", "' '", "'Ab-cd ef'"]
NUMBERS = ["0", "1", "2", "-1", "3", "10", "2.5", "0.1", "1e3", "-2"]
FILTERS = [
    "length", "upper", "lower", "trim", "string", "tojson", "list", "first", "last", "int", "float", "abs", "join", "join(', ')",
    "sort", "sort(reverse=true)", "unique|list", "reverse|list", "capitalize", "title", "default('D')", "default('D', true)", "d(1)",
    "safe", "e", "indent", "indent(2, true)", "indent(2, first=true, blank=true)", "replace('a', 'X')", "replace('l', '', 1)",
    "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))", "tojson(sort_keys=true)", "dictsort", "items|list",
    "map('upper')|list", "map(attribute='role')|list", "map(attribute='n', default=0)|list", "select|list", "reject|list",
    "select('string')|list", "reject('none')|list", "selectattr('content')|list", "selectattr('role', 'equalto', 'user')|list",
    "rejectattr('n', 'gt', 1)|list", "selectattr('content', 'defined')|list", "sum", "min", "max", "round", "round(1)", "wordcount",
    "batch(2)|list", "slice(2)|list", "center(9)", "truncate(6)", "truncate(5, true, '~', 0)", "count", "groupby('role')", "urlencode",
    "map('length')|list", "sum(attribute='n')", "sort(attribute='n')", "join('-', attribute='role')", "escape", "forceescape", "filesizeformat",
    "from_json", "format(1)", "attr('upper')", "int(5)", "int(base=16)", "float(1.5)", "batch(2, 'z')|list", "slice(2, 'z')|list", "items", "unique",
]
TESTS = [
    "defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false",
    "odd", "even", "divisibleby(2)", "divisibleby 3", "eq 1", "equalto('a')", "ne(1)", "gt 1", "lt(2)", "in [1, 'a']", "sameas none", "lower",
    "upper", "callable", "escaped", "not none", "not defined", "not string", "ge 0", "le 2.5",
]
METHODS = [
    ".upper()", ".lower()", ".strip()", ".strip('He')", ".lstrip()", ".rstrip('b>')", ".split()", ".split(',')", ".split('l', 1)", ".rsplit(' ', 1)",
    ".startswith('He')", ".endswith(('b', '>'))", ".replace('l', 'L')", ".replace('', '.')", ".title()", ".capitalize()", ".items()", ".keys()|list",
    ".values()|list", ".get('a')", ".get('zz', 'dflt')", ".get('content')", ".find('l')", ".count('l')", ".index(1)", ".join(['x', 'y'])",
    ".splitlines()", ".isdigit()", ".isupper()", ".islower()", ".isalpha()", ".isspace()", ".format(1, 'b')", ".format(x=1)", ".zfill(12)", ".ljust(12, '*')",
    ".rjust(10)", ".center(11)", ".partition(' ')", ".rpartition('l')", ".removeprefix('H')", ".removesuffix('>')", ".swapcase()", ".a", ".b", ".role",
    ".items", ".append(1)", ".pop()", ".update({})", ".copy()", "['a']", "['role']", "[0]", "[-1]", "[1:]", "[::-1]", "[:2]", "[1:3]", "[-2:]", "[::2]",
    "[5]", ".expandtabs(4)", ".istitle()", ".isalnum()", ".isidentifier()", ".x.y", ".__class__", "[n]", "['k']", ".rfind('l')", ".casefold()", ".keys()", ".values()",
    "[no:2]", "[3:0:-1]", ".0", ".isascii()", ".isdecimal()", ".isnumeric()", ".isprintable()",
]


TEXT_METHODS = [m for m in METHODS if m.startswith(".") and m.endswith(")") and not any(
    m.startswith(x) for x in (".items", ".keys", ".values", ".get", ".append", ".pop", ".update", ".copy", ".split", ".rsplit", ".partition",
                              ".rpartition", ".index(1", ".is", ".find", ".rfind", ".count", ".starts", ".ends", ".format"))] + ["[1:]", "[::-1]", "[:2]", "[1:3]", "[-2:]", "[::2]", "[3:0:-1]"]
TEXT_FILTERS = [
    "upper", "lower", "trim", "string", "capitalize", "title", "default('D', true)", "safe", "e", "indent", "indent(2, true)", "replace('a', 'X')",
    "indent(2, first=true, blank=true)", "replace('l', '', 1)", "center(9)", "truncate(6)", "truncate(5, true, '~', 0)", "urlencode", "forceescape",
    "trim('H')", "reverse", "tojson", "first", "last", "d(1)|string",
]
LIST_FILTERS = [
    "list", "unique|list", "reverse|list", "map('string')|list", "map('upper')|list", "select|list", "reject|list", "select('string')|list",
    "reject('none')|list", "batch(2)|list", "slice(2)|list", "batch(2, 'z')|list", "map('length')|list", "select('defined')|list", "map('tojson')|list",
    "sort(reverse=true)", "list|sort", "reject('number')|list", "select('in', [1, 'a', 'b'])|list", "map('default', 'q', true)|list", "items|list",
    "map(attribute='role')|list", "map(attribute='n', default=0)|list", "selectattr('role', 'equalto', 'user')|list", "groupby('role')",
    "selectattr('content')|list", "rejectattr('n', 'gt', 1)|list", "selectattr('content', 'defined')|list", "sort(attribute='n')", "map('int')|list",
]
SLICES = ["[1:]", "[::-1]", "[:2]", "[1:3]", "[-2:]", "[::2]", "[3:0:-1]", "[n:]", "[:-1]"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">="]


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, options):
        return self.random.choice(options)

    def atom(self):
        r = self.random.random()
        if r < 0.5:
            return self.pick(list(VARIABLES) + ["missing", "x", "y", "ns.v", "ns.w"])
        if r < 0.7:
            return self.pick(STRINGS)
        if r < 0.85:
            return self.pick(NUMBERS)
        return self.pick(["true", "false", "none", "[]", "{}", "()", "(1,)", "(1, 'b')", "[1, 'a', none]", "{'k': 1, 'l': [2]}", "range(3)", "range(1, 8, 3)", "dict(a=1)", "[[1, 2], [3]]", "{1: 'i', none: 'n'}"])

    # Mostly of the right type, so that most templates render; `any` mixes types to compare the failures.

    def expression(self, depth=3):
        kinds = [self.text, self.text, self.number, self.list, self.dict, self.bool, self.any]
        return self.pick(kinds)(depth)

    def typed(self, kind, depth):
        return (self.any if self.random.random() < 0.04 else kind)(depth - 1)

    def text(self, depth):
        if depth <= 0:
            return self.pick(["s", "e", "w", "ml", "d['items']", "ls[0]", "ms[0].role", "ns.v"] + STRINGS)
        t = lambda: self.typed(self.text, depth)
        r = self.random.random()
        if r < 0.25:
            return f"({t()}){self.pick(TEXT_METHODS)}"
        if r < 0.45:
            return f"({t()})|{self.pick(TEXT_FILTERS)}"
        if r < 0.55:
            return f"({t()} + {t()})"
        if r < 0.65:
            return f"({self.expression(depth - 1)} ~ {self.expression(depth - 1)})"
        if r < 0.72:
            return f"({self.expression(depth - 1)})|{self.pick(['string', 'tojson', 'tojson(indent=2)', 'tojson(ensure_ascii=true)', 'tojson(sort_keys=true)', 'e'])}"
        if r < 0.8:
            return f"({self.typed(self.list, depth)})|join({self.pick(STRINGS)})"
        if r < 0.84:
            return f"({t()} * {self.pick(['2', '0', '-1', 'n'])})"
        if r < 0.9:
            return self.condition(self.text, depth)
        if r < 0.95:
            return self.pick([f"'%s-%d' % ({t()}, {self.number(depth - 1)})", f"'{{:>5}}|{{!r}}'.format({t()}, {t()})", f"'%r' % ({t()},)",
                              f"'{{:.3f}} {{:05d}} {{0}}'.format(f, n)", f"'{{:,}} {{:x}} {{:e}}'.format(1234567, 255, f)",
                              f"'%5.1f|%-6s|%+d' % (f, {t()}, n)", f"'{{k}}{{v[0]}}'.format(k={t()}, v=l)", f"{t()}|format({t()})"])
        return f"mac({t()})"

    def number(self, depth):
        if depth <= 0:
            return self.pick(["n", "m", "z", "f", "l[0]", "d.a", "g"] + NUMBERS)
        n = lambda: self.typed(self.number, depth)
        r = self.random.random()
        if r < 0.35:
            return f"({n()} {self.pick(['+', '-', '*', '+', '-', '//', '%', '/'])} {n()})"
        if r < 0.5:
            return f"({n()})|{self.pick(['abs', 'round', 'round(1)', 'int', 'float', 'round(2, ' + chr(39) + 'ceil' + chr(39) + ')', 'string|length'])}"
        if r < 0.62:
            return f"({self.typed(self.text, depth)}){self.pick(['|length', '.find(' + chr(39) + 'l' + chr(39) + ')', '.count(' + chr(39) + 'l' + chr(39) + ')', '|wordcount', '|int(5)', '|float', '.rfind(' + chr(39) + ' ' + chr(39) + ')'])}"
        if r < 0.75:
            return f"({self.typed(self.list, depth)}){self.pick(['|length', '|count'])}"
        if r < 0.8:
            return f"(-{n()})"
        if r < 0.85:
            return f"({self.pick(['2', '3', '-2', '10', '0.5'])} ** {self.pick(['0', '1', '2', '5', '-1'])})"
        if r < 0.92:
            return self.condition(self.number, depth)
        return f"(l|{self.pick(['sum', 'min', 'max', 'first', 'last'])})"

    def list(self, depth):
        if depth <= 0:
            return self.pick(["l", "ls", "ll", "em", "mix", "ms", "range(4)", "range(1, 8, 3)", "[1, 'a', none]", "(1, 'b')", "[[1, 2], [3]]", "d.b"])
        v = lambda: self.typed(self.list, depth)
        r = self.random.random()
        if r < 0.3:
            return f"({v()})|{self.pick(LIST_FILTERS)}"
        if r < 0.4:
            return f"(({v()})|list){self.pick(SLICES)}"
        if r < 0.55:
            return f"({self.typed(self.text, depth)}){self.pick(['.split()', '.split(' + chr(39) + 'l' + chr(39) + ', 1)', '.rsplit(' + chr(39) + ' ' + chr(39) + ', 1)', '|list', '.splitlines()', '.partition(' + chr(39) + ' ' + chr(39) + ')', '.split(' + chr(39) + chr(92) + 'n' + chr(39) + ')'])}"
        if r < 0.65:
            return f"({v()}|list + {v()}|list)"
        if r < 0.75:
            return f"({self.typed(self.dict, depth)}){self.pick(['|dictsort', '.items()|list', '.keys()|list', '.values()|list', '|items|list', '|list'])}"
        if r < 0.85:
            return f"[{self.expression(depth - 1)}, {self.expression(depth - 1)}]"
        if r < 0.92:
            return f"({self.expression(depth - 1)},)"
        return self.condition(self.list, depth)

    def dict(self, depth):
        if depth <= 0:
            return self.pick(["d", "ed", "ms[0]", "ms[1]", "d.Key", "{'k': 1, 'l': [2]}", "dict(a=1)", "{1: 'i', none: 'n'}"])
        r = self.random.random()
        if r < 0.5:
            return "{" + f"{self.text(depth - 1)}: {self.expression(depth - 1)}, 'k': {self.expression(depth - 1)}" + "}"
        if r < 0.7:
            return f"dict({self.typed(self.dict, depth)}, z={self.expression(depth - 1)})"
        if r < 0.8:
            return self.condition(self.dict, depth)
        return f"({self.typed(self.dict, depth)}).copy()"

    def bool(self, depth):
        if depth <= 0:
            return self.pick(["t", "u", "true", "false", "n", "e", "l", "no", "missing"])
        r = self.random.random()
        if r < 0.2:
            return f"({self.typed(self.number, depth)} {self.pick(COMPARISONS)} {self.typed(self.number, depth)})"
        if r < 0.35:
            return f"({self.typed(self.text, depth)} {self.pick(COMPARISONS + ['in', 'not in'])} {self.typed(self.text, depth)})"
        if r < 0.45:
            return f"({self.expression(depth - 1)} {self.pick(['in', 'not in', '==', '!='])} {self.typed(self.list, depth)})"
        if r < 0.65:
            return f"({self.expression(depth - 1)} is {self.pick(TESTS)})"
        if r < 0.8:
            return f"({self.expression(depth - 1)} {self.pick(['and', 'or'])} {self.expression(depth - 1)})"
        if r < 0.9:
            return f"(not {self.expression(depth - 1)})"
        return f"({self.typed(self.number, depth)} < {self.typed(self.number, depth)} <= {self.typed(self.number, depth)})"

    def condition(self, kind, depth):
        other = f" else {kind(depth - 1)}" if self.random.random() < 0.85 else ""
        return f"({kind(depth - 1)} if {self.bool(depth - 1)}{other})"

    def any(self, depth):
        if depth <= 0:
            return self.atom()
        r = self.random.random()
        if r < 0.3:
            return f"({self.expression(depth - 1)})|{self.pick(FILTERS)}"
        if r < 0.6:
            # jinja2 folds constants at compile time, where a slice of a number is undefined instead of an error.
            subject = self.pick(list(VARIABLES) + ["missing", "x", "ns.v", "ns.w"])
            return f"{subject}{self.pick(METHODS)}"
        if r < 0.8:
            return f"({self.expression(depth - 1)} {self.pick(['+', '-', '*', '/', '//', '%', '<', 'in', '>='])} {self.expression(depth - 1)})"
        return self.atom()

    def space(self):
        return self.pick(["", "", "", " ", "\n", "  \n", "\n  ", "text", " text ", "\n\n", "\t"])

    def tag(self, inside):
        return "{%" + self.pick(["", "", "-", "+"]) + " " + inside + " " + self.pick(["", "", "-", "+"]) + "%}"

    def statement(self, depth):
        r = self.random.random()
        expr = lambda: self.expression(2)
        body = lambda: self.body(depth - 1)
        if r < 0.42 or depth <= 0:
            return "{{" + self.pick(["", "-"]) + " " + self.expression() + " " + self.pick(["", "-"]) + "}}"
        if r < 0.55:
            out = self.tag("if " + expr()) + body()
            if self.random.random() < 0.4:
                out += self.tag("elif " + expr()) + body()
            if self.random.random() < 0.5:
                out += self.tag("else") + body()
            return out + self.tag("endif")
        if r < 0.72:
            target = self.pick(["x", "x", "x, y", "y"])
            source = self.pick(["l", "ls", "ll", "d", "d.items()", "s", "ms", "range(4)", "em", "mix", "d|dictsort", "missing", "ml.split('\\n')", expr()])
            head = f"for {target} in {source}"
            if self.random.random() < 0.2:
                head += " if " + self.pick(["x", "x is string", "loop is defined", "x != 1", expr()])
            out = self.tag(head) + body()
            out += self.pick(["", "{{ loop.index }}", "{{ loop.last }}", "{{ loop.first }}{{ loop.index0 }}", "{{ loop.length }}", "{{ loop.previtem }}", "{{ loop.nextitem }}", "{{ loop.revindex }}{{ loop.cycle('a', 'b') }}", "{{ loop.changed(x) }}"])
            if self.random.random() < 0.2:
                out += self.tag("if " + self.pick(["loop.index > 1", "x == 1", expr()])) + self.tag(self.pick(["break", "continue"])) + self.tag("endif")
            if self.random.random() < 0.2:
                out += self.tag("else") + body()
            return out + self.tag("endfor")
        if r < 0.82:
            return self.tag("set " + self.pick(["x", "y", "ns.v", "ns.w", "x, y"]) + " = " + expr())
        if r < 0.86:
            return self.tag("set " + self.pick(["x", "y", "x | upper", "y | trim"])) + body() + self.tag("endset")
        if r < 0.89:
            return self.tag(f"with x = {expr()}, y = x") + body() + self.tag("endwith")
        if r < 0.92:
            return self.tag("filter " + self.pick(["upper", "trim", "replace('a', 'b')|title", "indent(2)"])) + body() + self.tag("endfilter")
        if r < 0.95:
            return self.tag(f"call({self.pick(['x=1', 'x, y=2'])}) wrap(" + self.pick(["", "1", expr()]) + ")") + body() + self.tag("endcall")
        if r < 0.96:
            return self.tag("generation") + body() + self.tag("endgeneration")
        if r < 0.98:
            return "{#" + self.pick(["", "-"]) + " comment " + self.pick(["", "-", "+"]) + "#}"
        return "{% raw %}{{ x }} " + self.tag("endraw")

    def body(self, depth):
        out = self.space()
        for _ in range(self.random.randint(1, 2)):
            out += self.statement(depth) + self.space()
        return out

    def template(self):
        head = (
            "{% macro mac(a, b='B', c=a) %}<{{ a }}{{ b }}{{ c }}{% endmacro %}"
            "{% macro wrap(v) %}[{{ caller(v) if v else caller() }}]{% endmacro %}{% set ns = namespace(v=1) %}"
        )
        if self.random.random() < 0.5:
            return head + self.body(2)
        return head + "{{ " + self.expression(4) + " }}"


def random_cases(count, seed):
    generator = Generator(seed)
    for i in range(count):
        yield f"random {seed}/{i}", generator.template(), VARIABLES


# ---- comparison

class Renderer:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ, TZ="UTC"))

    def render(self, source, variables):
        line = json.dumps({"template": source, "variables": variables, "now": NOW})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        reply = self.process.stdout.readline()
        if not reply:
            raise SystemExit(f"the renderer died on {source!r}")
        return json.loads(reply)


def expected(environment, cache, source, variables):
    try:
        if source not in cache:
            cache.clear()
            cache[source] = environment.from_string(source)
        return cache[source].render(**variables), None
    except Exception as error:  # whatever Python raises, the other side must fail too
        return None, f"{type(error).__name__}: {error}"


def compare(cases, renderer, show):
    environment = make_environment()
    cache = {}
    counts = collections.Counter()
    for name, source, variables in cases:
        text, error = expected(environment, cache, source, variables)
        if text is not None and re.search(r"0x[0-9a-f]{6}|[0-9a-f]{6}x0", text, re.I):
            counts["skipped (prints an address)"] += 1
            continue
        reply = renderer.render(source, variables)
        if reply.get("text") == text:
            counts["same" if text is not None else "both fail"] += 1
            continue
        counts["DIFFERENT"] += 1
        if counts["DIFFERENT"] <= show:
            print(f"--- {name}\n  template: {source[-400:]!r}\n  jinja2:   {text if text is None else text[-1500:]!r} {error or ''}")
            print(f"  tidepool: {reply!r}"[:2500])
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("renderer")
    parser.add_argument("--templates")
    parser.add_argument("--every", type=int, default=1, help="render every Nth case of the matrix only")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=10)
    options = parser.parse_args()
    renderer = Renderer(options.renderer)
    failed = False
    sections = []
    if options.templates:
        sections.append((f"templates of {options.templates}", template_cases(options.templates, options.every)))
    if options.random:
        sections.append((f"{options.random} random templates, seed {options.seed}", random_cases(options.random, options.seed)))
    for title, cases in sections:
        counts = compare(cases, renderer, options.show)
        print(f"{title}: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
        failed = failed or counts["DIFFERENT"] > 0 or counts["same"] == 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
