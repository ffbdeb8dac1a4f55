// One answer being written: takes the engine's events to the channel, and its text to the store at intervals
// and at its end, which is told once it is kept. Threads: sink calls come one at a time, from the engine's or
// the ledger's thread; Stop, Cut and the questions from any.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "platform/conversations/channel.h"
#include "platform/conversations/conversations.h"
#include "platform/inference/inference.h"
#include "platform/store/database.h"

namespace tidepool::platform {

struct AnswerCounts {
  Gauge running;
  Counter done, stopped, interrupted, failed;
};

class AnswerWriter final : public ChatSink {
 public:
  AnswerWriter(std::shared_ptr<ConversationChannel> channel, store::Database& database, const Clock& clock,
               Nanoseconds save_interval, AnswerCounts counts, Turn turn);
  ~AnswerWriter() override;

  void Stop() { stop_ = true; }
  void Cut() { cut_ = true; }  // ended, but not by the person
  bool stopping() const { return stop_ || cut_; }
  bool finished() const { return done_; }

  void OnProgress(const compute::ProgressEvent& event) override;
  void OnToken(int32_t choice, const compute::TokenEvent& event) override;
  void OnFinish(int32_t /*choice*/, const compute::FinishEvent& event) override { finish_ = event; }
  void OnBilled(const Billed& billed) override { billed_ = billed; }
  void OnDone(const Result<compute::Usage>& usage) override;
  // The request could not be started.
  void Refuse(const Error& error) { Finish(TurnState::kFailed, error); }

 private:
  void Finish(TurnState state, const Error& error);
  void Save(Turn turn, store::WriteDone done);

  const std::shared_ptr<ConversationChannel> channel_;
  store::Database& database_;
  const Clock& clock_;
  const Nanoseconds save_interval_;
  AnswerCounts counts_;
  const std::string id_;
  const Nanoseconds started_;
  const Turn last_;
  std::atomic<bool> stop_{false}, cut_{false}, done_{false};
  // Sink calls come one at a time.
  bool reasoned_ = false;
  Nanoseconds first_ = 0, answer_ = 0, saved_ = 0;
  std::optional<compute::ProgressEvent> progress_;
  std::optional<compute::FinishEvent> finish_;
  std::optional<Billed> billed_;
};

}  // namespace tidepool::platform
