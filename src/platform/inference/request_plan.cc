#include "platform/inference/request_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "platform/inference/sampling.h"

namespace tidepool::platform {
namespace {

size_t TextBytes(const nlohmann::ordered_json& messages) {
  std::vector<std::string_view> strings;
  CollectStrings(messages, strings);
  size_t bytes = 0;
  for (const std::string_view s : strings) bytes += s.size();
  return bytes;
}

// n choices of one prompt: seeds seed, seed + 1, ...
void AddChoices(ChoicePlan choice, const SamplingRequest& sampling, std::vector<ChoicePlan>& plan) {
  for (int32_t s = 0; s < sampling.n; ++s) {
    ChoicePlan sibling = choice;
    if (choice.request.sampling.seed) *sibling.request.sampling.seed += static_cast<uint64_t>(s);
    sibling.first_of_prompt = s == 0;
    plan.push_back(std::move(sibling));
  }
}

bool OffersTools(const ChatRequest& request) {
  return !request.tools.empty() && request.tool_choice != ToolChoice::kNone;
}

// How calls will be read out of the answer.
Status PlanTools(const ChatRequest& request, const ModelAssets& assets, ChoicePlan& choice) {
  toolcalls::Format format = assets.tool_calls;
  if (!request.tool_call_format.empty()) {
    const auto found = toolcalls::FindFormat(request.tool_call_format);
    if (!found) {
      return Fail(ErrorKind::kInvalid, "invalid_value",
                  fmt::format("tool_call_format \"{}\" is unknown; there are {}",
                              request.tool_call_format.substr(0, 64), toolcalls::FormatNames()),
                  "tool_call_format");
    }
    format = *found;
  }
  choice.tool_calls = format;
  for (const auto& tool : request.tools) {
    const auto& function = tool.at("function");
    choice.tools.push_back({function.at("name").get<std::string>(),
                            function.value("parameters", nlohmann::ordered_json::object())});
  }
  for (const std::string_view tag : toolcalls::FormatTags(format)) {
    choice.request.visible_tags.emplace_back(tag);
  }
  choice.request.reasoning.ends_before = toolcalls::OpeningTag(format);
  return {};
}

// A constrained answer may be preceded by reasoning where the model begins it by itself: not where the prompt
// has opened it already, or closed it.
bool MayReason(const RenderedPrompt& prompt) {
  if (prompt.reasoning.open_tag.empty() || prompt.reasoning.starts_inside || prompt.continues) return false;
  std::string_view text = prompt.text;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  return !text.ends_with(prompt.reasoning.close_tag);
}

// Keeps the beginning, and the token that the tokenizer puts at the end of every text (BERT's [SEP]).
void Truncate(const ModelAssets& assets, int32_t context_length, std::vector<int32_t>& tokens) {
  const auto room = static_cast<size_t>(std::max(context_length, 0));
  if (room == 0 || tokens.size() <= room) return;
  const std::vector<int32_t> frame =
      assets.tokenizer->Encode("", {.add_special = true, .parse_special = false});
  const bool ends = !frame.empty() && tokens.back() == frame.back() && room > 1;
  tokens.resize(room);
  if (ends) tokens.back() = frame.back();
}

}  // namespace

Error CannotGenerate(const std::string& id) {
  return {ErrorKind::kInvalid, "embeddings_only",
          fmt::format("model \"{}\" makes embeddings or scores and cannot generate text; use /v1/embeddings, "
                      "/v1/rerank, or "
                      "another model",
                      id),
          "model", 0};
}

Error CannotRank(const std::string& id) {
  return {
      ErrorKind::kInvalid, "rerank_unsupported",
      fmt::format(
          "model \"{}\" does not rank: it scores no pairs of texts; use a reranker, such as bge-reranker or "
          "Qwen3-Reranker",
          id),
      "model", 0};
}

Result<RenderedPrompt> RenderRequest(const ModelAssets& assets, const ChatRequest& request) {
  static const nlohmann::ordered_json kNoTools = nlohmann::ordered_json::array();
  return RenderChat(assets, request.messages, request.template_variables, UnixTimeSeconds(),
                    OffersTools(request) ? request.tools : kNoTools);
}

Result<std::vector<ChoicePlan>> PlanChat(const ChatRequest& request, const ReadyModel& model,
                                         Constraints& constraints) {
  if (!model.info.generates) return Fail(CannotGenerate(model.id));
  const ModelAssets& assets = *model.assets;
  TP_TRY(CheckTextFits(assets, TextBytes(request.messages), model.context_length, "messages"));
  if (OffersTools(request)) {
    TP_TRY(CheckTextFits(assets, TextBytes(request.tools), model.context_length, "tools"));
  }
  TP_ASSIGN(RenderedPrompt prompt, RenderRequest(assets, request));
  const auto thinking = request.template_variables.find("enable_thinking");
  const bool thinking_off = thinking != request.template_variables.end() && *thinking == false;
  const bool use_off = thinking_off && assets.thinking_off.temperature.has_value();
  ChoicePlan choice;
  TP_ASSIGN(choice.request.sampling,
            MergeSampling(request.sampling, use_off ? assets.thinking_off : assets.sampling, 0,
                          model.info.vocab_size));
  SetCaller(request, choice.request);
  choice.request.strip_leading_space = assets.tokenizer->strips_leading_space() && !prompt.continues;
  choice.request.prompt = std::move(prompt.tokens);
  const bool may_reason = MayReason(prompt);
  choice.request.reasoning = std::move(prompt.reasoning);
  if (OffersTools(request)) {
    TP_TRY(PlanTools(request, assets, choice));
    TP_ASSIGN(choice.request.constraint, constraints.OfTools(assets, request, *choice.tool_calls));
  } else {
    TP_ASSIGN(choice.request.constraint, constraints.OfOutput(assets, request.sampling.output));
  }
  choice.request.constraint.may_reason = may_reason;
  choice.request.job_class = request.sampling.priority.value_or(compute::JobClass::kNormal);
  std::vector<ChoicePlan> plan;
  AddChoices(std::move(choice), request.sampling, plan);
  return plan;
}

Result<std::vector<ChoicePlan>> PlanCompletion(const CompletionRequest& request, const ReadyModel& model,
                                               Constraints& constraints) {
  if (!model.info.generates) return Fail(CannotGenerate(model.id));
  const ModelAssets& assets = *model.assets;
  SamplingRequest sampling = request.sampling;
  // "Score my prompt": no output is wanted. The engine makes one token at least; it is not shown.
  const bool only_echo = request.echo && sampling.max_tokens == 0;
  if (only_echo) {
    sampling.max_tokens = 1;
    sampling.min_tokens.reset();
  }
  TP_ASSIGN(const compute::SamplingParams params,
            MergeSampling(sampling, assets.sampling, 0, model.info.vocab_size));
  TP_ASSIGN(const compute::Constraint constraint, constraints.OfOutput(assets, sampling.output));
  std::vector<ChoicePlan> plan;
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    const Prompt& prompt = request.prompts[i];
    const std::string param = request.prompts.size() == 1 ? "prompt" : fmt::format("prompt[{}]", i);
    TP_TRY(CheckTextFits(assets, prompt.text.size(), model.context_length, param));
    ChoicePlan choice;
    TP_ASSIGN(choice.request.prompt, EncodePrompt(assets, prompt, request.parse_special, param));
    choice.request.sampling = params;
    choice.request.constraint = constraint;
    choice.request.sampling.prompt_logprobs = request.echo && params.top_logprobs >= 0;
    SetCaller(request, choice.request);
    choice.request.job_class = sampling.priority.value_or(compute::JobClass::kNormal);
    choice.discard_output = only_echo;
    AddChoices(std::move(choice), sampling, plan);
  }
  return plan;
}

Result<compute::EmbedRequest> PlanEmbedding(const EmbeddingRequest& request, const ReadyModel& model) {
  if (model.info.ranks) {
    return Fail(
        ErrorKind::kInvalid, "embeddings_unsupported",
        fmt::format("model \"{}\" scores pairs of texts and makes no embeddings; use /v1/rerank", model.id),
        "model");
  }
  if (model.info.pooling == architectures::Pooling::kNone) {
    return Fail(
        ErrorKind::kInvalid, "embeddings_unsupported",
        fmt::format(
            "model \"{}\" names no pooling, so it makes no embeddings; use an embedding model such as "
            "minilm:l6-v2",
            model.id),
        "model");
  }
  compute::EmbedRequest out;
  SetCaller(request, out);
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const std::string param = request.inputs.size() == 1 ? "input" : fmt::format("input[{}]", i);
    if (!request.truncate)
      TP_TRY(CheckTextFits(*model.assets, request.inputs[i].text.size(), model.context_length, param));
    TP_ASSIGN(std::vector<int32_t> tokens, EncodePrompt(*model.assets, request.inputs[i], false, param));
    if (request.truncate) Truncate(*model.assets, model.context_length, tokens);
    if (model.context_length > 0 && tokens.size() > static_cast<size_t>(model.context_length)) {
      return Fail(ErrorKind::kInvalid, "context_length_exceeded",
                  fmt::format("the input has {} tokens, the model reads {}; split it", tokens.size(),
                              model.context_length),
                  param);
    }
    out.inputs.push_back(std::move(tokens));
  }
  return out;
}

// As https://huggingface.co/Qwen/Qwen3-Embedding-0.6B has it: no blank after "Query:".
Status WriteInstruction(const StoredModel& model, const std::string& name, EmbeddingRequest& request) {
  const auto unsupported = [](std::string message) {
    return Fail(ErrorKind::kInvalid, "instruction_unsupported", std::move(message), "instruction");
  };
  if (!ReadsInstruction(model)) {
    return unsupported(
        fmt::format("model \"{}\" was not trained to read an instruction; leave it out, or write what the "
                    "model's makers want before a query into the input",
                    name));
  }
  for (Prompt& input : request.inputs) {
    if (input.is_tokens)
      return unsupported("an instruction is put before text; send the input as strings, not tokens");
    input.text = fmt::format("Instruct: {}\nQuery:{}", request.instruction, input.text);
  }
  return {};
}

}  // namespace tidepool::platform
