#include "gateway/bailian/handlers.h"

#include <fmt/format.h>

#include <cmath>

#include "gateway/bailian/reply.h"
#include "gateway/bailian/requests.h"
#include "gateway/errors.h"
#include "gateway/inference_call.h"
#include "gateway/openai/embedding_reply.h"
#include "gateway/rerank/handlers.h"

namespace tidepool::gateway::bailian {
namespace {

bool WantsEvents(const HttpRequest& http) {
  const std::string* value = http.Header("x-dashscope-sse");
  return value != nullptr && *value == "enable";
}

HttpResponse EmbeddingResponse(const Result<platform::EmbeddingReply>& reply, int32_t dimensions,
                               const HttpRequest& http) {
  if (!reply) return ErrorReply(reply.error(), http);
  std::string out = R"({"output":{"embeddings":[)";
  for (size_t i = 0; i < reply->vectors.size(); ++i) {
    const std::vector<float>& whole = reply->vectors[i];
    if (static_cast<size_t>(dimensions) > whole.size()) {
      return ErrorReply(BadField("parameters.dimension",
                                 fmt::format("parameters.dimension is {}, but the vectors of {} have {}.",
                                             dimensions, reply->model, whole.size())),
                        http);
    }
    const std::vector<float> vector =
        dimensions == 0 ? whole : openai::Shortened(whole, static_cast<size_t>(dimensions));
    fmt::format_to(std::back_inserter(out), R"({}{{"text_index":{},"embedding":[)", i > 0 ? "," : "", i);
    for (size_t j = 0; j < vector.size(); ++j) {
      fmt::format_to(std::back_inserter(out), "{}{}", j > 0 ? "," : "",
                     std::isfinite(vector[j]) ? vector[j] : 0.0f);
    }
    out.append("]}");
  }
  fmt::format_to(std::back_inserter(out), R"(]}},"usage":{{"total_tokens":{}}},"request_id":"{}"}})",
                 reply->prompt_tokens, http.id);  // (ids are of letters, digits and .:_-)
  HttpResponse response;
  response.body = std::move(out);
  return response;
}

}  // namespace

void Generation(Services& services, std::shared_ptr<Exchange> exchange) {
  const HttpRequest& http = exchange->request();
  const auto refuse = [&](const Error& error) { exchange->Send(ErrorReply(error, http)); };
  const auto body = JsonBody(services, http);
  if (!body) return refuse(body.error());
  auto parsed = ParseGeneration(*body);
  if (!parsed) return refuse(parsed.error());
  FillCaller(parsed->chat.request, services, http);
  if (auto allowed = CheckModel(services, http, parsed->chat.request.model); !allowed)
    return refuse(allowed.error());
  NameUnread(services, parsed->chat.request.model, parsed->chat.reply.template_members,
             parsed->chat.reply.ignored);
  parsed->chat.reply.stream = WantsEvents(http);
  const auto reply = MakeReply(exchange, services.inference, *parsed);
  Attach(exchange, reply, services.inference.Chat(std::move(parsed->chat.request), reply));
}

void TextEmbedding(Services& services, std::shared_ptr<Exchange> exchange) {
  const HttpRequest& http = exchange->request();
  const auto refuse = [&](const Error& error) { exchange->Send(ErrorReply(error, http)); };
  const auto body = JsonBody(services, http);
  if (!body) return refuse(body.error());
  auto parsed = ParseEmbedding(*body);
  if (!parsed) return refuse(parsed.error());
  FillCaller(parsed->request, services, http);
  if (auto allowed = CheckModel(services, http, parsed->request.model); !allowed)
    return refuse(allowed.error());
  const auto rates = WatchRates(parsed->request);
  // Spelling out a thousand vectors takes milliseconds: not on the engine's thread.
  auto done = [workers = services.workers, exchange, rates, dimensions = parsed->dimensions,
               ignored = parsed->ignored](Result<platform::EmbeddingReply> vectors) {
    auto send = [exchange, rates, dimensions, ignored,
                 vectors = std::make_shared<Result<platform::EmbeddingReply>>(std::move(vectors))] {
      exchange->Send(WithIgnored(
          WithRates(EmbeddingResponse(*vectors, dimensions, exchange->request()), *rates), ignored));
    };
    if (!workers->Submit(send)) send();
  };
  auto generation = services.inference.Embed(std::move(parsed->request), std::move(done));
  if (!generation) return exchange->Send(WithRates(ErrorReply(generation.error(), http), *rates));
  exchange->Listen(MakeCancelListener(std::move(*generation)));
}

void TextRerank(Services& services, std::shared_ptr<Exchange> exchange) {
  const HttpRequest& http = exchange->request();
  const auto refuse = [&](const Error& error) { exchange->Send(ErrorReply(error, http)); };
  const auto body = JsonBody(services, http);
  if (!body) return refuse(body.error());
  auto parsed = ParseRerank(*body);
  if (!parsed) return refuse(parsed.error());
  rerank::Run(services, exchange, std::move(*parsed),
              [exchange](const rerank::Ranking& ranking) -> HttpResponse {
                const HttpRequest& asked = exchange->request();
                if (!ranking.reply) return ErrorReply(ranking.reply.error(), asked);
                HttpResponse response;
                response.body = R"({"output":{"results":)" + rerank::ResultsJson(ranking) +
                                fmt::format(R"(}},"usage":{{"total_tokens":{}}},"request_id":"{}"}})",
                                            ranking.reply->prompt_tokens, asked.id);
                return response;
              });
}

nlohmann::ordered_json RerankReplySchema() {
  return Json::parse(R"({"type": "object", "properties": {
    "output": {"type": "object", "properties": {"results": {"type": "array", "items": {"type": "object",
      "properties": {"index": {"type": "integer"}, "relevance_score": {"type": "number"},
        "document": {"type": "object"}}}}}},
    "usage": {"type": "object", "properties": {"total_tokens": {"type": "integer"}}},
    "request_id": {"type": "string"}}})");
}

nlohmann::ordered_json GenerationReplySchema() {
  return Json::parse(R"({"type": "object", "properties": {
    "output": {"type": "object", "properties": {
      "text": {"type": "string"}, "reasoning_content": {"type": "string"},
      "finish_reason": {"enum": ["stop", "length", "tool_calls", "null"]},
      "choices": {"type": "array", "items": {"type": "object", "properties": {
        "finish_reason": {"enum": ["stop", "length", "tool_calls", "null"]}, "index": {"type": "integer"},
        "message": {"type": "object"}, "logprobs": {"type": "object"}}}}}},
    "usage": {"type": "object", "properties": {
      "input_tokens": {"type": "integer"}, "output_tokens": {"type": "integer"},
      "total_tokens": {"type": "integer"}}},
    "request_id": {"type": "string"}}})");
}

nlohmann::ordered_json EmbeddingReplySchema() {
  return Json::parse(R"({"type": "object", "properties": {
    "output": {"type": "object", "properties": {"embeddings": {"type": "array", "items": {"type": "object",
      "properties": {"text_index": {"type": "integer"},
        "embedding": {"type": "array", "items": {"type": "number"}}}}}}},
    "usage": {"type": "object", "properties": {"total_tokens": {"type": "integer"}}},
    "request_id": {"type": "string"}}})");
}

nlohmann::ordered_json ErrorSchema() {
  return Json::parse(R"({"type": "object", "properties": {
    "code": {"type": "string"}, "message": {"type": "string"}, "request_id": {"type": "string"}}})");
}

}  // namespace tidepool::gateway::bailian
