#include <fmt/format.h>

#include "base/ids.h"
#include "gateway/json_body.h"
#include "gateway/openai/reply.h"
#include "gateway/sse.h"

namespace tidepool::gateway::openai {
namespace {

class ChatReply final : public Reply {
 public:
  ChatReply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference,
            const ParsedChat& parsed)
      : Reply(std::move(exchange), inference, parsed.reply, parsed.request.model, RandomId("chatcmpl-")) {}

 private:
  void AppendChunk(int32_t choice, std::string_view delta, std::string_view logprobs, std::string_view reason,
                   std::string& out) {
    if (prefix_.empty()) prefix_ = "data: " + Prefix("chat.completion.chunk");
    out.append(prefix_);
    fmt::format_to(std::back_inserter(out), R"({{"index":{},"delta":)", choice);
    out.append(delta);
    if (options_.logprobs) {
      if (logprobs.empty()) {
        out.append(R"(,"logprobs":null)");
      } else {
        out.append(R"(,"logprobs":{"content":[)").append(logprobs).append(R"(],"refusal":null})");
      }
    }
    out.append(R"(,"finish_reason":)").append(reason).append("}").append(ChunkEnd()).append("\n\n");
  }

  void AppendStart(int32_t choice, bool call, std::string& out) override {
    AppendChunk(choice,
                call ? R"({"role":"assistant","content":null})" : R"({"role":"assistant","content":""})", {},
                "null", out);
  }

  void AppendToolCall(int32_t choice, const platform::ToolCallDelta& delta, std::string& out) override {
    using Kind = platform::ToolCallDelta::Kind;
    if (delta.kind != Kind::kBegin && delta.kind != Kind::kArguments) return;
    delta_.assign(R"({"tool_calls":[{)");
    fmt::format_to(std::back_inserter(delta_), R"("index":{},)", delta.index);
    if (delta.kind == platform::ToolCallDelta::Kind::kBegin) {
      delta_.append(R"("id":)");
      AppendJsonString(delta_, delta.id);
      delta_.append(R"(,"type":"function","function":{"name":)");
      AppendJsonString(delta_, delta.name);
      delta_.append(R"(,"arguments":""}}]})");
    } else {
      delta_.append(R"("function":{"arguments":)");
      AppendJsonString(delta_, delta.arguments);
      delta_.append("}}]}");
    }
    AppendChunk(choice, delta_, {}, "null", out);
  }

  void AppendDelta(int32_t choice, const compute::TokenEvent& event, std::string& out) override {
    std::string logprobs;
    if (options_.logprobs) AppendLogprobs(event.logprobs, logprobs);
    if (event.content.empty() && event.reasoning.empty() && logprobs.empty()) return;
    delta_.assign("{");
    if (!event.reasoning.empty()) {
      delta_.append(R"("reasoning_content":)");
      AppendJsonString(delta_, event.reasoning);
    }
    if (!event.content.empty()) {
      if (delta_.size() > 1) delta_.push_back(',');
      delta_.append(R"("content":)");
      AppendJsonString(delta_, event.content);
    }
    delta_.push_back('}');
    AppendChunk(choice, delta_, logprobs, "null", out);
  }

  void AppendFinish(int32_t choice, std::string& out) override {
    AppendChunk(choice, "{}", {}, At(choice).finish_reason, out);
  }

  void AppendUsage(const compute::Usage& usage, std::string& out) override {
    AppendEvent(out, Prefix("chat.completion.chunk") + R"(],"usage":)" + UsageJson(usage) + "}");
  }

  void CollectDelta(Choice& choice, const compute::TokenEvent& event) override {
    choice.content.append(event.content);
    choice.reasoning.append(event.reasoning);
    if (!options_.logprobs || event.logprobs.empty()) return;
    if (!choice.logprobs.empty()) choice.logprobs.push_back(',');
    AppendLogprobs(event.logprobs, choice.logprobs);
  }

  std::string Whole(const compute::Usage& usage) override {
    std::string out = Prefix("chat.completion");
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Choice& choice = choices_[i];
      if (i > 0) out.push_back(',');
      fmt::format_to(std::back_inserter(out), R"({{"index":{},"message":{{"role":"assistant","content":)", i);
      if (choice.content.empty() && !choice.calls.empty()) {
        out.append("null");
      } else {
        AppendJsonString(out, choice.content);
      }
      AppendCalls(choice, out);
      if (!choice.reasoning.empty()) {
        out.append(R"(,"reasoning_content":)");
        AppendJsonString(out, choice.reasoning);
      }
      out.append(R"(,"refusal":null},"logprobs":)");
      if (options_.logprobs) {
        out.append(R"({"content":[)").append(choice.logprobs).append(R"(],"refusal":null})");
      } else {
        out.append("null");
      }
      out.append(R"(,"finish_reason":)")
          .append(choice.finish_reason.empty() ? R"("stop")" : choice.finish_reason);
      out.push_back('}');
    }
    out.append(R"(],"usage":)").append(UsageJson(usage)).append("}");
    return out;
  }

  static void AppendCalls(const Choice& choice, std::string& out) {
    if (choice.calls.empty()) return;
    out.append(R"(,"tool_calls":[)");
    for (size_t i = 0; i < choice.calls.size(); ++i) {
      out.append(i > 0 ? R"(,{"id":)" : R"({"id":)");
      AppendJsonString(out, choice.calls[i].id);
      out.append(R"(,"type":"function","function":{"name":)");
      AppendJsonString(out, choice.calls[i].name);
      out.append(R"(,"arguments":)");
      AppendJsonString(out, choice.calls[i].arguments);
      out.append("}}");
    }
    out.push_back(']');
  }

  std::string prefix_;  // of every chunk; the model's name is known when the first is written
  std::string delta_;
};

}  // namespace

std::shared_ptr<Reply> MakeChatReply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference,
                                     const ParsedChat& parsed) {
  return std::make_shared<ChatReply>(std::move(exchange), inference, parsed);
}

}  // namespace tidepool::gateway::openai
