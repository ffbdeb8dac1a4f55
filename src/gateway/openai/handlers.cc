#include "gateway/openai/handlers.h"

#include <fmt/format.h>

#include "gateway/errors.h"
#include "gateway/inference_call.h"
#include "gateway/model_card.h"
#include "gateway/openai/embedding_reply.h"
#include "gateway/openai/reply.h"
#include "gateway/openai/requests.h"

namespace tidepool::gateway::openai {
namespace {

Json ModelJson(const Services& services, const platform::DeploymentStatus& status) {
  const ModelCard card = CardOf(services, status);
  Json out;
  out["id"] = status.name();
  out["object"] = "model";
  if (status.spec) out["base_model"] = status.id;
  out["created"] = status.model.created;
  out["owned_by"] = "tidepool";
  out["state"] = platform::DeploymentStateName(status.state);
  out["context_length"] = card.context_length;
  out["max_model_len"] = card.context_length;  // the name vLLM's clients read
  if (card.generates) out["max_output_tokens"] = card.context_length;
  out["capabilities"] = card.Capabilities();
  return out;
}

// The text of each prompt, as echo shows it.
Result<std::vector<std::string>> EchoTexts(Services& services, const platform::CompletionRequest& request) {
  std::vector<std::string> texts;
  if (!request.echo) return texts;
  for (const platform::Prompt& prompt : request.prompts) {
    if (!prompt.is_tokens) {
      texts.push_back(prompt.text);
      continue;
    }
    TP_ASSIGN(std::string text, services.inference.Detokenize(request.model, prompt.tokens));
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace

void ChatCompletions(Services& services, std::shared_ptr<Exchange> exchange) {
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  auto parsed = ParseChat(*body);
  if (!parsed) return exchange->Send(ErrorResponse(parsed.error()));
  FillCaller(parsed->request, services, exchange->request());
  if (auto allowed = CheckModel(services, exchange->request(), parsed->request.model); !allowed)
    return exchange->Send(ErrorResponse(allowed.error()));
  NameUnread(services, parsed->request.model, parsed->reply.template_members, parsed->reply.ignored);
  auto reply = MakeChatReply(exchange, services.inference, *parsed);
  Attach(exchange, reply, services.inference.Chat(std::move(parsed->request), reply));
}

void Completions(Services& services, std::shared_ptr<Exchange> exchange) {
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  auto parsed = ParseCompletion(*body);
  if (!parsed) return exchange->Send(ErrorResponse(parsed.error()));
  FillCaller(parsed->request, services, exchange->request());
  if (auto allowed = CheckModel(services, exchange->request(), parsed->request.model); !allowed)
    return exchange->Send(ErrorResponse(allowed.error()));
  auto echo = EchoTexts(services, parsed->request);
  if (!echo) return exchange->Send(ErrorResponse(echo.error()));
  auto reply = MakeCompletionReply(exchange, services.inference, *parsed, std::move(*echo));
  Attach(exchange, reply, services.inference.Complete(std::move(parsed->request), reply));
}

void Embeddings(Services& services, std::shared_ptr<Exchange> exchange) {
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  auto parsed = ParseEmbedding(*body);
  if (!parsed) return exchange->Send(ErrorResponse(parsed.error()));
  FillCaller(parsed->request, services, exchange->request());
  if (auto allowed = CheckModel(services, exchange->request(), parsed->request.model); !allowed)
    return exchange->Send(ErrorResponse(allowed.error()));
  ApplyInstruction(services.inference, parsed->instruction, parsed->request, parsed->ignored);
  const EmbeddingFormat format{parsed->base64, parsed->dimensions};
  const auto rates = WatchRates(parsed->request);
  // Spelling out a thousand vectors takes milliseconds: not on the engine's thread.
  auto done = [workers = services.workers, exchange, format, rates,
               ignored = parsed->ignored](Result<platform::EmbeddingReply> vectors) {
    auto send = [exchange, format, rates, ignored,
                 vectors = std::make_shared<Result<platform::EmbeddingReply>>(std::move(vectors))] {
      exchange->Send(WithIgnored(WithRates(EmbeddingResponse(*vectors, format), *rates), ignored));
    };
    if (!workers->Submit(send)) send();
  };
  auto generation = services.inference.Embed(std::move(parsed->request), std::move(done));
  if (!generation) return exchange->Send(WithRates(ErrorResponse(generation.error()), *rates));
  exchange->Listen(MakeCancelListener(std::move(*generation)));
}

void ListModels(Services& services, std::shared_ptr<Exchange> exchange) {
  Json body;
  body["object"] = "list";
  body["data"] = Json::array();
  for (const auto& status : services.inference.ListCallable()) {
    if (platform::MayUse(exchange->request().principal, status))
      body["data"].push_back(ModelJson(services, status));
  }
  exchange->Send(JsonResponse(body));
}

void GetModel(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto status = services.inference.Find(exchange->request().PathValue("id"));
  if (!status) return exchange->Send(ErrorResponse(status.error()));
  if (auto allowed = CheckModel(services, exchange->request(), status->name()); !allowed)
    return exchange->Send(ErrorResponse(allowed.error()));
  exchange->Send(JsonResponse(ModelJson(services, *status)));
}

void Tokenize(Services& services, std::shared_ptr<Exchange> exchange) {
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  auto parsed = ParseTokenize(*body);
  if (!parsed) return exchange->Send(ErrorResponse(parsed.error()));
  FillCaller(parsed->request, services, exchange->request());
  if (auto allowed = CheckModel(services, exchange->request(), parsed->request.model); !allowed)
    return exchange->Send(ErrorResponse(allowed.error()));
  NameUnread(services, parsed->request.model, parsed->template_members, parsed->ignored);
  auto tokens = parsed->chat ? services.inference.TokenizeChat(parsed->request)
                             : services.inference.Tokenize(parsed->request.model, parsed->text,
                                                           parsed->add_special, parsed->parse_special);
  if (!tokens) return exchange->Send(ErrorResponse(tokens.error()));
  Json reply;
  reply["model"] = parsed->request.model;
  reply["count"] = tokens->size();
  reply["tokens"] = *tokens;
  exchange->Send(WithIgnored(JsonResponse(reply), parsed->ignored));
}

void Detokenize(Services& services, std::shared_ptr<Exchange> exchange) {
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  auto parsed = ParseDetokenize(*body);
  if (!parsed) return exchange->Send(ErrorResponse(parsed.error()));
  if (auto allowed = CheckModel(services, exchange->request(), parsed->model); !allowed)
    return exchange->Send(ErrorResponse(allowed.error()));
  auto text = services.inference.Detokenize(parsed->model, parsed->tokens);
  if (!text) return exchange->Send(ErrorResponse(text.error()));
  Json reply;
  reply["model"] = parsed->model;
  reply["text"] = std::move(*text);
  exchange->Send(WithIgnored(JsonResponse(reply), parsed->ignored));
}

}  // namespace tidepool::gateway::openai
