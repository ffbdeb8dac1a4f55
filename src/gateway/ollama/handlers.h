// The endpoints that speak Ollama's dialect, under /api. Each is a Handler of the route table (router.h).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::ollama {

// The version of Ollama whose fields are spoken here; clients compare it to know what they may send.
inline constexpr std::string_view kSpokenVersion = "0.12.11";

// handlers.cc
void Chat(Services& services, std::shared_ptr<Exchange> exchange);
void Generate(Services& services, std::shared_ptr<Exchange> exchange);
void Embed(Services& services, std::shared_ptr<Exchange> exchange);
void Embeddings(Services& services, std::shared_ptr<Exchange> exchange);

// models.cc
void Tags(Services& services, std::shared_ptr<Exchange> exchange);
void Show(Services& services, std::shared_ptr<Exchange> exchange);
void Running(Services& services, std::shared_ptr<Exchange> exchange);
void Version(Services& services, std::shared_ptr<Exchange> exchange);
void Pull(Services& services, std::shared_ptr<Exchange> exchange);
void Delete(Services& services, std::shared_ptr<Exchange> exchange);
// copy, create, push, blobs: models come by pulls, and have one name.
void NotSupported(Services& services, std::shared_ptr<Exchange> exchange);

// "name:latest", as clients write a name without a tag, means the model "name" where there is none with that
// tag.
std::string StoredName(const Services& services, const std::string& name);

// schemas.cc
nlohmann::ordered_json ChatReplySchema();
nlohmann::ordered_json GenerateReplySchema();
nlohmann::ordered_json EmbedReplySchema();
nlohmann::ordered_json EmbeddingsReplySchema();
nlohmann::ordered_json TagsSchema();
nlohmann::ordered_json ShowSchema();
nlohmann::ordered_json RunningSchema();
nlohmann::ordered_json VersionSchema();
nlohmann::ordered_json PullSchema();
nlohmann::ordered_json ErrorSchema();

}  // namespace tidepool::gateway::ollama
