// "dedicated" and "static": models have their devices from the start and keep them.
#include <algorithm>
#include <map>

#include "compute/scheduler/baselines/baseline_scheduler.h"

namespace tidepool::compute {
namespace pool {
namespace {

constexpr double kFullDevice = 0.7;  // a model whose devices are all busier claims another

class FixedPlacement : public BaselineScheduler {
 public:
  using BaselineScheduler::BaselineScheduler;
  void AddModel(const PoolModel& model) override {
    BaselineScheduler::AddModel(model);
    placed_ = false;
  }
  void RemoveModel(PoolModelId model) override {
    places_.erase(model);
    BaselineScheduler::RemoveModel(model);
  }

 protected:
  virtual void PlaceModels() = 0;
  virtual void Claim(const Job& /*job*/, double /*least_load*/) {}

  void PlaceJobs(Nanoseconds now, std::vector<Effect>& effects) override {
    if (!placed_) {
      placed_ = true;
      PlaceModels();
    }
    while (!unplaced_.empty()) {
      Job& job = *unplaced_.front();
      double least = 0;
      Device* best = Least(job, least);
      Claim(job, best == nullptr ? 0 : least);
      best = Least(job, least);
      if (best == nullptr) {
        Refuse(job, Reason::kNoDevice, now, effects);
        continue;
      }
      unplaced_.erase(unplaced_.begin());
      Assign(job, *best, now);
    }
  }

  void ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) override {
    for (Replica* replica : device.replicas) Load(*replica, Reason::kPinned, now, effects);
  }

  Device* Least(const Job& job, double& least) {
    Device* best = nullptr;
    for (Device* device : places_[job.model->model.model]) {
      if (!Fits(job, *device)) continue;
      const double load = LoadOf(*device);
      if (best == nullptr || load < least) {
        least = load;
        best = device;
      }
    }
    return best;
  }
  void Put(Model& model, Device& device) {
    ReplicaOf(model, device);
    places_[model.model.model].push_back(&device);
  }

  std::map<PoolModelId, std::vector<Device*>> places_;

 private:
  bool placed_ = false;
};

class Dedicated final : public FixedPlacement {
 public:
  using FixedPlacement::FixedPlacement;
  std::string_view name() const override { return "dedicated"; }

 protected:
  void PlaceModels() override {
    for (const auto& [id, model] : models_) {
      if (places_[id].empty()) TakeFree(*model);
    }
  }
  void Claim(const Job& job, double least_load) override {
    if (least_load > kFullDevice) TakeFree(*job.model);
  }

 private:
  void TakeFree(Model& model) {
    for (const auto& device : devices_) {
      if (!device->replicas.empty() || model.weight_bytes + KvReserve(*device) > device->arena) continue;
      Put(model, *device);
      return;
    }
  }
};

// The placement: in the order of the models, each to the device with most memory left where its weights fit
// beside a tenth of the arena for KV. MuxServe's own search needs the rates beforehand, and its artifact
// refuses more than two models a device; this one takes as many as fit.
class Static final : public FixedPlacement {
 public:
  using FixedPlacement::FixedPlacement;
  std::string_view name() const override { return "static"; }

 protected:
  void PlaceModels() override {
    for (const auto& [id, model] : models_) {
      if (!places_[id].empty()) continue;
      Device* best = nullptr;
      uint64_t most = 0;
      for (const auto& device : devices_) {
        uint64_t taken = KvReserve(*device) + model->weight_bytes;
        for (const Replica* replica : device->replicas) taken += replica->model->weight_bytes;
        if (taken > device->arena) continue;
        if (best == nullptr || device->arena - taken > most) {
          most = device->arena - taken;
          best = device.get();
        }
      }
      if (best != nullptr) Put(*model, *best);
    }
  }
};

}  // namespace
}  // namespace pool

std::unique_ptr<PoolScheduler> MakeDedicatedScheduler(const PoolPolicyOptions& options) {
  return std::make_unique<pool::Dedicated>(options);
}

std::unique_ptr<PoolScheduler> MakeStaticScheduler(const PoolPolicyOptions& options) {
  return std::make_unique<pool::Static>(options);
}

}  // namespace tidepool::compute
