// From the engine's events to Ollama's answers: one JSON object, or lines of them (NDJSON).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gateway/openai/reply.h"

namespace tidepool::gateway::ollama {

inline constexpr std::string_view kLines = "application/x-ndjson";

enum class Endpoint : uint8_t { kChat, kGenerate };

std::shared_ptr<openai::Reply> MakeReply(std::shared_ptr<Exchange> exchange,
                                         const platform::Inference& inference, Endpoint endpoint,
                                         openai::ReplyOptions options, std::string model);

// {"error": "what is wrong"} with the error's status.
HttpResponse ErrorReply(const Error& error);
HttpResponse ErrorReply(const Error& error, const HttpRequest& request);
// The answer to a request that only loads ("load") or unloads ("unload") its model.
std::string LoadReply(Endpoint endpoint, std::string_view model, std::string_view reason);

// "2026-11-28T11:00:00.5Z", of now or of a second.
std::string TimeText();
std::string TimeText(int64_t unix_s);

}  // namespace tidepool::gateway::ollama
