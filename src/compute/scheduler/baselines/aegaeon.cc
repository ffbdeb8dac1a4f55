// "aegaeon": Xiang et al., "Aegaeon: Effective GPU Pooling for Concurrent LLM Serving on the Market",
// SOSP'25, algorithms 1 (grouped prefill) and 2 (batched decode), MAX_GPSIZE 8, QMAX 4 s.
//
// Followed from the paper: the group is appended to on any prefill instance, else a new one goes where the
// estimated time (prefills and switches) is least; quotas q_i = c / (n_i (alpha - S)); the KV of a request
// goes from the prefill instance through the host to a decode instance; one model is prefetched behind the
// running one. Followed from the artifact: a node for a model (id mod nodes), which a request never leaves;
// prefill one request at a time; the group bound is on what is left in the queue; a batch takes a request
// when sum(ceil((len + 4 * 16) / 16)) blocks fit; new batches go to the instance with fewest; prefetch leaves
// at least 1024 blocks of KV; of a decode instance's weights only the running model's and the prefetched
// one's are kept. Neither: the switch cost c is weights / measured copy rate (the artifact's divides by 0.15
// of the bus and ignores what is there already), and step times count the batch size (the artifact passes
// -1). A prefetch that turns out wrong is dropped where the artifact raises an error. Requests that are
// refused: none.
#include <algorithm>
#include <cmath>
#include <deque>

#include "compute/scheduler/baselines/baseline_scheduler.h"

namespace tidepool::compute {
namespace pool {
namespace {

constexpr int32_t kAheadTokens = 4 * kBlockTokens;
constexpr uint64_t kPrefetchBlocks = 1024;

class Aegaeon final : public BaselineScheduler {
 public:
  Aegaeon(const PoolPolicyOptions& options, const AegaeonOptions& aegaeon)
      : BaselineScheduler(options), aegaeon_(aegaeon) {}
  std::string_view name() const override { return "aegaeon"; }

 protected:
  void PlaceJobs(Nanoseconds now, std::vector<Effect>& effects) override;
  void ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) override;
  void ServeDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) override;

 private:
  struct Group {
    Model* model = nullptr;
    std::deque<PoolJobId> jobs;
  };
  struct Batch {
    Model* model = nullptr;
    std::vector<PoolJobId> jobs;
    double quota_s = 0;
  };
  struct Instance {
    bool prefill = false;
    std::deque<Group> groups;     // prefill
    std::vector<Batch> work;      // decode
    size_t current = 0;           // of the round
    Nanoseconds turn_began = -1;  // first step of the turn
    bool swapping_out = false;    // the turn is over
    Model* kept = nullptr;        // the model of the turn
    Model* next = nullptr;        // to be prefetched
  };

  bool Decoding(PoolJobId id, const Job*& job) const {
    job = FindJob(id);
    return job != nullptr && !job->gone;
  }
  void Split();
  void Dispatch(Job& job, Instance& from, Nanoseconds now);
  bool FitsBatch(const Batch& batch, const Job& job, const Device& device) const;
  uint64_t BatchBytes(const Job& job) const { return KvBytes(*job.model, job.computed + kAheadTokens); }
  void Prune(Instance& instance);
  void BeginRound(Instance& instance, Device& device);
  void NextTurn(Instance& instance, Device& device);
  void ManageDecode(Instance& instance, Device& device, Nanoseconds now, std::vector<Effect>& effects);
  void KeepOnly(Device& device, const Model* first, const Model* second, std::vector<Effect>& effects);
  bool Bring(Device& device, Model& model, Reason reason, Nanoseconds now, std::vector<Effect>& effects);
  void PrefetchNext(Instance& instance, Device& device, Nanoseconds now, std::vector<Effect>& effects);
  double StepSeconds(const Batch& batch, const Device& device) const;

  const AegaeonOptions aegaeon_;
  std::vector<Instance> instances_;  // by device
};

void Aegaeon::Split() {
  if (instances_.size() == devices_.size()) return;
  instances_.assign(devices_.size(), {});
  for (const auto& host : hosts_) {
    const size_t count = host->devices.size();
    const size_t wanted =
        aegaeon_.prefill_devices > 0 ? static_cast<size_t>(aegaeon_.prefill_devices) : count * 3 / 8;
    const size_t prefills = std::clamp<size_t>(wanted, 1, std::max<size_t>(count, 2) - 1);
    for (size_t i = 0; i < prefills && i < count; ++i) instances_[Index(host->devices[i]->id)].prefill = true;
  }
}

// ---- algorithm 1 ---------------------------------------------------------------------------------------

void Aegaeon::PlaceJobs(Nanoseconds now, std::vector<Effect>& effects) {
  Split();
  std::vector<Job*> arriving;
  arriving.swap(unplaced_);
  for (Job* job : arriving) {
    const Host& host = *hosts_[job->model->model.model % hosts_.size()];
    Device* best = nullptr;
    Group* group = nullptr;
    double least = 0;
    for (Device* device : host.devices) {
      Instance& instance = instances_[Index(device->id)];
      if (!instance.prefill || !Fits(*job, *device)) continue;
      double load = 0;
      const Model* loaded = instance.kept;
      for (Group& queued : instance.groups) {
        if (group == nullptr && queued.model == job->model &&
            queued.jobs.size() < static_cast<size_t>(aegaeon_.max_group)) {
          group = &queued;
          best = device;
        }
        if (queued.model != loaded) load += LoadSeconds(*queued.model, *device);
        loaded = queued.model;
        for (const PoolJobId id : queued.jobs) {
          const Job* other = nullptr;
          if (Decoding(id, other)) load += PrefillSeconds(*other->model, *device, other->prompt);
        }
      }
      if (group != nullptr) break;
      if (best == nullptr || load < least) {
        best = device;
        least = load;
      }
    }
    if (best == nullptr) {
      unplaced_.push_back(job);
      Refuse(*job, Reason::kTooLarge, now, effects);
      continue;
    }
    if (group == nullptr)
      group = &instances_[Index(best->id)].groups.emplace_back(Group{.model = job->model, .jobs = {}});
    group->jobs.push_back(job->job.job);
    Assign(*job, *best, now);
  }
}

void Aegaeon::Prune(Instance& instance) {
  const auto gone = [&](PoolJobId id) {
    const Job* job = nullptr;
    return !Decoding(id, job);
  };
  for (Group& group : instance.groups) std::erase_if(group.jobs, gone);
  std::erase_if(instance.groups, [](const Group& group) { return group.jobs.empty(); });
  for (size_t i = 0; i < instance.work.size();) {
    Batch& batch = instance.work[i];
    std::erase_if(batch.jobs, gone);
    if (!batch.jobs.empty()) {
      ++i;
      continue;
    }
    instance.work.erase(instance.work.begin() + static_cast<ptrdiff_t>(i));
    if (i < instance.current) --instance.current;
    if (i == instance.current) {
      instance.turn_began = -1;
      instance.swapping_out = false;
    }
  }
}

void Aegaeon::KeepOnly(Device& device, const Model* first, const Model* second,
                       std::vector<Effect>& effects) {
  for (Replica* replica : device.replicas) {
    if (replica->model != first && replica->model != second && replica->landed > 0) {
      EvictAll(*replica, Reason::kMoreSlack, effects);
    }
  }
}

// True when its weights are there; else they are on their way, or will be when there is room.
bool Aegaeon::Bring(Device& device, Model& model, Reason reason, Nanoseconds now,
                    std::vector<Effect>& effects) {
  Replica& replica = ReplicaOf(model, device);
  if (replica.resident() && !replica.loading) return true;
  if (device.loading != nullptr) {
    if (device.loading != &replica && !device.loading->stopping && reason == Reason::kUrgent) {
      EmitStopLoad(device, effects);
    }
    return false;
  }
  Load(replica, reason, now, effects);
  return false;
}

// "Prefetch disabled if it would leave < 1024 KV blocks" (pooling notes 1.7), of the model that runs.
void Aegaeon::PrefetchNext(Instance& instance, Device& device, Nanoseconds now,
                           std::vector<Effect>& effects) {
  if (instance.next == nullptr || instance.next == instance.kept || instance.kept == nullptr) return;
  const uint64_t weights = instance.kept->weight_bytes + instance.next->weight_bytes;
  if (weights + kPrefetchBlocks * instance.kept->model.kv_block_bytes > device.arena) return;
  Bring(device, *instance.next, Reason::kPrewarm, now, effects);
}

// ---- algorithm 2 ---------------------------------------------------------------------------------------

bool Aegaeon::FitsBatch(const Batch& batch, const Job& job, const Device& device) const {
  if (batch.model != job.model) return false;
  if (batch.jobs.size() >= static_cast<size_t>(job.model->model.max_sequences)) return false;
  uint64_t bytes = BatchBytes(job) + job.model->weight_bytes;
  for (const PoolJobId id : batch.jobs) {
    const Job* other = nullptr;
    if (Decoding(id, other)) bytes += BatchBytes(*other);
  }
  return bytes <= device.arena;
}

void Aegaeon::Dispatch(Job& job, Instance& from, Nanoseconds /*now*/) {
  const Host& host = *hosts_[Index(job.replica->device->device.host)];
  Device* best = nullptr;
  Batch* batch = nullptr;
  for (Device* device : host.devices) {
    Instance& instance = instances_[Index(device->id)];
    if (&instance == &from || instance.prefill) continue;
    for (Batch& candidate : instance.work) {
      if (batch != nullptr || !FitsBatch(candidate, job, *device)) continue;
      batch = &candidate;
      best = device;
    }
    if (batch != nullptr) break;
    if (best == nullptr || instance.work.size() < instances_[Index(best->id)].work.size()) best = device;
  }
  if (batch == nullptr)
    batch = &instances_[Index(best->id)].work.emplace_back(Batch{.model = job.model, .jobs = {}});
  batch->jobs.push_back(job.job.job);
  job.move_to = best;
}

double Aegaeon::StepSeconds(const Batch& batch, const Device& device) const {
  double context = 0;
  for (const PoolJobId id : batch.jobs) {
    const Job* job = nullptr;
    if (Decoding(id, job)) context += job->computed;
  }
  return ProfileOf(*batch.model, device).StepSeconds(0, 0, context, static_cast<double>(batch.jobs.size()));
}

void Aegaeon::BeginRound(Instance& instance, Device& device) {
  instance.current = 0;
  // Batches are formed anew, first come first served, and equal models lie side by side.
  std::vector<PoolJobId> jobs;
  for (const Batch& batch : instance.work) jobs.insert(jobs.end(), batch.jobs.begin(), batch.jobs.end());
  std::sort(jobs.begin(), jobs.end(),
            [&](PoolJobId a, PoolJobId b) { return FindJob(a)->arrival_order < FindJob(b)->arrival_order; });
  instance.work.clear();
  for (const PoolJobId id : jobs) {
    const Job& job = *FindJob(id);
    Batch* fits = nullptr;
    for (Batch& batch : instance.work) {
      if (fits == nullptr && FitsBatch(batch, job, device)) fits = &batch;
    }
    if (fits == nullptr) fits = &instance.work.emplace_back(Batch{.model = job.model, .jobs = {}});
    fits->jobs.push_back(id);
  }
  std::stable_sort(instance.work.begin(), instance.work.end(), [&](const Batch& a, const Batch& b) {
    if ((a.model == instance.kept) != (b.model == instance.kept))
      return a.model == instance.kept;  // no switch first
    return a.model->model.model < b.model->model.model;
  });
  double switches_s = 0;
  std::vector<double> ahead;
  for (size_t i = 0; i < instance.work.size(); ++i) {
    const Batch& batch = instance.work[i];
    ahead.push_back(static_cast<double>(batch.model->model.tpot) * 1e-9 / StepSeconds(batch, device));
    if (i == 0 || instance.work[i - 1].model != batch.model) {
      switches_s += static_cast<double>(batch.model->weight_bytes) / device.copy_rate;
    }
  }
  const std::vector<double> quotas = AegaeonQuotas(ahead, switches_s, aegaeon_.max_quota_s);
  for (size_t i = 0; i < instance.work.size(); ++i) instance.work[i].quota_s = quotas[i];
}

void Aegaeon::NextTurn(Instance& instance, Device& device) {
  instance.turn_began = -1;
  instance.swapping_out = false;
  if (instance.current + 1 < instance.work.size()) {
    ++instance.current;
  } else {
    BeginRound(instance, device);
  }
  ++counters_.turns;
}

void Aegaeon::ManageDecode(Instance& instance, Device& device, Nanoseconds now,
                           std::vector<Effect>& effects) {
  Prune(instance);
  if (instance.work.empty()) {
    instance.current = 0;
    instance.turn_began = -1;
    instance.next = nullptr;
    return;
  }
  if (instance.current >= instance.work.size() ||
      (instance.turn_began < 0 && instance.work[instance.current].quota_s == 0)) {
    BeginRound(instance, device);
  }
  if (device.busy) {
    PrefetchNext(instance, device, now, effects);
  } else {
    Batch* batch = &instance.work[instance.current];
    const bool over =
        instance.turn_began >= 0 && now - instance.turn_began >= std::llround(batch->quota_s * 1e9);
    if (over && instance.work.size() > 1) {
      // The batch goes to the host; the next turn begins at once and waits for what it needs.
      Host& host = *hosts_[Index(device.device.host)];
      Replica& replica = ReplicaOf(*batch->model, device);
      for (size_t i = replica.active.size(); i-- > 0;) {
        Job& job = *replica.active[i];
        if (!job.asked && KvBytes(*job.model, job.computed) <= host.free())
          EmitSpill(job, Reason::kRoom, effects);
      }
      NextTurn(instance, device);
    } else if (over) {
      BeginRound(instance, device);
      instance.turn_began = -1;
    }
  }
  Batch& batch = instance.work[instance.current];
  if (!device.busy) instance.kept = batch.model;
  instance.next = nullptr;
  for (size_t i = 1; i < instance.work.size() && instance.next == nullptr; ++i) {
    Model* model = instance.work[(instance.current + i) % instance.work.size()].model;
    if (model != batch.model) instance.next = model;
  }
  if (device.busy) return;
  KeepOnly(device, instance.kept, instance.next, effects);
  if (!Bring(device, *batch.model, Reason::kUrgent, now, effects)) {
    // Without the room for both the prefetched one goes.
    if (device.loading == nullptr && batch.model->quarantined_until <= now) {
      KeepOnly(device, instance.kept, nullptr, effects);
      Bring(device, *batch.model, Reason::kUrgent, now, effects);
    }
  } else {
    PrefetchNext(instance, device, now, effects);
  }
  Replica& replica = ReplicaOf(*batch.model, device);
  for (const PoolJobId id : batch.jobs) {
    Job& job = *FindJob(id);
    if (job.place != Place::kSpilled || job.paused || job.replica != &replica) continue;
    const int32_t tokens =
        std::min(std::max(job.most_tokens(), job.computed + 1), job.computed + kAheadTokens);
    uint64_t needed = KvBytes(*job.model, tokens);
    if (!replica.resident() && !replica.loading) needed += batch.model->weight_bytes - replica.bytes;
    if (needed <= device.free()) EmitRestore(job, tokens, effects);
  }
}

// ---- both ----------------------------------------------------------------------------------------------

void Aegaeon::ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  Instance& instance = instances_[Index(device.id)];
  if (!instance.prefill) {
    ManageDecode(instance, device, now, effects);
    return;
  }
  // What has its first token goes to a decode instance by way of the host.
  Host& host = *hosts_[Index(device.device.host)];
  for (Replica* replica : device.replicas) {
    if (device.running == replica) continue;
    for (size_t i = replica->active.size(); i-- > 0;) {
      Job& job = *replica->active[i];
      if (job.prefilling() || job.asked || KvBytes(*job.model, job.computed) > host.free()) continue;
      for (Group& group : instance.groups) std::erase(group.jobs, job.job.job);
      Dispatch(job, instance, now);
      EmitSpill(job, Reason::kMove, effects);
    }
  }
  Prune(instance);
  if (device.busy || instance.groups.empty()) {
    if (device.busy) PrefetchNext(instance, device, now, effects);
    return;
  }
  Model* model = instance.groups.front().model;
  instance.kept = model;
  instance.next = nullptr;
  for (const Group& group : instance.groups) {
    if (instance.next == nullptr && group.model != model) instance.next = group.model;
  }
  KeepOnly(device, model, instance.next, effects);
  if (Bring(device, *model, Reason::kUrgent, now, effects)) {
    PrefetchNext(instance, device, now, effects);
  } else if (device.loading == nullptr && model->quarantined_until <= now) {
    KeepOnly(device, model, nullptr, effects);
    Bring(device, *model, Reason::kUrgent, now, effects);
  }
}

void Aegaeon::ServeDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  Instance& instance = instances_[Index(device.id)];
  if (!instance.prefill) {
    if (instance.work.empty()) return;
    Batch& batch = instance.work[instance.current];
    Replica& replica = ReplicaOf(*batch.model, device);
    if (!replica.resident() || replica.active.empty()) return;
    if (Grow(replica, kAheadTokens, effects)) return;
    const Nanoseconds left = instance.turn_began < 0
                                 ? std::llround(batch.quota_s * 1e9)
                                 : instance.turn_began + std::llround(batch.quota_s * 1e9) - now;
    const double steps = std::ceil(static_cast<double>(left) * 1e-9 / StepSeconds(batch, device));
    const ComposeRule rule{
        .most_steps = std::min(options_.max_turn_steps, static_cast<int32_t>(std::clamp(steps, 1.0, 1e6)))};
    if (!ComposeStep(replica, rule, now, device.plan)) return;
    if (instance.turn_began < 0) instance.turn_began = now;
    device.turn = {.replica = &replica, .steps_left = 0, .broken = false};
    EmitRun(device, replica, Reason::kTurn, now, effects);
    return;
  }
  if (instance.groups.empty()) return;
  Group& group = instance.groups.front();
  Replica& replica = ReplicaOf(*group.model, device);
  if (!replica.resident() || replica.loading) return;
  Job& job = *FindJob(group.jobs.front());
  if (job.place == Place::kWaiting) {
    const int32_t tokens = job.prompt + 1;
    if (!job.paused && KvBytes(*job.model, tokens) <= device.free() &&
        job.refused_epoch != device.room_epoch) {
      EmitAdmit(job, tokens, effects);
    } else if (job.paused && group.jobs.size() > 1) {
      std::rotate(group.jobs.begin(), group.jobs.begin() + 1, group.jobs.end());
    }
    return;
  }
  // One request at a time: only the front is admitted. Inputs without an answer end here.
  if (ComposeStep(replica, {.decode = false, .most_prefills = 1}, now, device.plan)) {
    device.turn = {.replica = &replica, .steps_left = 0, .broken = false};
    EmitRun(device, replica, Reason::kTurn, now, effects);
  }
}

}  // namespace
}  // namespace pool

std::vector<double> AegaeonQuotas(std::span<const double> ahead, double switches_s, double max_quota_s) {
  double share = 0, least = INFINITY;
  for (const double n : ahead) {
    share += 1 / n;
    least = std::min(least, n);
  }
  const double alpha = std::max(switches_s / (least * max_quota_s) + share, 0.5);
  std::vector<double> quotas;
  for (const double n : ahead) {
    const double slow = n * (alpha - share);
    quotas.push_back(slow > 0 ? std::min(switches_s / slow, max_quota_s) : max_quota_s);
  }
  return quotas;
}

std::unique_ptr<PoolScheduler> MakeAegaeonScheduler(const PoolPolicyOptions& options,
                                                    const AegaeonOptions& aegaeon) {
  return std::make_unique<pool::Aegaeon>(options, aegaeon);
}

}  // namespace tidepool::compute
