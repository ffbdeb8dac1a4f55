// Front ends of grammars: whatever the text, they answer in bounded time, and a grammar that compiles can be
// walked from its beginning: a mask allows exactly what the automaton takes, and never leaves an answer
// without a way on. Input: one byte of kind (schema, regex, GBNF), one that seeds the walk, the source.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/grammar/gbnf.h"
#include "models/grammar/json_schema.h"
#include "models/grammar/matcher.h"
#include "models/grammar/regex.h"

namespace {

using namespace tidepool;
using namespace tidepool::grammar;

const text::Tokenizer& Bytes() {
  static const auto kTokenizer = text::Tokenizer::Bytes();
  return *kTokenizer;
}

Result<ExprId> Parse(int kind, std::string_view source, Expressions& out) {
  if (kind == 1) return ParseRegex(source, RegexUse::kText, out);
  if (kind == 2) return ParseGbnf(source, out);
  const auto schema = nlohmann::ordered_json::parse(source, nullptr, /*allow_exceptions=*/false);
  if (schema.is_discarded()) return Fail(ErrorKind::kInvalid, "json", "");
  return ParseJsonSchema(schema, "schema", out);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  static const auto kTrie = TokenTrie::Build(Bytes(), {});
  Expressions expressions(20'000);
  const auto root = Parse(data[0] % 3, {reinterpret_cast<const char*>(data) + 2, size - 2}, expressions);
  if (!root) return 0;
  auto program = Compile(expressions, *root);
  if (!program) return 0;
  const auto grammar = CompiledGrammar::Make(std::move(*program), kTrie, {.mask_work = 100'000});
  if (!grammar) return 0;
  Matcher matcher(*grammar);
  uint32_t random = data[1] + 1u;
  for (int step = 0; step < 50 && !matcher.ended(); ++step) {
    const TokenMask* mask = matcher.Mask();
    if (mask == nullptr) break;
    if (mask->count == 0) std::abort();
    std::string_view next;
    const size_t start = (random = random * 1664525u + 1013904223u) >> 24;
    for (size_t i = 0; i < 256; ++i) {
      const auto token = static_cast<int32_t>((start + i) % 256);
      const bool allowed = (mask->allowed[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
      if (i < 4) {
        Matcher probe = matcher;
        if (probe.Accept(Bytes().TokenBytes(token)) != allowed) std::abort();
      }
      if (allowed && next.empty()) next = Bytes().TokenBytes(token);
    }
    if (next.empty()) break;  // it may only end
    if (!matcher.Accept(next)) std::abort();
  }
  return 0;
}
