#include "compute/residency/residency.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/check.h"

namespace tidepool::compute {
namespace {

using architectures::WeightSegment;

struct SegmentRecord {
  uint64_t bytes = 0;
  SegmentState state = SegmentState::kCold;
  Charge charge;             // kLoading, kResident
  uint64_t warm_charge = 0;  // in the warm budget: kWarm, and kLoading until it has landed
  // What the mover owes: done before anything is brought into memory.
  bool owes_unpin = false, owes_drop = false;
};

struct ModelRecord {
  std::string name, key;
  std::unique_ptr<WeightBacking> backing;
  std::vector<SegmentRecord> segments;
  uint64_t total_bytes = 0, warm_bytes = 0;  // warm: the sum of warm_charge
  std::atomic<int32_t> landed{0};            // resident segments: always the first ones
  std::atomic<bool> stop{false};             // asks a Fetch under way to return
  uint64_t last_used = 0;

  struct Waiter {
    int32_t segments;
    std::function<void(const LoadReport&)> done;
  };
  // A job in progress; a Fetch that returns to another `generation` has lost its purpose.
  struct Job {
    uint64_t generation = 0;
    size_t segment = SIZE_MAX;  // under way; only for warming, which may skip some
    uint64_t fetched = 0;       // of the segment under way
  };
  Job load, warm;
  bool loading = false;
  std::vector<Waiter> waiters;
  int32_t target = 0;
  LoadReport report;

  bool warming = false;
  std::vector<std::function<void(uint64_t)>> warm_waiters;

  ModelResidency totals;
};
using ModelPointer = std::shared_ptr<ModelRecord>;

Error LoadCancelled(const ModelRecord& model) {
  return {
      ErrorKind::kCancelled, "load_cancelled", fmt::format("loading {} was cancelled", model.name), {}, 0};
}

class Core {
 public:
  Core(Ledger& ledger, const Clock& clock, const ResidencyOptions& options)
      : ledger_(ledger), clock_(clock), chunk_bytes_(std::max<uint64_t>(options.chunk_bytes, 1)) {
    warm_limit_ = options.warm_bytes;
    mover_ = std::thread([this] { RunMover(); });
  }
  ~Core() { Stop(); }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      stopping_ = true;
      for (const auto& [key, model] : models_) GiveBack(model);
      models_.clear();
    }
    wake_.notify_all();
    mover_.join();
  }

  void Attach(const ModelPointer& model, const std::vector<uint64_t>& in_memory);
  void Detach(const ModelPointer& model);
  void Load(const ModelPointer& model, std::function<void(const LoadReport&)> done, int32_t segments);
  void CancelLoad(const ModelPointer& model);
  void Warm(const ModelPointer& model, std::function<void(uint64_t)> done);
  uint64_t Evict(const ModelPointer& model, uint64_t bytes);
  void Touch(const ModelPointer& model);
  bool WaitFor(ModelRecord& model, int32_t segment);
  SegmentWait Await(ModelRecord& model, int32_t segment, Nanoseconds most);
  std::vector<SegmentState> States(const ModelRecord& model) const;
  ResidencyCounts Counts(const ModelRecord& model) const;
  bool Loading(const ModelRecord& model) const;
  uint64_t LandedBytes(const ModelRecord& model) const;
  double EstimateLoadSeconds(const ModelRecord& model) const;

  uint64_t warm_limit() const {
    const std::lock_guard lock(mutex_);
    return warm_limit_;
  }
  uint64_t warm_used() const {
    const std::lock_guard lock(mutex_);
    return warm_used_;
  }
  void SetWarmLimit(uint64_t bytes);
  void LeaveInMemory() {
    const std::lock_guard lock(mutex_);
    leave_in_memory_ = true;
  }
  LoadRates rates() const {
    const std::lock_guard lock(mutex_);
    return rates_;
  }
  std::vector<ModelResidency> Snapshot() const;
  void WaitIdle();

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct Fetched {
    Status status;
    double seconds = 0;
    uint64_t bytes = 0;
  };

  void RunMover();
  bool RunOneJob(Lock& lock);
  void PayDebt(Lock& lock);
  void AdvanceLoad(Lock& lock);
  bool BeginSegment(const ModelPointer& model, SegmentRecord& segment);
  void FinishSegment(const ModelPointer& model, SegmentRecord& segment);
  static void LearnRate(double& rate, const Fetched& fetched);
  void AdvanceWarm(Lock& lock);
  void FinishLoad(const ModelPointer& model, Status status);
  void FinishWarm(const ModelPointer& model);
  void AbandonSegment(const ModelPointer& model);
  void GiveBack(const ModelPointer& model);
  void Owe(const ModelPointer& model, size_t segment, bool unpin, bool drop);
  bool MakeWarmRoom(uint64_t bytes, const ModelRecord* keep, size_t keep_segments);
  void MakeCold(const ModelPointer& model, size_t segment);
  void ReleaseWarm(ModelRecord& model, SegmentRecord& segment);
  void ChargeWarm(ModelRecord& model, SegmentRecord& segment);
  uint64_t SumOf(const ModelRecord& model, int32_t segments) const;
  ResidencyCounts CountsLocked(const ModelRecord& model) const;
  // Fetches the next chunk of a segment without the lock; false when the job it belonged to is over.
  bool FetchChunk(Lock& lock, const ModelPointer& model, ModelRecord::Job& job, size_t segment, bool pin,
                  Fetched* fetched);

  Ledger& ledger_;
  const Clock& clock_;
  const uint64_t chunk_bytes_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;    // the mover
  std::condition_variable landed_;  // gates and WaitIdle
  bool stopping_ = false, moving_ = false, leave_in_memory_ = false;
  uint64_t warm_limit_ = 0, warm_used_ = 0, uses_ = 0;
  LoadRates rates_;
  std::map<std::string, ModelPointer> models_;  // by key
  std::deque<std::pair<ModelPointer, size_t>> debts_;
  std::deque<ModelPointer> loads_, warms_;
  std::deque<std::function<void()>> callbacks_;
  std::thread mover_;
};

// ---- bookkeeping, under the lock --------------------------------------------------------------------

uint64_t Core::SumOf(const ModelRecord& model, int32_t segments) const {
  uint64_t sum = 0;
  for (int32_t i = 0; i < segments; ++i) sum += model.segments[static_cast<size_t>(i)].bytes;
  return sum;
}

void Core::Owe(const ModelPointer& model, size_t index, bool unpin, bool drop) {
  SegmentRecord& segment = model->segments[index];
  const bool queued = segment.owes_unpin || segment.owes_drop;
  segment.owes_unpin |= unpin;
  segment.owes_drop |= drop;
  if (!queued) debts_.emplace_back(model, index);
}

void Core::ChargeWarm(ModelRecord& model, SegmentRecord& segment) {
  segment.warm_charge = segment.bytes;
  model.warm_bytes += segment.bytes;
  warm_used_ += segment.bytes;
}

void Core::ReleaseWarm(ModelRecord& model, SegmentRecord& segment) {
  const uint64_t bytes = std::exchange(segment.warm_charge, 0);
  model.warm_bytes -= bytes;
  warm_used_ -= bytes;
}

void Core::MakeCold(const ModelPointer& model, size_t index) {
  SegmentRecord& segment = model->segments[index];
  ReleaseWarm(*model, segment);
  segment.state = SegmentState::kCold;
  Owe(model, index, /*unpin=*/false, /*drop=*/true);
}

// Room for `bytes` in the warm budget: warm segments of the model used longest ago go first, its last ones
// before its first; never those of a model that is loading, nor the first `keep_segments` of `keep`.
bool Core::MakeWarmRoom(uint64_t bytes, const ModelRecord* keep, size_t keep_segments) {
  if (bytes > warm_limit_) return false;
  while (warm_used_ + bytes > warm_limit_) {
    const ModelPointer* oldest = nullptr;
    size_t victim = 0;
    for (const auto& [key, model] : models_) {
      if (model->warm_bytes == 0 || model->loading ||
          (oldest != nullptr && model->last_used >= (*oldest)->last_used))
        continue;
      const size_t first = model.get() == keep ? keep_segments : 0;
      for (size_t i = model->segments.size(); i > first; --i) {
        if (model->segments[i - 1].state != SegmentState::kWarm) continue;
        oldest = &model;
        victim = i - 1;
        break;
      }
    }
    if (oldest == nullptr) return false;
    MakeCold(*oldest, victim);
  }
  return true;
}

// The segment a load was moving goes back to what it was.
void Core::AbandonSegment(const ModelPointer& model) {
  const auto index = static_cast<size_t>(model->landed.load(std::memory_order_relaxed));
  if (index >= model->segments.size()) return;
  SegmentRecord& segment = model->segments[index];
  if (segment.state != SegmentState::kLoading) return;
  segment.charge.Release();
  if (segment.warm_charge > 0) {
    segment.state = SegmentState::kWarm;
  } else {
    segment.state = SegmentState::kCold;
    Owe(model, index, /*unpin=*/true, /*drop=*/true);
  }
}

void Core::FinishLoad(const ModelPointer& model, Status status) {
  if (!model->loading) return;
  AbandonSegment(model);
  ++model->load.generation;
  model->stop = true;
  model->loading = false;
  std::erase(loads_, model);
  ModelResidency& totals = model->totals;
  if (status) {
    ++totals.completed_loads;
  } else {
    ++(status.error().kind == ErrorKind::kCancelled ? totals.cancelled_loads : totals.failed_loads);
  }
  model->report.status = std::move(status);
  model->report.resident_bytes = SumOf(*model, model->landed.load(std::memory_order_relaxed));
  for (ModelRecord::Waiter& waiter : model->waiters) {
    if (waiter.done)
      callbacks_.push_back([done = std::move(waiter.done), report = model->report] { done(report); });
  }
  model->waiters.clear();
  landed_.notify_all();
  wake_.notify_all();
}

void Core::FinishWarm(const ModelPointer& model) {
  if (!model->warming) return;
  model->warming = false;
  ++model->warm.generation;
  model->stop = true;
  std::erase(warms_, model);
  for (size_t i = 0; i < model->segments.size(); ++i) {  // the one under way, if any
    SegmentRecord& segment = model->segments[i];
    if (segment.state == SegmentState::kCold && segment.warm_charge > 0) MakeCold(model, i);
  }
  const ResidencyCounts counts = CountsLocked(*model);
  for (auto& done : model->warm_waiters)
    callbacks_.push_back([done = std::move(done), bytes = counts.warm + counts.resident] { done(bytes); });
  model->warm_waiters.clear();
  wake_.notify_all();
}

void Core::GiveBack(const ModelPointer& model) {
  FinishLoad(model, Fail(LoadCancelled(*model)));
  FinishWarm(model);
  model->landed.store(0, std::memory_order_release);
  for (size_t i = 0; i < model->segments.size(); ++i) {
    SegmentRecord& segment = model->segments[i];
    if (segment.state == SegmentState::kCold) continue;
    segment.charge.Release();
    Owe(model, i, /*unpin=*/segment.state == SegmentState::kResident, /*drop=*/true);
    MakeCold(model, i);
  }
  wake_.notify_all();
}

ResidencyCounts Core::CountsLocked(const ModelRecord& model) const {
  ResidencyCounts counts;
  for (const SegmentRecord& segment : model.segments) {
    switch (segment.state) {
      case SegmentState::kCold: counts.cold += segment.bytes; break;
      case SegmentState::kWarm: counts.warm += segment.bytes; break;
      case SegmentState::kLoading: counts.loading += segment.bytes; break;
      case SegmentState::kResident: counts.resident += segment.bytes; break;
    }
  }
  return counts;
}

// ---- what callers ask --------------------------------------------------------------------------------

void Core::Attach(const ModelPointer& model, const std::vector<uint64_t>& in_memory) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  models_[model->key] = model;
  model->last_used = ++uses_;
  for (size_t i = 0; i < model->segments.size(); ++i) {
    SegmentRecord& segment = model->segments[i];
    if (in_memory[i] == segment.bytes && segment.bytes <= warm_limit_ - std::min(warm_used_, warm_limit_)) {
      segment.state = SegmentState::kWarm;
      ChargeWarm(*model, segment);
    } else if (in_memory[i] > 0) {
      Owe(model, i, false, true);
    }
  }
  wake_.notify_all();
}

void Core::Detach(const ModelPointer& model) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  GiveBack(model);
  const auto entry = models_.find(model->key);
  if (entry != models_.end() && entry->second == model) models_.erase(entry);
}

void Core::Load(const ModelPointer& model, std::function<void(const LoadReport&)> done, int32_t segments) {
  const auto count = static_cast<int32_t>(model->segments.size());
  const int32_t target = segments < 0 ? count : std::min(segments, count);
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      model->last_used = ++uses_;
      FinishWarm(model);
      if (!model->loading) {
        model->loading = true;
        model->report = {};
        model->target = 0;
        ++model->load.generation;
        ++model->totals.loads;
        loads_.push_back(model);
      }
      model->target = std::max(model->target, target);
      model->waiters.push_back({target, std::move(done)});
      wake_.notify_all();
      return;
    }
  }
  LoadReport report;
  report.status = Fail(LoadCancelled(*model));
  if (done) done(report);
}

void Core::CancelLoad(const ModelPointer& model) {
  const std::lock_guard lock(mutex_);
  FinishLoad(model, Fail(LoadCancelled(*model)));
}

void Core::Warm(const ModelPointer& model, std::function<void(uint64_t)> done) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  model->last_used = ++uses_;
  if (done) model->warm_waiters.push_back(std::move(done));
  if (model->warming) return;
  model->warming = true;
  model->warm.segment = SIZE_MAX;
  ++model->warm.generation;
  warms_.push_back(model);
  wake_.notify_all();
}

uint64_t Core::Evict(const ModelPointer& model, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return 0;
  FinishLoad(model, Fail(LoadCancelled(*model)));
  const int32_t before = model->landed.load(std::memory_order_relaxed);
  int32_t first = before;
  uint64_t freed = 0;
  while (first > 0 && freed < bytes) freed += model->segments[static_cast<size_t>(--first)].bytes;
  if (first == before) return 0;
  model->landed.store(first, std::memory_order_release);
  ++model->totals.evictions;
  for (int32_t i = first; i < before; ++i) {
    SegmentRecord& segment = model->segments[static_cast<size_t>(i)];
    segment.charge.Release();
    segment.state = SegmentState::kCold;  // so that making room does not find it
    const bool warm = MakeWarmRoom(segment.bytes, model.get(), static_cast<size_t>(i));
    if (warm) {
      segment.state = SegmentState::kWarm;
      ChargeWarm(*model, segment);
    }
    Owe(model, static_cast<size_t>(i), /*unpin=*/true, /*drop=*/!warm);
  }
  wake_.notify_all();
  return freed;
}

void Core::Touch(const ModelPointer& model) {
  const std::lock_guard lock(mutex_);
  model->last_used = ++uses_;
}

bool Core::WaitFor(ModelRecord& model, int32_t segment) {
  Lock lock(mutex_);
  landed_.wait(lock, [&] {
    return model.landed.load(std::memory_order_relaxed) > segment || !model.loading || stopping_;
  });
  return model.landed.load(std::memory_order_relaxed) > segment;
}

SegmentWait Core::Await(ModelRecord& model, int32_t segment, Nanoseconds most) {
  Lock lock(mutex_);
  const auto landed = [&] { return model.landed.load(std::memory_order_relaxed) > segment; };
  const bool known = landed_.wait_for(lock, std::chrono::nanoseconds(most),
                                      [&] { return landed() || !model.loading || stopping_; });
  if (landed()) return SegmentWait::kLanded;
  return known ? SegmentWait::kNotComing : SegmentWait::kNotYet;
}

std::vector<SegmentState> Core::States(const ModelRecord& model) const {
  const std::lock_guard lock(mutex_);
  std::vector<SegmentState> states;
  for (const SegmentRecord& segment : model.segments) states.push_back(segment.state);
  return states;
}

ResidencyCounts Core::Counts(const ModelRecord& model) const {
  const std::lock_guard lock(mutex_);
  return CountsLocked(model);
}

bool Core::Loading(const ModelRecord& model) const {
  const std::lock_guard lock(mutex_);
  return model.loading;
}

uint64_t Core::LandedBytes(const ModelRecord& model) const {
  return SumOf(model, model.landed.load(std::memory_order_acquire));
}

double Core::EstimateLoadSeconds(const ModelRecord& model) const {
  const std::lock_guard lock(mutex_);
  double seconds = 0;
  for (const SegmentRecord& segment : model.segments) {
    if (segment.state == SegmentState::kResident) continue;
    const double rate = segment.warm_charge > 0 ? rates_.warm_bytes_per_s : rates_.cold_bytes_per_s;
    if (rate > 0) seconds += static_cast<double>(segment.bytes) / rate;
  }
  return seconds;
}

void Core::SetWarmLimit(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  warm_limit_ = bytes;
  MakeWarmRoom(0, nullptr, 0);
  wake_.notify_all();
}

std::vector<ModelResidency> Core::Snapshot() const {
  const std::lock_guard lock(mutex_);
  std::vector<ModelResidency> all;
  for (const auto& [key, model] : models_) {
    all.push_back(model->totals);
    all.back().name = model->name;
    all.back().bytes = CountsLocked(*model);
  }
  return all;
}

void Core::WaitIdle() {
  Lock lock(mutex_);
  landed_.wait(lock, [&] {
    return debts_.empty() && loads_.empty() && warms_.empty() && callbacks_.empty() && !moving_;
  });
}

// ---- the mover -----------------------------------------------------------------------------------------

void Core::RunMover() {
  Lock lock(mutex_);
  for (;;) {
    moving_ = true;
    while (RunOneJob(lock)) {
    }
    moving_ = false;
    landed_.notify_all();
    if (stopping_) return;
    wake_.wait(lock, [&] {
      return stopping_ || !debts_.empty() || !loads_.empty() || !warms_.empty() || !callbacks_.empty();
    });
  }
}

// Taking out comes before bringing in: so the bytes in memory stay within the budgets.
bool Core::RunOneJob(Lock& lock) {
  if (!callbacks_.empty()) {
    const std::function<void()> callback = std::move(callbacks_.front());
    callbacks_.pop_front();
    lock.unlock();
    callback();
    lock.lock();
  } else if (!debts_.empty()) {
    PayDebt(lock);
  } else if (!loads_.empty()) {
    AdvanceLoad(lock);
  } else if (!warms_.empty()) {
    AdvanceWarm(lock);
  } else {
    return false;
  }
  return true;
}

void Core::PayDebt(Lock& lock) {
  auto [model, index] = std::move(debts_.front());
  debts_.pop_front();
  SegmentRecord& segment = model->segments[index];
  const bool unpin = std::exchange(segment.owes_unpin, false);
  const bool drop = std::exchange(segment.owes_drop, false) && !leave_in_memory_;
  lock.unlock();
  if (unpin) model->backing->Unpin(index);
  if (drop) model->backing->Drop(index);
  model.reset();  // the last one of a detached model closes its file: not under the lock
  lock.lock();
}

bool Core::FetchChunk(Lock& lock, const ModelPointer& model, ModelRecord::Job& job, size_t index, bool pin,
                      Fetched* fetched) {
  const uint64_t generation = job.generation;
  const uint64_t all = model->segments[index].bytes;
  const uint64_t begin = job.fetched, chunk = std::min(chunk_bytes_, all - begin);
  const bool last = begin + chunk == all;
  Status& status = fetched->status;
  model->stop = false;
  lock.unlock();
  const Nanoseconds from = clock_.now();
  if (chunk > 0) status = model->backing->Fetch(index, begin, chunk, model->stop);
  if (status && last) status = model->backing->Check(index);
  const bool pinned = status && last && pin;
  if (pinned) model->backing->Pin(index);
  fetched->seconds = static_cast<double>(clock_.now() - from) * 1e-9;
  fetched->bytes = chunk;
  lock.lock();
  if (job.generation == generation) {
    if (status) job.fetched += chunk;
    return true;
  }
  if (pinned) Owe(model, index, /*unpin=*/true, /*drop=*/false);
  return false;
}

void Core::AdvanceLoad(Lock& lock) {
  const ModelPointer model = loads_.front();
  const int32_t index = model->landed.load(std::memory_order_relaxed);
  if (index >= model->target) return FinishLoad(model, {});
  SegmentRecord& segment = model->segments[static_cast<size_t>(index)];
  if (segment.state != SegmentState::kLoading && !BeginSegment(model, segment)) return;
  const bool was_warm = segment.warm_charge > 0;
  Fetched fetched;
  if (!FetchChunk(lock, model, model->load, static_cast<size_t>(index), /*pin=*/true, &fetched)) return;
  model->report.seconds += fetched.seconds;
  model->totals.load_seconds += fetched.seconds;
  if (!fetched.status) {
    ReleaseWarm(*model, segment);  // whatever was there is not believed any more: it leaves memory
    return FinishLoad(model, std::move(fetched.status));
  }
  (was_warm ? model->report.warm_bytes : model->report.cold_bytes) += fetched.bytes;
  (was_warm ? model->totals.warm_bytes_moved : model->totals.cold_bytes_moved) += fetched.bytes;
  LearnRate(was_warm ? rates_.warm_bytes_per_s : rates_.cold_bytes_per_s, fetched);
  if (model->load.fetched == segment.bytes) FinishSegment(model, segment);
}

// A chunk's weight is its share of what is remembered.
void Core::LearnRate(double& rate, const Fetched& fetched) {
  constexpr double kMemoryBytes = 64.0 * (1 << 20);
  if (fetched.seconds <= 0 || fetched.bytes == 0) return;
  const auto bytes = static_cast<double>(fetched.bytes);
  const double weight = rate == 0 ? 1 : std::min(1.0, bytes / kMemoryBytes);
  rate += weight * (bytes / fetched.seconds - rate);
}

bool Core::BeginSegment(const ModelPointer& model, SegmentRecord& segment) {
  // Where there is no room for the rest, nothing more of it is loaded: a step may wait for it layer by layer,
  // and would have computed for nothing.
  const uint64_t wanted = SumOf(*model, model->target) - SumOf(*model, model->landed);
  const uint64_t free = ledger_.free();
  auto charge =
      ledger_.TryTake(model->name, ChargeKind::kWeights, std::max(segment.bytes, wanted > free ? wanted : 0));
  if (!charge) {
    // Others take, and the limit moves, between the two looks: then it is what is missing by now, and never
    // nothing, for a lack of room must not look like weights that cannot be read.
    const uint64_t left = std::min(free, ledger_.free());
    model->report.missing_bytes = std::max<uint64_t>(wanted - std::min(wanted, left), 1);
    Error error = std::move(charge).error();
    error.message = fmt::format("{} bytes of memory are missing to load {}: {}", model->report.missing_bytes,
                                model->name, error.message);
    FinishLoad(model, Fail(std::move(error)));
    return false;
  }
  segment.charge = std::move(*charge);
  segment.state = SegmentState::kLoading;
  model->load.fetched = 0;
  return true;
}

void Core::FinishSegment(const ModelPointer& model, SegmentRecord& segment) {
  segment.state = SegmentState::kResident;
  ReleaseWarm(*model, segment);
  const int32_t landed = model->landed.load(std::memory_order_relaxed) + 1;
  model->landed.store(landed, std::memory_order_release);
  landed_.notify_all();
  // Those who asked for no more than this are told now.
  const auto told =
      std::stable_partition(model->waiters.begin(), model->waiters.end(),
                            [&](const ModelRecord::Waiter& waiter) { return waiter.segments > landed; });
  LoadReport report = model->report;
  report.resident_bytes = SumOf(*model, landed);
  for (auto waiter = told; waiter != model->waiters.end(); ++waiter) {
    if (waiter->done) callbacks_.push_back([done = std::move(waiter->done), report] { done(report); });
  }
  model->waiters.erase(told, model->waiters.end());
  if (landed >= model->target) FinishLoad(model, {});
}

void Core::AdvanceWarm(Lock& lock) {
  const ModelPointer model = warms_.front();
  size_t index = 0;
  const auto needs_nothing = [&](size_t i) {
    const SegmentState state = model->segments[i].state;
    return state != SegmentState::kCold && (state != SegmentState::kWarm || model->backing->Checked(i));
  };
  while (index < model->segments.size() && needs_nothing(index)) ++index;
  if (index == model->segments.size()) return FinishWarm(model);
  SegmentRecord& segment = model->segments[index];
  if (std::exchange(model->warm.segment, index) != index) model->warm.fetched = 0;
  if (segment.warm_charge == 0 && segment.bytes > 0) {
    if (!MakeWarmRoom(segment.bytes, model.get(), model->segments.size())) return FinishWarm(model);
    ChargeWarm(*model, segment);
    model->warm.fetched = 0;
    return;  // what made room is taken out first
  }
  const bool was_warm = segment.state == SegmentState::kWarm;
  Fetched fetched;
  if (!FetchChunk(lock, model, model->warm, index, /*pin=*/false, &fetched)) return;
  if (!fetched.status) return FinishWarm(model);  // a load will say why
  (was_warm ? model->totals.warm_bytes_moved : model->totals.cold_bytes_moved) += fetched.bytes;
  // Without its charge it was made cold while it was being checked.
  if (model->warm.fetched == segment.bytes && segment.warm_charge == segment.bytes)
    segment.state = SegmentState::kWarm;
}

// ---- the public faces ----------------------------------------------------------------------------------

class WeightsHandle final : public ResidentWeights, private architectures::LayerGate {
 public:
  WeightsHandle(std::shared_ptr<Core> core, ModelPointer model)
      : core_(std::move(core)), model_(std::move(model)) {}
  ~WeightsHandle() override { core_->Detach(model_); }

  const std::string& name() const override { return model_->name; }
  uint64_t total_bytes() const override { return model_->total_bytes; }
  int32_t segment_count() const override { return static_cast<int32_t>(model_->segments.size()); }
  int32_t landed_segments() const override { return model_->landed.load(std::memory_order_acquire); }
  uint64_t landed_bytes() const override { return core_->LandedBytes(*model_); }
  bool loading() const override { return core_->Loading(*model_); }
  std::vector<SegmentState> states() const override { return core_->States(*model_); }
  ResidencyCounts counts() const override { return core_->Counts(*model_); }
  void Load(std::function<void(const LoadReport&)> done, int32_t segments) override {
    core_->Load(model_, std::move(done), segments);
  }
  void CancelLoad() override { core_->CancelLoad(model_); }
  void Warm(std::function<void(uint64_t)> done) override { core_->Warm(model_, std::move(done)); }
  uint64_t Evict(uint64_t bytes) override { return core_->Evict(model_, bytes); }
  SegmentWait AwaitSegment(int32_t segment, Nanoseconds most) override {
    if (model_->landed.load(std::memory_order_acquire) > segment) return SegmentWait::kLanded;
    return core_->Await(*model_, segment, most);
  }
  architectures::LayerGate& gate() override { return *this; }
  void Touch() override { core_->Touch(model_); }
  double EstimateLoadSeconds() const override { return core_->EstimateLoadSeconds(*model_); }

 private:
  bool Wait(int32_t segment) override {
    return model_->landed.load(std::memory_order_acquire) > segment || core_->WaitFor(*model_, segment);
  }

  const std::shared_ptr<Core> core_;
  const ModelPointer model_;
};

class ResidencyImpl final : public Residency {
 public:
  ResidencyImpl(Ledger& ledger, const Clock& clock, const ResidencyOptions& options)
      : core_(std::make_shared<Core>(ledger, clock, options)) {}
  ~ResidencyImpl() override { core_->Stop(); }

  std::shared_ptr<ResidentWeights> Attach(std::string name, const std::string& key,
                                          std::unique_ptr<WeightBacking> backing) override {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<ResidentWeights>& known = handles_[key];
    if (auto weights = known.lock()) return weights;
    auto model = std::make_shared<ModelRecord>();
    model->name = std::move(name);
    model->key = key;
    std::vector<uint64_t> in_memory;
    const std::span<const WeightSegment> segments = backing->segments();
    model->segments = std::vector<SegmentRecord>(segments.size());
    for (size_t i = 0; i < segments.size(); ++i) {
      model->segments[i].bytes = segments[i].bytes;
      model->total_bytes += segments[i].bytes;
      in_memory.push_back(backing->BytesInMemory(i));
    }
    model->backing = std::move(backing);
    core_->Attach(model, in_memory);
    std::shared_ptr<ResidentWeights> weights = std::make_shared<WeightsHandle>(core_, std::move(model));
    known = weights;
    std::erase_if(handles_, [&](const auto& entry) { return entry.second.expired(); });
    return weights;
  }

  uint64_t warm_limit() const override { return core_->warm_limit(); }
  uint64_t warm_used() const override { return core_->warm_used(); }
  void SetWarmLimit(uint64_t bytes) override { core_->SetWarmLimit(bytes); }
  LoadRates rates() const override { return core_->rates(); }
  std::vector<ModelResidency> Snapshot() const override { return core_->Snapshot(); }
  void LeaveInMemory() override { core_->LeaveInMemory(); }
  void WaitIdle() override { core_->WaitIdle(); }

 private:
  const std::shared_ptr<Core> core_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<ResidentWeights>> handles_;  // by key
};

}  // namespace

std::unique_ptr<Residency> Residency::Start(Ledger& ledger, const Clock& clock,
                                            const ResidencyOptions& options) {
  return std::make_unique<ResidencyImpl>(ledger, clock, options);
}

}  // namespace tidepool::compute
