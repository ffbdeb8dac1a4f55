#include "platform/inference/named_deployments.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::platform {
namespace {

template <typename T>
void Default(std::optional<T>& value, const std::optional<T>& otherwise) {
  if (!value) value = otherwise;
}

template <typename T>
void Raise(std::optional<T>& value, const std::optional<T>& other) {
  if (other) value = value ? std::max(*value, *other) : *other;
}

template <typename T>
void Lower(std::optional<T>& value, const std::optional<T>& other) {
  if (other) value = value ? std::min(*value, *other) : *other;
}

// -1 is for ever.
void RaiseTtl(std::optional<double>& value, const std::optional<double>& other) {
  const bool forever = (value && *value == -1) || (other && *other == -1);
  Raise(value, other);
  if (forever) value = -1;
}

}  // namespace

void FillIn(const DeploymentSpec& spec, SamplingRequest& sampling) {
  const DeploymentDefaults& d = spec.defaults;
  Default(sampling.temperature, d.temperature);
  Default(sampling.top_p, d.top_p);
  Default(sampling.top_k, d.top_k);
  Default(sampling.min_p, d.min_p);
  Default(sampling.repetition_penalty, d.repetition_penalty);
  Default(sampling.presence_penalty, d.presence_penalty);
  Default(sampling.frequency_penalty, d.frequency_penalty);
  Default(sampling.max_tokens, d.max_tokens);
  Default(sampling.reasoning_budget, d.reasoning_budget);
  if (sampling.stop.empty()) sampling.stop = d.stop;
  Default(sampling.priority, d.priority);
}

void FillIn(const DeploymentSpec& spec, ChatRequest& request) {
  FillIn(spec, request.sampling);
  if (spec.defaults.thinking && !request.template_variables.contains("enable_thinking"))
    request.template_variables["enable_thinking"] = *spec.defaults.thinking;
  if (spec.system_prompt.empty() || !request.messages.is_array()) return;
  for (const auto& message : request.messages) {
    const auto role = message.find("role");
    if (role != message.end() && (*role == "system" || *role == "developer")) return;
  }
  request.messages.insert(request.messages.begin(),
                          nlohmann::ordered_json{{"role", "system"}, {"content", spec.system_prompt}});
}

int32_t ContextOf(const DeploymentSpec& spec, int32_t own) {
  if (spec.max_context_tokens <= 0) return own;
  return own > 0 ? std::min(own, spec.max_context_tokens) : spec.max_context_tokens;
}

Status LimitPlan(const DeploymentSpec& spec, int32_t context, bool named, std::vector<ChoicePlan>& plan) {
  for (ChoicePlan& choice : plan) {
    int32_t& most = choice.request.sampling.max_tokens;
    if (spec.max_output_tokens > 0)
      most = most > 0 ? std::min(most, spec.max_output_tokens) : spec.max_output_tokens;
    if (context <= 0) continue;
    const auto prompt = static_cast<int64_t>(choice.request.prompt.size());
    const int64_t room = context - prompt;
    if (room < 1 || (named && most > room)) {
      return Fail(ErrorKind::kInvalid, "context_length_exceeded",
                  fmt::format("{} takes at most {} tokens of prompt and answer together, but the prompt has "
                              "{}{}; shorten the prompt or lower max_tokens",
                              spec.name, context, prompt,
                              named && most > 0 ? fmt::format(" and max_tokens is {}", most) : std::string()),
                  room < 1 ? "prompt" : "max_tokens");
    }
    if (most > 0 || spec.max_context_tokens > 0)
      most = static_cast<int32_t>(most > 0 ? std::min<int64_t>(most, room) : room);
  }
  return {};
}

std::map<std::string, PolicyChange> PolicyOfDeployments(
    const std::vector<std::shared_ptr<const DeploymentSpec>>& specs) {
  std::map<std::string, PolicyChange> out;
  for (const auto& spec : specs) {
    PolicyChange& change = out[spec->base];
    if (spec->pinned) change.pinned = true;
    RaiseTtl(change.idle_ttl_s, spec->idle_ttl_s);
    Raise(change.min_resident_s, spec->min_resident_s);
    Lower(change.ttft_s, spec->ttft_s);
    Lower(change.tpot_s, spec->tpot_s);
    Raise(change.weight, spec->weight);
  }
  return out;
}

ReadyModel DeploymentAssets::As(const std::shared_ptr<const DeploymentSpec>& spec, const ReadyModel& base) {
  if (spec == nullptr) return base;
  ReadyModel out = base;
  out.id = spec->name;
  out.context_length = ContextOf(*spec, base.context_length);
  out.assets = Of(spec, base.assets);
  return out;
}

std::shared_ptr<const ModelAssets> DeploymentAssets::Of(const std::shared_ptr<const DeploymentSpec>& spec,
                                                        const std::shared_ptr<const ModelAssets>& base) {
  if (spec == nullptr || spec->chat_template.empty() || base == nullptr) return base;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = made_.find(spec->name);
        it != made_.end() && it->second.spec == spec && it->second.base == base) {
      return it->second.assets;
    }
  }
  // Reads the whole vocabulary: not under the mutex.
  auto assets = std::const_pointer_cast<ModelAssets>(MakeModelAssets(base->tokenizer, spec->chat_template));
  assets->sampling = base->sampling;
  assets->thinking_off = base->thinking_off;
  const std::lock_guard lock(mutex_);
  made_[spec->name] = {spec, base, assets};
  return assets;
}

void DeploymentAssets::Keep(const DeploymentBook& book) {
  const std::lock_guard lock(mutex_);
  std::erase_if(made_, [&](const auto& entry) { return book.Find(entry.first) != entry.second.spec; });
}

}  // namespace tidepool::platform
