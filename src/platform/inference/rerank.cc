#include "platform/inference/rerank.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "platform/inference/model_assets.h"
#include "platform/inference/request_plan.h"

namespace tidepool::platform {
namespace {

// https://huggingface.co/Qwen/Qwen3-Reranker-0.6B
constexpr std::string_view kPromptBefore =
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    "Instruct "
    "provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
constexpr std::string_view kPromptAfter = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

Error QueryTooLong(size_t tokens, size_t most) {
  return {ErrorKind::kInvalid, "context_length_exceeded",
          fmt::format("the query has {} tokens and leaves no room for a document; the model reads {}", tokens,
                      most),
          "query", 0};
}

// The query stands before every document: a long one with many documents is much work in a small request.
constexpr size_t kMaxTokens = 2'000'000;

Status CountTokens(size_t added, size_t& total) {
  total += added;
  if (total <= kMaxTokens) return {};
  return Fail(ErrorKind::kTooLarge, "too_many_tokens",
              fmt::format("query and documents are together more than {} tokens, the query counted with each "
                          "document; send fewer documents at once",
                          kMaxTokens),
              "documents");
}

// The document's first `most` tokens as text; 0: all.
std::string Cut(const text::Tokenizer& tokenizer, const std::string& document, int32_t most) {
  if (most <= 0) return document;
  std::vector<int32_t> tokens = tokenizer.Encode(document);
  if (tokens.size() <= static_cast<size_t>(most)) return document;
  tokens.resize(static_cast<size_t>(most));
  return tokenizer.Decode(tokens);
}

Status AddPairs(const RerankRequest& request, const text::Tokenizer& tokenizer, size_t context,
                compute::EmbedRequest& out) {
  // What the tokenizer puts around every text.
  const std::vector<int32_t> frame = tokenizer.Encode("", {.add_special = true, .parse_special = false});
  if (frame.size() != 2) {
    return Fail(ErrorKind::kInvalid, "rerank_unsupported",
                "the model's tokenizer does not say how a pair of texts is put together", "model");
  }
  const int32_t begin = frame.front(), separator = frame.back();
  const size_t separators = tokenizer.kind() == "wordpiece" ? 1 : 2;
  const std::vector<int32_t> query = tokenizer.Encode(request.query);
  const size_t around = 2 + separators + query.size();
  if (context > 0 && around + 1 > context) return Fail(QueryTooLong(query.size(), context));
  size_t room = context > 0 ? context - around : SIZE_MAX;
  if (request.max_document_tokens > 0)
    room = std::min(room, static_cast<size_t>(request.max_document_tokens));
  size_t total = 0;
  for (const std::string& document : request.documents) {
    std::vector<int32_t> tokens = tokenizer.Encode(document);
    tokens.resize(std::min(tokens.size(), room));
    std::vector<int32_t> input = {begin};
    input.insert(input.end(), query.begin(), query.end());
    input.insert(input.end(), separators, separator);
    out.second_from.push_back(static_cast<int32_t>(input.size()));
    input.insert(input.end(), tokens.begin(), tokens.end());
    input.push_back(separator);
    TP_TRY(CountTokens(input.size(), total));
    out.inputs.push_back(std::move(input));
  }
  return {};
}

Status AddPrompts(const RerankRequest& request, const text::Tokenizer& tokenizer, size_t context,
                  compute::EmbedRequest& out) {
  const auto control = [&](std::string_view text) {
    return tokenizer.Encode(text, {.add_special = false, .parse_special = true});
  };
  const std::vector<int32_t> before = control(kPromptBefore), after = control(kPromptAfter);
  const std::string asked =
      fmt::format("<Instruct>: {}\n<Query>: {}\n<Document>: ",
                  request.instruction.empty() ? kSearchInstruction : std::string_view(request.instruction),
                  request.query);
  const size_t fixed = before.size() + after.size() + tokenizer.Encode(asked).size();
  if (context > 0 && fixed + 1 > context)
    return Fail(QueryTooLong(tokenizer.Encode(request.query).size(), context));
  size_t total = 0;
  for (const std::string& document : request.documents) {
    std::vector<int32_t> body =
        tokenizer.Encode(asked + Cut(tokenizer, document, request.max_document_tokens));
    if (context > 0) body.resize(std::min(body.size(), context - before.size() - after.size()));
    std::vector<int32_t> input = before;
    input.insert(input.end(), body.begin(), body.end());
    input.insert(input.end(), after.begin(), after.end());
    TP_TRY(CountTokens(input.size(), total));
    out.inputs.push_back(std::move(input));
  }
  return {};
}

}  // namespace

Result<compute::EmbedRequest> PlanRerank(const RerankRequest& request, const ReadyModel& model) {
  if (!model.info.ranks) return Fail(CannotRank(model.id));
  compute::EmbedRequest out;
  SetCaller(request, out);
  const auto context = static_cast<size_t>(std::max(model.context_length, 0));
  const text::Tokenizer& tokenizer = *model.assets->tokenizer;
  TP_TRY(model.info.causal ? AddPrompts(request, tokenizer, context, out)
                           : AddPairs(request, tokenizer, context, out));
  return out;
}

float Relevance(float logit) { return static_cast<float>(1 / (1 + std::exp(-static_cast<double>(logit)))); }

}  // namespace tidepool::platform
