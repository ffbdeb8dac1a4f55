#include "platform/inference/deployments.h"

#include <fmt/format.h>
#include <algorithm>
#include <chrono>
#include <future>

#include "base/log.h"
#include "models/architectures/model.h"

namespace tidepool::platform {
namespace {

constexpr size_t kMaxCachedAssets = 8;
constexpr size_t kMaxCachedTraits = 4096;  // some 50 KB each, most of it the template
constexpr auto kWatchPeriod = std::chrono::milliseconds(100);

std::string VersionOf(const StoredModel& model) {
  std::string version;
  for (const StoredFile& file : model.files) version += file.sha256 + ';';
  return version;
}

Error ShuttingDown() {
  return {ErrorKind::kUnavailable, "shutting_down",
          "the server is shutting down; send the request again later", "", 5};
}

}  // namespace

Deployments::Deployments(Catalog& catalog, compute::Engine& engine, chips::Device& device,
                         compute::Ledger& ledger, const Clock& clock, MetricsRegistry& metrics,
                         const InferenceOptions& options)
    : catalog_(catalog),
      engine_(engine),
      device_(device),
      ledger_(ledger),
      clock_(clock),
      options_(options),
      elasticity_(options.policy, options.elasticity) {
  loads_ok_ =
      metrics.counter("tidepool_model_loads_total", "Loads of models by outcome", {{"outcome", "ok"}});
  loads_failed_ =
      metrics.counter("tidepool_model_loads_total", "Loads of models by outcome", {{"outcome", "failed"}});
  evictions_ =
      metrics.counter("tidepool_model_evictions_total", "Idle models unloaded to make room for another");
  load_s_ = metrics.histogram("tidepool_model_load_seconds", "Time from the start of a load to ready",
                              LatencyBounds());
  waiting_gauge_ = metrics.gauge("tidepool_load_waiting_requests", "Requests waiting for a model to load");
  engine_.OnLoadFailed(
      [this](compute::ModelHandle handle, const Error& error) { WeightsFailed(handle, error); });
  if (options_.deployments != nullptr) {
    AskOfDeployments();
    options_.deployments->OnChange([this] {
      AskOfDeployments();
      const std::lock_guard lock(mutex_);
      look_now_ = true;
      watch_wake_.notify_one();
    });
  }
  loader_ = std::thread([this] { RunLoader(); });
  watch_ = std::thread([this] { RunWatch(); });
}

Deployments::~Deployments() {
  engine_.OnLoadFailed(nullptr);
  if (options_.deployments != nullptr) options_.deployments->OnChange(nullptr);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  loader_wake_.notify_all();
  watch_wake_.notify_all();
  loader_.join();
  watch_.join();
  for (auto& [id, deployment] : deployments_) {
    for (Waiting& waiting : deployment.waiters) waiting.waiter.failed(ShuttingDown());
  }
  for (auto& task : posted_) task();
}

// ---- names ------------------------------------------------------------------------------------------

Result<StoredModel> Deployments::Resolve(std::string_view name) const {
  {
    const std::lock_guard lock(mutex_);
    const auto it = built_in_.find(std::string(name));
    if (it != built_in_.end()) return it->second.model;
  }
  return catalog_.Find(name);
}

Result<StoredModel> Deployments::ResolveBase(std::string_view name) const {
  const auto spec = options_.deployments == nullptr ? nullptr : options_.deployments->Find(name);
  return Resolve(spec ? std::string_view(spec->base) : name);
}

Status Deployments::AddScripted(chips::SimulatedDevice& device, std::string name, int32_t context_length) {
  BuiltIn built_in{&device, context_length, {}};
  built_in.model.id = name;
  built_in.model.source = "built in";
  built_in.model.format = "none";
  built_in.model.architecture = "scripted";
  built_in.model.context_length = context_length;
  {
    const std::lock_guard lock(mutex_);
    if (built_in_.contains(name)) {
      return Fail(ErrorKind::kConflict, "already_exists", fmt::format("a built-in model \"{}\" exists", name),
                  "name");
    }
    built_in_.emplace(name, built_in);
  }
  Result<ReadyModel> ready = LoadBuiltIn(built_in);
  const std::lock_guard lock(mutex_);
  if (!ready) {
    built_in_.erase(name);
    return Fail(ready.error());
  }
  Deployment& deployment = deployments_[name];
  deployment.model = built_in.model;
  deployment.ready = std::move(*ready);
  deployment.state = DeploymentState::kReady;
  return {};
}

// ---- waiting for a load -----------------------------------------------------------------------------

Result<std::optional<ReadyModel>> Deployments::Acquire(const StoredModel& model, LoadWaiter waiter) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return Fail(ShuttingDown());
  Deployment& deployment = deployments_[model.id];
  const bool ready = deployment.state == DeploymentState::kReady;
  if (deployment.failures > 0 && VersionOf(deployment.model) != VersionOf(model))
    deployment.failures = 0;  // pulled again
  if (InQuarantine(deployment)) return Fail(Quarantined(deployment));
  if (ready && !deployment.waking) return std::optional<ReadyModel>(deployment.ready);
  if (waiting_ >= options_.max_waiting_for_load) {
    return Fail(Error{ErrorKind::kOverloaded, "queue_full",
                      fmt::format("{} requests already wait for models to load (limit {}); try again later",
                                  waiting_, options_.max_waiting_for_load),
                      "model", 2});
  }
  if (!ready && deployment.state != DeploymentState::kLoading) {
    deployment.model = model;
    QueueLoad(deployment);
  }
  const auto timeout = static_cast<Nanoseconds>(options_.load_timeout_s * static_cast<double>(kSecond));
  deployment.waiters.push_back({std::move(waiter), clock_.now() + timeout});
  waiting_gauge_.Set(++waiting_);
  watch_wake_.notify_one();
  return std::optional<ReadyModel>();
}

// Under the mutex.
void Deployments::QueueLoad(Deployment& deployment) {
  deployment.state = DeploymentState::kLoading;
  deployment.share = 0;
  deployment.cancel_load = false;
  deployment.waking = false;
  load_queue_.push_back(deployment.model.id);
  loader_wake_.notify_one();
}

void Deployments::Forget(const std::string& id, compute::ModelHandle handle) {
  const std::lock_guard lock(mutex_);
  const auto it = deployments_.find(id);
  if (it == deployments_.end() || it->second.ready.handle != handle) return;
  if (it->second.state != DeploymentState::kReady) return;
  // Those who came while the loader told the others wait for a model that is gone: it is loaded again.
  if (it->second.waiters.empty()) {
    deployments_.erase(it);
  } else {
    QueueLoad(it->second);
  }
}

void Deployments::Post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
  }
  watch_wake_.notify_one();
}

void Deployments::RunWatch() {
  using WallClock = std::chrono::steady_clock;
  const auto period = std::chrono::duration_cast<WallClock::duration>(
      std::chrono::duration<double>(std::max(options_.elasticity.period_s, 0.01)));
  auto look_at = WallClock::now();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto now = WallClock::now();
    if (posted_.empty() && !look_now_ && now < look_at) {
      const auto until_look = look_at - now;
      watch_wake_.wait_for(
          lock, waiting_ == 0 ? until_look : std::min<WallClock::duration>(kWatchPeriod, until_look));
    }
    if (stopping_) return;
    const bool look = std::exchange(look_now_, false) || WallClock::now() >= look_at;
    std::deque<std::function<void()>> tasks;
    tasks.swap(posted_);
    lock.unlock();
    for (auto& task : tasks) task();
    TickWaiters();
    if (look) {
      LookAtClock();
      look_at = WallClock::now() + period;
    }
    lock.lock();
  }
}

// Cancelled and late waiters end; the others hear how far the load is.
void Deployments::TickWaiters() {
  std::vector<std::pair<Waiting, Error>> ended;
  std::vector<std::pair<std::function<void(const compute::ProgressEvent&)>, compute::ProgressEvent>> progress;
  {
    const std::lock_guard lock(mutex_);
    const Nanoseconds now = clock_.now();
    for (auto& [id, deployment] : deployments_) {
      std::deque<Waiting> kept;
      for (Waiting& waiting : deployment.waiters) {
        if (waiting.waiter.cancelled && waiting.waiter.cancelled()) {
          ended.emplace_back(std::move(waiting),
                             Error{ErrorKind::kCancelled, "cancelled",
                                   "the request was cancelled while its model loaded", "", 0});
        } else if (now >= waiting.deadline) {
          ended.emplace_back(
              std::move(waiting),
              Error{ErrorKind::kUnavailable, "load_timeout",
                    fmt::format("model \"{}\" did not load within {} s ({:.0f} % done); try again later", id,
                                options_.load_timeout_s, deployment.share * 100),
                    "model", 10});
        } else {
          if (waiting.waiter.progress) {
            progress.emplace_back(waiting.waiter.progress,
                                  compute::ProgressEvent{compute::ProgressEvent::Phase::kLoading,
                                                         static_cast<int32_t>(kept.size()),
                                                         static_cast<float>(deployment.share)});
          }
          kept.push_back(std::move(waiting));
        }
      }
      deployment.waiters = std::move(kept);
    }
    waiting_ -= static_cast<int32_t>(ended.size());
    waiting_gauge_.Set(waiting_);
  }
  for (auto& [waiting, error] : ended) waiting.waiter.failed(error);
  for (auto& [call, event] : progress) call(event);
}

// ---- loading ----------------------------------------------------------------------------------------

void Deployments::RunLoader() {
  for (;;) {
    std::string id;
    StoredModel model;
    std::optional<BuiltIn> built_in;
    {
      std::unique_lock lock(mutex_);
      loader_wake_.wait(lock, [this] { return stopping_ || !load_queue_.empty(); });
      if (stopping_) return;
      id = load_queue_.front();
      load_queue_.pop_front();
      model = deployments_[id].model;
      const auto it = built_in_.find(id);
      if (it != built_in_.end()) built_in = it->second;
    }
    const Nanoseconds start = clock_.now();
    Result<ReadyModel> loaded = built_in ? LoadBuiltIn(*built_in) : Load(model);
    const double seconds = static_cast<double>(clock_.now() - start) / static_cast<double>(kSecond);
    if (loaded) {
      loads_ok_.Increment();
      load_s_.Observe(seconds);
      LogInfo("model loaded", {{"model", id},
                               {"seconds", fmt::format("{:.2f}", seconds)},
                               {"bytes", loaded->info.weight_bytes},
                               {"context", loaded->context_length}});
    } else {
      loads_failed_.Increment();
      LogWarn("model could not be loaded", {{"model", id}, {"error", loaded.error().message}});
    }
    FinishLoad(id, loaded);
  }
}

// Under the mutex.
std::deque<Deployments::Waiting> Deployments::TakeWaiters(Deployment& deployment) {
  std::deque<Waiting> waiters;
  waiters.swap(deployment.waiters);
  waiting_ -= static_cast<int32_t>(waiters.size());
  waiting_gauge_.Set(waiting_);
  return waiters;
}

void Deployments::Tell(Waiting& waiting, const Result<ReadyModel>& loaded) {
  if (!loaded) {
    waiting.waiter.failed(loaded.error());
  } else if (waiting.waiter.cancelled && waiting.waiter.cancelled()) {
    waiting.waiter.failed({ErrorKind::kCancelled, "cancelled", "the request was cancelled", "", 0});
  } else {
    waiting.waiter.ready(*loaded);
  }
}

void Deployments::FinishLoad(const std::string& id, const Result<ReadyModel>& loaded) {
  std::deque<Waiting> waiters;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;  // the destructor tells those who wait
    Deployment& deployment = deployments_[id];
    if (loaded) {
      deployment.state = DeploymentState::kReady;
      deployment.ready = *loaded;
      deployment.waking = true;
      deployment.failures = 0;
      deployment.weights_error.reset();
      look_now_ = true;  // one more is registered
      watch_wake_.notify_one();
    } else {
      NoteFailure(deployment, loaded.error());
    }
    waiters = TakeWaiters(deployment);
  }
  for (;;) {
    for (Waiting& waiting : waiters) Tell(waiting, loaded);
    if (!loaded) return;
    const std::lock_guard lock(mutex_);
    const auto it = deployments_.find(id);
    // Not waking: it was unloaded meanwhile, and may be about to load again.
    if (stopping_ || it == deployments_.end() || !it->second.waking) return;
    waiters = TakeWaiters(it->second);
    if (waiters.empty()) {
      it->second.waking = false;
      return;
    }
  }
}

// Loading goes on while somebody may still want it; says how far it is.
bool Deployments::KeepLoading(const std::string& id, double share) {
  const std::lock_guard lock(mutex_);
  const auto it = deployments_.find(id);
  if (stopping_ || it == deployments_.end() || it->second.cancel_load) return false;
  it->second.share = share;
  return true;
}

int32_t Deployments::CapContext(int32_t own) const {
  if (options_.context_length <= 0) return own;
  return own > 0 ? std::min(own, options_.context_length) : options_.context_length;
}

// The tokens whose logits Qwen3-Reranker ranks by.
static Result<std::pair<int32_t, int32_t>> FindYesAndNo(const text::Tokenizer& tokenizer) {
  const auto yes = tokenizer.Encode("yes"), no = tokenizer.Encode("no");
  if (yes.size() == 1 && no.size() == 1) return std::pair(yes.front(), no.front());
  return Fail(
      ErrorKind::kInvalid, "rerank_unsupported",
      "the model is named a reranker, but \"yes\" and \"no\" are no tokens of it, and it has no classifier",
      "model");
}

Result<ReadyModel> Deployments::Load(const StoredModel& model) {
  TP_ASSIGN(const std::filesystem::path path, catalog_.Materialise(model));
  TP_ASSIGN(const std::unique_ptr<formats::Checkpoint> checkpoint, formats::Checkpoint::Open(path));
  DropStaleAssets(model);
  // A vocabulary of 150,000 tokens takes as long as mapping and checking the weights of a small model: the
  // two go side by side.
  std::shared_future<Result<std::shared_ptr<const ModelAssets>>> parsing;
  if (auto cached = AssetsIfCached(model.id)) {
    std::promise<Result<std::shared_ptr<const ModelAssets>>> known;
    known.set_value(std::move(cached));
    parsing = known.get_future();
  } else {
    parsing = std::async(std::launch::async, [this, &model, file = checkpoint.get()] {
      auto parsed = LoadModelAssets(*file);
      if (parsed) CacheAssets(model, *parsed);
      return parsed;
    });
  }
  const auto parse_failed = [&parsing] {
    return parsing.wait_for(std::chrono::seconds(0)) == std::future_status::ready && !parsing.get();
  };
  architectures::LoadOptions load;
  load.precision = options_.precision;
  load.kv_type = options_.kv_type;
  load.progress = [this, id = model.id, &parse_failed](uint64_t done, uint64_t all) {
    if (parse_failed()) return false;  // what is wrong with it is told below
    return KeepLoading(id, all == 0 ? 0 : static_cast<double>(done) / static_cast<double>(all));
  };
  if (model.ranks && formats::FindClassifier(*checkpoint) == nullptr) {
    const auto& assets = parsing.get();
    if (!assets) return Fail(assets.error());
    TP_ASSIGN(load.yes_no, FindYesAndNo(*(*assets)->tokenizer));
  }
  ReadyModel ready;
  ready.id = model.id;
  if (options_.packed != nullptr && options_.residency != nullptr &&
      options_.precision == chips::WeightPrecision::kNative) {
    auto handle = AddPooled(model, *checkpoint, load, [&] { return parsing.get(); }, ready);
    if (const auto& parsed = parsing.get(); !parsed) return Fail(parsed.error());
    TP_ASSIGN(ready.handle, std::move(handle));
    return ready;
  }
  TP_ASSIGN(ready.assets, parsing.get());
  TP_ASSIGN(const uint64_t bytes, architectures::PackedModelBytes(*checkpoint, device_, load));
  TP_ASSIGN(compute::Charge charge, TakeWeights(model.id, bytes));
  TP_ASSIGN(std::unique_ptr<architectures::Model> loaded,
            architectures::LoadModel(*checkpoint, device_, load));
  ready.info = loaded->info();
  ready.context_length = CapContext(ready.info.context_length);
  const compute::ModelPolicy policy = PolicyFor(model.id, ready.info);
  TP_ASSIGN(ready.handle, engine_.AddModel(model.id, std::move(loaded), ready.assets->tokenizer,
                                           ready.context_length, std::move(charge), nullptr, policy));
  return ready;
}

Result<compute::ModelHandle> Deployments::AddPooled(
    const StoredModel& model, const formats::Checkpoint& checkpoint, const architectures::LoadOptions& load,
    const std::function<Result<std::shared_ptr<const ModelAssets>>()>& assets, ReadyModel& ready) {
  TP_ASSIGN(compute::PackedModel packed,
            options_.packed->OpenOrBuild(checkpoint, device_, load,
                                         VersionOf(model) + (load.yes_no ? " yes-no" : "")));
  if (packed.built) {
    LogInfo("weights packed",
            {{"model", model.id},
             {"bytes", packed.report.packed_bytes},
             {"seconds", fmt::format("{:.2f}", packed.report.pack_s + packed.report.sync_s)}});
  }
  ready.info = packed.model->info();
  ready.context_length = CapContext(ready.info.context_length);
  const compute::ModelPolicy policy = PolicyFor(model.id, ready.info);
  compute::FileBackingOptions backing = options_.backing;
  TP_ASSIGN(backing.copies,
            device_.ReserveWeightCopies(packed.file->data(), packed.file->table().data_bytes));
  auto weights = options_.residency->Attach(model.id, packed.file->table().key.FileName(),
                                            compute::MakeFileBacking(packed.file, backing));
  const std::weak_ptr<compute::ResidentWeights> watched = weights;
  weights->Warm();  // the engine's load begins when it knows the model; reading and checking need not wait
  TP_ASSIGN(ready.assets, assets());
  TP_ASSIGN(
      const compute::ModelHandle handle,
      engine_.AddModel(model.id, std::move(packed.model), ready.assets->tokenizer, ready.context_length,
                       compute::Charge(), std::move(weights), policy, packed.file->table().key.FileName()));
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = deployments_.find(model.id); it != deployments_.end()) {
      it->second.packed = packed.file;
      it->second.weights = watched;
      it->second.policy = policy;
    }
  }
  engine_.Prefetch(handle);
  return handle;
}

// A damaged file is packed again at the next request; another fault is tried again by the pool itself.
void Deployments::WeightsFailed(compute::ModelHandle handle, const Error& error) {
  pool_load_failed_ = true;
  Post([this, handle, error] {
    if (error.kind != ErrorKind::kCorrupt) {
      const std::lock_guard lock(mutex_);
      for (auto& [name, deployment] : deployments_) {
        if (deployment.state == DeploymentState::kReady && deployment.ready.handle == handle)
          deployment.weights_error = error;
      }
      return;
    }
    std::shared_ptr<architectures::PackedFile> file;
    std::vector<std::pair<std::string, compute::ModelHandle>>
        damaged;  // with all aliases: they share the file
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [name, deployment] : deployments_) {
        if (deployment.state == DeploymentState::kReady && deployment.ready.handle == handle)
          file = deployment.packed;
      }
      for (const auto& [name, deployment] : deployments_) {
        if (deployment.state != DeploymentState::kReady) continue;
        const bool alias = file != nullptr && deployment.packed != nullptr &&
                           deployment.packed->table().key == file->table().key;
        if (alias || deployment.ready.handle == handle) damaged.emplace_back(name, deployment.ready.handle);
      }
    }
    if (damaged.empty()) return;
    LogWarn("packed weights are damaged and will be packed again",
            {{"model", damaged.front().first}, {"models", damaged.size()}, {"reason", error.message}});
    if (file != nullptr) options_.packed->Discard(*file);
    for (const auto& [name, damaged_handle] : damaged) {
      engine_.RemoveModel(damaged_handle, /*force=*/true);
      Forget(name, damaged_handle);
    }
  });
}

Result<ReadyModel> Deployments::LoadBuiltIn(const BuiltIn& built_in) {
  TP_ASSIGN(std::unique_ptr<architectures::Model> model,
            architectures::MakeScriptedModel(*built_in.device, built_in.context_length));
  ReadyModel ready;
  ready.id = built_in.model.id;
  ready.info = model->info();
  ready.context_length = built_in.context_length;
  ready.assets = MakeModelAssets(text::Tokenizer::Bytes(), ChatMlTemplate());
  TP_ASSIGN(compute::Charge charge, TakeWeights(ready.id, ready.info.weight_bytes));
  TP_ASSIGN(ready.handle, engine_.AddModel(ready.id, std::move(model), ready.assets->tokenizer,
                                           ready.context_length, std::move(charge)));
  return ready;
}

// Charges the weights, unloading idle models, the least recently used first, while there is no room. Besides
// the weights a model needs a workspace and KV blocks: an eighth of the weights and 64 MiB are wanted free
// for them, as far as idle models can give it; the engine charges what it really takes.
Result<compute::Charge> Deployments::TakeWeights(const std::string& id, uint64_t bytes) {
  const uint64_t wanted = bytes == 0 ? 0 : bytes + bytes / 8 + (uint64_t{64} << 20);
  while (wanted <= ledger_.limit() && ledger_.free() < wanted && EvictIdle()) {
  }
  for (;;) {
    Result<compute::Charge> charge = ledger_.Take(id, compute::ChargeKind::kWeights, bytes);
    if (charge || bytes > ledger_.limit() || !EvictIdle()) return charge;
  }
}

bool Deployments::EvictIdle() {
  std::vector<compute::ModelEntry> entries = engine_.ListModels();
  std::erase_if(entries, [this](const compute::ModelEntry& e) {
    return e.running + e.waiting > 0 || e.weight_bytes == 0 || e.pooled ||
           elasticity_.pin_source(e.name) != PinSource::kNone;
  });
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.last_used < b.last_used; });
  for (const compute::ModelEntry& entry : entries) {
    // A request may have come since: then it stays and the next one is tried.
    if (!engine_.RemoveModel(entry.handle, /*force=*/false)) continue;
    Forget(entry.name, entry.handle);
    evictions_.Increment();
    LogInfo("idle model unloaded to make room", {{"model", entry.name}, {"bytes", entry.weight_bytes}});
    return true;
  }
  return false;
}

// ---- unloading --------------------------------------------------------------------------------------

Status Deployments::Unload(const std::string& id, bool force) {
  compute::ModelHandle handle = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto it = deployments_.find(id);
    if (it == deployments_.end()) return {};
    if (it->second.state == DeploymentState::kLoading) {
      if (!force) {
        return Fail(ErrorKind::kConflict, "model_loading",
                    fmt::format("model \"{}\" is loading; wait, or force it to stop", id), "model");
      }
      it->second.cancel_load = true;
      return {};
    }
    if (it->second.state != DeploymentState::kReady) {
      deployments_.erase(it);
      return {};
    }
    handle = it->second.ready.handle;
  }
  TP_TRY(engine_.RemoveModel(handle, force));
  Forget(id, handle);
  return {};
}

Status Deployments::Remove(const std::string& id) {
  {
    const std::lock_guard lock(mutex_);
    if (built_in_.contains(id)) {
      return Fail(ErrorKind::kInvalid, "built_in",
                  fmt::format("model \"{}\" is built in and cannot be removed", id), "model");
    }
  }
  TP_TRY(Unload(id, /*force=*/false));
  TP_TRY(catalog_.Remove(id));
  elasticity_.Forget(id);
  const std::lock_guard lock(mutex_);
  arrivals_.erase(id);
  std::erase_if(assets_cache_, [&](const CachedAssets& cached) { return cached.id == id; });
  traits_cache_.erase(id);
  return {};
}

// ---- tokenizers without weights ---------------------------------------------------------------------

std::shared_ptr<const ModelAssets> Deployments::AssetsIfCached(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto it = deployments_.find(id);
  if (it != deployments_.end() && it->second.state == DeploymentState::kReady) return it->second.ready.assets;
  for (const CachedAssets& cached : assets_cache_) {
    if (cached.id == id) return cached.assets;
  }
  return nullptr;
}

void Deployments::CacheAssets(const StoredModel& model, std::shared_ptr<const ModelAssets> assets) {
  const std::lock_guard lock(mutex_);
  std::erase_if(assets_cache_, [&](const CachedAssets& cached) { return cached.id == model.id; });
  assets_cache_.push_front({model.id, VersionOf(model), std::move(assets)});
  if (assets_cache_.size() > kMaxCachedAssets) assets_cache_.pop_back();
}

// Files pulled again under the same name make the cached tokenizer stale.
void Deployments::DropStaleAssets(const StoredModel& model) {
  const std::string version = VersionOf(model);
  const std::lock_guard lock(mutex_);
  std::erase_if(assets_cache_,
                [&](const CachedAssets& c) { return c.id == model.id && c.version != version; });
}

Result<std::shared_ptr<const ModelAssets>> Deployments::Assets(const StoredModel& model) {
  DropStaleAssets(model);
  if (auto cached = AssetsIfCached(model.id)) return cached;
  const std::lock_guard parse_lock(assets_mutex_);
  if (auto cached = AssetsIfCached(model.id)) return cached;
  if (model.format == "none") {
    auto assets = MakeModelAssets(text::Tokenizer::Bytes(), ChatMlTemplate());
    CacheAssets(model, assets);
    return assets;
  }
  TP_ASSIGN(const std::filesystem::path path, catalog_.Materialise(model));
  TP_ASSIGN(const std::unique_ptr<formats::Checkpoint> checkpoint, formats::Checkpoint::Open(path));
  TP_ASSIGN(std::shared_ptr<const ModelAssets> assets, LoadModelAssets(*checkpoint));
  CacheAssets(model, assets);
  return assets;
}

Result<std::shared_ptr<const ModelTraits>> Deployments::Traits(const StoredModel& model) {
  if (model.format == "none") {
    TP_ASSIGN(const auto assets, Assets(model));
    return std::shared_ptr<const ModelTraits>(assets);
  }
  const std::string version = VersionOf(model);
  {
    const std::lock_guard lock(mutex_);
    const auto it = traits_cache_.find(model.id);
    if (it != traits_cache_.end() && it->second.version == version) return it->second.traits;
  }
  TP_ASSIGN(const std::filesystem::path path, catalog_.Materialise(model));
  TP_ASSIGN(const std::unique_ptr<formats::Checkpoint> checkpoint, formats::Checkpoint::Open(path));
  std::shared_ptr<const ModelTraits> traits = LoadModelTraits(*checkpoint);
  const std::lock_guard lock(mutex_);
  if (traits_cache_.size() >= kMaxCachedTraits && !traits_cache_.contains(model.id))
    traits_cache_.erase(traits_cache_.begin());
  traits_cache_[model.id] = {version, traits};
  return traits;
}

}  // namespace tidepool::platform
