// Life cycle and models: what callers' threads do. Submission is in submission.cc.
#include "compute/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>

#include "base/check.h"
#include "compute/engine/engine_impl.h"
#include "compute/kv/prefix_cache_file.h"

namespace tidepool::compute {

std::unique_ptr<Engine> Engine::Start(chips::Device& device, Ledger& ledger, const Clock& clock,
                                      MetricsRegistry& metrics, const EngineOptions& options) {
  return std::make_unique<EngineImpl>(device, ledger, clock, metrics, options);
}

namespace {

EngineOptions Sane(EngineOptions options) {
  options.max_sequences = std::max(options.max_sequences, 1);
  // Decodes of all sequences and at least one block of prefill share a step.
  options.max_batch_tokens =
      std::max(options.max_batch_tokens, options.max_sequences + chips::kKvBlockTokens);
  options.max_waiting = std::max(options.max_waiting, 1);
  return options;
}

}  // namespace

EngineImpl::EngineImpl(chips::Device& device, Ledger& ledger, const Clock& clock, MetricsRegistry& metrics,
                       const EngineOptions& options)
    : device_(device),
      ledger_(ledger),
      clock_(clock),
      registry_(metrics),
      options_(Sane(options)),
      scheduler_(options_.make_scheduler ? options_.make_scheduler(options_.pool)
                                         : MakeTidepoolScheduler(options_.pool)),
      events_(options_.event_records),
      turns_(options_.turn_records),
      kv_mover_(MakeKvMover(options_.kv_mover)),
      ledger_metrics_(ledger, metrics) {
  if (options_.trace_records > 0) {
    auto recorder =
        std::make_unique<TraceRecorder>(std::move(scheduler_), options_.trace_records, options_.pool);
    recorder_ = recorder.get();
    scheduler_ = std::move(recorder);
  }
  scheduler_->AddHost({.kv_bytes = options_.host_kv == nullptr ? 0 : options_.host_kv->limit()});
  scheduler_->AddDevice({.arena_bytes = ledger_.limit(), .copy_bytes_per_s = options_.copy_bytes_per_s});
  arena_bytes_ = ledger_.limit();
  effects_.reserve(256);
  ledger_metrics_.Update();
  thread_ = std::thread([this] { Run(); });
  ledger_.SetReclaimer([this](uint64_t bytes) { Trim(bytes); });
}

EngineImpl::~EngineImpl() {
  ledger_.SetReclaimer(nullptr);  // waits for a call in progress, which the thread still answers
  {
    std::lock_guard lock(inbox_mutex_);
    stop_ = true;
  }
  inbox_ready_.notify_one();
  thread_.join();
  kv_mover_.reset();  // answers what is left; nobody looks any more
}

void EngineImpl::Call(std::function<void()> work) const {
  CHECK(std::this_thread::get_id() != thread_.get_id());  // a sink must not wait for its own thread
  std::promise<void> done;
  {
    std::lock_guard lock(inbox_mutex_);
    calls_.push_back([&] {
      work();
      done.set_value();
    });
  }
  inbox_ready_.notify_one();
  done.get_future().wait();
}

Result<ModelHandle> EngineImpl::AddModel(std::string name, std::unique_ptr<architectures::Model> model,
                                         std::shared_ptr<const text::Tokenizer> tokenizer,
                                         int32_t context_length, Charge weights,
                                         std::shared_ptr<ResidentWeights> resident, const ModelPolicy& policy,
                                         std::string content) {
  CHECK(model != nullptr && tokenizer != nullptr);
  CHECK(resident == nullptr || weights.bytes() == 0);
  const architectures::ModelInfo& info = model->info();
  if (context_length < 0) {
    return Fail(
        ErrorKind::kInvalid, "invalid_parameter",
        fmt::format("context_length is {}; it must be at least 1, or 0 for the model's own", context_length),
        "context_length");
  }
  auto loaded = std::make_unique<LoadedModel>();
  loaded->card = std::make_shared<ModelCard>();
  ModelCard& card = *loaded->card;
  card.handle = next_handle_.fetch_add(1);
  card.name = name;
  card.shared_name = std::make_shared<const std::string>(name);
  card.info = info;
  card.tokenizer = std::move(tokenizer);
  card.context_length =
      context_length == 0 ? info.context_length : std::min(context_length, info.context_length);
  card.kv_block_bytes = model->kv_layout().block_bytes();
  card.pooled = resident != nullptr;
  card.resident = resident;
  card.weight_bytes = card.pooled ? resident->total_bytes() : weights.bytes();
  card.last_used = clock_.now();
  loaded->resident = std::move(resident);
  loaded->policy = policy;
  loaded->prefix_bytes.push_back(0);
  if (card.pooled) {
    const auto copies = static_cast<uint64_t>(device_.WeightCopyCount());
    for (const architectures::WeightSegment& segment : model->segments()) {
      loaded->prefix_bytes.push_back(loaded->prefix_bytes.back() + segment.bytes * copies);
    }
  }

  // An encoder computes an input whole, so its longest must fit into one step.
  loaded->limits.max_tokens =
      info.causal ? options_.max_batch_tokens : std::max(options_.max_batch_tokens, card.context_length);
  loaded->limits.max_logit_rows = info.generates ? options_.max_sequences : 1;
  card.workspace_bytes = model->WorkspaceBytes(loaded->limits);
  loaded->weights_charge = std::move(weights);
  if (!content.empty()) content = KvContentKey(content + options_.prefix_files.salt, model->kv_layout());
  loaded->model = std::move(model);
  loaded->pool =
      std::make_unique<BlockPool>(device_, ledger_,
                                  BlockPoolOptions{.owner = name,
                                                   .block_bytes = std::max<size_t>(card.kv_block_bytes, 1),
                                                   .slab_bytes = options_.kv_slab_bytes,
                                                   .prefix_cache = options_.prefix_cache && info.causal,
                                                   .reserve = options_.kv_reserve,
                                                   .content_key = std::move(content)});
  loaded->metrics = std::make_unique<ModelMetrics>(registry_, name);
  LoadPrefixFile(*loaded);

  const ModelHandle handle = card.handle;
  Status status;
  Call([&] { status = Register(std::move(loaded)); });
  if (!status) return Fail(std::move(status).error());
  return handle;
}

Status EngineImpl::SetPolicy(ModelHandle model, const ModelPolicy& policy) {
  TP_ASSIGN(const auto card, FindModel(model));
  Call([&] {
    const auto entry = models_.find(model);
    if (entry == models_.end()) return;
    entry->second->policy = policy;
    scheduler_->UpdateModel(Describe(*entry->second));
  });
  return {};
}

Status EngineImpl::Prefetch(ModelHandle model) {
  TP_ASSIGN(const auto card, FindModel(model));
  Call([&] {
    if (models_.contains(model)) scheduler_->Prefetch(model, clock_.now());
  });
  return {};
}

void EngineImpl::OnLoadFailed(std::function<void(ModelHandle, const Error&)> told) {
  Call([&] { on_load_failed_ = std::move(told); });
}

void EngineImpl::LimitsChanged() {
  Call([&] {
    if (options_.host_kv != nullptr) scheduler_->SetHostKv(0, options_.host_kv->limit(), clock_.now());
    RefreshArena();
  });
}

uint64_t EngineImpl::LeastBytes() const {
  uint64_t least = 0;
  Call([&] {
    // Answers of one model that have all they need keep it, weights too, whatever the limit is.
    const LoadedModel* only = sequences_.empty() ? nullptr : sequences_.begin()->second->model;
    bool have_all = only != nullptr && (only->resident == nullptr || only->resident->complete());
    for (const auto& [job, sequence] : sequences_) {
      const LoadedModel& model = *sequence->model;
      // An answer of no stated length takes what there is, and ends where there is no more.
      const bool open =
          sequence->generation != nullptr && sequence->generation->request.sampling.max_tokens == 0;
      const int32_t tokens =
          open ? std::max(sequence->prompt_tokens, sequence->computed) + 1 : sequence->reserve_tokens;
      const auto blocks = static_cast<uint64_t>(BlockPool::BlocksFor(tokens));
      have_all = have_all && &model == only && sequence->admitted &&
                 sequence->kv.place() == KvPlace::kResident && sequence->kv.table().size() >= blocks;
      const uint64_t slab = std::max(options_.kv_slab_bytes, model.card->kv_block_bytes);
      const uint64_t kv = (blocks * model.card->kv_block_bytes + slab - 1) / slab * slab;
      const uint64_t weights = model.resident == nullptr ? 0 : model.prefix_bytes.back();
      least = std::max(least, weights + kv);
    }
    if (have_all) {
      least = 0;
    } else if (least > 0) {
      least +=
          ledger_.used_by(ChargeKind::kScratch) + ledger_.used_by(ChargeKind::kState) + fixed_weight_bytes_;
    }
  });
  return least;
}

void EngineImpl::SetCordoned(bool cordoned) {
  Call([&] { scheduler_->SetCordoned(0, cordoned, clock_.now()); });
}

// Waits for the turn of the loop, that is for a step, but not for a long one.
std::shared_ptr<const PoolReport> EngineImpl::pool() const {
  constexpr auto kPatience = std::chrono::milliseconds(250);
  std::unique_lock lock(inbox_mutex_);
  const auto last = report_;
  report_wanted_ = true;
  inbox_ready_.notify_one();
  report_ready_.wait_for(lock, kPatience, [&] { return report_ != last; });
  return report_;
}

Status EngineImpl::RemoveModel(ModelHandle model, bool force) {
  TP_ASSIGN(const auto card, FindModel(model));
  Result<std::unique_ptr<LoadedModel>> removed = nullptr;
  Call([&] { removed = Unregister(model, force); });
  if (!removed) return Fail(std::move(removed).error());
  return {};  // freed here, on the caller's thread
}

std::vector<ModelEntry> EngineImpl::ListModels() const {
  std::vector<std::shared_ptr<ModelCard>> cards;
  {
    std::lock_guard lock(inbox_mutex_);
    for (const auto& [handle, card] : cards_) cards.push_back(card);
  }
  std::vector<ModelEntry> entries;
  for (const auto& card : cards) {
    entries.push_back(
        {.handle = card->handle,
         .name = card->name,
         .info = card->info,
         .weight_bytes = card->weight_bytes,
         .workspace_bytes = card->workspace_bytes,
         .kv_bytes = card->kv_bytes,
         .pooled = card->pooled,
         .resident_weight_bytes = card->pooled ? card->resident->landed_bytes() : card->weight_bytes,
         .weights_loading = card->pooled && card->resident->loading(),
         .kv_blocks_used = card->kv_blocks_used,
         .kv_blocks_cached = card->kv_blocks_cached,
         .running = card->running,
         .waiting = card->waiting,
         .last_used = card->last_used,
         .tokens_on_time = card->tokens_on_time,
         .tokens_late = card->tokens_late});
  }
  return entries;
}

bool EngineImpl::Drain(Nanoseconds deadline) {
  draining_ = true;
  std::unique_lock lock(inbox_mutex_);
  // The clock may be one that only moves by hand: look at it again every so often.
  while (active_ > 0 && clock_.now() < deadline) idle_.wait_for(lock, std::chrono::milliseconds(10));
  return active_ == 0;
}

uint64_t EngineImpl::Trim(uint64_t bytes) {
  uint64_t freed = 0;
  Call([&] {
    const uint64_t before = ledger_.free();
    MakeLedgerRoom(bytes > UINT64_MAX - before ? UINT64_MAX : before + bytes);
    freed = ledger_.free() - std::min(before, ledger_.free());
  });
  return freed;
}

Engine::Load EngineImpl::load() const { return {.running = running_, .waiting = queued_, .steps = steps_}; }

}  // namespace tidepool::compute
