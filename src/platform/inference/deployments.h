// Which models are loaded, loading or failed, and who waits for them.
//
// Threads: public methods from any thread. A loader thread opens and packs one model at a time (packing uses
// every core, so two at once gain nothing). A watch thread serves those who wait: progress, time-outs,
// cancelled waiters, and posted callbacks.
//
// Order: requests that arrive while a model loads are started in the order they came. The model's state is
// ready before the first of them is told; newcomers queue behind those who still wait to be told.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "platform/inference/elasticity.h"
#include "platform/inference/inference.h"
#include "platform/inference/model_assets.h"
#include "platform/inference/pool_control.h"

namespace tidepool::platform {

// A model in the engine. The handle may be gone by the time it is used (unloaded); then the engine says
// kNotFound.
struct ReadyModel {
  std::string id;
  compute::ModelHandle handle = 0;
  std::shared_ptr<const ModelAssets> assets;
  architectures::ModelInfo info;
  int32_t context_length = 0;
};

// Someone who waits for a load. Exactly one of ready and failed is called, on the loader or watch thread.
struct LoadWaiter {
  std::function<void(const ReadyModel&)> ready;
  std::function<void(const Error&)> failed;
  std::function<void(const compute::ProgressEvent&)> progress;  // may be empty
  std::function<bool()> cancelled;                              // may be empty
};

class Deployments {
 public:
  Deployments(Catalog& catalog, compute::Engine& engine, chips::Device& device, compute::Ledger& ledger,
              const Clock& clock, MetricsRegistry& metrics, const InferenceOptions& options);
  ~Deployments();  // cancels the running load, fails everyone who waits, joins
  Deployments(const Deployments&) = delete;
  Deployments& operator=(const Deployments&) = delete;

  Status AddScripted(chips::SimulatedDevice& device, std::string name, int32_t context_length);

  // The stored model or built-in one a name means.
  Result<StoredModel> Resolve(std::string_view name) const;
  // The same, or a deployment's base model.
  Result<StoredModel> ResolveBase(std::string_view name) const;
  // Ready: returns it. Otherwise the waiter is queued, the load starts if it has not, and nullopt comes back.
  // Errors: kOverloaded when too many wait.
  Result<std::optional<ReadyModel>> Acquire(const StoredModel& model, LoadWaiter waiter);
  // The engine no longer knows this handle: forget it, so that the next Acquire loads again.
  void Forget(const std::string& id, compute::ModelHandle handle);

  Status Unload(const std::string& id, bool force);
  Status Remove(const std::string& id);  // unloads if idle, removes from the store
  std::vector<DeploymentStatus> List() const;
  Result<DeploymentStatus> Find(std::string_view name) const;

  // Tokenizer and template, without loading weights: from the loaded model, a small cache, or the file.
  Result<std::shared_ptr<const ModelAssets>> Assets(const StoredModel& model);
  std::shared_ptr<const ModelAssets> AssetsIfCached(const std::string& id) const;
  // Neither tokenizer nor weights: from a cache, or the file's head.
  Result<std::shared_ptr<const ModelTraits>> Traits(const StoredModel& model);

  // A request for it came in.
  void CountArrival(const std::string& id);
  // Registered, loading and failed models with what is known of their weights; the scheduler's part is left
  // out.
  std::vector<PoolModelState> PoolModels() const;
  // Tells the engine; a model that is to be pinned is loaded. Returns the stored model's id.
  Result<std::string> SetPolicy(std::string_view name, const PolicyChange& change);
  compute::ModelPolicy PolicyOf(const std::string& id) const { return elasticity_.PolicyOf(id); }
  // Idle models whose weights cannot be dropped otherwise go, until the ledger is within its limit.
  void DrainIdle();
  // The engine can be asked of now: pins, windows, policies, and how many models are registered.
  void LookAtClock();

  // Runs `task` on the watch thread.
  void Post(std::function<void()> task);

 private:
  struct Waiting {
    LoadWaiter waiter;
    Nanoseconds deadline = 0;
  };
  struct Deployment {
    DeploymentState state = DeploymentState::kStored;
    double share = 0;
    Error error;
    ReadyModel ready;
    std::shared_ptr<architectures::PackedFile> packed;  // its weights' file, where there is one
    std::weak_ptr<compute::ResidentWeights> weights;    // the engine's
    compute::ModelPolicy policy;                        // as the engine has it
    int32_t failures = 0;                               // loads in a row that failed by the model's fault
    Nanoseconds retry_at = 0;                           // kFailed: not before
    std::optional<Error> weights_error;                 // kReady: the pool could not load its weights
    std::deque<Waiting> waiters;
    bool cancel_load = false;
    bool waking = false;  // kReady, and the loader is telling those who waited
    StoredModel model;
  };
  struct BuiltIn {
    chips::SimulatedDevice* device = nullptr;
    int32_t context_length = 0;
    StoredModel model;
  };
  struct CachedAssets {
    std::string id;
    std::string version;  // of the stored files
    std::shared_ptr<const ModelAssets> assets;
  };
  struct CachedTraits {
    std::string version;
    std::shared_ptr<const ModelTraits> traits;
  };

  void RunLoader();
  void RunWatch();
  void FinishLoad(const std::string& id, const Result<ReadyModel>& loaded);
  std::deque<Waiting> TakeWaiters(Deployment& deployment);
  void QueueLoad(Deployment& deployment);
  static void Tell(Waiting& waiting, const Result<ReadyModel>& loaded);
  Result<ReadyModel> Load(const StoredModel& model);
  // Gives ready.assets. `assets` is called when the weights are on their way, and may take its time.
  Result<compute::ModelHandle> AddPooled(
      const StoredModel& model, const formats::Checkpoint& checkpoint, const architectures::LoadOptions& load,
      const std::function<Result<std::shared_ptr<const ModelAssets>>()>& assets, ReadyModel& ready);
  void WeightsFailed(compute::ModelHandle handle, const Error& error);
  Result<ReadyModel> LoadBuiltIn(const BuiltIn& built_in);
  Result<compute::Charge> TakeWeights(const std::string& id, uint64_t bytes);
  bool EvictIdle();
  bool KeepLoading(const std::string& id, double share);
  int32_t CapContext(int32_t own) const;
  void TickWaiters();
  DeploymentStatus StatusOf(const StoredModel& model, const std::vector<compute::ModelEntry>& entries,
                            const compute::PoolReport* report) const;
  static bool OwnFault(const Error& error);
  void NoteFailure(Deployment& deployment, const Error& error);
  Error Quarantined(const Deployment& deployment) const;
  bool InQuarantine(const Deployment& deployment) const;
  void Register(const std::string& id);
  void ApplyPolicies();
  void UnregisterIdle();
  void AskOfDeployments();  // what they want for their base models
  compute::ModelPolicy PolicyFor(const std::string& id, const architectures::ModelInfo& info) const;
  // A fresh look where a pool load has failed (its state is the scheduler's), else nothing.
  std::shared_ptr<const compute::PoolReport> ReportIfFailing() const;
  void DropStaleAssets(const StoredModel& model);
  void CacheAssets(const StoredModel& model, std::shared_ptr<const ModelAssets> assets);

  Catalog& catalog_;
  compute::Engine& engine_;
  chips::Device& device_;
  compute::Ledger& ledger_;
  const Clock& clock_;
  const InferenceOptions options_;
  Elasticity elasticity_;
  std::atomic<bool> pool_load_failed_{false};
  Counter loads_ok_, loads_failed_, evictions_;
  Histogram load_s_;
  Gauge waiting_gauge_;

  mutable std::mutex mutex_;
  std::condition_variable loader_wake_, watch_wake_;
  bool stopping_ = false;
  std::map<std::string, Deployment> deployments_;
  std::map<std::string, BuiltIn> built_in_;
  std::map<std::string, uint64_t> arrivals_;
  bool look_now_ = false;  // at pins and at how many are registered
  std::deque<std::string> load_queue_;
  std::deque<std::function<void()>> posted_;
  int32_t waiting_ = 0;
  std::deque<CachedAssets> assets_cache_;             // most recent first
  std::map<std::string, CachedTraits> traits_cache_;  // by id; of models in the store
  std::mutex assets_mutex_;                           // one tokenizer is parsed at a time outside the loader
  std::thread loader_, watch_;
};

}  // namespace tidepool::platform
