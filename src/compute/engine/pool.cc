// What the scheduler decides, carried out: admissions, loads, evictions, KV moves. Ends of transfers come
// from the movers' threads as posted work.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "compute/engine/engine_impl.h"

namespace tidepool::compute {
namespace {

constexpr int32_t kPatientLoads = 3;  // failures in a row after which those who wait are told

Error Overloaded(const Effect& effect, const std::string& model, double ttft_s) {
  Error error{.kind = ErrorKind::kOverloaded, .code = "pool_overloaded", .message = {}, .param = {}};
  error.retry_after_s = std::max(effect.retry_after_s, 1.0);
  switch (effect.reason) {
    case Reason::kQuarantined:
      error.kind = ErrorKind::kUnavailable;
      error.code = "model_quarantined";
      error.message = fmt::format(
          "the weights of {} could not be loaded lately; the next attempt is in {:.0f} s (GET /api/v1/pool "
          "says "
          "why)",
          model, error.retry_after_s);
      break;
    case Reason::kTooLarge:
      error.kind = ErrorKind::kTooLarge;
      error.code = "kv_too_small";
      error.retry_after_s = 0;
      error.message = fmt::format(
          "{} and the KV of this prompt do not fit into the pool together; raise pool.memory or shorten "
          "the prompt",
          model);
      break;
    case Reason::kNoDevice:
      error.kind = ErrorKind::kUnavailable;
      error.code = "no_device";
      error.message = fmt::format("no device takes new work for {} now (cordoned); try again later", model);
      break;
    default:
      error.message = fmt::format(
          "the pool is busy: with this request for {} ({} wait before it) it could not keep its promise of a "
          "first "
          "token within {:.3g} s and a steady stream after it; try again in {:.0f} s",
          model, effect.queue_position, ttft_s, error.retry_after_s);
  }
  return error;
}

}  // namespace

void EngineImpl::Decide() {
  RefreshArena();
  // Bounded: a policy that never comes to rest is a broken invariant, not load.
  for (int32_t rounds = 0;; ++rounds) {
    CHECK(rounds < 1'000'000);
    effects_.clear();
    scheduler_->Decide(clock_.now(), effects_);
    if (effects_.empty()) return;
    for (size_t i = 0; i < effects_.size(); ++i) CarryOut(effects_[i]);
    if (arena_stale_) RefreshArena();
  }
}

void EngineImpl::CarryOut(const Effect& effect) {
  const auto entry = models_.find(effect.model);
  LoadedModel* model = entry == models_.end() ? nullptr : entry->second.get();
  switch (effect.kind) {
    case EffectKind::kAdmit: {
      Sequence& sequence = *FindSequence(effect.job);
      if (TryAdmit(sequence, effect.tokens)) {
        scheduler_->Admitted(effect.job, sequence.computed);
      } else {
        LackRoom(effect.job);
      }
      UpdateGauges(*sequence.model);
      break;
    }
    case EffectKind::kGrow:
      if (TryGrow(*FindSequence(effect.job), effect.tokens)) {
        scheduler_->Grown(effect.job);
      } else {
        LackRoom(effect.job);
      }
      break;
    case EffectKind::kRun:
      run_ = true;
      if (effect.model != last_run_) Note(PoolEventKind::kSwitch, model, {.reason = effect.reason});
      last_run_ = effect.model;
      break;
    case EffectKind::kYield: break;  // steps are taken one by one
    case EffectKind::kLoad:
      Note(PoolEventKind::kLoad, model,
           {.reason = effect.reason,
            .bytes = model->prefix_bytes[static_cast<size_t>(effect.segments)] -
                     std::min(model->prefix_bytes[static_cast<size_t>(effect.segments)],
                              model->resident->landed_bytes())});
      StartLoad(*model, effect.segments);
      break;
    case EffectKind::kStopLoad: model->resident->CancelLoad(); break;
    case EffectKind::kEvict:
      Note(PoolEventKind::kEvict, model, {.reason = effect.reason, .bytes = Evict(*model, effect.segments)});
      break;
    case EffectKind::kSpill: StartMove(*FindSequence(effect.job), KvDirection::kToHost, 0); break;
    case EffectKind::kRestore:
      StartMove(*FindSequence(effect.job), KvDirection::kToDevice, effect.tokens);
      break;
    case EffectKind::kDrop: {
      Sequence& sequence = *FindSequence(effect.job);
      sequence.model->pool->Drop(sequence.kv);
      sequence.computed = 0;
      sequence.prefill_tokens = static_cast<int32_t>(sequence.tokens.size());
      UpdateGauges(*sequence.model);
      Note(PoolEventKind::kRecompute, sequence.model, {.reason = effect.reason});
      break;
    }
    case EffectKind::kReject: Reject(effect); break;
  }
}

// The scheduler counts blocks and saw room for these: what slabs hold beside them is measured again, so that
// it can make the room that is missing.
void EngineImpl::LackRoom(PoolJobId job) {
  scheduler_->NoRoom(job);
  arena_stale_ = true;
}

void EngineImpl::Reject(const Effect& effect) {
  Sequence& sequence = *FindSequence(effect.job);
  const double ttft_s = sequence.model == nullptr ? 0 : sequence.model->policy.ttft_s;
  Note(PoolEventKind::kReject, sequence.model, {.reason = effect.reason});
  Finish(sequence, FinishReason::kError, {}, Overloaded(effect, sequence.card->name, ttft_s));
}

// `event`: what is known beside the kind and the model.
void EngineImpl::Note(PoolEventKind kind, const LoadedModel* model, PoolEvent event) {
  event.kind = kind;
  event.at = clock_.now();
  if (model != nullptr) {
    event.model = model->card->shared_name;
    if (model->resident != nullptr) event.segments = model->resident->landed_segments();
  }
  events_.Add(std::move(event));
}

// ---- KV on the device ----------------------------------------------------------------------------------

bool EngineImpl::TryAdmit(Sequence& sequence, int32_t tokens) {
  LoadedModel& model = *sequence.model;
  const bool echo = sequence.generation != nullptr && sequence.generation->request.sampling.prompt_logprobs;
  const bool pools_rows = sequence.embed != nullptr;  // every token's hidden state is wanted
  const bool keep = sequence.generation == nullptr || sequence.generation->request.keep_prefix;
  const auto all =
      std::span<const int32_t>(sequence.tokens).first(static_cast<size_t>(sequence.prefill_tokens));
  const auto admit = [&] {
    if (sequence.kv.place() == KvPlace::kDropped) return model.pool->Readmit(sequence.kv, all, tokens, !echo);
    return model.pool->Admit({.prompt = all,
                              .max_tokens = tokens,
                              .workspace = sequence.workspace(),
                              .match_prefix = !echo && !pools_rows,
                              .share = model.card->info.causal && !pools_rows && keep},
                             sequence.kv);
  };
  if (!admit()) {
    const uint64_t wanted = static_cast<uint64_t>(BlockPool::BlocksFor(tokens)) * model.card->kv_block_bytes;
    const uint64_t free = ledger_.free();
    if (wanted > free) Reclaim(wanted - free, &model);
    if (!admit()) return false;
  }
  sequence.computed = sequence.kv.cached_tokens();
  if (sequence.admitted) return true;  // once more, after its KV was given up
  sequence.admitted = true;
  sequence.admitted_at = clock_.now();
  model.metrics->queue_s.Observe(static_cast<double>(sequence.admitted_at - sequence.submitted_at) * 1e-9);
  CountAdmitted(*sequence.ticket);
  running_.fetch_add(1);
  return true;
}

bool EngineImpl::TryGrow(Sequence& sequence, int32_t tokens) {
  LoadedModel& model = *sequence.model;
  if (model.pool->Reserve(sequence.kv, tokens)) return true;
  const int32_t more = BlockPool::BlocksFor(tokens) - static_cast<int32_t>(sequence.kv.table().size());
  const uint64_t wanted = static_cast<uint64_t>(std::max(more, 1)) * model.card->kv_block_bytes;
  const uint64_t free = ledger_.free();
  if (wanted > free) Reclaim(wanted - free, &model);
  return model.pool->Reserve(sequence.kv, tokens);
}

// ---- weights -------------------------------------------------------------------------------------------

void EngineImpl::PostTransfer(std::function<void()> work) {
  {
    std::lock_guard lock(inbox_mutex_);
    transfers_.push_back(std::move(work));
  }
  inbox_ready_.notify_one();
}

void EngineImpl::StartLoad(LoadedModel& model, int32_t segments) {
  const uint64_t landed = model.resident->landed_bytes();
  const uint64_t wanted = model.prefix_bytes[static_cast<size_t>(segments)];
  if (wanted > landed && wanted - landed > ledger_.free()) Reclaim(wanted - landed - ledger_.free(), nullptr);
  if (const uint64_t free = ledger_.free(); wanted > landed && wanted - landed > free) {
    // The scheduler does not know what slabs of KV hold beside their blocks: it is told, and decides again.
    model.held_segments = model.resident->landed_segments();
    arena_stale_ = true;
    const uint64_t missing = wanted - landed - free;
    Note(PoolEventKind::kLoadFailed, &model, {.bytes = missing});
    scheduler_->LoadFailed(0, model.card->handle, model.held_segments, missing, clock_.now());
    return;
  }
  model.loading = true;
  model.load_began = clock_.now();
  model.loading_to = segments;
  LoadedModel* const target = &model;  // outlives its transfers: SettleTransfers waits for them
  model.resident->Load(
      [this, target](const LoadReport& report) {
        PostTransfer([this, target, report] { EndLoad(*target, report); });
      },
      segments);
}

void EngineImpl::EndLoad(LoadedModel& model, const LoadReport& report) {
  model.load_total = model.LoadTime(clock_.now());
  model.loading = false;
  const Nanoseconds now = clock_.now();
  const ModelHandle handle = model.card->handle;
  const double seconds = static_cast<double>(now - model.load_began) * 1e-9;
  const uint64_t moved = report.cold_bytes + report.warm_bytes;
  if (report.status) {
    model.failed_loads = 0;
    model.held_segments = model.loading_to;
    Note(PoolEventKind::kLoaded, &model, {.bytes = moved, .seconds = seconds});
    scheduler_->LoadDone(0, handle, now);
    return;
  }
  const int32_t landed = model.held_segments = model.resident->landed_segments();
  if (report.status.error().kind == ErrorKind::kCancelled) {
    Note(PoolEventKind::kLoadStopped, &model, {.bytes = moved, .seconds = seconds});
    scheduler_->LoadStopped(0, handle, landed, now);
    return;
  }
  Note(PoolEventKind::kLoadFailed, &model, {.bytes = report.missing_bytes, .seconds = seconds});
  scheduler_->LoadFailed(0, handle, landed, report.missing_bytes, now);
  if (report.missing_bytes > 0) {
    arena_stale_ = true;
    return;
  }
  ++model.failed_loads;
  LogError("weights could not be loaded", {{"model", model.card->name},
                                           {"failures", model.failed_loads},
                                           {"reason", report.status.error().message}});
  if (on_load_failed_) on_load_failed_(handle, report.status.error());
  if (model.failed_loads >= kPatientLoads || report.status.error().kind == ErrorKind::kCorrupt) {
    FailModel(model, report.status.error());
  }
}

// Its requests cannot go on; other models are not concerned.
void EngineImpl::FailModel(LoadedModel& model, const Error& error) {
  std::vector<PoolJobId> jobs;
  for (const auto& [job, sequence] : sequences_) {
    if (sequence->model == &model) jobs.push_back(job);
  }
  std::sort(jobs.begin(), jobs.end());
  Error told = error;
  told.kind = ErrorKind::kUnavailable;
  told.retry_after_s = 5;
  for (const PoolJobId job : jobs) {
    if (Sequence* sequence = FindSequence(job); sequence != nullptr)
      Finish(*sequence, FinishReason::kError, {}, told);
  }
}

// Aliases (models of one file) share their weights: what another of them holds or is loading stays.
uint64_t EngineImpl::Evict(LoadedModel& model, int32_t keep) {
  model.held_segments = std::min(model.held_segments, keep);
  for (const auto& [handle, other] : models_) {
    if (other.get() == &model || other->resident != model.resident) continue;
    keep = std::max(keep, other->loading ? model.resident->segment_count() : other->held_segments);
  }
  const uint64_t landed = model.resident->landed_bytes();
  const uint64_t kept = model.prefix_bytes[static_cast<size_t>(keep)];
  return landed > kept ? model.resident->Evict(landed - kept) : 0;
}

// The scheduler plans with what is left beside scratch, weights that stay, and slabs of KV that are charged
// but hold nothing it knows of.
void EngineImpl::RefreshArena() {
  // The limit was lowered: caches of requests that have ended since go first.
  if (const uint64_t over = ledger_.over_limit_bytes(); over > 0) Reclaim(over, nullptr);
  const uint64_t limit = ledger_.limit();
  uint64_t besides =
      ledger_.used_by(ChargeKind::kScratch) + ledger_.used_by(ChargeKind::kState) + fixed_weight_bytes_;
  if (arena_stale_ || slab_overhead_ > 0) {  // and until it is gone, for what waits may wait for that
    // Charged for KV, in use by part: what no eviction of weights and no trimming would give back.
    slab_overhead_ = 0;
    for (const auto& [handle, model] : models_) {
      const BlockPoolStats stats = model->pool->stats();
      const uint64_t held =
          static_cast<uint64_t>(stats.used + stats.moving + stats.reserved) * model->card->kv_block_bytes;
      const uint64_t stays = stats.bytes - std::min(stats.bytes, model->pool->shrinkable_bytes());
      slab_overhead_ += stays > held ? stays - held : 0;
    }
    arena_stale_ = false;
  }
  besides += slab_overhead_;
  const uint64_t arena = limit > besides ? limit - besides : 0;
  if (arena == arena_bytes_) return;
  arena_bytes_ = arena;
  scheduler_->SetArena(0, arena, clock_.now());
}

// Before the engine itself takes bytes (scratch, a model whose weights stay): caches first, then weights that
// come and go make way.
bool EngineImpl::MakeLedgerRoom(uint64_t bytes) {
  if (bytes > ledger_.free()) Reclaim(bytes - ledger_.free(), nullptr);
  for (int32_t tries = 0; tries < 8 && bytes > ledger_.free(); ++tries) {
    const uint64_t missing = bytes - ledger_.free();
    const uint64_t arena = arena_bytes_ > missing ? arena_bytes_ - missing : 0;
    scheduler_->SetArena(0, arena, clock_.now());
    arena_bytes_ = arena;
    effects_.clear();
    scheduler_->Decide(clock_.now(), effects_);
    const std::vector<Effect> effects = effects_;
    for (const Effect& effect : effects) CarryOut(effect);
    if (bytes > ledger_.free()) Reclaim(bytes - ledger_.free(), nullptr);
    if (effects.empty()) break;
  }
  return bytes <= ledger_.free();
}

// ---- KV moves ------------------------------------------------------------------------------------------

void EngineImpl::StartMove(Sequence& sequence, KvDirection direction, int32_t tokens) {
  LoadedModel& model = *sequence.model;
  const PoolJobId job = sequence.job;
  const auto begin = [&]() -> Result<KvMove> {
    if (direction == KvDirection::kToHost) return model.pool->BeginSpill(sequence.kv, *options_.host_kv);
    return model.pool->BeginRestore(
        sequence.kv,
        {.history = std::span<const int32_t>(sequence.tokens).first(static_cast<size_t>(sequence.computed)),
         .max_tokens = tokens});
  };
  const auto refuse = [&] {
    const Nanoseconds now = clock_.now();
    if (direction == KvDirection::kToHost) {
      scheduler_->SpillDone(job, false, now);
    } else {
      scheduler_->RestoreDone(job, false, now);
    }
  };
  auto move = begin();
  if (!move && direction == KvDirection::kToDevice) {
    const uint64_t wanted = static_cast<uint64_t>(BlockPool::BlocksFor(tokens)) * model.card->kv_block_bytes;
    if (wanted > ledger_.free()) Reclaim(wanted - ledger_.free(), &model);
    move = begin();
  }
  if (!move) {
    refuse();
    return;
  }
  ++moves_;
  ++model.moves;
  LoadedModel* const target = &model;
  const uint64_t id = move->id;
  uint64_t bytes = 0;
  for (const KvCopy& copy : move->copies) bytes += copy.bytes;
  const Nanoseconds began = clock_.now();
  auto submitted = kv_mover_->Submit(
      {.direction = direction, .copies = std::move(move->copies), .done = [=, this](KvMoveOutcome outcome) {
         const bool done = outcome == KvMoveOutcome::kDone;
         PostTransfer([=, this] { EndMove(job, *target, {id, direction, bytes, began}, done); });
       }});
  if (!submitted) EndMove(job, model, {id, direction, bytes, began}, false);
  UpdateGauges(model);
}

void EngineImpl::EndMove(PoolJobId job, LoadedModel& model, const MoveUnderWay& move, bool done) {
  --moves_;
  --model.moves;
  const Nanoseconds now = clock_.now();
  if (done) {
    model.pool->EndMove(move.id);
    Note(move.direction == KvDirection::kToHost ? PoolEventKind::kSpill : PoolEventKind::kRestore, &model,
         {.bytes = move.bytes, .seconds = static_cast<double>(now - move.began) * 1e-9});
  } else {
    model.pool->AbortMove(move.id);
  }
  if (move.direction == KvDirection::kToHost) {
    scheduler_->SpillDone(job, done, now);
  } else {
    scheduler_->RestoreDone(job, done, now);
  }
  UpdateGauges(model);
}

// Ends what is under way for a model that goes, on this thread.
void EngineImpl::SettleTransfers(LoadedModel& model) {
  if (model.loading) model.resident->CancelLoad();
  while (model.loading || model.moves > 0) {
    {
      std::unique_lock lock(inbox_mutex_);
      inbox_ready_.wait(lock, [&] { return !transfers_.empty() || !taken_transfers_.empty(); });
      std::swap(transfers_, settled_transfers_);
    }
    for (const auto& transfer : settled_transfers_) transfer();
    settled_transfers_.clear();
  }
}

// ---- what others see -----------------------------------------------------------------------------------

void EngineImpl::PublishReport() {
  if (!report_wanted_) return;  // nobody looks: a step allocates nothing
  const Nanoseconds now = clock_.now();
  auto report = std::make_shared<PoolReport>();
  report->policy = scheduler_->name();
  report->at = now;
  report->device = scheduler_->device_state(0, now);
  report->counters = scheduler_->counters();
  report->limit_bytes = ledger_.limit();
  report->used_bytes = ledger_.used();
  report->over_limit_bytes = ledger_.over_limit_bytes();
  if (options_.host_kv != nullptr) {
    const HostKvArenaStats stats = options_.host_kv->stats();
    report->host_kv_limit_bytes = stats.limit_bytes;
    report->host_kv_used_bytes = stats.used_bytes + stats.moving_bytes;
  }
  report->moves = moves_;
  report->tokens = tokens_;
  for (const ReplicaState& replica : report->device.replicas) {
    report->names.emplace_back(replica.model, models_.at(replica.model)->card->name);
  }
  {
    std::lock_guard lock(inbox_mutex_);
    report_wanted_ = false;
    report_ = std::move(report);
  }
  report_ready_.notify_all();
}

}  // namespace tidepool::compute
