#include "platform/inference/running_generation.h"

#include <algorithm>

#include "base/check.h"
#include "base/ids.h"
#include "platform/request_bodies/recording.h"

namespace tidepool::platform {

// Adds the choice's number to what the engine says.
class RunningGeneration::ChoiceSink final : public compute::GenerateSink {
 public:
  ChoiceSink(std::shared_ptr<RunningGeneration> owner, int32_t choice, const ChoicePlan& plan)
      : owner_(std::move(owner)),
        choice_(choice),
        discard_(plan.discard_output),
        counts_prompt_(plan.first_of_prompt) {
    if (plan.tool_calls) calls_ = toolcalls::MakeParser(*plan.tool_calls, plan.tools);
  }

  void OnProgress(const compute::ProgressEvent& event) override {
    // One choice speaks for all: they wait in the same queue.
    if (choice_ == 0) owner_->OnProgress(event);
  }
  void OnPromptLogprobs(std::span<const compute::TokenLogprob> logprobs) override {
    owner_->EnsureStarted();
    owner_->sink_->OnPromptLogprobs(choice_, logprobs);
  }
  void OnToken(const compute::TokenEvent& event) override {
    owner_->EnsureStarted();
    if (discard_) return;
    if (calls_ == nullptr) return owner_->sink_->OnToken(choice_, event);
    parts_.clear();
    calls_->Push(event.content, parts_);
    compute::TokenEvent first = event;
    first.content = {};
    Tell(first);
  }
  void OnComputed(const compute::Usage& so_far, double device_s) override {
    const auto micros = static_cast<int64_t>(device_s * 1e6);
    BillableTokens more;
    if (counts_prompt_) {
      more.prompt = so_far.prompt_tokens - told_.prompt_tokens;
      more.cached = so_far.cached_tokens - told_.cached_tokens;
    }
    if (!discard_) {
      more.output = so_far.completion_tokens - told_.completion_tokens;
      more.reasoning = so_far.reasoning_tokens - told_.reasoning_tokens;
    }
    if (owner_->entry_ != nullptr && more.output > 0) owner_->entry_->CountOutput(more.output);
    if (owner_->meter_ != nullptr) owner_->meter_->Count(more, micros - told_device_us_);
    told_ = so_far;
    told_device_us_ = micros;
  }
  void OnFinish(const compute::FinishEvent& event) override {
    owner_->EnsureStarted();
    if (calls_ != nullptr && !discard_) {
      parts_.clear();
      calls_->Finish(parts_);
      if (!parts_.empty()) Tell({});
    }
    // The engine lets go of its sinks; ours must not keep the request alive in a ring.
    const std::shared_ptr<RunningGeneration> owner = std::move(owner_);
    owner->ChoiceFinished(choice_, event);
  }

 private:
  // The parts in their order; `event` goes with the first text, or alone before the calls.
  void Tell(compute::TokenEvent event) {
    using Kind = toolcalls::Part::Kind;
    ChatSink& sink = *owner_->sink_;
    size_t at = 0;
    if (!parts_.empty() && parts_.front().kind == Kind::kText) {
      event.content = parts_.front().text;
      at = 1;
    }
    sink.OnToken(choice_, event);
    for (; at < parts_.size(); ++at) {
      toolcalls::Part& part = parts_[at];
      if (part.kind == Kind::kText) {
        sink.OnToken(choice_, {.tokens = {}, .content = part.text, .reasoning = {}, .logprobs = {}});
        continue;
      }
      ToolCallDelta delta;
      delta.index = part.call;
      switch (part.kind) {
        case Kind::kCall:
          delta.kind = ToolCallDelta::Kind::kBegin;
          delta.id = RandomId("call_");
          delta.name = std::move(part.text);
          break;
        case Kind::kArguments: delta.arguments = std::move(part.text); break;
        case Kind::kEnd: delta.kind = ToolCallDelta::Kind::kEnd; break;
        default: delta.kind = ToolCallDelta::Kind::kBroken; break;
      }
      sink.OnToolCall(choice_, delta);
    }
  }

  std::shared_ptr<RunningGeneration> owner_;
  const int32_t choice_;
  const bool discard_, counts_prompt_;
  compute::Usage told_;
  int64_t told_device_us_ = 0;
  std::unique_ptr<toolcalls::Parser> calls_;
  std::vector<toolcalls::Part> parts_;
};

Status RunningGeneration::Start(compute::ModelHandle model, const std::string& model_name,
                                std::vector<ChoicePlan>& plan) {
  const auto count = static_cast<int32_t>(plan.size());
  CHECK(count > 0);
  {
    const std::lock_guard lock(mutex_);
    remaining_ = count;
    choices_ = count;
    model_name_ = model_name;
    handles_.clear();
    first_of_prompt_.clear();
    discard_.clear();
    prompt_tokens_ = 0;
    for (const ChoicePlan& choice : plan) {
      if (choice.first_of_prompt) prompt_tokens_ += static_cast<int32_t>(choice.request.prompt.size());
      first_of_prompt_.push_back(choice.first_of_prompt);
      discard_.push_back(choice.discard_output);
    }
    if (entry_ != nullptr) entry_->SetPrompt(prompt_tokens_);
  }
  for (int32_t i = 0; i < count; ++i) {
    ChoicePlan& choice = plan[static_cast<size_t>(i)];
    // The first is copied: if its model is gone by now, the caller starts the whole plan again elsewhere.
    compute::GenerateRequest request = i == 0 ? choice.request : std::move(choice.request);
    request.model = model;
    request.sink = std::make_shared<ChoiceSink>(shared_from_this(), i, choice);
    const Result<compute::RequestHandle> handle = engine_.Submit(std::move(request));
    if (!handle) {
      if (i == 0) return Fail(handle.error());
      {
        const std::lock_guard lock(mutex_);
        failure_ = handle.error();
      }
      Cancel();
      Leave(count - i);
      return {};
    }
    bool paused = false;
    {
      const std::lock_guard lock(mutex_);
      handles_.push_back(*handle);
      paused = paused_;
    }
    if (cancelled()) engine_.Cancel(*handle);
    if (paused) engine_.SetPaused(*handle, true);
  }
  return {};
}

void RunningGeneration::FailBeforeStart(const Error& error) {
  const bool stopped = entry_ != nullptr && entry_->stopped();
  if (entry_ != nullptr) entry_->End();
  sink_->OnDone(Fail(stopped && error.kind == ErrorKind::kCancelled ? StoppedError() : error));
}

void RunningGeneration::EnsureStarted() {
  if (started_) return;
  started_ = true;
  if (entry_ != nullptr) entry_->OnProgress({.phase = compute::ProgressEvent::Phase::kDecode});
  sink_->OnStart(model_name_, choices_);
  sink_->OnPrompt(prompt_tokens_);
}

void RunningGeneration::ChoiceFinished(int32_t choice, const compute::FinishEvent& event) {
  compute::FinishEvent shown = event;
  {
    const std::lock_guard lock(mutex_);
    const auto i = static_cast<size_t>(choice);
    if (discard_[i]) {
      shown.usage.completion_tokens = shown.usage.reasoning_tokens = 0;
      if (shown.reason == compute::FinishReason::kStop) shown.reason = compute::FinishReason::kLength;
    }
    if (first_of_prompt_[i]) {
      usage_.prompt_tokens += shown.usage.prompt_tokens;
      usage_.cached_tokens += shown.usage.cached_tokens;
    }
    usage_.completion_tokens += shown.usage.completion_tokens;
    usage_.reasoning_tokens += shown.usage.reasoning_tokens;
    times_.queue_s = std::max(times_.queue_s, event.queue_s);
    times_.load_s = std::max(times_.load_s, event.load_s);
    times_.prefill_s = std::max(times_.prefill_s, event.prefill_s);
    times_.decode_s = std::max(times_.decode_s, event.decode_s);
    times_.stall_s = std::max(times_.stall_s, event.stall_s);
    worst_ = std::max(worst_, event.reason);  // an error is worse than a cancel is worse than an end
    if (event.reason == compute::FinishReason::kError && error_code_.empty()) error_code_ = event.error.code;
  }
  if (event.reason == compute::FinishReason::kCancelled && entry_ != nullptr && entry_->stopped()) {
    shown.reason = compute::FinishReason::kError;
    shown.error = StoppedError();
  }
  sink_->OnFinish(choice, shown);
  bool done = false;
  {
    const std::lock_guard lock(mutex_);
    done = --remaining_ == 0;
  }
  if (done) Done();
}

void RunningGeneration::Leave(int32_t choices) {
  bool done = false;
  {
    const std::lock_guard lock(mutex_);
    remaining_ -= choices;
    done = remaining_ == 0;
  }
  if (done) {
    post_([self = shared_from_this()] { self->Done(); });
  }
}

void RunningGeneration::Done() {
  if (entry_ != nullptr) entry_->End();
  std::optional<Error> failure;
  UsageStatus status = UsageStatus::kDone;
  std::string error_code;
  MeterTimes times;
  {
    const std::lock_guard lock(mutex_);
    failure = failure_;
    error_code = failure ? failure->code : error_code_;
    if (failure || worst_ == compute::FinishReason::kError) {
      status = UsageStatus::kError;
    } else if (worst_ == compute::FinishReason::kCancelled) {
      status = UsageStatus::kCancelled;
    }
    times = times_;
  }
  times.load_s += load_wait_s_;
  const std::shared_ptr<Meter> meter = std::move(meter_);
  if (meter == nullptr) return Tell(failure);
  // The end is told when the row is on disk.
  meter->Close(status, std::move(error_code), times,
               [self = shared_from_this(), meter, failure = std::move(failure)](const Status& durable) {
                 if (durable) self->sink_->OnBilled(meter->billed());
                 self->Tell(!failure && !durable ? std::optional(durable.error()) : failure);
                 if (durable && self->recording_ != nullptr) self->recording_->Keep(meter->row_id());
                 self->recording_.reset();
               });
}

void RunningGeneration::Tell(const std::optional<Error>& failure) {
  if (failure) {
    sink_->OnDone(Fail(*failure));
  } else {
    sink_->OnDone(usage_);
  }
}

void RunningGeneration::Cancel() {
  cancelled_.store(true, std::memory_order_release);
  std::vector<compute::RequestHandle> handles;
  {
    const std::lock_guard lock(mutex_);
    handles = handles_;
  }
  for (const compute::RequestHandle handle : handles) engine_.Cancel(handle);
}

void RunningGeneration::SetPaused(bool paused) {
  std::vector<compute::RequestHandle> handles;
  {
    const std::lock_guard lock(mutex_);
    paused_ = paused;
    handles = handles_;
  }
  for (const compute::RequestHandle handle : handles) engine_.SetPaused(handle, paused);
}

}  // namespace tidepool::platform
