#include "gateway/rerank/handlers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "gateway/errors.h"
#include "gateway/inference_call.h"
#include "gateway/json_body.h"

namespace tidepool::gateway::rerank {
namespace {

HttpResponse Encode(const Ranking& ranking, const std::string& id) {
  if (!ranking.reply) return ErrorResponse(ranking.reply.error());
  HttpResponse response;
  response.body = R"({"id":)";
  AppendJsonString(response.body, id);
  response.body.append(R"(,"object":"list","model":)");
  AppendJsonString(response.body, ranking.reply->model);
  response.body.append(R"(,"results":)").append(ResultsJson(ranking));
  fmt::format_to(std::back_inserter(response.body),
                 R"(,"usage":{{"prompt_tokens":{0},"total_tokens":{0}}}}})", ranking.reply->prompt_tokens);
  return response;
}

}  // namespace

std::string ResultsJson(const Ranking& ranking) {
  const std::vector<float>& scores = ranking.reply->scores;
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  if (ranking.top > 0) order.resize(std::min(order.size(), static_cast<size_t>(ranking.top)));
  std::string out = "[";
  for (const size_t index : order) {
    if (out.size() > 1) out.push_back(',');
    fmt::format_to(std::back_inserter(out), R"({{"index":{},"relevance_score":{})", index,
                   std::isfinite(scores[index]) ? scores[index] : 0.0f);
    if (!ranking.documents.empty()) {
      out.append(R"(,"document":{"text":)");
      AppendJsonString(out, ranking.documents[index]);
      out.push_back('}');
    }
    out.push_back('}');
  }
  out.push_back(']');
  return out;
}

void Run(Services& services, const std::shared_ptr<Exchange>& exchange, ParsedRerank parsed,
         std::function<HttpResponse(const Ranking&)> encode) {
  const HttpRequest& http = exchange->request();
  FillCaller(parsed.request, services, http);
  const auto rates = WatchRates(parsed.request);
  const auto refuse = [&](const Error& error) {
    exchange->Send(WithRates(encode(Ranking{Fail(error), {}, 0}), *rates));
  };
  if (auto allowed = CheckModel(services, http, parsed.request.model); !allowed)
    return refuse(allowed.error());
  if (!parsed.instruction_field.empty()) {
    const auto found = services.inference.Find(parsed.request.model);
    if (found && !platform::ReadsInstruction(found->model))
      AddIgnored({parsed.instruction_field}, parsed.ignored);
  }
  std::vector<std::string> documents;
  if (parsed.return_documents) documents = parsed.request.documents;
  // Spelling out a thousand documents takes milliseconds: not on the engine's thread.
  auto done = [workers = services.workers, exchange, encode, rates, documents = std::move(documents),
               top = parsed.top, ignored = parsed.ignored](Result<platform::RerankReply> reply) mutable {
    const auto ranking = std::make_shared<Ranking>(Ranking{std::move(reply), std::move(documents), top});
    auto send = [exchange, encode, ranking, rates, ignored] {
      exchange->Send(WithIgnored(WithRates(encode(*ranking), *rates), ignored));
    };
    if (!workers->Submit(send)) send();
  };
  auto generation = services.inference.Rerank(std::move(parsed.request), std::move(done));
  if (!generation) return refuse(generation.error());
  exchange->Listen(MakeCancelListener(std::move(*generation)));
}

void Rerank(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  auto parsed = ParseRerank(*body);
  if (!parsed) return exchange->Send(ErrorResponse(parsed.error()));
  Run(services, exchange, std::move(*parsed),
      [id = exchange->request().id](const Ranking& ranking) { return Encode(ranking, id); });
}

nlohmann::ordered_json RerankReplySchema() {
  return Json::parse(R"({"type": "object", "required": ["results", "usage"], "properties": {
    "id": {"type": "string"}, "object": {"const": "list"}, "model": {"type": "string"},
    "results": {"type": "array", "items": {"type": "object", "required": ["index", "relevance_score"], "properties": {
      "index": {"type": "integer"}, "relevance_score": {"type": "number"},
      "document": {"type": "object", "properties": {"text": {"type": "string"}}}}}},
    "usage": {"type": "object", "required": ["total_tokens"], "properties": {
      "prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}}}})");
}

}  // namespace tidepool::gateway::rerank
