// Language features with the texts that jinja2 3.1 gives (checked by tools/template_oracle.py --random over
// the same constructs), and what hostile templates may not do.
#include "models/templates/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <thread>

namespace tidepool::templates {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kNow = 1'753'920'000;  // 2025-07-31 00:00:00 UTC

std::string Render(std::string_view source, const Json& variables = Json::object(),
                   const RenderLimits& limits = {}) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed) return "PARSE " + parsed.error().message;
  auto text = parsed->Render(variables, kNow, limits);
  return text ? *text : "FAIL " + text.error().message;
}

std::string ErrorCode(std::string_view source, const Json& variables = Json::object(),
                      const RenderLimits& limits = {}) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed) return parsed.error().code;
  auto text = parsed->Render(variables, kNow, limits);
  return text ? "none" : text.error().code;
}

struct Case {
  const char* source;
  const char* expected;
};

void Check(std::initializer_list<Case> cases, const Json& variables = Json::object()) {
  for (const Case& c : cases) EXPECT_EQ(Render(c.source, variables), c.expected) << c.source;
}

TEST(ChatTemplate, WhitespaceControl) {
  Check({
      {"a\n  {% if true %}\n  b\n  {% endif %}\nc", "a\n  b\nc"},
      {"a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc", "abc"},
      {"a\n  {%+ if true +%}\n  b{% endif %}", "a\n  \n  b"},
      {"  {{ 1 }}  \n", "  1  "},
      {" {{- 1 -}} \n x", "1x"},
      {"x {# c #}\ny", "x y"},
      {"x\n  {#- c -#}\n y", "xy"},
      {"{% raw %}{{ a }}{% endraw %}\n!", "{{ a }}!"},
      {"{%- raw -%}  {% if %} {%- endraw -%}  !", "{% if %}!"},
      {"line\r\nnext\rlast\n", "line\nnext\nlast"},
      {"{% if true %}\n\nx{% endif %}", "\nx"},
      {"{{ '}}' }}{{ '{%' }}", "}}{%"},
      {"{{ {'a': {}} }}", "{'a': {}}"},
      {"{ % not a tag } {", "{ % not a tag } {"},
  });
}

TEST(ChatTemplate, Literals) {
  Check({
      {R"({{ "a\n\t\x41\u00e9\U0001F30A\101\q" }})", "a\n\tAé🌊A\\q"},
      {"{{ 'a' 'b' }}", "ab"},
      {"{{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }}", "1000 31 3 15"},
      {"{{ 1e3 }} {{ 1.5 }} {{ 1e16 }} {{ 1e-5 }} {{ 123456789.125 }}",
       "1000.0 1.5 1e+16 1e-05 123456789.125"},
      {"{{ [1, 'a', none, true, 1.0, (1,), {}] }}", "[1, 'a', None, True, 1.0, (1,), {}]"},
      {R"({{ ["it's", 'q"', "\n\\", "é", "\x00\u200b"] }})",
       "[\"it's\", 'q\"', '\\n\\\\', 'é', '\\x00\\u200b']"},
      {"{{ {'a': 1, 'a': 2, 1: 'x', 1.0: 'y', true: 'z'} }}", "{'a': 2, 1: 'z'}"},
      {"{{ () }}{{ 1, 2 }}", "()(1, 2)"},
      {"{{ 10000000000 * 10000000000 * 10000000000 }}", "1000000000000000000000000000000"},
  });
}

TEST(ChatTemplate, Operators) {
  Check({
      {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }}",
       "3 -4 2 -2 3.5 1024 0.5"},
      {"{{ -7.5 // 2 }} {{ -7.5 % 2 }} {{ 1 + true }} {{ 0.1 + 0.2 }}", "-4.0 0.5 2 0.30000000000000004"},
      {"{{ 'ab' * 2 }} {{ [1] * 3 }} {{ [1] + [2] }} {{ 'a' ~ 1 ~ none }}", "abab [1, 1, 1] [1, 2] a1None"},
      {"{{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 'a' in 'cat' }} {{ 1 not in [1] }} {{ 'k' in {'k': 1} }}",
       "True False True False True"},
      {"{{ 1 and 0 or 'x' }} {{ not 1 }} {{ none or [] }}", "x False []"},
      {"{{ 1 if false }}|{{ 1 if false else 2 }}", "|2"},
      {"{{ 1 == 1.0 }} {{ 'a' == 1 }} {{ [1, {'a': 2}] == [1, {'a': 2}] }} {{ (1, 2) < (1, 3) }}",
       "True False True True"},
      {"{{ -2 ** 2 }} {{ 1 - 2 - 3 }} {{ 2 * 3 % 4 }}", "4 -4 2"},
      {"{{ 'x=%s y=%05.2f %r' % ('é', 2.5, 'q') }} {{ '%d%%' % 5.9 }}", "x=é y=02.50 'q' 5%"},
      {"{{ '{} {0}'.format }}", "<built-in method format of str object>"},
      {"{{ '{:>5}|{:<4}|{:^5}|{!r}|{a[k]}'.format(1, 'b', 'c', 'd', a={'k': 9}) }}",
       "    1|b   |  c  |'d'|9"},
      {"{{ '{:,.2f} {:x} {:08.3f} {:+d} {:%}'.format(1234567.891, 255, 3.14159, 5, 0.25) }}",
       "1,234,567.89 ff 0003.142 +5 25.000000%"},
  });
}

TEST(ChatTemplate, CodePointsNotBytes) {
  const Json variables = {{"s", "né🌊x"}};
  Check(
      {
          {"{{ s|length }} {{ s[1] }} {{ s[2:] }} {{ s[::-1] }} {{ s[-2] }} {{ s.find('x') }} {{ s[9] }}|",
           "4 é 🌊x x🌊én 🌊 3 |"},
          {"{{ s|list }} {{ s|first }} {{ s|last }} {{ s|upper }}", "['n', 'é', '🌊', 'x'] n x NÉ🌊X"},
          {"{{ 'Straße'|upper }} {{ 'ΑΣ'|lower }} {{ 'ǆ'|capitalize }} {{ 'İ'|lower|length }}",
           "STRASSE ας ǅ 2"},
          {"{{ '\u2003a\u00a0'|trim }}|{{ 'a\\x85b\\u2028c'.splitlines() }}", "a|['a', 'b', 'c']"},
      },
      variables);
}

TEST(ChatTemplate, Scopes) {
  Check({
      {"{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "231"},
      {"{% set n = namespace(v=0) %}{% for i in [1, 2] %}{% set n.v = n.v + i %}{% endfor %}{{ n.v }}", "3"},
      {"{% if true %}{% set y = 5 %}{% endif %}{{ y }}", "5"},
      {"{% macro m(a, b=a * 2) %}{{ a }}{{ b }}{{ g }}{% endmacro %}{% set g = '!' %}{{ m(1) }}{{ m(1, b=3) "
       "}}",
       "12!13!"},
      {"{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "3,2,1,0"},
      {"{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k='v') }}", "(1, 2){'k': 'v'}"},
      {"{% macro w() %}[{{ caller('x') }}]{% endmacro %}{% call(v) w() %}<{{ v }}>{% endcall %}", "[<x>]"},
      {"{% set b %}a{% for i in [1, 2] %}{{ i }}{% endfor %}{% endset %}{{ b|length }}{{ b }}", "3a12"},
      {"{% set b | upper | replace('A', 'x') %}abc{% endset %}{{ b }}", "xBC"},
      {"{% with a = 1, b = a %}{{ a }}{{ b is defined }}{% endwith %}{{ a is defined }}", "1FalseFalse"},
      {"{% filter upper %}abc{{ 'd' }}{% endfilter %}", "ABCD"},
      {"{% set a, b = 1, [2] %}{{ a }}{{ b }}", "1[2]"},
      {"{% generation %}x{% set q = 1 %}{% endgeneration %}{{ q is defined }}", "xFalse"},
      {"{% for i in range(2) %}{% macro k() %}{{ i }}{% endmacro %}{{ k() }}{% endfor %}", "01"},
      {"{% set loop = 3 %}{{ loop }}", "3"},
      {"{{ range is defined }}{{ messages is defined }}", "TrueFalse"},
  });
}

TEST(ChatTemplate, Loops) {
  Check({
      {"{% for c in 'ab' %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex0 "
       "}} {% endfor %}",
       "1TrueFalse21 2FalseTrue20 "},
      {"{% for i in [1, 2, 3] %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}", "-2;1-3;2-;"},
      {"{% for i in [] %}x{% else %}none{% endfor %}", "none"},
      {"{% for i in range(9) if i is odd %}{{ i }}/{{ loop.length }} {% endfor %}", "1/4 3/4 5/4 7/4 "},
      {"{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 4 %}{% break %}{% endif %}{{ i }}{% "
       "endfor %}",
       "0134"},
      {"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"},
      {"{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "123"},
      {"{% for i in [1, 1, 2] %}{{ loop.cycle('x', 'y') }}{{ loop.changed(i) }} {% endfor %}",
       "xTrue yFalse xTrue "},
      {"{% for n in [[1, [2]], [3]] recursive %}{% if n is iterable %}({{ loop(n) }}){% else %}{{ n }}{% "
       "endif %}{% endfor %}",
       "(1(2))(3)"},
      {"{% for x in missing %}x{% endfor %}ok", "ok"},
  });
}

TEST(ChatTemplate, FiltersAndTests) {
  const Json variables = {
      {"ms", {{{"role", "user"}, {"n", 2}}, {{"role", "tool"}, {"n", 1}}, {{"role", "user"}}}},
      {"d", {{"b", 1}, {"A", 2}}}};
  Check(
      {
          {"{{ ms|selectattr('role', 'equalto', 'user')|list|length }}", "2"},
          {"{{ ms|rejectattr('n', 'defined')|map(attribute='role')|join(',') }}", "user"},
          {"{{ ms|map(attribute='n', default=0)|sum }} {{ ms|map(attribute='role')|unique|list }}",
           "3 ['user', 'tool']"},
          {"{{ d|dictsort }} {{ d|items|list }} {{ d|length }}",
           "[('A', 2), ('b', 1)] [('b', 1), ('A', 2)] 2"},
          {"{{ [3, 1, 2]|sort }} {{ ['b', 'A']|sort }} {{ ['b', 'A']|sort(case_sensitive=true, reverse=true) "
           "}}",
           "[1, 2, 3] ['A', 'b'] ['b', 'A']"},
          {"{{ 'a-b c'|title }} {{ 'hELLO'|capitalize }} {{ ' x '|trim }} {{ 'xxaxx'|trim('x') }}",
           "A-B C Hello x a"},
          {"{{ 'a\nb\n\nc'|indent(2) }}|{{ 'a\nb'|indent(1, true) }}", "a\n  b\n\n  c| a\n b"},
          {"{{ none|default('d') }} {{ none|default('d', true) }} {{ x|d('e') }}", "None d e"},
          {"{{ '42'|int + 1 }} {{ 'x'|int(7) }} {{ '3.7'|int }} {{ '1e3'|float }} {{ 2.5|round }} {{ "
           "3.14159|round(2) }}",
           "43 7 3 1000.0 2.0 3.14"},
          {"{{ '<a>'|safe + '<b>' }} {{ '<'|e }} {{ ('<b>'|safe)|upper }}", "<a>&lt;b&gt; &lt; <B>"},
          {"{{ [1, [2]]|first }} {{ []|first is defined }} {{ [1, 2]|last }} {{ [[1, 2], [3]]|sum(start=[]) "
           "}}",
           "1 False 2 [1, 2, 3]"},
          {"{{ [1, 2, 3]|batch(2)|list }} {{ range(5)|slice(2)|list }}", "[[1, 2], [3]] [[0, 1, 2], [3, 4]]"},
          {"{{ 1 is number }}{{ true is integer }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is sequence "
           "}}{{ 1 is iterable }}",
           "TrueFalseTrueTrueTrueFalse"},
          {"{{ 3 is divisibleby 3 }}{{ 3 is not odd }}{{ none is none }}{{ 1 is in [1] }}{{ x is undefined "
           "}}",
           "TrueFalseTrueTrueTrue"},
          {"{{ '{\"a\": [1, 2.5, null]}'|from_json }}", "{'a': [1, 2.5, None]}"},
      },
      variables);
}

TEST(ChatTemplate, ToJsonAsTransformers) {
  const Json variables = {
      {"v", Json::parse(R"({"b":"é<\"\n\u0001/","a":[1,2.0,1e20,null,true,{}],"n":18446744073709551615})")}};
  Check(
      {
          {"{{ v|tojson }}",
           "{\"b\": \"é<\\\"\\n\\u0001/\", \"a\": [1, 2.0, 1e+20, null, true, {}], \"n\": "
           "18446744073709551615}"},
          {"{{ v.a[:2]|tojson(indent=2) }}", "[\n  1,\n  2.0\n]"},
          {"{{ '🌊é'|tojson(ensure_ascii=true) }}", "\"\\ud83c\\udf0a\\u00e9\""},
          {"{{ {'b': 1, 'a': (2, [])}|tojson(sort_keys=true, separators=(',', ':')) }}",
           "{\"a\":[2,[]],\"b\":1}"},
          {"{{ {1: 'x', none: 2, 1.5: 3}|tojson }}", "{\"1\": \"x\", \"null\": 2, \"1.5\": 3}"},
      },
      variables);
}

TEST(ChatTemplate, Methods) {
  Check({
      {"{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b "
       "c'.rsplit(maxsplit=1) }}",
       "['a', 'b', '', 'c'] ['a', 'b'] ['a', 'b c'] ['a b', 'c']"},
      {"{{ '  x'.lstrip() }}{{ 'xyx'.strip('x') }}{{ 'abc'.startswith(('z', 'a')) }}{{ 'abc'.endswith('bc') "
       "}}",
       "xyTrueTrue"},
      {"{{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '-') }} {{ 'banana'.count('an') }}",
       "bba -a-b- 2"},
      {"{{ {'a': 1}.get('a') }}{{ {'a': 1}.get('b', 'z') }}{{ {'a': 1}.keys()|list }}", "1z['a']"},
      {"{{ {'items': 3}['items'] }} {{ {'x': {'y': 4}}.x.y }} {{ [5, 6].0 }} {{ none.foo is defined }}",
       "3 4 5 False"},
      {"{{ 'x'.join(['a', 'b']) }} {{ 'Ab'.swapcase() }} {{ '7'.zfill(3) }} {{ 'a.b'.partition('.') }}",
       "axb aB 007 ('a', '.', 'b')"},
  });
}

TEST(ChatTemplate, ErrorsSayWhereAndWhat) {
  EXPECT_EQ(Render("ok\n  {{ a.b.c }}"), "FAIL chat template, line 2, column 7: 'a' is undefined");
  EXPECT_EQ(Render("{{ raise_exception('no ' ~ 1) }}"), "FAIL chat template, line 1, column 19: no 1");
  EXPECT_EQ(Render("{{ 'a' + 1 }}"),
            "FAIL chat template, line 1, column 8: unsupported operand type(s) for +: 'str' and 'int'");
  EXPECT_EQ(Render("\n{% fro x %}"), "PARSE chat template, line 2, column 4: Encountered unknown tag 'fro'.");
  EXPECT_EQ(ErrorCode("{{ 1 | nosuch }}"), "template_error");
  EXPECT_EQ(ErrorCode("{% include 'x' %}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ 'open }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{% if x %}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ (1] }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{% for loop in x %}{% endfor %}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{% break %}"), "template_syntax");
  EXPECT_EQ(ErrorCode("\xff"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ 2 ** 200 }}"), "template_error");
}

TEST(ChatTemplate, Sandbox) {
  EXPECT_EQ(ErrorCode("{{ [].append(1) }}"), "template_error");
  EXPECT_EQ(ErrorCode("{{ {}.update(a=1) }}"), "template_error");
  EXPECT_EQ(Render("{{ ''.__class__ }}|{{ ''.__class__ is defined }}"), "|False");
  EXPECT_EQ(ErrorCode("{{ ''.__class__.__mro__ }}"), "template_error");
  EXPECT_EQ(ErrorCode("{{ '{0.__class__.__mro__}'.format('') }}"), "template_error");
  EXPECT_EQ(ErrorCode("{% set n = namespace() %}{% set n._x = 1 %}"), "template_error");
  EXPECT_EQ(ErrorCode("{{ range(100001) }}"), "template_error");
}

TEST(ChatTemplate, Clock) {
  setenv("TZ", "UTC", 1);
  tzset();
  EXPECT_EQ(Render("{{ strftime_now('%d %b %Y %H:%M:%S.%f%z') }}"), "31 Jul 2025 00:00:00.000000");
}

TEST(ChatTemplate, HostileTemplatesMeetALimit) {
  RenderLimits limits;
  limits.max_steps = 500'000;
  limits.max_output_bytes = 1 << 20;
  limits.max_memory_bytes = 8 << 20;
  const char* const kTemplates[] = {
      "{{ 'x' * 1000000000 }}",
      "{{ [0] * 1000000000 }}",
      "{{ 'x' * 9223372036854775807 }}",
      "{% set n = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% "
      "endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(64) %}{% set n.s = n.s.replace('x', 'xxxx') %}{% "
      "endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(64) %}{% set n.s = [n.s, n.s]|join('yy') %}{% endfor "
      "%}",
      "{% set n = namespace(l=[1]) %}{% for i in range(64) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
      "{% set n = namespace(l=[1], m=[1]) %}{% for i in range(64) %}{% set n.l = [n.l, n.l] %}{% set n.m = "
      "[n.m, n.m] %}"
      "{% endfor %}{{ n.l == n.m }}",
      "{% set n = namespace(l=(1,)) %}{% for i in range(64) %}{% set n.l = (n.l, n.l) %}{% endfor %}{{ {n.l: "
      "1} }}",
      "{% set n = namespace(l=1) %}{% for i in range(99999) %}{% set n.l = [n.l] %}{% endfor %}",
      "{% set n = namespace(g=[]) %}{% for i in range(99999) %}{% set n.g = n.g|map('upper') %}{% endfor "
      "%}{{ n.g|list }}",
      "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m() %}{% call m() %}{% endcall %}{{ caller }}{% endmacro %}{{ m() }}",
      "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
      "{% for i in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
      "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{% if s|upper == s %}{% endif %}{% endfor %}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '{:1000000000}'.format(1) }}",
      "{{ 'a'.ljust(1000000000) }}",
      "{{ 'a'|center(1000000000) }}",
      "{{ 'a'|indent(1000000000, true) }}",
      "{{ '\t'.expandtabs(1000000000) * 100 }}",
      "{{ [1]|tojson(indent=1000000000) }}",
      "{{ [1]|batch(1000000000, 0)|list }}",
      "{{ range(100000)|list * 100 }}",
      "{% set n = namespace() %}{% for i in range(99999) %}{% macro m() %}{% endmacro %}{% set n.m = m %}{% "
      "endfor %}",
  };
  for (const char* source : kTemplates) {
    EXPECT_EQ(ErrorCode(source, Json::object(), limits), "template_limit") << source;
  }
}

TEST(ChatTemplate, DeepNestingIsRefusedNotACrash) {
  const auto repeat = [](const char* piece, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += piece;
    return out;
  };
  EXPECT_EQ(ErrorCode("{{ " + repeat("(", 100000) + " }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ " + repeat("[", 100000) + " }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ " + repeat("not ", 100000) + "1 }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ " + repeat("-", 100000) + "1 }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ 1" + repeat(" + 1", 100000) + " }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ x" + repeat(".a", 100000) + " }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ x" + repeat("|e", 100000) + " }}"), "template_syntax");
  EXPECT_EQ(ErrorCode("{{ x" + repeat(" if x else x", 100000) + " }}"), "template_syntax");
  EXPECT_EQ(ErrorCode(repeat("{% if x %}", 100000)), "template_syntax");
  Json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = Json::array({std::move(deep)});
  EXPECT_EQ(ErrorCode("{{ v }}", {{"v", deep}}), "template_limit");
}

TEST(ChatTemplate, BytesOfInvalidUtf8AreReplaced) {
  EXPECT_EQ(Render("{{ v }}{{ v|length }}", {{"v", "a\xff\xc3"}}),
            "a\xEF\xBF\xBD\xEF\xBF\xBD"
            "3");
}

TEST(ChatTemplate, OneTemplateManyThreads) {
  const auto parsed = ChatTemplate::Parse(
      "{% macro m(x) %}<{{ x|upper }}>{% endmacro %}{% for i in messages %}{{ m(i.content) }}{% endfor %}");
  ASSERT_TRUE(parsed.has_value());
  std::vector<std::thread> threads;
  std::array<int, 4> good{};
  for (size_t t = 0; t < good.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string text = "t" + std::to_string(t) + "-" + std::to_string(i);
        const auto out = parsed->Render({{"messages", {{{"content", text}}}}}, kNow);
        good[t] += out && *out == "<T" + std::to_string(t) + "-" + std::to_string(i) + ">" ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const int count : good) EXPECT_EQ(count, 200);
}

constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

TEST(Capabilities, PlainChatMl) {
  const auto found = ProbeCapabilities(*ChatTemplate::Parse(kChatMl), "", "<|im_end|>");
  EXPECT_TRUE(found.system_role);
  EXPECT_TRUE(found.string_content);
  EXPECT_FALSE(found.tools);
  EXPECT_FALSE(found.tool_calls);
  EXPECT_FALSE(found.thinking_switch);
  EXPECT_FALSE(found.content_parts);
  EXPECT_FALSE(found.opens_reasoning);
  EXPECT_EQ(found.reasoning_open, "");
}

TEST(Capabilities, OpenedReasoning) {
  const std::string opens =
      std::string(kChatMl) + "{% if add_generation_prompt %}<think>\n{% endif %}{# </think> #}";
  const auto found = ProbeCapabilities(*ChatTemplate::Parse(opens), "", "");
  EXPECT_TRUE(found.opens_reasoning);
  EXPECT_EQ(found.reasoning_close, "</think>");
  const std::string closes = opens + "{% if enable_thinking is false %}</think>{% endif %}";
  EXPECT_TRUE(ProbeCapabilities(*ChatTemplate::Parse(closes), "", "").thinking_switch);
}

TEST(Capabilities, OnlyParts) {
  const auto found = ProbeCapabilities(
      *ChatTemplate::Parse(
          "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"),
      "", "");
  EXPECT_TRUE(found.content_parts);
  EXPECT_FALSE(found.string_content);
  EXPECT_TRUE(found.system_role);
}

TEST(Capabilities, RealTemplates) {
  const char* data = std::getenv("TIDEPOOL_TEST_DATA");
  const std::string folder = std::string(data != nullptr ? data : TIDEPOOL_SOURCE_DIR "/build/test-data") +
                             "/llama.cpp/models/templates/";
  struct Expected {
    const char* file;
    bool system, tools, calls, thinking_switch, parts, opens;
    const char* open;
  };
  const Expected kExpected[] = {
      {"Qwen-Qwen3-0.6B.jinja", true, true, true, true, false, false, "<think>"},
      {"Qwen-Qwen2.5-7B-Instruct.jinja", true, true, true, false, false, false, ""},
      {"Qwen-QwQ-32B.jinja", true, true, true, true, false, false, "<think>"},
      {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja", true, false, true, true, false, false, "<think>"},
      {"google-gemma-2-2b-it.jinja", false, false, false, false, false, false, ""},
      {"microsoft-Phi-3.5-mini-instruct.jinja", true, false, false, false, false, false, ""},
      {"meta-llama-Llama-3.1-8B-Instruct.jinja", true, true, true, false, false, false, ""},
      {"HuggingFaceTB-SmolLM3-3B.jinja", true, false, false, true, false, false, "<think>"},
  };
  for (const auto& e : kExpected) {
    std::ifstream file(folder + e.file);
    if (!file) GTEST_SKIP() << "no " << folder << e.file << "; scripts/test_data fetches it";
    const std::string source{std::istreambuf_iterator<char>(file), {}};
    const auto parsed = ChatTemplate::Parse(source);
    ASSERT_TRUE(parsed.has_value()) << e.file;
    const auto found = ProbeCapabilities(*parsed, "<s>", "</s>");
    EXPECT_EQ(found.system_role, e.system) << e.file;
    EXPECT_EQ(found.tools, e.tools) << e.file;
    EXPECT_EQ(found.tool_calls, e.calls) << e.file;
    EXPECT_EQ(found.thinking_switch, e.thinking_switch) << e.file;
    EXPECT_EQ(found.content_parts, e.parts) << e.file;
    EXPECT_EQ(found.opens_reasoning, e.opens) << e.file;
    EXPECT_EQ(found.reasoning_open, e.open) << e.file;
    EXPECT_TRUE(found.string_content) << e.file;
  }
}

}  // namespace
}  // namespace tidepool::templates
