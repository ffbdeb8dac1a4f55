#include "gateway/ollama/handlers.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "gateway/errors.h"
#include "gateway/inference_call.h"
#include "gateway/ollama/reply.h"
#include "gateway/ollama/requests.h"
#include "gateway/openai/embedding_reply.h"
#include "platform/inference/pool_control.h"

namespace tidepool::gateway::ollama {
namespace {

// How long a model stays is the pool's operator's to say; of others it is a wish without effect.
bool MayKeepAlive(Services& services, const HttpRequest& http) {
  return http.principal.is_operator && services.inference.pool() != nullptr;
}

void NoteKeepAlive(Services& services, const HttpRequest& http, const KeepAlive& keep_alive,
                   std::vector<std::string>& ignored) {
  if (keep_alive && !MayKeepAlive(services, http)) ignored.emplace_back("keep_alive");
}

// After the request was handed over: this waits for a step. Below 0 pins; a pin is taken back by the pool's
// policy, not by the next client's default.
void ApplyKeepAlive(Services& services, const HttpRequest& http, const std::string& model,
                    const KeepAlive& keep_alive) {
  if (!keep_alive || !MayKeepAlive(services, http)) return;
  platform::PolicyChange change;
  if (*keep_alive < 0) {
    change.pinned = true;
  } else {
    change.idle_ttl_s = *keep_alive;
  }
  // A model whose weights always stay has no policy to change: nothing to tell.
  (void)services.inference.pool()->SetPolicy(model, change);
}

HttpResponse TextReply(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

// A request without a prompt: the model is loaded, or with keep_alive 0 taken out of memory.
void LoadOnly(Services& services, const std::shared_ptr<Exchange>& exchange, Endpoint endpoint,
              const std::string& model, const KeepAlive& keep_alive,
              const std::vector<std::string>& ignored) {
  const HttpRequest& http = exchange->request();
  const auto found = services.inference.Find(model);
  if (!found) return exchange->Send(ErrorReply(found.error()));
  if (keep_alive && *keep_alive == 0) {
    if (!http.principal.is_operator) {
      return exchange->Send(
          ErrorReply(Error{ErrorKind::kForbidden, "role_too_low",
                           "Taking a model out of memory needs the role operator.", "keep_alive", 0}));
    }
    if (const auto unloaded = services.inference.Unload(found->id, false); !unloaded)
      return exchange->Send(ErrorReply(unloaded.error()));
    return exchange->Send(TextReply(LoadReply(endpoint, found->id, "unload")));
  }
  services.inference.Load(found->id, [exchange, endpoint, id = found->id, ignored](const Status& loaded) {
    exchange->Send(loaded ? WithIgnored(TextReply(LoadReply(endpoint, id, "load")), ignored)
                          : ErrorReply(loaded.error()));
  });
  ApplyKeepAlive(services, http, found->id, keep_alive);
}

using SteadyTime = std::chrono::steady_clock::time_point;

HttpResponse EmbedResponse(const Result<platform::EmbeddingReply>& reply, int32_t dimensions, bool one,
                           SteadyTime begun) {
  if (!reply) return ErrorReply(reply.error());
  std::string vectors;
  for (const std::vector<float>& whole : reply->vectors) {
    if (static_cast<size_t>(dimensions) > whole.size()) {
      return ErrorReply(BadField("dimensions", fmt::format("dimensions is {}, but the vectors of {} have {}.",
                                                           dimensions, reply->model, whole.size())));
    }
    const std::vector<float> vector =
        dimensions == 0 ? whole : openai::Shortened(whole, static_cast<size_t>(dimensions));
    vectors.append(vectors.empty() ? "[" : ",[");
    for (size_t i = 0; i < vector.size(); ++i) {
      fmt::format_to(std::back_inserter(vectors), "{}{}", i > 0 ? "," : "",
                     std::isfinite(vector[i]) ? vector[i] : 0.0f);
    }
    vectors.push_back(']');
  }
  HttpResponse response;
  if (one) {
    response.body = R"({"embedding":)" + vectors + "}";
    return response;
  }
  const auto total =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begun).count();
  response.body = R"({"model":)" + nlohmann::ordered_json(reply->model).dump() + R"(,"embeddings":[)" +
                  vectors +
                  fmt::format(R"(],"total_duration":{},"load_duration":0,"prompt_eval_count":{}}})", total,
                              reply->prompt_tokens);
  return response;
}

void RunEmbed(Services& services, const std::shared_ptr<Exchange>& exchange, Result<ParsedEmbed> parsed,
              bool one) {
  if (!parsed) return exchange->Send(ErrorReply(parsed.error()));
  const HttpRequest& http = exchange->request();
  platform::EmbeddingRequest& request = parsed->request;
  request.model = StoredName(services, request.model);
  FillCaller(request, services, http);
  if (auto allowed = CheckModel(services, http, request.model); !allowed)
    return exchange->Send(ErrorReply(allowed.error()));
  NoteKeepAlive(services, http, parsed->keep_alive, parsed->ignored);
  const std::string model = request.model;
  if (request.inputs.empty()) {
    const auto found = services.inference.Find(model);
    if (!found) return exchange->Send(ErrorReply(found.error()));
    services.inference.Load(found->id, [exchange, one, id = found->id](const Status& loaded) {
      if (!loaded) return exchange->Send(ErrorReply(loaded.error()));
      exchange->Send(TextReply(
          one ? std::string(R"({"embedding":[]})")
              : nlohmann::ordered_json{{"model", id}, {"embeddings", nlohmann::ordered_json::array()}}
                    .dump()));
    });
    return ApplyKeepAlive(services, http, model, parsed->keep_alive);
  }
  ApplyInstruction(services.inference, parsed->instruction, request, parsed->ignored);
  const auto rates = WatchRates(request);
  // Spelling out a thousand vectors takes milliseconds: not on the engine's thread.
  auto done = [workers = services.workers, exchange, one, rates, dimensions = parsed->dimensions,
               begun = std::chrono::steady_clock::now(),
               ignored = parsed->ignored](Result<platform::EmbeddingReply> vectors) {
    auto send = [exchange, one, rates, dimensions, begun, ignored,
                 vectors = std::make_shared<Result<platform::EmbeddingReply>>(std::move(vectors))] {
      exchange->Send(
          WithIgnored(WithRates(EmbedResponse(*vectors, dimensions, one, begun), *rates), ignored));
    };
    if (!workers->Submit(send)) send();
  };
  auto generation = services.inference.Embed(std::move(request), std::move(done));
  if (!generation) return exchange->Send(WithRates(ErrorReply(generation.error()), *rates));
  exchange->Listen(MakeCancelListener(std::move(*generation)));
  ApplyKeepAlive(services, http, model, parsed->keep_alive);
}

}  // namespace

std::string StoredName(const Services& services, const std::string& name) {
  constexpr std::string_view kLatest = ":latest";
  if (!name.ends_with(kLatest) || services.inference.Find(name)) return name;
  std::string stripped = name.substr(0, name.size() - kLatest.size());
  return services.inference.Find(stripped) ? stripped : name;
}

void Chat(Services& services, std::shared_ptr<Exchange> exchange) {
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorReply(body.error()));
  auto parsed = ParseChat(*body);
  if (!parsed) return exchange->Send(ErrorReply(parsed.error()));
  const HttpRequest& http = exchange->request();
  parsed->request.model = StoredName(services, parsed->request.model);
  const std::string model = parsed->request.model;
  FillCaller(parsed->request, services, http);
  if (auto allowed = CheckModel(services, http, model); !allowed)
    return exchange->Send(ErrorReply(allowed.error()));
  NoteKeepAlive(services, http, parsed->keep_alive, parsed->reply.ignored);
  if (parsed->load_only) {
    return LoadOnly(services, exchange, Endpoint::kChat, model, parsed->keep_alive, parsed->reply.ignored);
  }
  NameUnread(services, model, parsed->reply.template_members, parsed->reply.ignored);
  const auto reply =
      MakeReply(exchange, services.inference, Endpoint::kChat, std::move(parsed->reply), model);
  Attach(exchange, reply, services.inference.Chat(std::move(parsed->request), reply));
  ApplyKeepAlive(services, http, model, parsed->keep_alive);
}

void Generate(Services& services, std::shared_ptr<Exchange> exchange) {
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorReply(body.error()));
  auto parsed = ParseGenerate(*body);
  if (!parsed) return exchange->Send(ErrorReply(parsed.error()));
  const HttpRequest& http = exchange->request();
  const std::string model = StoredName(services, parsed->chat.model);
  if (auto allowed = CheckModel(services, http, model); !allowed)
    return exchange->Send(ErrorReply(allowed.error()));
  NoteKeepAlive(services, http, parsed->keep_alive, parsed->reply.ignored);
  if (parsed->load_only) {
    return LoadOnly(services, exchange, Endpoint::kGenerate, model, parsed->keep_alive,
                    parsed->reply.ignored);
  }
  const auto reply =
      MakeReply(exchange, services.inference, Endpoint::kGenerate, std::move(parsed->reply), model);
  if (parsed->raw) {
    FillCaller(parsed->completion, services, http);
    parsed->completion.model = model;
    Attach(exchange, reply, services.inference.Complete(std::move(parsed->completion), reply));
  } else {
    FillCaller(parsed->chat, services, http);
    parsed->chat.model = model;
    Attach(exchange, reply, services.inference.Chat(std::move(parsed->chat), reply));
  }
  ApplyKeepAlive(services, http, model, parsed->keep_alive);
}

void Embed(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorReply(body.error()));
  RunEmbed(services, exchange, ParseEmbed(*body), false);
}

void Embeddings(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorReply(body.error()));
  RunEmbed(services, exchange, ParseEmbeddings(*body), true);
}

}  // namespace tidepool::gateway::ollama
