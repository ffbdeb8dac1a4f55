// What the baselines share: serving one model of a device as vLLM would. Internal to this folder.
#pragma once

#include "compute/scheduler/baselines/baselines.h"
#include "compute/scheduler/pool_state.h"

namespace tidepool::compute::pool {

class BaselineScheduler : public PoolState {
 public:
  explicit BaselineScheduler(const PoolPolicyOptions& options) : PoolState(options) {}
  void Decide(Nanoseconds now, std::vector<Effect>& effects) override;

 protected:
  void PlaceJob(Job&, Nanoseconds) override {}  // all of it is in Decide
  void OnAssigned(Job& job, Nanoseconds now) override;

  // Finds devices for what is in unplaced_.
  virtual void PlaceJobs(Nanoseconds now, std::vector<Effect>& effects) = 0;
  // Loads, evictions and moves of a device; busy or not.
  virtual void ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) = 0;
  // A free device: something to run, or nothing. The default: its resident models take turns of a few steps.
  virtual void ServeDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects);

  // Admits, grows, runs. False: nothing was to be done.
  bool Serve(Replica& replica, const ComposeRule& rule, Nanoseconds now, std::vector<Effect>& effects);
  bool Grow(Replica& replica, int32_t tokens, std::vector<Effect>& effects);
  // Everything of a model, when it is not loaded just now; false: it is, or it runs.
  bool EvictAll(Replica& replica, Reason reason, std::vector<Effect>& effects);
  bool Load(Replica& replica, Reason reason, Nanoseconds now, std::vector<Effect>& effects);
  void Refuse(Job& job, Reason reason, Nanoseconds now, std::vector<Effect>& effects);
  // Jobs that can never fit the device whole.
  bool Fits(const Job& job, const Device& device) const {
    return job.model->weight_bytes + KvBytes(*job.model, job.most_tokens()) <= device.arena &&
           !device.cordoned;
  }
  // What a device needs besides weights before it is worth having: a tenth of the arena for KV.
  static uint64_t KvReserve(const Device& device) { return device.arena / 10; }

 private:
  void Admit(Replica& replica, std::vector<Effect>& effects);
  bool DropYoungest(Device& device, const Job& but, std::vector<Effect>& effects);
};

}  // namespace tidepool::compute::pool
