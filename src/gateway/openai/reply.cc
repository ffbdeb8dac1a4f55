#include "gateway/openai/reply.h"

#include <fmt/format.h>

#include <cmath>

#include "base/clock.h"
#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/sse.h"
#include "platform/ledger/money.h"

namespace tidepool::gateway::openai {
namespace {

constexpr size_t kMaxTokenTexts = 4096;

bool WantsProgress(const HttpRequest& request) {
  const std::string* value = request.Header("tidepool-progress");
  return value != nullptr && *value == "1";
}

// A call that is none after all is text, so its answer just stopped.
std::string_view ReasonJson(compute::FinishReason reason, bool calls) {
  if (reason == compute::FinishReason::kLength) return R"("length")";
  return calls ? R"("tool_calls")" : R"("stop")";
}

// {"token","logprob","bytes","top_logprobs"}: the bytes let a client join tokens that hold half a character.
void AppendToken(std::string& out, std::string_view bytes, float logprob) {
  out.append(R"({"token":)");
  AppendJsonString(out, bytes);
  // OpenAI's stand-in for minus infinity, which JSON cannot say.
  fmt::format_to(std::back_inserter(out), R"(,"logprob":{},"bytes":[)",
                 std::isfinite(logprob) ? logprob : -9999.0f);
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out.push_back(',');
    fmt::format_to(std::back_inserter(out), "{}",
                   static_cast<unsigned>(static_cast<unsigned char>(bytes[i])));
  }
  out.push_back(']');
}

}  // namespace

std::string UsageJson(const compute::Usage& usage) {
  return fmt::format(
      R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{}}},)"
      R"("completion_tokens_details":{{"reasoning_tokens":{}}}}})",
      usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens,
      usage.cached_tokens, usage.reasoning_tokens);
}

nlohmann::ordered_json BilledJson(const platform::Billed& billed) {
  return {{"amount", platform::Money{billed.amount_nanos}.ToString()},
          {"currency", billed.currency},
          {"billing", platform::BillingName(billed.billing)},
          {"free_tokens", billed.free_tokens}};
}

Reply::Reply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference, ReplyOptions options,
             std::string model, std::string id)
    : ReplySink(std::move(exchange), options.stream, std::move(options.ignored)),
      inference_(inference),
      options_(std::move(options)),
      id_(std::move(id)),
      created_(UnixTimeSeconds()),
      progress_(options_.stream && options_.events && WantsProgress(exchange_->request())),
      model_(std::move(model)) {}

std::string Reply::Prefix(std::string_view object) const {
  std::string out = R"({"id":")";
  out.append(id_).append(R"(","object":")").append(object);
  fmt::format_to(std::back_inserter(out), R"(","created":{},"model":)", created_);
  AppendJsonString(out, model_);
  if (!options_.service_tier.empty()) {
    out.append(R"(,"service_tier":)");
    AppendJsonString(out, options_.service_tier);
  }
  out.append(R"(,"choices":[)");
  return out;
}

std::string_view Reply::ChunkEnd() const { return options_.include_usage ? R"(],"usage":null})" : "]}"; }

Reply::Choice& Reply::At(int32_t choice) {
  if (static_cast<size_t>(choice) >= choices_.size()) choices_.resize(static_cast<size_t>(choice) + 1);
  return choices_[static_cast<size_t>(choice)];
}

const std::string& Reply::TextOf(int32_t token) {
  const auto found = token_texts_.find(token);
  if (found != token_texts_.end()) return found->second;
  if (token_texts_.size() >= kMaxTokenTexts) token_texts_.clear();
  if (!find_text_) find_text_ = inference_.FindTokenTexts(model_);
  return token_texts_.emplace(token, find_text_(token)).first->second;
}

void Reply::AppendLogprobs(std::span<const compute::TokenLogprob> tokens, std::string& out) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out.push_back(',');
    AppendToken(out, TextOf(tokens[i].token), tokens[i].logprob);
    out.append(R"(,"top_logprobs":[)");
    for (size_t j = 0; j < tokens[i].top.size(); ++j) {
      if (j > 0) out.push_back(',');
      AppendToken(out, TextOf(tokens[i].top[j].first), tokens[i].top[j].second);
      out.push_back('}');
    }
    out.append("]}");
  }
}

void Reply::OnStart(const std::string& model, int32_t choices) {
  std::lock_guard lock(mutex_);
  model_ = model;
  if (choices > 0) At(choices - 1);
}

void Reply::OnProgress(const compute::ProgressEvent& event) {
  if (!progress_ || event.phase == compute::ProgressEvent::Phase::kDecode) return;
  std::lock_guard lock(mutex_);
  if (done_) return;
  const bool same = any_progress_ && last_progress_.phase == event.phase &&
                    last_progress_.queue_position == event.queue_position &&
                    event.share - last_progress_.share < 0.01f && event.share < 1;
  if (same) return;
  any_progress_ = true;
  last_progress_ = event;
  std::string data = fmt::format(R"({{"phase":"{}")", platform::ProgressPhaseName(event.phase));
  if (event.phase == compute::ProgressEvent::Phase::kQueued) {
    fmt::format_to(std::back_inserter(data), R"(,"queue_position":{}}})", event.queue_position);
  } else {
    fmt::format_to(std::back_inserter(data), R"(,"share":{:.3f}}})", event.share);
  }
  std::string out;
  AppendNamedEvent(out, "progress", data);
  Write(out);
}

void Reply::OnPromptLogprobs(int32_t /*choice*/, std::span<const compute::TokenLogprob> /*logprobs*/) {}

void Reply::OnToken(int32_t choice, const compute::TokenEvent& event) {
  std::lock_guard lock(mutex_);
  if (done_) return;
  Choice& state = At(choice);
  if (!options_.stream) return CollectDelta(state, event);
  // What may become a call is held back, and then the first chunk says that there is no content.
  if (options_.tools && event.content.empty() && event.reasoning.empty() && !options_.logprobs) return;
  scratch_.clear();
  Start(choice, false);
  AppendDelta(choice, event, scratch_);
  if (!scratch_.empty()) Write(scratch_);
}

void Reply::Start(int32_t choice, bool call) {
  Choice& state = At(choice);
  if (!state.started) AppendStart(choice, call, scratch_);
  state.started = true;
}

void Reply::OnToolCall(int32_t choice, const platform::ToolCallDelta& delta) {
  using Kind = platform::ToolCallDelta::Kind;
  std::lock_guard lock(mutex_);
  if (done_) return;
  Choice& state = At(choice);
  state.whole_calls += delta.kind == Kind::kEnd ? 1 : 0;
  state.broken_call = state.broken_call || delta.kind == Kind::kBroken;
  if (!options_.stream) {
    if (delta.kind == Kind::kBegin) state.calls.push_back(delta);
    if (delta.kind == Kind::kArguments) state.calls.back().arguments += delta.arguments;
    if (delta.kind == Kind::kBroken) state.calls.pop_back();
    return;
  }
  scratch_.clear();
  Start(choice, true);
  AppendToolCall(choice, delta, scratch_);
  Write(scratch_);
}

void Reply::OnFinish(int32_t choice, const compute::FinishEvent& event) {
  std::lock_guard lock(mutex_);
  if (done_) return;
  if (KeepError(event)) return;
  Choice& state = At(choice);
  state.finish_reason = std::string(ReasonJson(event.reason, state.whole_calls > 0 && !state.broken_call));
  state.finish = event;
  if (!options_.stream) return;
  scratch_.clear();
  Start(choice, false);
  AppendFinish(choice, scratch_);
  Write(scratch_);
}

void Reply::OnBilled(const platform::Billed& billed) {
  std::lock_guard lock(mutex_);
  billed_ = billed;
}

void Reply::AppendEnd(const compute::Usage& usage, std::string& out) {
  if (progress_ && billed_) AppendNamedEvent(out, "cost", DumpJson(BilledJson(*billed_)));
  if (options_.include_usage) AppendUsage(usage, out);
  AppendEvent(out, "[DONE]");
}

HttpResponse Reply::ErrorReply(const Error& error) const { return ErrorResponse(error); }

// Inside a stream an error is an event with OpenAI's error object (its SDKs raise it); [DONE] does not
// follow.
void Reply::AppendError(const Error& error, std::string& out) {
  AppendEvent(out, DumpJson(ErrorJson(error)));
}

}  // namespace tidepool::gateway::openai
