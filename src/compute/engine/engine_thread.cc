// The loop of the engine thread: take what callers posted, admit, run a step.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "compute/engine/engine_impl.h"

namespace tidepool::compute {
namespace {

constexpr Nanoseconds kQueueReportInterval = 500 * kMillisecond;
constexpr Nanoseconds kAbortedPause = kMillisecond;
constexpr Nanoseconds kLongestSleep = 60 * kSecond;
// Sampling reads memory more than it computes: more threads would wait for the same bytes.
constexpr int kMaxSamplers = 16;

}  // namespace

void EngineImpl::Run() {
  while (TakeInbox()) {
    // The one point where scheduling decisions are committed: from here on they are carried out.
    Decide();
    ReportQueue();
    PublishReport();
    idle_turn_ = !run_;
    if (run_) {
      run_ = false;
      ExecuteStep();
    }
  }
  StopAll();
}

bool EngineImpl::TakeInbox() {
  {
    std::unique_lock lock(inbox_mutex_);
    const auto has_mail = [&] {
      return stop_ || !arrivals_.empty() || !attention_.empty() || !calls_.empty() || !transfers_.empty() ||
             report_wanted_;
    };
    if (idle_turn_ && !has_mail()) {
      // Requests may wait without anything running (for weights, or paused): look at their progress now and
      // then, and at the scheduler when it asked for it.
      Nanoseconds wait = sequences_.empty() ? kLongestSleep : kQueueReportInterval;
      if (const Nanoseconds wake = scheduler_->wake_at(); wake != INT64_MAX) {
        wait = std::clamp<Nanoseconds>(wake - clock_.now(), 0, wait);
      }
      inbox_ready_.wait_for(lock, std::chrono::nanoseconds(wait), has_mail);
    } else if (step_aborted_) {
      // Its weights do not come, and who says why may not have been heard yet: no step is tried until then.
      inbox_ready_.wait_for(lock, std::chrono::nanoseconds(kAbortedPause), has_mail);
    }
    step_aborted_ = false;
    if (stop_) return false;
    std::swap(arrivals_, taken_arrivals_);
    std::swap(attention_, taken_attention_);
    std::swap(calls_, taken_calls_);
    std::swap(transfers_, taken_transfers_);
  }
  // Ends of transfers first: what they give back is free for what follows.
  for (const auto& transfer : taken_transfers_) transfer();
  taken_transfers_.clear();
  for (auto& sequence : taken_arrivals_) Arrive(std::move(sequence));
  taken_arrivals_.clear();
  for (const auto& ticket : taken_attention_) ApplyAttention(ticket);
  taken_attention_.clear();
  for (const auto& call : taken_calls_) call();
  taken_calls_.clear();
  return true;
}

void EngineImpl::Arrive(std::unique_ptr<Sequence> arrived) {
  Sequence& sequence = *arrived;
  sequence.job = next_job_++;
  sequence.ticket->jobs.push_back(sequence.job);
  sequences_.emplace(sequence.job, std::move(arrived));
  const auto model = models_.find(sequence.card->handle);
  if (model == models_.end()) {
    Finish(
        sequence, FinishReason::kError, {},
        Error{.kind = ErrorKind::kNotFound,
              .code = "model_not_found",
              .message = fmt::format("{} was unloaded before the request could start", sequence.card->name),
              .param = "model"});
    return;
  }
  sequence.model = model->second.get();
  ++sequence.model->sequences;
  sequence.load_at_arrival = sequence.model->LoadTime(clock_.now());
  const bool generates = sequence.generation != nullptr;
  PoolJob job{.job = sequence.job,
              .model = sequence.card->handle,
              .account = sequence.account(),
              .account_weights = sequence.account_weights(),
              .job_class = sequence.job_class(),
              .prompt_tokens = sequence.prompt_tokens,
              .max_output_tokens = sequence.reserve_tokens - sequence.prompt_tokens,
              .wants_logits = generates};
  if (generates) {
    const GenerateRequest& request = sequence.generation->request;
    if (request.sampling.max_tokens == 0) job.open_output_tokens = options_.open_answer_tokens;
    job.prompt_logits = request.sampling.prompt_logprobs;
  }
  scheduler_->Arrive(job, clock_.now());
  UpdateGauges(*sequence.model);
}

void EngineImpl::ApplyAttention(const std::shared_ptr<Ticket>& ticket) {
  ticket->listed = false;  // before the flags are read: a later change lists it again
  if (ticket->cancel) {
    while (!ticket->jobs.empty()) {
      Sequence* sequence = FindSequence(ticket->jobs.back());
      CHECK(sequence != nullptr);
      Finish(*sequence, FinishReason::kCancelled, {}, {});
    }
    return;
  }
  for (const PoolJobId job : ticket->jobs) scheduler_->SetPaused(job, ticket->paused, clock_.now());
}

// ---- memory ------------------------------------------------------------------------------------------

void EngineImpl::CountAdmitted(Ticket& ticket) {
  if (ticket.unadmitted > 0 && --ticket.unadmitted == 0) queued_.fetch_sub(1);
}

// The model that was used longest ago gives first.
uint64_t EngineImpl::Reclaim(uint64_t bytes, const LoadedModel* except) {
  uint64_t freed = 0;
  while (freed < bytes) {
    LoadedModel* oldest = nullptr;
    for (const auto& [handle, model] : models_) {
      if (model.get() == except || model->pool->shrinkable_bytes() == 0) continue;
      if (oldest == nullptr || model->card->last_used < oldest->card->last_used) oldest = model.get();
    }
    if (oldest == nullptr) break;
    const uint64_t got = oldest->pool->Shrink(bytes - freed);
    UpdateGauges(*oldest);
    if (got == 0) break;
    freed += got;
  }
  if (freed > 0) scheduler_->RoomReturned(0);
  return freed;
}

// ---- models ------------------------------------------------------------------------------------------

Status EngineImpl::EnsureScratch(int32_t max_tokens, int32_t max_columns) {
  if (max_tokens <= scratch_tokens_ && max_columns <= scratch_columns_) return {};
  max_tokens = std::max(max_tokens, scratch_tokens_);
  max_columns = std::max(max_columns, scratch_columns_);
  const uint64_t before = scratch_tokens_ == 0 ? 0 : device_.ScratchBytes(scratch_tokens_, scratch_columns_);
  const uint64_t after = device_.ScratchBytes(max_tokens, max_columns);
  const uint64_t more = after > before ? after - before : 0;
  MakeLedgerRoom(more);
  TP_ASSIGN(Charge charge, ledger_.TryTake("device", ChargeKind::kScratch, more));
  TP_TRY(device_.ReserveScratch(max_tokens, max_columns));
  scratch_charges_.push_back(std::move(charge));
  scratch_tokens_ = max_tokens;
  scratch_columns_ = max_columns;
  return {};
}

// One for all models: a device computes one step at a time.
Status EngineImpl::EnsureWorkspace(size_t bytes) {
  if (bytes <= workspace_.bytes()) return {};
  const uint64_t more = bytes - workspace_charge_.bytes();
  MakeLedgerRoom(more);
  TP_ASSIGN(Charge charge,
            ledger_.TryTake("workspace", ChargeKind::kScratch, bytes - workspace_charge_.bytes()));
  TP_ASSIGN(workspace_, device_.Allocate(bytes));
  // The kernel clears a page at first touch: now, while nobody waits for a step, rather than inside the
  // first.
  if (sequences_.empty() && device_.info().kind == chips::DeviceKind::kCpu) {
    std::memset(workspace_.data(), 0, bytes);
  }
  workspace_charge_.Release();
  charge.Release();
  TP_ASSIGN(workspace_charge_, ledger_.TryTake("workspace", ChargeKind::kScratch, bytes));
  return {};
}

// Scratch of the threads that sample.
Status EngineImpl::EnsureSamplers(int32_t vocab) {
  if (vocab <= sampler_vocab_) return {};
  const auto count = static_cast<size_t>(std::clamp(device_.info().threads, 1, kMaxSamplers));
  const uint64_t before = sampler_vocab_ == 0 ? 0 : Sampler::ScratchBytes(sampler_vocab_);
  const uint64_t more = (Sampler::ScratchBytes(vocab) - before) * count;
  MakeLedgerRoom(more);
  TP_ASSIGN(Charge charge, ledger_.TryTake("sampling", ChargeKind::kScratch, more));
  scratch_charges_.push_back(std::move(charge));
  samplers_.clear();
  while (samplers_.size() < count) samplers_.push_back(std::make_unique<Sampler>(vocab));
  sampler_vocab_ = vocab;
  return {};
}

PoolModel EngineImpl::Describe(const LoadedModel& model) const {
  const auto ns = [](double seconds) { return static_cast<Nanoseconds>(seconds * 1e9); };
  const ModelPolicy& policy = model.policy;
  PoolModel pool;
  pool.model = model.card->handle;
  pool.name = model.card->name;
  pool.causal = model.card->info.causal;
  pool.batch_tokens = options_.max_batch_tokens;
  pool.max_step_tokens = model.limits.max_tokens;
  pool.max_sequences = options_.max_sequences;
  pool.max_logit_rows = model.limits.max_logit_rows;
  if (model.resident != nullptr) {
    const auto copies = static_cast<uint64_t>(device_.WeightCopyCount());
    for (const architectures::WeightSegment& segment : model.model->segments()) {
      pool.segment_bytes.push_back(segment.bytes * copies);
    }
  }
  pool.weights_id = model.weights_id;
  pool.kv_block_bytes = model.card->kv_block_bytes;
  pool.profiles = {policy.profile};
  // A first guess knows the weights that a step reads; what it reads of KV follows at the same rate.
  StepProfile& guess = pool.profiles.front();
  if (guess.decode_per_context_token_s == 0 && model.card->weight_bytes > 0) {
    guess.decode_per_context_token_s = guess.decode_base_s * static_cast<double>(model.card->kv_block_bytes) /
                                       chips::kKvBlockTokens / static_cast<double>(model.card->weight_bytes);
  }
  pool.ttft = ns(policy.ttft_s);
  pool.tpot = ns(policy.tpot_s);
  pool.weight = policy.weight;
  pool.pinned = policy.pinned;
  pool.idle_ttl = policy.idle_ttl_s < 0 ? -1 : ns(policy.idle_ttl_s);
  pool.min_resident = ns(policy.min_resident_s);
  return pool;
}

Status EngineImpl::Register(std::unique_ptr<LoadedModel> model) {
  TP_TRY(EnsureScratch(model->limits.max_tokens, model->model->MaxColumns()));
  TP_TRY(EnsureWorkspace(std::max<size_t>(model->card->workspace_bytes, 64)));
  TP_TRY(EnsureSamplers(model->card->info.generates ? model->card->info.vocab_size : 0));
  fixed_weight_bytes_.fetch_add(model->weights_charge.bytes());
  RefreshArena();
  const uint64_t room = arena_bytes_;
  if (model->resident != nullptr && model->card->weight_bytes + model->card->kv_block_bytes > room) {
    return Fail(ErrorKind::kUnavailable, "out_of_pool_memory",
                fmt::format("{} needs {} bytes for its weights, but the pool's {} bytes leave {} beside "
                            "workspaces and weights that stay; raise pool.memory or use a smaller "
                            "quantisation",
                            model->card->name, model->card->weight_bytes, ledger_.limit(), room),
                "model");
  }
  const auto rows = static_cast<size_t>(model->limits.max_tokens);
  step_tokens_.reserve(rows);
  step_positions_.reserve(rows);
  step_types_.reserve(rows);
  hidden_rows_.reserve(rows);
  logit_rows_.reserve(static_cast<size_t>(model->limits.max_logit_rows));
  draft_.reserve(kMaxDraft);
  drafts_.reserve(static_cast<size_t>(options_.max_sequences));
  ended_jobs_.reserve(static_cast<size_t>(options_.max_sequences));
  whole_rows_.reserve(static_cast<size_t>(model->limits.max_logit_rows));
  slices_.reserve(static_cast<size_t>(options_.max_sequences));
  for (const auto& [handle, other] : models_) {
    if (model->resident == nullptr || other->resident != model->resident ||
        other->prefix_bytes != model->prefix_bytes)
      continue;
    if (other->weights_id == 0) {
      other->weights_id = handle;
      scheduler_->UpdateModel(Describe(*other));
    }
    model->weights_id = other->weights_id;
    break;
  }
  scheduler_->AddModel(Describe(*model));
  {
    std::lock_guard lock(inbox_mutex_);
    cards_.emplace(model->card->handle, model->card);
  }
  UpdateGauges(*model);
  models_.emplace(model->card->handle, std::move(model));
  return {};
}

Result<std::unique_ptr<LoadedModel>> EngineImpl::Unregister(ModelHandle handle, bool force) {
  const auto entry = models_.find(handle);
  if (entry == models_.end()) {
    return Fail(ErrorKind::kNotFound, "model_not_found", "the model was unloaded meanwhile", "model");
  }
  LoadedModel& model = *entry->second;
  if (model.sequences > 0 && !force) {
    return Fail(ErrorKind::kConflict, "model_in_use",
                fmt::format("{} has {} requests; wait for them or unload it by force", model.card->name,
                            model.sequences),
                "model");
  }
  std::vector<std::shared_ptr<Ticket>> tickets;
  for (const auto& [job, sequence] : sequences_) {
    if (sequence->model == &model) tickets.push_back(sequence->ticket);
  }
  for (const auto& ticket : tickets) {
    while (!ticket->jobs.empty())
      Finish(*FindSequence(ticket->jobs.back()), FinishReason::kCancelled, {}, {});
  }
  CHECK(model.sequences == 0);
  SettleTransfers(model);
  model.pool->Shrink(UINT64_MAX);
  UpdateGauges(model);
  scheduler_->RemoveModel(handle);
  fixed_weight_bytes_.fetch_sub(model.weights_charge.bytes());
  if (model.resident != nullptr) Evict(model, 0);
  {
    std::lock_guard lock(inbox_mutex_);
    cards_.erase(handle);
  }
  auto removed = std::move(entry->second);
  models_.erase(entry);
  return removed;
}

// ---- what others see ---------------------------------------------------------------------------------

void EngineImpl::UpdateGauges(LoadedModel& model) {
  const BlockPoolStats stats = model.pool->stats();
  ModelCard& card = *model.card;
  card.kv_bytes = stats.bytes;
  card.kv_blocks_used = stats.used;
  card.kv_blocks_cached = stats.cached;
  model.metrics->kv_used.Set(stats.used);
  model.metrics->kv_cached.Set(stats.cached);
  model.metrics->kv_free.Set(stats.free);
  model.metrics->prefix_evictions.Increment(static_cast<double>(stats.evictions - model.exported_evictions));
  model.exported_evictions = stats.evictions;
  if (models_.contains(card.handle)) {
    card.waiting = scheduler_->waiting(card.handle);
    card.running = scheduler_->admitted(card.handle);
    model.metrics->waiting.Set(card.waiting);
    model.metrics->running.Set(card.running);
  }
  if (const uint64_t changes = ledger_.changes(); changes != exported_ledger_changes_) {
    exported_ledger_changes_ = changes;
    ledger_metrics_.Update();
  }
}

void EngineImpl::ReportQueue() {
  const Nanoseconds now = clock_.now();
  if (queued_ == 0 || now - queue_reported_at_ < kQueueReportInterval) return;
  for (const auto& [handle, model] : models_) {
    waiting_scratch_.clear();
    scheduler_->ListWaiting(handle, waiting_scratch_);
    // Only now: a request may be counted that has not come out of the inbox yet.
    if (!waiting_scratch_.empty()) queue_reported_at_ = now;
    int32_t position = 0;
    for (const PoolJobId job : waiting_scratch_) {
      Sequence& sequence = *FindSequence(job);
      if (sequence.generation != nullptr && sequence.reported_position != position) {
        sequence.reported_position = position;
        sequence.generation->request.sink->OnProgress(
            {.phase = ProgressEvent::Phase::kQueued, .queue_position = position});
      }
      ++position;
    }
  }
}

Sequence* EngineImpl::FindSequence(PoolJobId job) {
  const auto entry = sequences_.find(job);
  return entry == sequences_.end() ? nullptr : entry->second.get();
}

void EngineImpl::StopAll() {
  {
    std::lock_guard lock(inbox_mutex_);
    std::swap(arrivals_, taken_arrivals_);
    std::swap(calls_, taken_calls_);
  }
  for (auto& sequence : taken_arrivals_) Arrive(std::move(sequence));
  taken_arrivals_.clear();
  for (const auto& call : taken_calls_) call();
  taken_calls_.clear();
  while (!sequences_.empty()) Finish(*sequences_.begin()->second, FinishReason::kCancelled, {}, {});
  for (const auto& [handle, model] : models_) SettleTransfers(*model);
}

}  // namespace tidepool::compute
