// The endpoints of Bailian's native interface, under /api/v1/services. Each is a Handler of the route table
// (router.h). What Bailian serves under /compatible-mode/v1 the router finds under /v1.
#pragma once

#include <memory>

#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::bailian {

void Generation(Services& services, std::shared_ptr<Exchange> exchange);
void TextEmbedding(Services& services, std::shared_ptr<Exchange> exchange);
void TextRerank(Services& services, std::shared_ptr<Exchange> exchange);

nlohmann::ordered_json GenerationReplySchema();
nlohmann::ordered_json EmbeddingReplySchema();
nlohmann::ordered_json RerankReplySchema();
nlohmann::ordered_json ErrorSchema();

}  // namespace tidepool::gateway::bailian
