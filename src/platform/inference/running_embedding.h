// One request for embeddings or scores on its way through the engine.
//
// Threads: Start on any thread; the engine's callbacks on the engine thread; Cancel on any. `done` is called
// once: from the engine thread, from the ledger's when the request is metered (once its row is durable), or
// by FailBeforeStart.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "compute/engine/engine.h"
#include "platform/inference/deployments.h"
#include "platform/inference/inference.h"
#include "platform/inference/requests_in_flight.h"
#include "platform/ledger/usage_ledger.h"
#include "platform/request_bodies/recording.h"

namespace tidepool::platform {

class RunningEmbedding : public std::enable_shared_from_this<RunningEmbedding> {
 public:
  using Done = std::function<void(Result<EmbeddingReply>)>;
  RunningEmbedding(compute::Engine& engine, Done done) : engine_(engine), done_(std::move(done)) {}

  // Before Start. It counts what is computed and is closed at the end; nullptr: nothing is metered.
  void SetMeter(std::shared_ptr<Meter> meter) { meter_ = std::move(meter); }
  // Before it is handed to another thread.
  void SetEntry(std::shared_ptr<RequestsInFlight::Entry> entry) { entry_ = std::move(entry); }
  // Before Start. Kept once the request's row is durable.
  void SetRecording(std::shared_ptr<BodyRecording> recording) { recording_ = std::move(recording); }
  void OnProgress(const compute::ProgressEvent& event) { entry_->OnProgress(event); }
  // An error means that nothing was submitted and `done` was not called: it may be started again.
  Status Start(const ReadyModel& model, compute::EmbedRequest request);
  void FailBeforeStart(const Error& error);
  void Cancel();
  bool cancelled() const { return cancelled_.load(); }

 private:
  Error ForClient(const Error& error) const;
  void End(Result<EmbeddingReply> reply);  // engine thread

  compute::Engine& engine_;
  const Done done_;
  std::shared_ptr<Meter> meter_;
  std::shared_ptr<RequestsInFlight::Entry> entry_;
  int32_t prompt_tokens_ = 0;
  std::shared_ptr<BodyRecording> recording_;
  compute::FinishEvent finish_;
  int64_t told_tokens_ = 0, told_device_us_ = 0;
  std::atomic<compute::RequestHandle> handle_{0};
  std::atomic<bool> cancelled_{false};
};

}  // namespace tidepool::platform
