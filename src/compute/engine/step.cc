// One step: the plan becomes arrays, the model runs, its rows become tokens.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "compute/engine/engine_impl.h"

namespace tidepool::compute {
namespace {

constexpr Nanoseconds kPrefillReportInterval = 100 * kMillisecond;

bool WantsHidden(architectures::Pooling pooling, int32_t position, int32_t prompt_tokens) {
  switch (pooling) {
    case architectures::Pooling::kMean: return true;
    case architectures::Pooling::kCls: return position == 0;
    case architectures::Pooling::kLast: return position == prompt_tokens - 1;
    case architectures::Pooling::kNone: return false;
  }
  return false;
}

}  // namespace

class EngineImpl::LandingGate final : public architectures::LayerGate {
 public:
  LandingGate(const EngineImpl& engine, const LoadedModel& model) : engine_(engine), model_(model) {}
  bool Wait(int32_t segment) override {
    constexpr Nanoseconds kPatience = 2 * kMillisecond;  // between two looks at the inbox
    for (;;) {
      switch (model_.resident->AwaitSegment(segment, kPatience)) {
        case SegmentWait::kLanded: return true;
        case SegmentWait::kNotComing: return false;
        case SegmentWait::kNotYet: break;
      }
      if (engine_.LandingInterrupted(model_)) return false;
    }
  }

 private:
  const EngineImpl& engine_;
  const LoadedModel& model_;
};

void EngineImpl::ExecuteStep() {
  const PoolPlan& plan = scheduler_->plan(0);
  LoadedModel& model = *models_.at(plan.model);
  const Nanoseconds started_at = clock_.now();
  BuildStep(model);
  LandingGate gate(*this, model);
  const architectures::Step step{.tokens = step_tokens_,
                                 .positions = step_positions_,
                                 .sequences = slices_,
                                 .logit_rows = logit_rows_,
                                 .hidden_rows = hidden_rows_,
                                 .gate = plan.landing ? &gate : nullptr};
  const architectures::StepOutput output = model.model->Forward(step, model.limits, workspace_.data());
  if (plan.landing) model.metrics->landing_steps.Increment();
  if (output.aborted) {  // the weights did not come (yet): nothing was computed
    model.metrics->aborted_steps.Increment();
    scheduler_->StepDone(0, 0, 0, clock_.now());
    return;
  }
  if (model.resident != nullptr && !model.model->WeightsIntact()) {
    LoseWeights(model);
    return;
  }
  FinishStep(model, output, started_at);
}

// While a step waits for its weights this thread does nothing else. What cannot wait that long ends the step: a
// cancel, a call, or a request whose model could compute now. Little is lost: the layers that were computed are
// computed again, and while this step waits for a load nothing is.
bool EngineImpl::LandingInterrupted(const LoadedModel& model) const {
  const std::lock_guard lock(inbox_mutex_);
  if (stop_ || !attention_.empty() || !calls_.empty()) return true;
  return std::any_of(arrivals_.begin(), arrivals_.end(), [&](const auto& arrived) {
    const ModelCard& card = *arrived->card;
    return &card != model.card.get() && (!card.pooled || card.resident->complete());
  });
}

// Nothing of the step is believed. The model's requests end with the reason, its owner is told (the file is
// packed again), and no other model is concerned.
void EngineImpl::LoseWeights(LoadedModel& model) {
  scheduler_->StepDone(0, 0, 0, clock_.now());
  Note(PoolEventKind::kWeightsLost, &model);
  const Error error{
      .kind = ErrorKind::kCorrupt,
      .code = "weights_lost",
      .message = fmt::format("the packed weights of {} were cut or became unreadable while they were in use; "
                             "they are packed again, send the request again",
                             model.card->name),
      .param = "model"};
  LogError("weights were lost under a running model", {{"model", model.card->name}});
  if (on_load_failed_) on_load_failed_(model.card->handle, error);
  FailModel(model, error);
}

void EngineImpl::BuildStep(LoadedModel& model) {
  step_tokens_.clear();
  step_positions_.clear();
  slices_.clear();
  logit_rows_.clear();
  hidden_rows_.clear();
  for (const PlannedTokens& planned : scheduler_->plan(0).sequences) {
    Sequence& sequence = *FindSequence(planned.job);
    CHECK(sequence.computed == planned.begin);
    CHECK(static_cast<size_t>(planned.begin + planned.count) <= sequence.tokens.size());
    model.pool->Extend(sequence.kv, planned.begin + planned.count);
    const auto first_row = static_cast<int32_t>(step_tokens_.size());
    for (int32_t i = 0; i < planned.count; ++i) {
      const int32_t position = planned.begin + i;
      step_tokens_.push_back(sequence.tokens[static_cast<size_t>(position)]);
      step_positions_.push_back(position);
      if (i >= planned.count - planned.logit_rows) logit_rows_.push_back(first_row + i);
      if (sequence.embed != nullptr &&
          WantsHidden(model.card->info.pooling, position, sequence.prompt_tokens)) {
        hidden_rows_.push_back(first_row + i);
      }
    }
    const auto table = sequence.kv.table();
    slices_.push_back({.token_begin = first_row,
                       .token_count = planned.count,
                       .context = planned.begin,
                       .blocks = table.data(),
                       .block_count = static_cast<int32_t>(table.size())});
  }
  CHECK(static_cast<int32_t>(step_tokens_.size()) <= model.limits.max_tokens);
  CHECK(static_cast<int32_t>(logit_rows_.size()) <= model.limits.max_logit_rows);
}

void EngineImpl::FinishStep(LoadedModel& model, const architectures::StepOutput& output,
                            Nanoseconds started_at) {
  const Nanoseconds now = clock_.now();
  steps_.fetch_add(1);
  model.card->last_used = now;
  model.metrics->steps.Increment();
  model.metrics->step_s.Observe(static_cast<double>(now - started_at) * 1e-9);
  const PoolPlan& plan = scheduler_->plan(0);  // stays as it is until the next Decide
  model.metrics->step_tokens.Observe(plan.tokens);

  scheduler_->StepDone(0, 1, now - started_at, now);  // before sequences end and their jobs with them
  SampleRows(model, output);
  int32_t logit_row = 0;
  int32_t hidden_row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedTokens& planned = plan.sequences[i];
    Sequence& sequence = *FindSequence(planned.job);
    sequence.computed += planned.count;
    if (sequence.embed != nullptr) {
      const float* rows =
          output.hidden + static_cast<size_t>(hidden_row) * static_cast<size_t>(model.card->info.hidden_size);
      const int32_t first = slices_[i].token_begin;
      hidden_row += static_cast<int32_t>(
          std::count_if(hidden_rows_.begin() + hidden_row, hidden_rows_.end(),
                        [&](int32_t row) { return row >= first && row < first + planned.count; }));
      TakeHidden(sequence, planned, rows);
    } else {
      TakeLogits(sequence, planned, output, logit_row);
    }
    logit_row += planned.logit_rows;
  }
  UpdateGauges(model);
}

void EngineImpl::ReportPrefill(Sequence& sequence) {
  const Nanoseconds now = clock_.now();
  const bool complete = sequence.computed >= sequence.prefill_tokens;
  if (!complete && now - sequence.progress_at < kPrefillReportInterval) return;
  sequence.progress_at = now;
  sequence.generation->request.sink->OnProgress(
      {.phase = complete ? ProgressEvent::Phase::kDecode : ProgressEvent::Phase::kPrefill,
       .share = static_cast<float>(sequence.computed) / static_cast<float>(sequence.prefill_tokens)});
}

}  // namespace tidepool::compute
