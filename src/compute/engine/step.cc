// One step: the plan becomes arrays, the model runs, its rows become tokens.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "compute/engine/engine_impl.h"

namespace tidepool::compute {
namespace {

constexpr size_t kMaxForcedBytes = 64;
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
  Draft(model);
  BuildStep(model);
  LandingGate gate(*this, model);
  const architectures::Step step{.tokens = step_tokens_,
                                 .positions = step_positions_,
                                 .sequences = slices_,
                                 .logit_rows = logit_rows_,
                                 .hidden_rows = hidden_rows_,
                                 .gate = plan.landing ? &gate : nullptr,
                                 .types = step_types_};
  const architectures::StepOutput output = model.model->Forward(step, model.limits, workspace_.data());
  if (plan.landing) model.metrics->landing_steps.Increment();
  if (output.aborted) {  // the weights did not come (yet): nothing was computed
    model.metrics->aborted_steps.Increment();
    scheduler_->StepDone(0, 0, 0, clock_.now());
    step_aborted_ = true;
    return;
  }
  if (model.resident != nullptr && !model.model->WeightsIntact()) {
    LoseWeights(model);
    return;
  }
  FinishStep(model, output, started_at);
}

// While a step waits for its weights this thread does nothing else. What cannot wait that long ends the step:
// a cancel, a call, or a request whose model could compute now. Little is lost: the layers that were computed
// are computed again, and while this step waits for a load nothing is.
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

// What a draft's rows cost, from steps of so many decodes with and without them. With n decodes a step is
// worth n tokens, so a row costs n times its share of the step, in tokens.
void EngineImpl::LearnDrafting(LoadedModel& model, double seconds, int32_t accepted) {
  constexpr double kRowSmoothing = 0.1;
  const PoolPlan& plan = scheduler_->plan(0);
  const size_t decodes = plan.sequences.size();
  if (decodes > model.drafting.size() || plan.decodes != std::ssize(plan.sequences) || plan.landing) return;
  LoadedModel::Drafting& drafting = model.drafting[decodes - 1];
  if (draft_.empty()) {
    drafting.step_s += (drafting.step_s == 0 ? 1 : kRowSmoothing) * (seconds - drafting.step_s);
    return;
  }
  const auto rows = static_cast<double>(draft_.size());
  const double cost = std::clamp((seconds / drafting.step_s - 1) / rows, 0.001, 2.0);
  drafting.row_cost += kRowSmoothing * (cost - drafting.row_cost);
  drafting.pace.Learn(static_cast<int32_t>(draft_.size()), accepted,
                      drafting.row_cost * static_cast<double>(decodes));
}

// Appends to draft_ what its grammar forces, and what followed that before.
EngineImpl::DraftOf EngineImpl::DraftFor(Sequence& sequence, int32_t most) {
  Generation& generation = *sequence.generation;
  DraftOf draft{.begin = static_cast<int32_t>(draft_.size())};
  forced_.clear();
  if (generation.matcher && !generation.stream.in_reasoning() && generation.usage.completion_tokens > 0) {
    const std::string text =
        generation.forced_pace.Length() > 0 ? generation.matcher->Forced(kMaxForcedBytes) : std::string();
    if (text.size() > 1) {
      // A text that goes on after what is forced may end in another token; that costs a row.
      forced_ = sequence.card->tokenizer->Encode(text);
      forced_.resize(std::min(forced_.size(), static_cast<size_t>(most)));
      draft_.insert(draft_.end(), forced_.begin(), forced_.end());
      draft.forced = static_cast<int32_t>(forced_.size());
    }
  }
  generation.drafter.Add(sequence.tokens);
  generation.drafter.Propose(sequence.tokens, forced_, most - draft.forced, draft_);
  draft.count = static_cast<int32_t>(draft_.size()) - draft.begin;
  return draft;
}

void EngineImpl::Draft(LoadedModel& model) {
  const PoolPlan& plan = scheduler_->plan(0);
  const size_t decodes = plan.sequences.size();
  draft_.clear();
  drafts_.assign(decodes, {});
  if (!options_.speculation || plan.landing || plan.decodes != std::ssize(plan.sequences) ||
      decodes > model.drafting.size()) {
    return;
  }
  LoadedModel::Drafting& drafting = model.drafting[decodes - 1];
  if (drafting.step_s == 0) return;  // what a row costs more than nothing is to be known
  // A sequence alone knows best whether its drafts pay; in a batch others pay for them.
  if (decodes > 1 && drafting.pace.Length() == 0) return;
  // The kernels of few rows read each weight once for all of them: drafts fill the rows up to what one
  // sequence alone may have. Who comes first changes from step to step.
  int32_t rows = static_cast<int32_t>(kMaxDraft + 1 - decodes);
  rows =
      std::min({rows, model.limits.max_logit_rows - plan.logit_rows, model.limits.max_tokens - plan.tokens});
  const size_t first = steps_.load() % decodes;
  for (size_t n = 0; n < decodes; ++n) {
    const size_t i = (first + n) % decodes;
    const PlannedTokens& planned = plan.sequences[i];
    Sequence& sequence = *FindSequence(planned.job);
    if (sequence.generation == nullptr || !sequence.generation->request.speculate) continue;
    const Generation& generation = *sequence.generation;
    const int32_t most = std::min(
        {planned.spare, kMaxDraft, rows, generation.max_new_tokens - generation.usage.completion_tokens - 1});
    if (most <= 0) continue;
    drafts_[i] = DraftFor(sequence, most);
    rows -= drafts_[i].count;
  }
}

// The rows of a sequence's draft behind its own, one after the other; returns how many of them were said.
int32_t EngineImpl::TakeDrafted(LoadedModel& model, Sequence& sequence,
                                const architectures::StepOutput& output, std::span<const int32_t> draft,
                                int32_t row) {
  const PoolJobId job = sequence.job;
  int32_t said = 0;
  for (const int32_t token : draft) {
    if (!Lives(job) || sequence.tokens.back() != token) break;
    ++sequence.computed;
    TakeRow(model, sequence, output, row++);
    ++said;
  }
  model.metrics->drafted_tokens.Increment(static_cast<int64_t>(draft.size()));
  model.metrics->accepted_tokens.Increment(said);
  return said;
}

void EngineImpl::BuildStep(LoadedModel& model) {
  step_tokens_.clear();
  step_positions_.clear();
  step_types_.clear();
  const bool typed = model.card->info.ranks && !model.card->info.causal;
  slices_.clear();
  logit_rows_.clear();
  hidden_rows_.clear();
  const PoolPlan& plan = scheduler_->plan(0);
  for (size_t n = 0; n < plan.sequences.size(); ++n) {
    const PlannedTokens& planned = plan.sequences[n];
    Sequence& sequence = *FindSequence(planned.job);
    CHECK(sequence.computed == planned.begin);
    CHECK(static_cast<size_t>(planned.begin + planned.count) <= sequence.tokens.size());
    const int32_t drafted = drafts_[n].count;
    model.pool->Extend(sequence.kv, planned.begin + planned.count + drafted);
    const auto first_row = static_cast<int32_t>(step_tokens_.size());
    for (int32_t i = 0; i < planned.count; ++i) {
      const int32_t position = planned.begin + i;
      step_tokens_.push_back(sequence.tokens[static_cast<size_t>(position)]);
      step_positions_.push_back(position);
      if (typed) step_types_.push_back(position >= sequence.second_from ? 1 : 0);
      if (i >= planned.count - planned.logit_rows) logit_rows_.push_back(first_row + i);
      if (sequence.embed != nullptr &&
          WantsHidden(model.card->info.pooling, position, sequence.prompt_tokens)) {
        hidden_rows_.push_back(first_row + i);
      }
    }
    for (int32_t i = 0; i < drafted; ++i) {
      logit_rows_.push_back(static_cast<int32_t>(step_tokens_.size()));
      step_tokens_.push_back(draft_[static_cast<size_t>(drafts_[n].begin + i)]);
      step_positions_.push_back(planned.begin + planned.count + i);
    }
    const auto table = sequence.kv.table();
    slices_.push_back({.token_begin = first_row,
                       .token_count = planned.count + drafted,
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
  tokens_.computed += static_cast<uint64_t>(plan.tokens);
  turns_.Add(model.card->shared_name, started_at, now, plan.tokens);

  // How many tokens a drafted step gives is known only when they are taken. Else the scheduler is told before
  // sequences end and their jobs with them.
  taking_drafts_ = !draft_.empty();
  if (!taking_drafts_) scheduler_->StepDone(0, 1, now - started_at, now);
  // All before any: the end of one may end the request of another.
  const auto step_rows = static_cast<double>(step_tokens_.size());
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedTokens& planned = plan.sequences[i];
    CountComputed(*FindSequence(planned.job), planned.count, (planned.count + drafts_[i].count) / step_rows,
                  started_at, now);
  }
  SampleRows(model, output);
  int32_t logit_row = 0;
  int32_t hidden_row = 0;
  int32_t accepted = 0;
  const double row_cost = taking_drafts_ ? model.drafting[plan.sequences.size() - 1].row_cost *
                                               static_cast<double>(plan.sequences.size())
                                         : 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedTokens& planned = plan.sequences[i];
    Sequence& sequence = *FindSequence(planned.job);
    sequence.computed += planned.count;
    if (sequence.embed != nullptr) {
      const architectures::ModelInfo& info = model.card->info;
      const float* rows = info.ranks ? output.scores + hidden_row
                                     : output.hidden + static_cast<size_t>(hidden_row) *
                                                           static_cast<size_t>(info.hidden_size);
      const int32_t first = slices_[i].token_begin;
      hidden_row += static_cast<int32_t>(
          std::count_if(hidden_rows_.begin() + hidden_row, hidden_rows_.end(),
                        [&](int32_t row) { return row >= first && row < first + planned.count; }));
      TakeHidden(sequence, planned, rows);
    } else {
      TakeLogits(sequence, planned, output, logit_row);
    }
    logit_row += planned.logit_rows;
    const DraftOf& draft = drafts_[i];
    if (draft.count == 0) continue;
    if (Lives(planned.job)) {
      const auto tokens =
          std::span(draft_).subspan(static_cast<size_t>(draft.begin), static_cast<size_t>(draft.count));
      const int32_t said = TakeDrafted(model, sequence, output, tokens, logit_row);
      if (said > 0) scheduler_->TokensTaken(planned.job, said);
      if (Lives(planned.job)) {
        Generation& generation = *sequence.generation;
        generation.forced_pace.Learn(draft.forced, std::min(said, draft.forced), row_cost);
        generation.drafter.pace().Learn(draft.count - draft.forced, std::max(0, said - draft.forced),
                                        row_cost);
      }
      accepted += said;
    }
    logit_row += draft.count;
  }
  LearnDrafting(model, static_cast<double>(now - started_at) * 1e-9, accepted);
  tokens_.computed += static_cast<uint64_t>(accepted);
  turns_.Guessed(accepted);
  if (taking_drafts_) {
    const Nanoseconds done_at = clock_.now();
    scheduler_->StepDone(0, 1, done_at - started_at, done_at);
    taking_drafts_ = false;
    for (const PoolJobId job : ended_jobs_) scheduler_->Remove(job, done_at);
    ended_jobs_.clear();
  }
  UpdateGauges(model);
}

// Before the step's tokens are told: what a meter has seen is never less than what its client has.
void EngineImpl::CountComputed(Sequence& sequence, int32_t tokens, double share, Nanoseconds started_at,
                               Nanoseconds now) {
  if (!sequence.stepped) {
    sequence.stepped = true;
    sequence.load_waited = sequence.model->LoadTime(started_at) - sequence.load_at_arrival;
    // Positions before the first that was computed came from the prefix cache.
    if (sequence.generation != nullptr) sequence.generation->usage.cached_tokens = sequence.computed;
  }
  sequence.in_steps += now - started_at;
  sequence.device_s += static_cast<double>(now - started_at) * 1e-9 * share;
  const int32_t prefilled = std::min(sequence.prompt_tokens, sequence.computed + tokens);
  if (sequence.generation != nullptr) {
    // Computed again after its KV was given up: billed once.
    Usage& usage = sequence.generation->usage;
    usage.prompt_tokens = std::max(usage.prompt_tokens, prefilled);
    return;
  }
  EmbedTask& task = *sequence.embed;
  task.usage.prompt_tokens += std::max(0, prefilled - sequence.metered);
  sequence.metered = std::max(sequence.metered, prefilled);
  task.times.device_s += static_cast<double>(now - started_at) * 1e-9 * share;
  if (task.request.computed) task.request.computed(task.usage, task.times.device_s);
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
