// The endpoints that speak OpenAI's dialect. Each is a Handler of the route table (router.h).
#pragma once

#include <memory>

#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::openai {

void ChatCompletions(Services& services, std::shared_ptr<Exchange> exchange);
void Completions(Services& services, std::shared_ptr<Exchange> exchange);
void Embeddings(Services& services, std::shared_ptr<Exchange> exchange);
void ListModels(Services& services, std::shared_ptr<Exchange> exchange);
void GetModel(Services& services, std::shared_ptr<Exchange> exchange);
void Tokenize(Services& services, std::shared_ptr<Exchange> exchange);
void Detokenize(Services& services, std::shared_ptr<Exchange> exchange);

nlohmann::ordered_json ChatReplySchema();
nlohmann::ordered_json CompletionReplySchema();
// The data of a stream's events, by name: chunk (without a name on the wire), progress, cost.
nlohmann::ordered_json ChatEventsSchema();
// What a request was billed; where it is while there is no token yet; what it took.
nlohmann::ordered_json BilledSchema();
nlohmann::ordered_json ProgressSchema();
nlohmann::ordered_json UsageSchema();
nlohmann::ordered_json EmbeddingReplySchema();
nlohmann::ordered_json ModelListSchema();
nlohmann::ordered_json ModelSchema();
nlohmann::ordered_json TokenizeReplySchema();
nlohmann::ordered_json DetokenizeReplySchema();

}  // namespace tidepool::gateway::openai
