#include "platform/conversations/answer_writer.h"

#include <utility>

#include "base/log.h"
#include "platform/conversations/conversation_rows.h"

namespace tidepool::platform {

AnswerWriter::AnswerWriter(std::shared_ptr<ConversationChannel> channel, store::Database& database,
                           const Clock& clock, Nanoseconds save_interval, AnswerCounts counts, Turn turn)
    : channel_(std::move(channel)),
      database_(database),
      clock_(clock),
      save_interval_(save_interval),
      counts_(std::move(counts)),
      id_(turn.id),
      started_(clock.now()),
      last_(std::move(turn)) {
  counts_.running.Add(1);
}

AnswerWriter::~AnswerWriter() {
  if (!done_) Finish(TurnState::kInterrupted, Error{});
  counts_.running.Add(-1);
}

void AnswerWriter::OnProgress(const compute::ProgressEvent& event) {
  using Phase = compute::ProgressEvent::Phase;
  if (event.phase == Phase::kDecode) return;
  const bool same = progress_ && progress_->phase == event.phase &&
                    progress_->queue_position == event.queue_position &&
                    event.share - progress_->share < 0.01f && event.share < 1;
  if (same) return;
  progress_ = event;
  channel_->Progress(id_, event);
}

void AnswerWriter::OnToken(int32_t /*choice*/, const compute::TokenEvent& event) {
  const bool text = !event.content.empty() || !event.reasoning.empty();
  if (!text) return;
  const Nanoseconds now = clock_.now();
  if (first_ == 0) first_ = now;
  if (!event.content.empty() && reasoned_ && answer_ == 0) answer_ = now;
  if (!event.reasoning.empty()) reasoned_ = true;
  channel_->Grow(id_, event.content, event.reasoning);
  if (now - saved_ < save_interval_) return;
  saved_ = now;
  if (auto turn = channel_->Running(id_)) Save(std::move(*turn), nullptr);
}

void AnswerWriter::OnDone(const Result<compute::Usage>& usage) {
  if (done_) return;
  using Reason = compute::FinishReason;
  if (finish_ && finish_->reason == Reason::kCancelled) {
    return Finish(stop_ ? TurnState::kStopped : TurnState::kInterrupted, Error{});
  }
  if (finish_ && finish_->reason == Reason::kError) return Finish(TurnState::kFailed, finish_->error);
  if (!usage) {
    return Finish(stop_  ? TurnState::kStopped
                  : cut_ ? TurnState::kInterrupted
                         : TurnState::kFailed,
                  usage.error());
  }
  Finish(TurnState::kDone, Error{});
}

void AnswerWriter::Finish(TurnState state, const Error& error) {
  done_ = true;
  Turn turn = channel_->Running(id_).value_or(last_);
  turn.state = state;
  if (state == TurnState::kFailed) {
    turn.error_code = error.code;
    turn.error_message = error.message.empty() ? "The answer failed." : error.message;
  }
  if (finish_) {
    turn.finish_reason = finish_->reason == compute::FinishReason::kLength ? "length"
                         : finish_->reason == compute::FinishReason::kStop ? "stop"
                                                                           : "";
    turn.usage = finish_->usage;
    turn.timings.queue_s = finish_->queue_s;
    turn.timings.decode_s = finish_->decode_s;
  }
  if (billed_) {
    // A continued answer cost what both runs did, where they can be added.
    const std::optional<Billed>& before = last_.billed;
    if (before && before->currency == billed_->currency) {
      billed_->amount_nanos += before->amount_nanos;
      billed_->free_tokens += before->free_tokens;
      if (before->billing != billed_->billing) billed_->billing = Billing::kMixed;
    }
    turn.billed = billed_;
  }
  const auto seconds = [](Nanoseconds from, Nanoseconds to) {
    return static_cast<double>(to - from) / kSecond;
  };
  if (first_ > 0) turn.timings.ttft_s = seconds(started_, first_);
  if (reasoned_) turn.timings.reasoning_s = seconds(first_, answer_ > 0 ? answer_ : clock_.now());
  switch (state) {
    case TurnState::kDone: counts_.done.Increment(); break;
    case TurnState::kStopped: counts_.stopped.Increment(); break;
    case TurnState::kInterrupted: counts_.interrupted.Increment(); break;
    default: counts_.failed.Increment(); break;
  }
  // Told once it is kept.
  Save(turn, [channel = channel_, turn](const Status& saved) {
    Turn told = turn;
    if (!saved) {
      told.state = TurnState::kFailed;
      told.error_code = saved.error().code;
      told.error_message = "This answer could not be kept: " + saved.error().message;
    }
    channel->End(told);
  });
}

void AnswerWriter::Save(Turn turn, store::WriteDone done) {
  const std::string id = turn.id;
  database_.WriteLater(
      [turn = std::move(turn)](store::Session& session) { return UpdateTurn(session, turn); },
      [id, done = std::move(done)](const Status& saved) {
        if (!saved) {
          LogWarn("a conversation's turn is not saved", {{"turn", id}, {"reason", saved.error().message}});
        }
        if (done) done(saved);
      });
}

}  // namespace tidepool::platform
