// For tests/structured_output_e2e.py: what schemas accept, and what a model of random weights says under
// them.
//
//   schema_tool [MODEL.gguf]    the vocabulary: the file's, else one token a byte
//
// One JSON object a line on the standard input, one answer a line:
//   {"schema", "texts": [..]}              -> {"accepts": [..]} or {"error", "param", "code"}
//   {"schema", "seed", "max_tokens"}       -> {"text", "finished"}: tokens drawn at temperature 1.5 from
//   logits that are
//                                             normal random numbers (of standard deviation 3, as of random
//                                             weights)
#include <fmt/format.h>

#include <cmath>
#include <iostream>
#include <random>
#include <string>

#include "models/formats/checkpoint.h"
#include "models/grammar/json_schema.h"
#include "models/grammar/matcher.h"

namespace {

using namespace tidepool;
using Json = nlohmann::ordered_json;

Result<std::shared_ptr<grammar::CompiledGrammar>> Compiled(
    const Json& schema, const std::shared_ptr<const grammar::TokenTrie>& trie) {
  grammar::Expressions expressions;
  TP_ASSIGN(const grammar::ExprId root, ParseJsonSchema(schema, "schema", expressions));
  TP_ASSIGN(grammar::Program program, Compile(expressions, root));
  return grammar::CompiledGrammar::Make(std::move(program), trie);
}

Json Answer(const Json& question, const text::Tokenizer& tokenizer,
            const std::shared_ptr<const grammar::TokenTrie>& trie) {
  auto compiled = Compiled(question["schema"], trie);
  if (!compiled) {
    const Error& error = compiled.error();
    return {{"error", error.message}, {"param", error.param}, {"code", error.code}};
  }
  if (question.contains("texts")) {
    Json accepts = Json::array();
    for (const Json& text : question["texts"]) {
      grammar::Matcher matcher(*compiled);
      accepts.push_back(matcher.Accept(text.get<std::string>()) && matcher.may_end());
    }
    return {{"accepts", accepts}};
  }
  grammar::Matcher matcher(*compiled);
  std::mt19937_64 random(question["seed"].get<uint64_t>());
  std::normal_distribution<double> normal(0, 3);
  std::uniform_real_distribution<double> uniform(1e-12, 1);
  std::string text;
  bool finished = false;
  for (int step = 0; step < question["max_tokens"].get<int>() && !finished; ++step) {
    const grammar::TokenMask* mask = matcher.Mask();
    if (mask == nullptr) return {{"error", "too complex"}, {"param", ""}};
    int32_t best = -1;
    double most = 0;
    for (int32_t token = 0; token < trie->vocab_size(); ++token) {
      if ((mask->allowed[static_cast<size_t>(token) / 64] >> (token % 64) & 1) == 0) continue;
      const double score =
          normal(random) / 1.5 - std::log(-std::log(uniform(random)));  // Gumbel's way to draw
      if (best < 0 || score > most) {
        best = token;
        most = score;
      }
    }
    if (best < 0) return {{"error", "stuck"}, {"param", text}};
    const auto ends = trie->end_tokens();
    if (std::find(ends.begin(), ends.end(), best) != ends.end()) {
      finished = true;
      break;
    }
    const std::string_view bytes = tokenizer.TokenBytes(best);
    if (!matcher.Accept(bytes))
      return {{"error", "a mask allowed what the grammar does not take"}, {"param", text}};
    text += bytes;
    finished = matcher.ended();
  }
  return {{"text", text}, {"finished", finished}};
}

}  // namespace

int main(int argc, char** argv) {
  std::unique_ptr<text::Tokenizer> tokenizer = text::Tokenizer::Bytes();
  if (argc > 1) {
    auto checkpoint = formats::Checkpoint::Open(argv[1]);
    auto loaded = checkpoint ? text::Tokenizer::Load(**checkpoint)
                             : Result<std::unique_ptr<text::Tokenizer>>(Fail(checkpoint.error()));
    if (!loaded) {
      std::cerr << loaded.error().message << "\n";
      return 1;
    }
    tokenizer = std::move(*loaded);
  }
  const auto trie = grammar::TokenTrie::Build(*tokenizer, {});
  for (std::string line; std::getline(std::cin, line);) {
    std::cout
        << Answer(Json::parse(line), *tokenizer, trie).dump(-1, ' ', false, Json::error_handler_t::replace)
        << "\n"
        << std::flush;
  }
}
