#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/ids.h"
#include "gateway/json_body.h"
#include "gateway/openai/reply.h"
#include "gateway/sse.h"

namespace tidepool::gateway::openai {
namespace {

// The four parallel lists of a text completion's logprobs, as JSON items.
struct Lists {
  std::string tokens, logprobs, top, offsets;
  size_t count = 0;
};

class CompletionReply final : public Reply {
 public:
  CompletionReply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference,
                  const ParsedCompletion& parsed, std::vector<std::string> echo)
      : Reply(std::move(exchange), inference, parsed.reply, parsed.request.model, RandomId("cmpl-")),
        n_(parsed.request.sampling.n),
        echo_(std::move(echo)) {}

  void OnPromptLogprobs(int32_t choice, std::span<const compute::TokenLogprob> logprobs) override {
    std::lock_guard lock(mutex_);
    if (!options_.logprobs) return;
    // The first token of a prompt has nothing before it: no probability.
    bool first = true;
    for (const compute::TokenLogprob& token : logprobs) {
      AddToken(choice, token, first && !(token.logprob < 0));
      first = false;
    }
  }

 private:
  struct Extra {
    Lists lists;
    size_t offset = 0;  // in the text, of the next token
  };
  Extra& ExtraOf(int32_t choice) {
    if (static_cast<size_t>(choice) >= extras_.size()) extras_.resize(static_cast<size_t>(choice) + 1);
    return extras_[static_cast<size_t>(choice)];
  }

  std::string_view EchoOf(int32_t choice) const {
    const size_t prompt = static_cast<size_t>(choice / n_);
    return prompt < echo_.size() ? std::string_view(echo_[prompt]) : std::string_view();
  }

  void AddToken(int32_t choice, const compute::TokenLogprob& token, bool unknown) {
    Extra& extra = ExtraOf(choice);
    Lists& lists = extra.lists;
    const auto comma = [&](std::string& list) {
      if (lists.count > 0) list.push_back(',');
    };
    const auto number = [](std::string& list, float logprob) {
      fmt::format_to(std::back_inserter(list), "{}", std::isfinite(logprob) ? logprob : -9999.0f);
    };
    const std::string& text = TextOf(token.token);
    comma(lists.tokens);
    AppendJsonString(lists.tokens, text);
    comma(lists.logprobs);
    comma(lists.top);
    comma(lists.offsets);
    fmt::format_to(std::back_inserter(lists.offsets), "{}", extra.offset);
    extra.offset += text.size();
    ++lists.count;
    if (unknown) {
      lists.logprobs.append("null");
      lists.top.append("null");
      return;
    }
    number(lists.logprobs, token.logprob);
    lists.top.push_back('{');
    std::vector<std::string> seen;  // two tokens may spell the same text; an object has one key of a name
    for (const auto& [id, logprob] : token.top) {
      std::string spelled;
      AppendJsonString(spelled, TextOf(id));
      if (std::find(seen.begin(), seen.end(), spelled) != seen.end()) continue;
      if (!seen.empty()) lists.top.push_back(',');
      lists.top.append(spelled).push_back(':');
      number(lists.top, logprob);
      seen.push_back(std::move(spelled));
    }
    lists.top.push_back('}');
  }

  // The collected lists as OpenAI's object; empties them.
  std::string TakeLogprobs(int32_t choice) {
    if (!options_.logprobs) return "null";
    Lists& lists = ExtraOf(choice).lists;
    if (lists.count == 0) return "null";
    std::string out =
        fmt::format(R"({{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})",
                    lists.tokens, lists.logprobs, lists.top, lists.offsets);
    lists = Lists();
    return out;
  }

  void AppendChunk(int32_t choice, std::string_view text, std::string_view reason, std::string& out) {
    if (prefix_.empty()) prefix_ = "data: " + Prefix("text_completion");
    out.append(prefix_);
    fmt::format_to(std::back_inserter(out), R"({{"index":{},"text":)", choice);
    AppendJsonString(out, text);
    out.append(R"(,"logprobs":)").append(TakeLogprobs(choice));
    out.append(R"(,"finish_reason":)").append(reason).append("}").append(ChunkEnd()).append("\n\n");
  }

  void AppendStart(int32_t choice, bool, std::string& out) override {
    if (const std::string_view echo = EchoOf(choice); !echo.empty()) AppendChunk(choice, echo, "null", out);
  }

  void AppendDelta(int32_t choice, const compute::TokenEvent& event, std::string& out) override {
    for (const auto& token : event.logprobs) {
      if (options_.logprobs) AddToken(choice, token, false);
    }
    // A completion has no place for reasoning apart: it is text like the rest.
    if (event.content.empty() && event.reasoning.empty()) return;
    text_.assign(event.reasoning).append(event.content);
    AppendChunk(choice, text_, "null", out);
  }

  void AppendFinish(int32_t choice, std::string& out) override {
    AppendChunk(choice, "", At(choice).finish_reason, out);
  }

  void AppendUsage(const compute::Usage& usage, std::string& out) override {
    AppendEvent(out, Prefix("text_completion") + R"(],"usage":)" + UsageJson(usage) + "}");
  }

  void CollectDelta(Choice& choice, const compute::TokenEvent& event) override {
    choice.content.append(event.reasoning).append(event.content);
    if (!options_.logprobs) return;
    const auto index = static_cast<int32_t>(&choice - choices_.data());
    for (const auto& token : event.logprobs) AddToken(index, token, false);
  }

  std::string Whole(const compute::Usage& usage) override {
    std::string out = Prefix("text_completion");
    for (size_t i = 0; i < choices_.size(); ++i) {
      const auto index = static_cast<int32_t>(i);
      if (i > 0) out.push_back(',');
      fmt::format_to(std::back_inserter(out), R"({{"index":{},"text":)", i);
      AppendJsonString(out, std::string(EchoOf(index)) + choices_[i].content);
      out.append(R"(,"logprobs":)").append(TakeLogprobs(index));
      out.append(R"(,"finish_reason":)");
      out.append(choices_[i].finish_reason.empty() ? R"("stop")" : choices_[i].finish_reason).append("}");
    }
    out.append(R"(],"usage":)").append(UsageJson(usage)).append("}");
    return out;
  }

  const int32_t n_;
  const std::vector<std::string> echo_;  // by prompt
  std::vector<Extra> extras_;            // by choice
  std::string prefix_;
  std::string text_;
};

}  // namespace

std::shared_ptr<Reply> MakeCompletionReply(std::shared_ptr<Exchange> exchange,
                                           const platform::Inference& inference,
                                           const ParsedCompletion& parsed, std::vector<std::string> echo) {
  return std::make_shared<CompletionReply>(std::move(exchange), inference, parsed, std::move(echo));
}

}  // namespace tidepool::gateway::openai
