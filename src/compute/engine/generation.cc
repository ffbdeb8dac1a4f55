// From a row of logits to what a client sees of one request, and its end.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "compute/engine/engine_impl.h"

namespace tidepool::compute {
namespace {

// About 40 us of reading: waking another thread costs up to a quarter of that.
constexpr int64_t kLogitsWorthThreads = 128 << 10;

double Seconds(Nanoseconds from, Nanoseconds to) {
  return from == 0 || to < from ? 0 : static_cast<double>(to - from) * 1e-9;
}

bool Contains(const std::vector<int32_t>& tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

Error RowFailed() {
  return {.kind = ErrorKind::kInternal,
          .code = "model_failed",
          .message = "the model could not compute the next token of this request",
          .param = {}};
}

Error NotFinite() {
  return {
      .kind = ErrorKind::kInternal,
      .code = "logits_not_finite",
      .message =
          "the model gave logits that are not finite numbers for this request; its weights may be damaged "
          "or the prompt overflows them",
      .param = {}};
}

Error TooComplex() {
  return {.kind = ErrorKind::kInvalid,
          .code = "grammar_too_complex",
          .message =
              "the grammar of the answer has too many ways to go on here; make its alternatives or "
              "repetitions simpler",
          .param = {}};
}

Error Stuck() {
  return {.kind = ErrorKind::kInvalid,
          .code = "grammar_stuck",
          .message =
              "no token of this model can go on with the answer as its grammar wants; the grammar (with "
              "min_tokens and stop tokens) leaves it no way",
          .param = {}};
}

bool AnyFailed(const architectures::StepOutput& output, int32_t first_row, int32_t rows) {
  if (output.failed_rows.empty()) return false;
  const auto failed = output.failed_rows.subspan(static_cast<size_t>(first_row), static_cast<size_t>(rows));
  return std::any_of(failed.begin(), failed.end(), [](uint8_t f) { return f != 0; });
}

Sampler::Row RowOf(const architectures::StepOutput& output, int32_t row, int32_t vocab_size) {
  const auto vocab = static_cast<size_t>(vocab_size);
  const auto peaks = static_cast<size_t>(chips::PeaksOf(vocab_size));
  return {.logits = {output.logits + static_cast<size_t>(row) * vocab, vocab},
          .peaks = output.peaks == nullptr ? nullptr : output.peaks + static_cast<size_t>(row) * peaks};
}

bool Finite(const architectures::StepOutput& output, int32_t row, int32_t vocab_size) {
  const auto logits = RowOf(output, row, vocab_size).logits;
  return std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
}

}  // namespace

template <typename Body>
void EngineImpl::WithSamplers(int64_t count, int64_t logits, const Body& body) {
  const int64_t samplers = std::min(std::ssize(samplers_), count);
  if (samplers < 2 || count * logits < kLogitsWorthThreads) {
    for (int64_t i = 0; i < count; ++i) body(i, *samplers_.front());
    return;
  }
  std::atomic<int64_t> next{0};
  device_.RunOnThreads(samplers, [&](int64_t task) {  // a task owns its sampler, whichever thread has it
    Sampler& sampler = *samplers_[static_cast<size_t>(task)];
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i, sampler);
  });
}

// The tokens of all rows of a step, before any of them is told: a row depends on its own sequence only, so
// rows that take time are shared out among threads.
void EngineImpl::SampleRows(LoadedModel& model, const architectures::StepOutput& output) {
  const int32_t vocab = model.card->info.vocab_size;
  whole_rows_.clear();
  int32_t end_row = 0, drafted = 0;
  const PoolPlan& plan = scheduler_->plan(0);
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedTokens& planned = plan.sequences[i];
    end_row += planned.logit_rows + drafted;
    drafted = drafts_[i].count;
    Sequence& sequence = *FindSequence(planned.job);
    if (sequence.generation == nullptr || planned.begin + planned.count < sequence.prefill_tokens) continue;
    if (AnyFailed(output, end_row - planned.logit_rows, planned.logit_rows)) continue;
    const Sampler::Row row = RowOf(output, end_row - 1, vocab);
    if (sequence.generation->matcher || ReadsWholeRow(sequence.generation->request.sampling)) {
      whole_rows_.push_back({&sequence, row});
    } else {
      sequence.generation->sampled = NextToken(sequence, row, *samplers_.front());
    }
  }
  WithSamplers(std::ssize(whole_rows_), vocab, [&](int64_t i, Sampler& sampler) {
    const RowToSample& one = whole_rows_[static_cast<size_t>(i)];
    one.sequence->generation->sampled = NextToken(*one.sequence, one.row, sampler);
  });
}

void EngineImpl::TakeLogits(Sequence& sequence, const PlannedTokens& planned,
                            const architectures::StepOutput& output, int32_t first_row) {
  LoadedModel& model = *sequence.model;
  const bool was_prefill = planned.begin < sequence.prefill_tokens;
  if (AnyFailed(output, first_row, planned.logit_rows)) {
    Finish(sequence, FinishReason::kError, {}, RowFailed());
    return;
  }
  Generation& generation = *sequence.generation;
  const bool tells_prompt =
      was_prefill && generation.request.sampling.prompt_logprobs && !generation.prompt_logprobs_told;
  if (tells_prompt) TakePromptLogprobs(sequence, planned, output, first_row);
  const bool samples = sequence.computed >= sequence.prefill_tokens;
  if (samples && generation.sampled < 0) {
    Finish(sequence, FinishReason::kError, {},
           NoToken(sequence, output, first_row + planned.logit_rows - 1, model.card->info.vocab_size));
    return;
  }
  // Only now: the KV of a row that failed must not become a shared prefix.
  model.pool->Commit(sequence.kv, std::span(sequence.tokens).first(static_cast<size_t>(sequence.computed)));
  if (was_prefill) ReportPrefill(sequence);
  if (!samples) {
    generation.request.sink->OnComputed(generation.usage, sequence.device_s);
    return;
  }
  if (tells_prompt) {
    generation.prompt_logprobs_told = true;
    generation.request.sink->OnPromptLogprobs(generation.prompt_logprobs);
  }
  Emit(sequence, generation.sampled);
}

// Why a row gave no token.
Error EngineImpl::NoToken(Sequence& sequence, const architectures::StepOutput& output, int32_t row,
                          int32_t vocab_size) {
  Generation& generation = *sequence.generation;
  if (!Finite(output, row, vocab_size) || !generation.matcher || generation.stream.in_reasoning())
    return NotFinite();
  return generation.matcher->Mask() == nullptr ? TooComplex() : Stuck();
}

// A draft's row: the token after the sequence's last one.
void EngineImpl::TakeRow(LoadedModel& model, Sequence& sequence, const architectures::StepOutput& output,
                         int32_t row) {
  const int32_t vocab = model.card->info.vocab_size;
  if (AnyFailed(output, row, 1)) return Finish(sequence, FinishReason::kError, {}, RowFailed());
  const int32_t token = NextToken(sequence, RowOf(output, row, vocab), *samplers_.front());
  if (token < 0) return Finish(sequence, FinishReason::kError, {}, NoToken(sequence, output, row, vocab));
  model.pool->Commit(sequence.kv, std::span(sequence.tokens).first(static_cast<size_t>(sequence.computed)));
  Emit(sequence, token);
}

void EngineImpl::TakePromptLogprobs(Sequence& sequence, const PlannedTokens& planned,
                                    const architectures::StepOutput& output, int32_t first_row) {
  Generation& generation = *sequence.generation;
  const int32_t vocab = sequence.card->info.vocab_size;
  const int64_t first = planned.begin + 1;  // a row speaks of the token that follows
  const int64_t count = std::min<int64_t>(planned.count, std::ssize(generation.prompt_logprobs) - first);
  WithSamplers(count, vocab, [&](int64_t i, Sampler& sampler) {
    const auto token = static_cast<size_t>(first + i);
    sampler.Logprobs(RowOf(output, first_row + static_cast<int32_t>(i), vocab), sequence.tokens[token],
                     generation.request.sampling.top_logprobs, generation.prompt_logprobs[token]);
  });
}

// The next token, or -1. A spent reasoning budget says the close tag instead of what was drawn.
int32_t EngineImpl::NextToken(Sequence& sequence, const Sampler::Row& row, Sampler& sampler) {
  Generation& generation = *sequence.generation;
  const SamplingParams& params = generation.request.sampling;
  const int32_t output_tokens = generation.usage.completion_tokens;
  // Reasoning is no answer: what must be of a form does not end in it.
  const bool unanswered = generation.matcher && generation.stream.in_reasoning();
  const bool too_early = output_tokens < params.min_tokens || unanswered;
  std::span<const uint64_t> allowed;
  if (generation.matcher && !generation.stream.in_reasoning()) {
    const grammar::TokenMask* const mask = generation.matcher->Mask();
    if (mask == nullptr) return -1;
    allowed = mask->allowed;
  }
  int32_t token = sampler.Sample(row, {.params = &params,
                                       .counts = generation.penalised ? &generation.counts : nullptr,
                                       .masked = too_early ? std::span<const int32_t>(generation.end_tokens)
                                                           : std::span<const int32_t>(),
                                       .allowed = allowed,
                                       .also_allowed = output_tokens == 0 ? generation.open_tag : -1,
                                       .seed = generation.seed,
                                       .index = static_cast<uint64_t>(output_tokens)});
  if (token < 0) return token;
  if (!generation.budget_spent && generation.stream.in_reasoning() && !generation.close_tokens.empty() &&
      generation.usage.reasoning_tokens >= params.reasoning_budget) {
    generation.budget_spent = true;
    generation.forced = generation.close_tokens.size();
  }
  if (generation.forced > 0) token = generation.close_tokens[--generation.forced];
  if (params.top_logprobs >= 0) sampler.Logprobs(row, token, params.top_logprobs, generation.logprob);
  return token;
}

// Moves a constrained answer's grammar on; true if nothing can follow.
bool EngineImpl::FollowGrammar(Sequence& sequence, int32_t token, bool was_reasoning) {
  Generation& generation = *sequence.generation;
  if (generation.stream.in_reasoning()) return false;
  if (token == generation.open_tag && generation.usage.completion_tokens == 1) return false;
  // Of the token that ended the reasoning, what is text already counts.
  const std::string_view bytes =
      was_reasoning ? std::string_view(generation.delta.content)
                    : sequence.card->tokenizer->TokenBytes(token, Contains(generation.visible, token));
  // What came by force (a close tag) need not fit; the answer then begins after it.
  return generation.matcher->Accept(bytes) && generation.matcher->ended();
}

// A token is due at arrival + ttft + i * tpot. Batch work is promised no time, and a reader that held its own
// answer up is owed none.
void EngineImpl::CountPromise(const Sequence& sequence, Nanoseconds now) {
  ++tokens_.generated;
  const Generation& generation = *sequence.generation;
  if (generation.request.job_class == JobClass::kBatch || sequence.ticket->held_up) return;
  const ModelPolicy& policy = sequence.model->policy;
  const double slack_s = policy.ttft_s + policy.tpot_s * generation.usage.completion_tokens -
                         Seconds(sequence.submitted_at, now);
  const bool late = slack_s < 0;
  (late ? sequence.model->metrics->tokens_late : sequence.model->metrics->tokens_on_time).Increment();
  (late ? sequence.card->tokens_late : sequence.card->tokens_on_time).fetch_add(1, std::memory_order_relaxed);
  ++(late ? tokens_.late : tokens_.on_time);
  turns_.Token(slack_s);
}

void EngineImpl::Emit(Sequence& sequence, int32_t token) {
  Generation& generation = *sequence.generation;
  const SamplingParams& params = generation.request.sampling;
  const text::Tokenizer& tokenizer = *sequence.card->tokenizer;
  const Nanoseconds now = clock_.now();
  if (generation.first_token_at == 0) {
    generation.first_token_at = now;
    sequence.model->metrics->ttft_s.Observe(Seconds(sequence.submitted_at, now));
  } else {
    sequence.model->metrics->tpot_s.Observe(Seconds(generation.last_token_at, now));
  }
  generation.last_token_at = now;
  CountPromise(sequence, now);

  sequence.tokens.push_back(token);
  ++generation.usage.completion_tokens;
  if (generation.stream.in_reasoning()) ++generation.usage.reasoning_tokens;
  generation.request.sink->OnComputed(generation.usage, sequence.device_s);
  if (generation.penalised) generation.counts.Add(token, true);

  text::TextDelta& delta = generation.delta;
  delta.Clear();
  const bool was_reasoning = generation.stream.in_reasoning();
  // With min_tokens an end token was masked; one that came by force or by ignore_eos is text, and so are the
  // stop strings that end in these tokens.
  const bool may_end = generation.usage.completion_tokens > params.min_tokens;
  const bool ended = may_end && Contains(generation.end_tokens, token);
  bool finished = true;
  FinishReason reason = FinishReason::kStop;
  if (!ended) {
    generation.stream.Push(tokenizer.TokenBytes(token, Contains(generation.visible, token)), delta, may_end);
    if (!delta.stopped) {
      finished = generation.usage.completion_tokens >= generation.max_new_tokens;
      reason = FinishReason::kLength;
      if (generation.matcher && FollowGrammar(sequence, token, was_reasoning)) {
        finished = true;
        reason = FinishReason::kStop;
      }
    }
  }
  if (finished && !delta.stopped) generation.stream.Finish(delta);

  const bool wants_logprobs = params.top_logprobs >= 0;
  generation.request.sink->OnToken({.tokens = {&sequence.tokens.back(), 1},
                                    .content = delta.content,
                                    .reasoning = delta.reasoning,
                                    .logprobs = wants_logprobs
                                                    ? std::span<const TokenLogprob>(&generation.logprob, 1)
                                                    : std::span<const TokenLogprob>()});
  if (!finished) return;
  std::string stop = delta.stop;
  if (ended && stop.empty()) stop = tokenizer.Piece(token);
  Finish(sequence, reason, std::move(stop), {});
}

// ---- ends --------------------------------------------------------------------------------------------

std::unique_ptr<Sequence> EngineImpl::Detach(Sequence& sequence) {
  if (sequence.model != nullptr) {
    sequence.model->pool->Release(sequence.kv);
    if (taking_drafts_) {
      ended_jobs_.push_back(sequence.job);
    } else {
      scheduler_->Remove(sequence.job, clock_.now());
    }
    --sequence.model->sequences;
    UpdateGauges(*sequence.model);
  }
  if (sequence.admitted) {
    running_.fetch_sub(1);
  } else {
    CountAdmitted(*sequence.ticket);
  }
  std::erase(sequence.ticket->jobs, sequence.job);
  auto node = sequences_.extract(sequence.job);
  return std::move(node.mapped());
}

void EngineImpl::EndTicket(const std::shared_ptr<Ticket>& ticket) {
  const Nanoseconds now = clock_.now();
  if (last_finish_at_ != 0) {
    constexpr double kLongest = 10;  // an idle hour says nothing about how fast requests end
    finish_interval_s_ = 0.9 * finish_interval_s_ + 0.1 * std::min(Seconds(last_finish_at_, now), kLongest);
  }
  last_finish_at_ = now;
  std::lock_guard lock(inbox_mutex_);
  tickets_.erase(ticket->handle);
  if (active_.fetch_sub(1) == 1) idle_.notify_all();
}

void EngineImpl::FillTimes(const Sequence& sequence, Nanoseconds first_at, Nanoseconds now,
                           FinishEvent& event) const {
  const Nanoseconds admitted_at = sequence.admitted ? sequence.admitted_at : now;
  if (first_at == 0) first_at = now;
  event.queue_s = Seconds(sequence.submitted_at, admitted_at);
  event.prefill_s = Seconds(admitted_at, first_at);
  event.decode_s = Seconds(first_at, now);
  const Nanoseconds load = sequence.stepped ? sequence.load_waited
                           : sequence.model != nullptr
                               ? sequence.model->LoadTime(now) - sequence.load_at_arrival
                               : 0;
  event.load_s = std::min(event.queue_s, static_cast<double>(load) * 1e-9);
  event.stall_s =
      std::max(0.0, event.prefill_s + event.decode_s - static_cast<double>(sequence.in_steps) * 1e-9);
  event.device_s = sequence.device_s;
}

void EngineImpl::Finish(Sequence& ending, FinishReason reason, std::string stop, Error error) {
  if (ending.embed != nullptr) {
    FinishEmbedding(ending, reason, std::move(error));
    return;
  }
  const std::unique_ptr<Sequence> sequence = Detach(ending);
  Generation& generation = *sequence->generation;
  const Nanoseconds now = clock_.now();
  FinishEvent event;
  event.reason = reason;
  event.stop = std::move(stop);
  event.error = std::move(error);
  event.usage = generation.usage;
  FillTimes(*sequence, generation.first_token_at, now, event);
  generation.request.sink->OnComputed(generation.usage, sequence->device_s);
  if (sequence->model != nullptr) {
    ModelMetrics& metrics = *sequence->model->metrics;
    switch (reason) {
      case FinishReason::kStop: metrics.finished_stop.Increment(); break;
      case FinishReason::kLength: metrics.finished_length.Increment(); break;
      case FinishReason::kCancelled: metrics.finished_cancelled.Increment(); break;
      case FinishReason::kError: metrics.finished_error.Increment(); break;
    }
    metrics.prompt_tokens.Increment(event.usage.prompt_tokens);
    metrics.cached_tokens.Increment(event.usage.cached_tokens);
    metrics.completion_tokens.Increment(event.usage.completion_tokens);
    metrics.reasoning_tokens.Increment(event.usage.reasoning_tokens);
  }
  generation.request.sink->OnFinish(event);
  EndTicket(sequence->ticket);
}

}  // namespace tidepool::compute
