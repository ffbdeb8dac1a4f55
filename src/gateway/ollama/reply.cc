#include "gateway/ollama/reply.h"

#include <fmt/format.h>

#include <chrono>
#include <ctime>

#include "gateway/errors.h"
#include "gateway/json_body.h"

namespace tidepool::gateway::ollama {
namespace {

using Steady = std::chrono::steady_clock;
using openai::Json;

int64_t NanosecondsOf(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

std::string Rfc3339(int64_t unix_s, int64_t nanoseconds) {
  const auto time = static_cast<std::time_t>(unix_s);
  std::tm parts{};
  gmtime_r(&time, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, nanoseconds);
}

// {"model":..,"created_at":..
std::string Opened(std::string_view model) {
  std::string out = R"({"model":)";
  AppendJsonString(out, model);
  out.append(R"(,"created_at":")").append(TimeText()).append("\"");
  return out;
}

// What a model writes as arguments is a JSON object, and here it is one, not text. What is none stays text.
void AppendArguments(std::string& out, const std::string& arguments) {
  const Json parsed = Json::parse(arguments, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_object()) {
    out.append(DumpJson(parsed));
  } else {
    AppendJsonString(out, arguments);
  }
}

void AppendCall(std::string& out, const platform::ToolCallDelta& call) {
  out.append(R"({"id":)");
  AppendJsonString(out, call.id);
  fmt::format_to(std::back_inserter(out), R"(,"function":{{"index":{},"name":)", call.index);
  AppendJsonString(out, call.name);
  out.append(R"(,"arguments":)");
  AppendArguments(out, call.arguments);
  out.append("}}");
}

class LineReply final : public openai::Reply {
 public:
  LineReply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference, Endpoint endpoint,
            openai::ReplyOptions options, std::string model)
      : Reply(std::move(exchange), inference, std::move(options), std::move(model), {}),
        chat_(endpoint == Endpoint::kChat),
        begun_at_(Steady::now()) {}
  ~LineReply() override { Lost(); }

 private:
  std::string_view StreamType() const override { return kLines; }
  HttpResponse ErrorReply(const Error& error) const override { return ollama::ErrorReply(error); }

  // {...,"message":{"role":"assistant","content":..,"thinking":..,"tool_calls":[..]} or "response" and
  // "thinking" at the top; open, for what goes on.
  std::string Record(std::string_view content, std::string_view reasoning, std::string_view calls,
                     std::string_view logprobs) const {
    std::string out = Opened(model_);
    out.append(chat_ ? R"(,"message":{"role":"assistant","content":)" : R"(,"response":)");
    AppendJsonString(out, content);
    if (!reasoning.empty()) {
      out.append(R"(,"thinking":)");
      AppendJsonString(out, reasoning);
    }
    if (!calls.empty()) out.append(R"(,"tool_calls":[)").append(calls).append("]");
    if (chat_) out.push_back('}');
    if (!logprobs.empty()) out.append(R"(,"logprobs":[)").append(logprobs).append("]");
    return out;
  }
  void AppendLine(std::string& out, std::string_view content, std::string_view reasoning,
                  std::string_view calls = {}, std::string_view logprobs = {}) const {
    out.append(Record(content, reasoning, calls, logprobs)).append(",\"done\":false}\n");
  }

  // ,"done":true,..}
  std::string End(const compute::Usage& usage) {
    const compute::FinishEvent& finish = At(0).finish;
    const auto total =
        std::chrono::duration_cast<std::chrono::nanoseconds>(Steady::now() - begun_at_).count();
    return fmt::format(
        R"(,"done":true,"done_reason":"{}","total_duration":{},"load_duration":{},"prompt_eval_count":{},)"
        R"("prompt_eval_duration":{},"eval_count":{},"eval_duration":{}}})",
        finish.reason == compute::FinishReason::kLength ? "length" : "stop", total,
        NanosecondsOf(finish.load_s), usage.prompt_tokens, NanosecondsOf(finish.prefill_s),
        usage.completion_tokens, NanosecondsOf(finish.decode_s));
  }

  void AppendStart(int32_t, bool, std::string&) override {}
  void AppendToolCall(int32_t, const platform::ToolCallDelta& delta, std::string& out) override {
    using Kind = platform::ToolCallDelta::Kind;
    if (delta.kind == Kind::kBegin) call_ = delta;
    if (delta.kind == Kind::kArguments) call_.arguments += delta.arguments;
    if (delta.kind != Kind::kEnd) return;  // Ollama's calls come whole
    std::string call;
    AppendCall(call, call_);
    AppendLine(out, {}, {}, call);
  }
  void AppendDelta(int32_t, const compute::TokenEvent& event, std::string& out) override {
    std::string logprobs;
    if (options_.logprobs) AppendLogprobs(event.logprobs, logprobs);
    if (event.content.empty() && event.reasoning.empty() && logprobs.empty()) return;
    AppendLine(out, event.content, event.reasoning, {}, logprobs);
  }
  void AppendFinish(int32_t, std::string&) override {}
  void AppendUsage(const compute::Usage&, std::string&) override {}
  void AppendEnd(const compute::Usage& usage, std::string& out) override {
    out.append(Record({}, {}, {}, {})).append(End(usage)).append("\n");
  }
  void AppendError(const Error& error, std::string& out) override {
    out.append(ollama::ErrorReply(error).body).append("\n");
  }
  // NDJSON has no comments: a line without text.
  void AppendQuiet(std::string& out) override { AppendLine(out, {}, {}); }

  void CollectDelta(Choice& choice, const compute::TokenEvent& event) override {
    choice.content.append(event.content);
    choice.reasoning.append(event.reasoning);
    if (!options_.logprobs || event.logprobs.empty()) return;
    if (!choice.logprobs.empty()) choice.logprobs.push_back(',');
    AppendLogprobs(event.logprobs, choice.logprobs);
  }
  std::string Whole(const compute::Usage& usage) override {
    const Choice& choice = At(0);
    std::string calls;
    for (const platform::ToolCallDelta& call : choice.calls) {
      if (!calls.empty()) calls.push_back(',');
      AppendCall(calls, call);
    }
    return Record(choice.content, choice.reasoning, calls, choice.logprobs) + End(usage);
  }

  const bool chat_;
  const Steady::time_point begun_at_;
  platform::ToolCallDelta call_;  // that is being written
};

}  // namespace

std::string TimeText(int64_t unix_s) { return Rfc3339(unix_s, 0); }

std::string TimeText() {
  const int64_t now = std::chrono::duration_cast<std::chrono::nanoseconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  return Rfc3339(now / 1'000'000'000, now % 1'000'000'000);
}

HttpResponse ErrorReply(const Error& error) {
  HttpResponse response = ErrorResponse(error);  // its status and headers
  response.body = R"({"error":)";
  AppendJsonString(response.body, error.message);
  response.body.push_back('}');
  return response;
}

HttpResponse ErrorReply(const Error& error, const HttpRequest& /*request*/) { return ErrorReply(error); }

std::string LoadReply(Endpoint endpoint, std::string_view model, std::string_view reason) {
  std::string out = Opened(model);
  out.append(endpoint == Endpoint::kChat ? R"(,"message":{"role":"assistant","content":""})"
                                         : R"(,"response":"")");
  out.append(R"(,"done":true,"done_reason":")").append(reason).append("\"}");
  return out;
}

std::shared_ptr<openai::Reply> MakeReply(std::shared_ptr<Exchange> exchange,
                                         const platform::Inference& inference, Endpoint endpoint,
                                         openai::ReplyOptions options, std::string model) {
  return std::make_shared<LineReply>(std::move(exchange), inference, endpoint, std::move(options),
                                     std::move(model));
}

}  // namespace tidepool::gateway::ollama
