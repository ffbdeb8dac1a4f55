#include "platform/inference/recording_sink.h"

#include <utility>

#include "platform/request_bodies/recording.h"

namespace tidepool::platform {
namespace {

class RecordingSink final : public ChatSink {
 public:
  RecordingSink(std::shared_ptr<ChatSink> sink, std::shared_ptr<BodyRecording> recording)
      : sink_(std::move(sink)), recording_(std::move(recording)) {}

  void OnRates(const RateState& rates) override { sink_->OnRates(rates); }
  void OnStart(const std::string& model, int32_t choices) override { sink_->OnStart(model, choices); }
  void OnPrompt(int32_t tokens) override { sink_->OnPrompt(tokens); }
  void OnProgress(const compute::ProgressEvent& event) override { sink_->OnProgress(event); }
  void OnPromptLogprobs(int32_t choice, std::span<const compute::TokenLogprob> logprobs) override {
    sink_->OnPromptLogprobs(choice, logprobs);
  }
  void OnToken(int32_t choice, const compute::TokenEvent& event) override {
    recording_->Text(choice, event.content, event.reasoning);
    sink_->OnToken(choice, event);
  }
  void OnToolCall(int32_t choice, const ToolCallDelta& delta) override {
    using Kind = ToolCallDelta::Kind;
    if (delta.kind == Kind::kBegin) recording_->BeginCall(choice, delta.index, delta.id, delta.name);
    if (delta.kind == Kind::kArguments) recording_->Arguments(choice, delta.index, delta.arguments);
    if (delta.kind == Kind::kBroken) recording_->DropCall(choice, delta.index);
    sink_->OnToolCall(choice, delta);
  }
  void OnFinish(int32_t choice, const compute::FinishEvent& event) override {
    sink_->OnFinish(choice, event);
  }
  void OnBilled(const Billed& billed) override { sink_->OnBilled(billed); }
  void OnDone(const Result<compute::Usage>& usage) override { sink_->OnDone(usage); }

 private:
  const std::shared_ptr<ChatSink> sink_;
  const std::shared_ptr<BodyRecording> recording_;
};

}  // namespace

std::shared_ptr<ChatSink> MakeRecordingSink(std::shared_ptr<ChatSink> sink,
                                            std::shared_ptr<BodyRecording> recording) {
  return std::make_shared<RecordingSink>(std::move(sink), std::move(recording));
}

}  // namespace tidepool::platform
