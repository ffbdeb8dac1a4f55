// "lru" and "serverlessllm": models come and go between requests, never within one.
#include <algorithm>

#include "compute/scheduler/baselines/baseline_scheduler.h"

namespace tidepool::compute {
namespace pool {
namespace {

class Lru final : public BaselineScheduler {
 public:
  using BaselineScheduler::BaselineScheduler;
  std::string_view name() const override { return "lru"; }

 protected:
  void PlaceJobs(Nanoseconds now, std::vector<Effect>& effects) override {
    bool head_waits = false;  // one that needs a load waits: those behind it that need one wait too
    for (size_t i = 0; i < unplaced_.size();) {
      Job& job = *unplaced_[i];
      Device* device = Loaded(job);
      if (device == nullptr && !head_waits) {
        device = MakePlace(job, effects);
        head_waits = device == nullptr;
      }
      if (device == nullptr) {
        if (!Possible(job)) {
          Refuse(job, Reason::kTooLarge, now, effects);
          head_waits = false;
          continue;
        }
        ++i;
        continue;
      }
      unplaced_.erase(unplaced_.begin() + static_cast<ptrdiff_t>(i));
      Assign(job, *device, now);
    }
  }

  void ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) override {
    for (Replica* replica : device.replicas) {
      if (replica->jobs() > 0) Load(*replica, Reason::kUrgent, now, effects);
    }
  }

 private:
  bool Possible(const Job& job) const {
    return std::any_of(devices_.begin(), devices_.end(),
                       [&](const auto& device) { return Fits(job, *device); });
  }
  static bool Here(const Replica& replica) {
    return replica.landed > 0 || replica.loading || replica.jobs() > 0;
  }
  // Memory the models here have or will have.
  static uint64_t Taken(const Device& device) {
    uint64_t bytes = 0;
    for (const Replica* replica : device.replicas) {
      if (Here(*replica)) bytes += replica->model->weight_bytes;
    }
    return bytes;
  }
  Device* Loaded(const Job& job) const {
    Device* best = nullptr;
    for (Replica* replica : job.model->replicas) {
      if (replica == nullptr || !Here(*replica) || !Fits(job, *replica->device)) continue;
      if (best == nullptr || LoadOf(*replica->device) < LoadOf(*best)) best = replica->device;
    }
    return best;
  }
  Device* MakePlace(const Job& job, std::vector<Effect>& effects) {
    const uint64_t bytes = job.model->weight_bytes;
    const auto fits = [&](const Device& device, uint64_t gone) {
      return Taken(device) - gone + bytes + KvReserve(device) <= device.arena &&
             device.used() - gone + bytes <= device.arena;
    };
    Device* free = nullptr;
    for (const auto& device : devices_) {
      if (!Fits(job, *device) || !fits(*device, 0)) continue;
      if (free == nullptr || device->free() > free->free()) free = device.get();
    }
    if (free != nullptr) return free;
    // The device whose victims, least recently used first, were used longest ago.
    Device* best = nullptr;
    Nanoseconds oldest = 0;
    std::vector<Replica*> best_victims;
    for (const auto& device : devices_) {
      if (!Fits(job, *device)) continue;
      std::vector<Replica*> idle;
      for (Replica* replica : device->replicas) {
        if (Here(*replica) && replica->jobs() == 0 && !replica->loading && device->running != replica) {
          idle.push_back(replica);
        }
      }
      std::sort(idle.begin(), idle.end(), [](const Replica* a, const Replica* b) {
        const Nanoseconds x = std::max(a->last_used, a->landed_at), y = std::max(b->last_used, b->landed_at);
        return x != y ? x < y : a->model->model.model < b->model->model.model;
      });
      uint64_t gone = 0;
      size_t count = 0;
      while (count < idle.size() && !fits(*device, gone)) gone += idle[count++]->bytes;
      if (!fits(*device, gone) || count == 0) continue;
      const Nanoseconds used = std::max(idle[count - 1]->last_used, idle[count - 1]->landed_at);
      if (best != nullptr && used >= oldest) continue;
      best = device.get();
      oldest = used;
      best_victims.assign(idle.begin(), idle.begin() + static_cast<ptrdiff_t>(count));
    }
    for (Replica* victim : best_victims) EvictAll(*victim, Reason::kIdle, effects);
    return best;
  }
};

class ServerlessLlm final : public BaselineScheduler {
 public:
  using BaselineScheduler::BaselineScheduler;
  std::string_view name() const override { return "serverlessllm"; }

 protected:
  static constexpr int32_t kQueue =
      4;  // requests an instance takes at a time (the SOSP'25 artifact's simulation)

  void PlaceJobs(Nanoseconds now, std::vector<Effect>& effects) override {
    bool none_free = false;
    for (size_t i = 0; i < unplaced_.size();) {
      Job& job = *unplaced_[i];
      Device* device = Instance(job);
      if (device == nullptr && !none_free) {
        device = Soonest(job);
        if (device == nullptr) {
          const bool possible =
              std::any_of(devices_.begin(), devices_.end(), [&](const auto& d) { return Fits(job, *d); });
          if (!possible) {
            Refuse(job, Reason::kTooLarge, now, effects);
            continue;
          }
          none_free = true;
        }
      }
      if (device == nullptr) {
        ++i;
        continue;
      }
      unplaced_.erase(unplaced_.begin() + static_cast<ptrdiff_t>(i));
      Assign(job, *device, now);
    }
  }

  void ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) override {
    for (Replica* replica : device.replicas) {
      if (replica->jobs() == 0) continue;
      for (Replica* other : device.replicas) {
        if (other != replica && other->landed > 0) EvictAll(*other, Reason::kIdle, effects);
      }
      Load(*replica, Reason::kUrgent, now, effects);
    }
  }

 private:
  static bool Free(const Device& device) {
    return device.loading == nullptr && !device.busy &&
           std::all_of(device.replicas.begin(), device.replicas.end(),
                       [](const Replica* r) { return r->jobs() == 0; });
  }
  Device* Instance(const Job& job) const {
    Replica* best = nullptr;
    for (Replica* replica : job.model->replicas) {
      if (replica == nullptr || !Fits(job, *replica->device)) continue;
      if (replica->jobs() == 0 || replica->jobs() >= kQueue) continue;  // an idle one is a free device
      if (best == nullptr || replica->jobs() < best->jobs()) best = replica;
    }
    return best == nullptr ? nullptr : best->device;
  }
  Device* Soonest(const Job& job) const {
    Device* best = nullptr;
    double soonest = 0;
    for (const auto& device : devices_) {
      if (!Fits(job, *device) || !Free(*device)) continue;
      const double start_s = LoadSeconds(*job.model, *device);
      if (best == nullptr || start_s < soonest) {
        best = device.get();
        soonest = start_s;
      }
    }
    return best;
  }
};

}  // namespace
}  // namespace pool

std::unique_ptr<PoolScheduler> MakeLruScheduler(const PoolPolicyOptions& options) {
  return std::make_unique<pool::Lru>(options);
}

std::unique_ptr<PoolScheduler> MakeServerlessLlmScheduler(const PoolPolicyOptions& options) {
  return std::make_unique<pool::ServerlessLlm>(options);
}

}  // namespace tidepool::compute
