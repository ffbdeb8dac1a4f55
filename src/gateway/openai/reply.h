// From the engine's events to OpenAI's answers, whole or streamed. One reply is the sink of one request.
//
// Threads: sink methods come from the engine or loader thread, Quiet() from the I/O thread; a mutex orders
// them. Nothing here blocks: text goes to the exchange, which buffers it within bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "gateway/openai/requests.h"
#include "gateway/reply_sink.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

class Reply : public ReplySink {
 public:
  Reply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference, ReplyOptions options,
        std::string model, std::string id);
  ~Reply() override { Lost(); }

  void OnStart(const std::string& model, int32_t choices) final;
  void OnProgress(const compute::ProgressEvent& event) final;
  void OnPromptLogprobs(int32_t choice, std::span<const compute::TokenLogprob> logprobs) override;
  void OnToken(int32_t choice, const compute::TokenEvent& event) final;
  void OnToolCall(int32_t choice, const platform::ToolCallDelta& delta) final;
  void OnFinish(int32_t choice, const compute::FinishEvent& event) final;
  void OnBilled(const platform::Billed& billed) final;

 protected:
  struct Choice {
    bool started = false;
    std::string content;  // whole answers only
    std::string reasoning;
    std::string logprobs;       // JSON items, comma-separated, not sent yet (or all, for whole answers)
    std::string finish_reason;  // JSON: "\"stop\""
    compute::FinishEvent finish;
    std::vector<platform::ToolCallDelta> calls;  // whole answers only; complete ones
    int32_t whole_calls = 0;
    bool broken_call = false;
  };

  // Under mutex_. Append complete events to `out`. AppendToolCall hears kEnd and kBroken too.
  virtual void AppendStart(int32_t choice, bool call, std::string& out) = 0;
  virtual void AppendToolCall(int32_t, const platform::ToolCallDelta&, std::string&) {}
  virtual void AppendDelta(int32_t choice, const compute::TokenEvent& event, std::string& out) = 0;
  virtual void AppendFinish(int32_t choice, std::string& out) = 0;
  virtual void AppendUsage(const compute::Usage& usage, std::string& out) = 0;
  virtual void CollectDelta(Choice& choice, const compute::TokenEvent& event) = 0;

  // {"id":...,"object":OBJECT,"created":...,"model":...,"choices":[
  std::string Prefix(std::string_view object) const;
  // "usage":null when the client asked for usage: OpenAI's chunks carry the key then.
  std::string_view ChunkEnd() const;
  Choice& At(int32_t choice);
  // The text of a token, remembered: the same tokens come back in every list of likeliest ones.
  const std::string& TextOf(int32_t token);
  // {"token","logprob","bytes","top_logprobs":[..]} of each, comma-separated.
  void AppendLogprobs(std::span<const compute::TokenLogprob> tokens, std::string& out);

  const platform::Inference& inference_;
  const ReplyOptions options_;
  const std::string id_;
  const int64_t created_;
  const bool progress_;  // the client asked for progress events

  std::string model_;
  std::vector<Choice> choices_;

 private:
  void Start(int32_t choice, bool call);
  HttpResponse ErrorReply(const Error& error) const override;
  void AppendError(const Error& error, std::string& out) override;
  void AppendEnd(const compute::Usage& usage, std::string& out) override;

  std::string scratch_;                                   // reused for every chunk
  platform::Inference::TokenTexts find_text_;             // looked up with the first token that is asked for
  std::unordered_map<int32_t, std::string> token_texts_;  // TextOf
  compute::ProgressEvent last_progress_;
  bool any_progress_ = false;
  std::optional<platform::Billed> billed_;
};

// {"amount", "currency", "billing", "free_tokens"}: what a request came to.
nlohmann::ordered_json BilledJson(const platform::Billed& billed);
// OpenAI's usage object.
std::string UsageJson(const compute::Usage& usage);

std::shared_ptr<Reply> MakeChatReply(std::shared_ptr<Exchange> exchange, const platform::Inference& inference,
                                     const ParsedChat& parsed);
// `echo`: the text of each prompt, put before its answers; empty: no echo.
std::shared_ptr<Reply> MakeCompletionReply(std::shared_ptr<Exchange> exchange,
                                           const platform::Inference& inference,
                                           const ParsedCompletion& parsed, std::vector<std::string> echo);

}  // namespace tidepool::gateway::openai
