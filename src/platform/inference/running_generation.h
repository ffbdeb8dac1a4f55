// One request on its way through the engine: its choices, their usage, its end.
//
// Threads: Start on any thread; the engine's callbacks on the engine thread; Cancel and SetPaused on any. The
// sink's OnDone comes from the engine thread, or from `post`'s thread when the request ends without the
// engine; of a metered request from the ledger's, once its row is durable.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "compute/engine/engine.h"
#include "models/toolcalls/parser.h"
#include "platform/inference/inference.h"
#include "platform/inference/requests_in_flight.h"
#include "platform/ledger/usage_ledger.h"

namespace tidepool::platform {

struct ChoicePlan {
  compute::GenerateRequest request;  // without model handle and sink
  bool discard_output = false;       // echo with max_tokens = 0: the one token the engine makes is not shown
  bool first_of_prompt = true;       // its prompt and cached tokens count; those of its siblings do not
  std::optional<toolcalls::Format> tool_calls{};  // read the content for calls of
  std::vector<toolcalls::Tool> tools{};           //   these
};

class RunningGeneration : public std::enable_shared_from_this<RunningGeneration> {
 public:
  using Post = std::function<void(std::function<void()>)>;
  RunningGeneration(compute::Engine& engine, std::shared_ptr<ChatSink> sink, Post post)
      : engine_(engine), sink_(std::move(sink)), post_(std::move(post)) {}

  // Before Start. It counts what is computed and is closed at the end; nullptr: nothing is metered.
  void SetMeter(std::shared_ptr<Meter> meter) { meter_ = std::move(meter); }
  // Before it is handed to another thread. It is told what happens, and ended.
  void SetEntry(std::shared_ptr<RequestsInFlight::Entry> entry) { entry_ = std::move(entry); }
  // Before Start. Kept once the request's row is durable.
  void SetRecording(std::shared_ptr<BodyRecording> recording) { recording_ = std::move(recording); }
  // How long the request waited for its model to be opened.
  void SetLoadWait(double seconds) { load_wait_s_ = seconds; }
  void OnRates(const RateState& rates) { sink_->OnRates(rates); }
  // Submits all choices. An error means that nothing was submitted and the sink was not called (and never
  // will be by this object, unless Start is tried again); later trouble goes to OnDone.
  Status Start(compute::ModelHandle model, const std::string& model_name, std::vector<ChoicePlan>& plan);
  // Ends a request that has not started. Calls OnDone on this thread, once.
  void FailBeforeStart(const Error& error);
  void OnProgress(const compute::ProgressEvent& event) {
    if (entry_ != nullptr) entry_->OnProgress(event);
    sink_->OnProgress(event);
  }

  void Cancel();
  void SetPaused(bool paused);
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

 private:
  class ChoiceSink;
  void ChoiceFinished(int32_t choice, const compute::FinishEvent& event);
  void EnsureStarted();  // engine thread
  void Leave(int32_t choices);
  void Done();
  void Tell(const std::optional<Error>& failure);

  compute::Engine& engine_;
  const std::shared_ptr<ChatSink> sink_;
  const Post post_;
  std::atomic<bool> cancelled_{false};

  std::mutex mutex_;
  std::vector<compute::RequestHandle> handles_;
  std::vector<bool> first_of_prompt_, discard_;
  bool paused_ = false;
  int32_t remaining_ = 0;
  std::optional<Error> failure_;
  compute::Usage usage_;

  std::shared_ptr<Meter> meter_;
  std::shared_ptr<RequestsInFlight::Entry> entry_;  // nullptr: nobody looks
  std::shared_ptr<BodyRecording> recording_;
  double load_wait_s_ = 0;
  MeterTimes times_;  // the longest of the choices
  compute::FinishReason worst_ = compute::FinishReason::kStop;
  std::string error_code_;

  std::string model_name_;
  int32_t choices_ = 0;
  int32_t prompt_tokens_ = 0;
  bool started_ = false;  // engine thread
};

}  // namespace tidepool::platform
