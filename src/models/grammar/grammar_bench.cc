// What a grammar costs: compiling, the first mask of a place, later ones, and following a text.
//
//   grammar_bench tokenizer.json|MODEL.gguf
#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <iterator>

#include "models/formats/checkpoint.h"
#include "models/grammar/json_schema.h"
#include "models/grammar/matcher.h"

namespace {

using namespace tidepool;
using namespace tidepool::grammar;
using Json = nlohmann::ordered_json;

double Microseconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - since).count();
}

std::unique_ptr<text::Tokenizer> LoadTokenizer(const std::string& path) {
  if (path.ends_with(".json")) {
    std::ifstream file(path, std::ios::binary);
    const std::string json{std::istreambuf_iterator<char>(file), {}};
    auto loaded = text::Tokenizer::FromJson(json);
    return loaded ? std::move(*loaded) : nullptr;
  }
  auto checkpoint = formats::Checkpoint::Open(path);
  if (!checkpoint) return nullptr;
  auto loaded = text::Tokenizer::Load(**checkpoint);
  return loaded ? std::move(*loaded) : nullptr;
}

struct Case {
  const char* name;
  const char* schema;
  const char* answer;
};
constexpr Case kCases[] = {
    {"person",
     R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},"emails":{"type":"array","items":{"type":"string","maxLength":60}}},"required":["name","age","emails"],"additionalProperties":false})",
     R"({"name": "Ada Lovelace, Countess of Lovelace", "age": 36, "emails": ["ada@example.org", "a.lovelace@analytical.engine"]})"},
    {"any object", R"({"type":"object"})",
     R"({"title": "The tide", "tags": ["sea", "moon", {"deep": [1, 2.5, null, true]}], "text": "It comes in, it goes out, twice a day."})"},
    {"date and enum",
     R"({"type":"object","properties":{"day":{"type":"string","format":"date"},"kind":{"enum":["spring","neap"]}},"required":["day","kind"]})",
     R"({"day": "2026-11-28", "kind": "spring"})"},
};

}  // namespace

int main(int argc, char** argv) {
  const auto tokenizer = argc > 1 ? LoadTokenizer(argv[1]) : text::Tokenizer::Bytes();
  if (tokenizer == nullptr) {
    fmt::print(stderr, "grammar_bench: {} is no tokenizer\n", argv[1]);
    return 2;
  }
  auto began = std::chrono::steady_clock::now();
  const auto trie = TokenTrie::Build(*tokenizer, {});
  fmt::print("{} tokens, {} nodes, {} MiB, built in {:.0f} ms\n\n", trie->vocab_size(), trie->all().size(),
             trie->bytes() >> 20, Microseconds(began) / 1000);
  fmt::print("{:<16} {:>12} {:>12} {:>12} {:>12} {:>12} {:>10}\n", "us", "compile", "mask, first",
             "worst first", "mask, later", "accept", "KiB");
  for (const Case& c : kCases) {
    began = std::chrono::steady_clock::now();
    Expressions expressions;
    const auto root = ParseJsonSchema(Json::parse(c.schema), "schema", expressions);
    auto program = Compile(expressions, *root);
    const auto grammar = CompiledGrammar::Make(std::move(*program), trie);
    const double compile = Microseconds(began);
    const auto tokens = tokenizer->Encode(c.answer);
    double first = 0, worst = 0, later = 0, accept = 0;
    for (int round = 0; round < 21; ++round) {
      Matcher matcher(*grammar);
      for (const int32_t token : tokens) {
        began = std::chrono::steady_clock::now();
        const TokenMask* mask = matcher.Mask();
        const double taken = Microseconds(began);
        if (mask == nullptr || (mask->allowed[static_cast<size_t>(token) / 64] >> (token % 64) & 1) == 0) {
          fmt::print(stderr, "{}: the answer is not allowed\n", c.name);
          return 1;
        }
        (round == 0 ? first : later) += taken;
        if (round == 0) worst = std::max(worst, taken);
        began = std::chrono::steady_clock::now();
        matcher.Accept(tokenizer->TokenBytes(token));
        accept += Microseconds(began);
      }
    }
    const auto count = static_cast<double>(tokens.size());
    fmt::print("{:<16} {:>12.0f} {:>12.0f} {:>12.0f} {:>12.2f} {:>12.2f} {:>10}\n", c.name, compile,
               first / count, worst, later / count / 20, accept / count / 21, (*grammar)->bytes() >> 10);
  }
  return 0;
}
