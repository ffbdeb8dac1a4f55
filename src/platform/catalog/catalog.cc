#include "platform/catalog/catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "platform/catalog/names.h"
#include "platform/catalog/pull_monitor.h"
#include "platform/catalog/puller.h"
#include "platform/catalog/shipped_catalogue.h"
#include "platform/catalog/source.h"
#include "platform/catalog/store.h"

namespace tidepool::platform {

std::string_view PullStateName(PullState state) {
  switch (state) {
    case PullState::kQueued: return "queued";
    case PullState::kRunning: return "running";
    case PullState::kPaused: return "paused";
    case PullState::kDone: return "done";
    case PullState::kFailed: return "failed";
    case PullState::kCancelled: return "cancelled";
  }
  return "unknown";
}

namespace {

bool IsActive(PullState state) {
  return state == PullState::kQueued || state == PullState::kRunning || state == PullState::kPaused;
}

class CatalogImpl final : public Catalog {
 public:
  CatalogImpl(const CatalogOptions& options, std::vector<CatalogueEntry> catalogue,
              std::unique_ptr<Store> store)
      : options_(options),
        catalogue_(std::move(catalogue)),
        store_(std::move(store)),
        puller_(*store_, options_, catalogue_) {
    for (int32_t i = 0; i < std::max(1, options_.max_concurrent_pulls); ++i) {
      workers_.emplace_back([this] { RunWorker(); });
    }
  }
  // Running pulls stop and keep their bytes: the next pull of the same source goes on from there.
  ~CatalogImpl() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      for (auto& job : jobs_) {
        if (job->status.state == PullState::kRunning) job->monitor->Stop();
      }
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  const std::vector<CatalogueEntry>& catalogue() const override { return catalogue_; }
  std::vector<StoredModel> List() const override { return store_->List(); }
  Result<StoredModel> Find(std::string_view id) const override;
  Result<std::filesystem::path> Materialise(const StoredModel& model) const override {
    return store_->Materialise(model);
  }
  Status Remove(std::string_view id) override {
    TP_ASSIGN(const StoredModel model, Find(id));
    return store_->Remove(model.id);
  }

  Result<PullStatus> StartPull(std::string_view source, std::string_view name_override,
                               const PullCaller& caller) override;
  std::vector<PullStatus> ListPulls() const override;
  Result<PullStatus> FindPull(std::string_view id) const override;
  Status PausePull(std::string_view id) override;
  Status ResumePull(std::string_view id) override;
  Status CancelPull(std::string_view id) override;

 private:
  enum class Wish { kNone, kPause, kRestart, kCancel };  // kRestart: asked for again while it was pausing
  struct Job {
    PullStatus status;
    std::string key;  // what is joined
    Source source;
    std::string id;  // to store under; may be empty
    PullCaller caller;
    Wish wish = Wish::kNone;
    std::shared_ptr<PullMonitor> monitor = std::make_shared<PullMonitor>();
  };

  void RunWorker();
  void FinishJob(const std::shared_ptr<Job>& shared, const Result<StoredModel>& result);
  void DropOldJobs();
  Job* FindJob(std::string_view id) const;
  Result<Job*> ActiveJob(std::string_view id) const;
  // The same, or one that failed: it may be tried again, or its bytes dropped.
  Result<Job*> OpenJob(std::string_view id) const;
  bool IsFetchedByAnother(const Job& job) const;
  static PullStatus StatusOf(const Job& job);
  void Enqueue(const std::shared_ptr<Job>& job);
  void Continue(const std::shared_ptr<Job>& job);

  const CatalogOptions options_;
  const std::vector<CatalogueEntry> catalogue_;
  const std::unique_ptr<Store> store_;
  const Puller puller_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::deque<std::shared_ptr<Job>> jobs_;  // oldest first
  std::deque<std::shared_ptr<Job>> queue_;
  std::vector<std::thread> workers_;
};

Result<StoredModel> CatalogImpl::Find(std::string_view id) const {
  TP_ASSIGN(std::optional<StoredModel> found, store_->Find(id));
  if (found) return std::move(*found);
  std::vector<std::string> stored, known;
  for (const StoredModel& model : store_->List()) stored.push_back(model.id);
  for (const CatalogueEntry& entry : catalogue_) known.push_back(entry.id);
  std::string message = fmt::format("model \"{}\" is not here", id);
  const auto entry = puller_.FindEntry(std::string(id));
  if (entry) {
    message += fmt::format("; fetch it with: tidepool pull {}", entry->id);
  } else if (const auto close = CloseNames(id, stored); !close.empty()) {
    message += fmt::format("; did you mean {}?", fmt::join(close, ", "));
  } else if (entry.error().code == "several_models") {
    message += "; in the catalogue " + entry.error().message;
  } else if (const auto other = CloseNames(id, known); !other.empty()) {
    message += fmt::format("; the catalogue has {}: tidepool pull {}", fmt::join(other, ", "), other.front());
  } else {
    message += "; see tidepool list for what is, and tidepool pull for more";
  }
  return Fail(ErrorKind::kNotFound, "model_not_found", message, "model");
}

// ---- pulls ------------------------------------------------------------------------------------------

Result<PullStatus> CatalogImpl::StartPull(std::string_view text, std::string_view name_override,
                                          const PullCaller& caller) {
  TP_ASSIGN(const Source source, ParseSource(text));
  TP_TRY(puller_.CheckRequest(source, caller));
  std::string id;
  if (!name_override.empty()) {
    TP_ASSIGN(ModelName name, ParseModelName(name_override));
    if (name.tag.empty()) name.tag = "latest";
    id = name.id();
  }
  const std::string key = source.canonical() + "\n" + ToLowerAscii(id);
  const std::lock_guard lock(mutex_);
  if (stopping_) return Fail(ErrorKind::kUnavailable, "shutting_down", "the server is shutting down");
  int32_t waiting = 0;
  for (const auto& job : jobs_) {
    if (job->status.state == PullState::kQueued || job->status.state == PullState::kPaused) ++waiting;
    const bool same = job->key == key && IsActive(job->status.state) && job->wish != Wish::kCancel;
    if (!same) continue;
    Continue(job);
    return StatusOf(*job);
  }
  if (waiting >= options_.max_queued_pulls) {
    return Fail(Error{ErrorKind::kOverloaded, "too_many_pulls",
                      fmt::format("{} pulls wait already (limit {}); cancel one or wait", waiting,
                                  options_.max_queued_pulls),
                      "source", 10});
  }
  auto job = std::make_shared<Job>();
  job->status.id = RandomId("pull-", 16);
  job->status.model = text;
  job->status.created = UnixTimeSeconds();
  job->key = key;
  job->source = source;
  job->id = id;
  job->caller = caller;
  jobs_.push_back(job);
  DropOldJobs();
  Enqueue(job);
  return StatusOf(*job);
}

void CatalogImpl::Enqueue(const std::shared_ptr<Job>& job) {
  job->wish = Wish::kNone;
  job->monitor = std::make_shared<PullMonitor>();
  job->status.state = PullState::kQueued;
  job->status.error = {};
  queue_.push_back(job);
  wake_.notify_one();
}

// A paused job goes on, one that failed tries again; one that is just pausing goes on as soon as its thread
// has let go.
void CatalogImpl::Continue(const std::shared_ptr<Job>& job) {
  if (job->status.state == PullState::kPaused || job->status.state == PullState::kFailed) Enqueue(job);
  if (job->status.state == PullState::kRunning && job->wish == Wish::kPause) job->wish = Wish::kRestart;
}

void CatalogImpl::RunWorker() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const std::shared_ptr<Job> job = queue_.front();
    queue_.pop_front();
    if (job->status.state != PullState::kQueued) continue;  // paused or cancelled while it waited
    job->status.state = PullState::kRunning;
    lock.unlock();
    const Result<StoredModel> result = puller_.Pull(job->source, job->id, job->caller, *job->monitor);
    lock.lock();
    FinishJob(job, result);
  }
}

void CatalogImpl::FinishJob(const std::shared_ptr<Job>& shared, const Result<StoredModel>& result) {
  Job& job = *shared;
  job.status.phase = job.monitor->phase();
  job.status.bytes_done = job.monitor->done();
  job.status.bytes_total = job.monitor->total();
  const bool stopped = !result && result.error().code == "stopped";
  if (result) {
    job.status.state = PullState::kDone;
    job.status.result = result->id;
    job.status.phase = "done";
    LogInfo("model pulled", {{"model", result->id}, {"source", job.status.model}, {"bytes", result->bytes}});
  } else if (stopped && job.wish == Wish::kCancel) {
    job.status.state = PullState::kCancelled;
    puller_.DropPartial(job.source);
  } else if (stopped && job.wish == Wish::kRestart && !stopping_) {
    Enqueue(shared);
  } else if (stopped) {
    job.status.state = PullState::kPaused;
  } else {
    job.status.state = PullState::kFailed;
    job.status.error = result.error();
    LogWarn("pull failed", {{"source", job.status.model}, {"error", result.error().message}});
  }
  job.wish = Wish::kNone;
}

// Finished jobs beyond max_pulls_kept, the oldest first.
void CatalogImpl::DropOldJobs() {
  auto finished =
      std::count_if(jobs_.begin(), jobs_.end(), [](const auto& j) { return !IsActive(j->status.state); });
  for (auto it = jobs_.begin(); it != jobs_.end() && finished > options_.max_pulls_kept;) {
    if (IsActive((*it)->status.state)) {
      ++it;
    } else {
      it = jobs_.erase(it);
      --finished;
    }
  }
}

PullStatus CatalogImpl::StatusOf(const Job& job) {
  PullStatus status = job.status;
  if (status.state == PullState::kRunning) {
    status.phase = job.monitor->phase();
    status.bytes_done = job.monitor->done();
    status.bytes_total = job.monitor->total();
    status.bytes_per_s = job.monitor->Speed();
  }
  return status;
}

std::vector<PullStatus> CatalogImpl::ListPulls() const {
  const std::lock_guard lock(mutex_);
  std::vector<PullStatus> out;
  for (const auto& job : jobs_) out.push_back(StatusOf(*job));
  return out;
}

CatalogImpl::Job* CatalogImpl::FindJob(std::string_view id) const {
  for (const auto& job : jobs_) {
    if (job->status.id == id) return job.get();
  }
  return nullptr;
}

Result<PullStatus> CatalogImpl::FindPull(std::string_view id) const {
  const std::lock_guard lock(mutex_);
  const Job* job = FindJob(id);
  if (job != nullptr) return StatusOf(*job);
  return Fail(ErrorKind::kNotFound, "pull_not_found",
              fmt::format("there is no pull \"{}\"", id.substr(0, 64)), "id");
}

Result<CatalogImpl::Job*> CatalogImpl::ActiveJob(std::string_view id) const {
  Job* job = FindJob(id);
  if (job == nullptr) {
    return Fail(ErrorKind::kNotFound, "pull_not_found",
                fmt::format("there is no pull \"{}\"", id.substr(0, 64)), "id");
  }
  if (IsActive(job->status.state)) return job;
  return Fail(ErrorKind::kConflict, "pull_ended",
              fmt::format("the pull is {} already", PullStateName(job->status.state)), "id");
}

Result<CatalogImpl::Job*> CatalogImpl::OpenJob(std::string_view id) const {
  if (Job* job = FindJob(id); job != nullptr && job->status.state == PullState::kFailed) return job;
  return ActiveJob(id);
}

bool CatalogImpl::IsFetchedByAnother(const Job& job) const {
  return std::any_of(jobs_.begin(), jobs_.end(), [&](const auto& other) {
    return other.get() != &job && other->key == job.key && IsActive(other->status.state);
  });
}

Status CatalogImpl::PausePull(std::string_view id) {
  const std::lock_guard lock(mutex_);
  TP_ASSIGN(Job* const job, ActiveJob(id));
  if (job->status.state == PullState::kQueued) job->status.state = PullState::kPaused;
  if (job->status.state == PullState::kRunning && job->wish != Wish::kCancel) {
    job->wish = Wish::kPause;
    job->monitor->Stop();
  }
  return {};
}

Status CatalogImpl::ResumePull(std::string_view id) {
  const std::lock_guard lock(mutex_);
  TP_ASSIGN(const Job* const found, OpenJob(id));
  if (found->status.state == PullState::kFailed && IsFetchedByAnother(*found)) {
    return Fail(ErrorKind::kConflict, "pull_ended", "the same was asked for again, and is on its way", "id");
  }
  if (found->wish == Wish::kCancel) {
    return Fail(ErrorKind::kConflict, "pull_ended", "the pull is just being cancelled; start it again", "id");
  }
  for (const auto& job : jobs_) {
    if (job.get() == found) Continue(job);
  }
  return {};
}

Status CatalogImpl::CancelPull(std::string_view id) {
  const std::lock_guard lock(mutex_);
  TP_ASSIGN(Job* const job, OpenJob(id));
  if (job->status.state == PullState::kRunning) {
    job->wish = Wish::kCancel;
    job->monitor->Stop();
    return {};
  }
  job->status.state = PullState::kCancelled;
  if (!IsFetchedByAnother(*job)) puller_.DropPartial(job->source);
  return {};
}

}  // namespace

Result<std::unique_ptr<Catalog>> Catalog::Open(const CatalogOptions& options) {
  TP_ASSIGN(std::vector<CatalogueEntry> catalogue, ParseCatalogue(ShippedCatalogueJson()));
  TP_ASSIGN(std::unique_ptr<Store> store, Store::Open(options.home / "models", options.max_store_bytes));
  return std::unique_ptr<Catalog>(
      std::make_unique<CatalogImpl>(options, std::move(catalogue), std::move(store)));
}

}  // namespace tidepool::platform
