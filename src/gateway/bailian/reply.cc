#include "gateway/bailian/reply.h"

#include <fmt/format.h>

#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/sse.h"

namespace tidepool::gateway::bailian {
namespace {

class GenerationReply final : public openai::Reply {
 public:
  GenerationReply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference,
                  const ParsedGeneration& parsed)
      : Reply(std::move(exchange), inference, parsed.chat.reply, parsed.chat.request.model, {}),
        message_format_(parsed.message_format),
        incremental_(parsed.incremental) {}
  ~GenerationReply() override { Lost(); }

 private:
  // What is told of a choice: what is new, or all so far.
  struct Shown {
    std::string content, reasoning, logprobs;
    std::vector<platform::ToolCallDelta> calls;
    std::string calls_json;  // incremental: pieces of calls
  };

  HttpResponse ErrorReply(const Error& error) const override {
    return bailian::ErrorReply(error, exchange_->request());
  }

  Shown& ShownOf(int32_t choice) {
    if (static_cast<size_t>(choice) >= shown_.size()) shown_.resize(static_cast<size_t>(choice) + 1);
    return shown_[static_cast<size_t>(choice)];
  }

  static void AppendCallJson(std::string& out, const platform::ToolCallDelta& call) {
    if (!out.empty()) out.push_back(',');
    fmt::format_to(std::back_inserter(out), R"({{"index":{},)", call.index);
    if (!call.id.empty()) {
      out.append(R"("id":)");
      AppendJsonString(out, call.id);
      out.push_back(',');
    }
    out.append(R"("type":"function","function":{)");
    if (!call.name.empty()) {
      out.append(R"("name":)");
      AppendJsonString(out, call.name);
      out.push_back(',');
    }
    out.append(R"("arguments":)");
    AppendJsonString(out, call.arguments);
    out.append("}}");
  }

  // {"finish_reason":..,"index":..,"message":{..}}
  void AppendChoice(std::string& out, int32_t index, std::string_view reason, std::string_view content,
                    std::string_view reasoning, std::string_view calls, std::string_view logprobs) const {
    fmt::format_to(std::back_inserter(out),
                   R"({{"finish_reason":{},"index":{},"message":{{"role":"assistant","content":)", reason,
                   index);
    AppendJsonString(out, content);
    if (!reasoning.empty()) {
      out.append(R"(,"reasoning_content":)");
      AppendJsonString(out, reasoning);
    }
    if (!calls.empty()) out.append(R"(,"tool_calls":[)").append(calls).append("]");
    out.push_back('}');
    if (!logprobs.empty()) out.append(R"(,"logprobs":{"content":[)").append(logprobs).append("]}");
    out.push_back('}');
  }

  // {"output":{..}, and what follows.
  std::string Output(int32_t index, std::string_view reason, std::string_view content,
                     std::string_view reasoning, std::string_view calls, std::string_view logprobs) const {
    std::string out = R"({"output":{)";
    if (message_format_) {
      out.append(R"("choices":[)");
      AppendChoice(out, index, reason, content, reasoning, calls, logprobs);
      out.push_back(']');
    } else {
      out.append(R"("text":)");
      AppendJsonString(out, content);
      if (!reasoning.empty()) {
        out.append(R"(,"reasoning_content":)");
        AppendJsonString(out, reasoning);
      }
      out.append(R"(,"finish_reason":)").append(reason);
    }
    out.push_back('}');
    return out;
  }

  void Close(std::string& out, const compute::Usage* usage) const {
    if (usage != nullptr) {
      fmt::format_to(
          std::back_inserter(out),
          R"(,"usage":{{"input_tokens":{},"output_tokens":{},"total_tokens":{},)"
          R"("prompt_tokens_details":{{"cached_tokens":{}}},"output_tokens_details":{{"reasoning_tokens":{}}}}})",
          usage->prompt_tokens, usage->completion_tokens, usage->prompt_tokens + usage->completion_tokens,
          usage->cached_tokens, usage->reasoning_tokens);
    }
    out.append(R"(,"request_id":)");
    AppendJsonString(out, exchange_->request().id);
    out.push_back('}');
  }

  void AppendResult(std::string& out, std::string_view data) {
    fmt::format_to(std::back_inserter(out), "id:{}\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n", ++events_,
                   data);
  }

  void AppendStart(int32_t, bool, std::string&) override {}

  // One event of a choice; `reason` is JSON: "null" (a string, as Bailian has it) until the end.
  void AppendShown(std::string& out, int32_t choice, std::string_view reason, const compute::Usage* usage) {
    Shown& shown = ShownOf(choice);
    std::string calls = shown.calls_json;
    for (const platform::ToolCallDelta& call : shown.calls) AppendCallJson(calls, call);
    std::string data = Output(choice, reason, shown.content, shown.reasoning, calls, shown.logprobs);
    Close(data, usage);
    AppendResult(out, data);
    if (incremental_) shown = Shown();
  }

  void AppendToolCall(int32_t choice, const platform::ToolCallDelta& delta, std::string& out) override {
    using Kind = platform::ToolCallDelta::Kind;
    Shown& shown = ShownOf(choice);
    if (incremental_) {
      if (delta.kind != Kind::kBegin && delta.kind != Kind::kArguments) return;
      AppendCallJson(shown.calls_json, delta);
    } else {
      if (delta.kind == Kind::kEnd) return;
      if (delta.kind == Kind::kBegin) shown.calls.push_back(delta);
      if (delta.kind == Kind::kArguments) shown.calls.back().arguments += delta.arguments;
      if (delta.kind == Kind::kBroken) shown.calls.pop_back();
    }
    AppendShown(out, choice, kGoesOn, nullptr);
  }

  void AppendDelta(int32_t choice, const compute::TokenEvent& event, std::string& out) override {
    Shown& shown = ShownOf(choice);
    if (options_.logprobs && !event.logprobs.empty()) {
      if (!shown.logprobs.empty()) shown.logprobs.push_back(',');
      AppendLogprobs(event.logprobs, shown.logprobs);
    }
    shown.content.append(event.content);
    shown.reasoning.append(event.reasoning);
    if (event.content.empty() && event.reasoning.empty() && (!options_.logprobs || event.logprobs.empty()))
      return;
    AppendShown(out, choice, kGoesOn, nullptr);
  }

  // The last event of each choice has the usage, which is known when all have ended.
  void AppendFinish(int32_t, std::string&) override {}
  void AppendUsage(const compute::Usage&, std::string&) override {}
  void AppendEnd(const compute::Usage& usage, std::string& out) override {
    for (size_t i = 0; i < choices_.size(); ++i)
      AppendShown(out, static_cast<int32_t>(i), ReasonOf(choices_[i]), &usage);
  }
  void AppendError(const Error& error, std::string& out) override {
    const HttpResponse reply = ErrorReply(error);
    // (The dashscope client compares "error" without trimming: no blank after the colon.)
    fmt::format_to(std::back_inserter(out), "id:{}\nevent:error\nstatus:{}\n:HTTP_STATUS/{}\ndata:{}\n\n",
                   ++events_, reply.status, reply.status, reply.body);
  }

  void CollectDelta(Choice& choice, const compute::TokenEvent& event) override {
    choice.content.append(event.content);
    choice.reasoning.append(event.reasoning);
    if (!options_.logprobs || event.logprobs.empty()) return;
    if (!choice.logprobs.empty()) choice.logprobs.push_back(',');
    AppendLogprobs(event.logprobs, choice.logprobs);
  }

  std::string Whole(const compute::Usage& usage) override {
    const auto calls_of = [](const Choice& choice) {
      std::string calls;
      for (const platform::ToolCallDelta& call : choice.calls) AppendCallJson(calls, call);
      return calls;
    };
    std::string out;
    if (!message_format_) {
      const Choice& choice = At(0);
      out = Output(0, ReasonOf(choice), choice.content, choice.reasoning, {}, {});
    } else {
      out = R"({"output":{"choices":[)";
      for (size_t i = 0; i < choices_.size(); ++i) {
        const Choice& choice = choices_[i];
        if (i > 0) out.push_back(',');
        AppendChoice(out, static_cast<int32_t>(i), ReasonOf(choice), choice.content, choice.reasoning,
                     calls_of(choice), choice.logprobs);
      }
      out.append("]}");
    }
    Close(out, &usage);
    return out;
  }

  static std::string_view ReasonOf(const Choice& choice) {
    return choice.finish_reason.empty() ? std::string_view(R"("stop")")
                                        : std::string_view(choice.finish_reason);
  }

  static constexpr std::string_view kGoesOn = R"("null")";
  const bool message_format_, incremental_;
  int64_t events_ = 0;
  std::vector<Shown> shown_;  // by choice
};

}  // namespace

std::string_view CodeOf(const Error& error) {
  switch (error.kind) {
    case ErrorKind::kInvalid:
    case ErrorKind::kTooLarge:
    case ErrorKind::kCorrupt: return "InvalidParameter";
    case ErrorKind::kUnauthenticated: return "InvalidApiKey";
    case ErrorKind::kForbidden:
      return error.code == "model_not_allowed" ? "Model.AccessDenied" : "AccessDenied";
    case ErrorKind::kNotFound: return error.code == "model_not_found" ? "ModelNotFound" : "NotFound";
    case ErrorKind::kConflict: return "Conflict";
    case ErrorKind::kOverloaded:
      if (error.code == "insufficient_quota") return "Throttling.AllocationQuota";
      return error.code == "rate_limit_exceeded" ? "Throttling.RateQuota" : "Throttling";
    case ErrorKind::kUnavailable: return "ModelUnavailable";
    case ErrorKind::kTimeout: return "RequestTimeOut";
    case ErrorKind::kCancelled: return "RequestCancelled";
    case ErrorKind::kInternal: break;
  }
  return "InternalError";
}

HttpResponse ErrorReply(const Error& error, const HttpRequest& request) {
  HttpResponse response = ErrorResponse(error);  // its status and headers
  response.body = R"({"code":)";
  AppendJsonString(response.body, CodeOf(error));
  response.body.append(R"(,"message":)");
  AppendJsonString(response.body, error.message);
  response.body.append(R"(,"request_id":)");
  AppendJsonString(response.body, request.id);
  response.body.push_back('}');
  return response;
}

std::shared_ptr<openai::Reply> MakeReply(std::shared_ptr<Exchange> exchange,
                                         const platform::Inference& inference,
                                         const ParsedGeneration& parsed) {
  return std::make_shared<GenerationReply>(std::move(exchange), inference, parsed);
}

}  // namespace tidepool::gateway::bailian
