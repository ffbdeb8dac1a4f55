// /v1/rerank and the other addresses where clients look for it; and what Bailian's own interface makes of it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gateway/http.h"
#include "gateway/rerank/requests.h"
#include "gateway/services.h"

namespace tidepool::gateway::rerank {

void Rerank(Services& services, std::shared_ptr<Exchange> exchange);
nlohmann::ordered_json RerankReplySchema();

// What was asked and what came of it.
struct Ranking {
  Result<platform::RerankReply> reply;
  std::vector<std::string> documents;  // empty: not to be returned
  int32_t top = 0;
};
// The best first: [{"index", "relevance_score", "document": {"text"}}]; equal scores in the documents' order.
std::string ResultsJson(const Ranking& ranking);

// Checks the key's models, ranks, and sends what `encode` makes of the result (on a worker).
void Run(Services& services, const std::shared_ptr<Exchange>& exchange, ParsedRerank parsed,
         std::function<HttpResponse(const Ranking&)> encode);

}  // namespace tidepool::gateway::rerank
