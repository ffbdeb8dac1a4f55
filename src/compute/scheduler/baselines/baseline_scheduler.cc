#include "compute/scheduler/baselines/baseline_scheduler.h"

#include <algorithm>

namespace tidepool::compute::pool {
namespace {

constexpr int32_t kReserveTokens = 128;  // KV reserved ahead
constexpr int32_t kSharedSteps = 4;      // of a turn where several models of a device have work

}  // namespace

void BaselineScheduler::Decide(Nanoseconds now, std::vector<Effect>& effects) {
  ++counters_.decisions;
  wake_at_ = INT64_MAX;
  PlaceJobs(now, effects);
  for (const auto& device : devices_) {
    if (device->asked > 0) continue;  // answers come first
    ManageDevice(*device, now, effects);
    if (device->busy) {
      if (device->turn.broken) EmitYield(*device, effects);
    } else if (device->asked == 0) {
      ServeDevice(*device, now, effects);
    }
  }
}

void BaselineScheduler::OnAssigned(Job& job, Nanoseconds /*now*/) { Break(*job.replica->device); }

void BaselineScheduler::ServeDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  int32_t with_work = 0;
  for (const Replica* replica : device.replicas) with_work += replica->jobs() > 0 && replica->resident();
  if (with_work == 0) return;
  const size_t count = device.replicas.size();
  size_t first = 0;
  for (size_t i = 0; i < count; ++i) {
    if (device.replicas[i] == device.turn.replica) first = i + 1;
  }
  for (size_t i = 0; i < count; ++i) {
    Replica& replica = *device.replicas[(first + i) % count];
    if (replica.jobs() == 0 || !replica.resident()) continue;
    const ComposeRule rule{.most_steps =
                               std::min(options_.max_turn_steps, with_work > 1 ? kSharedSteps : INT32_MAX)};
    if (Serve(replica, rule, now, effects)) return;
  }
}

void BaselineScheduler::Admit(Replica& replica, std::vector<Effect>& effects) {
  Device& device = *replica.device;
  int32_t slots = replica.model->model.max_sequences - replica.runnable;
  for (Job* job : replica.waiting) {
    if (slots <= 0) return;
    if (job->paused || job->asked) continue;
    if (job->refused_epoch == device.room_epoch) return;
    const int32_t tokens = std::min(job->most_tokens(), job->prompt + kReserveTokens);
    if (KvBytes(*job->model, tokens) > device.free()) return;  // first come first served: nobody passes
    EmitAdmit(*job, tokens, effects);
    --slots;
  }
}

bool BaselineScheduler::DropYoungest(Device& device, const Job& but, std::vector<Effect>& effects) {
  Job* youngest = nullptr;
  for (Replica* replica : device.replicas) {
    for (Job* job : replica->active) {
      if (job == &but || job->asked || device.running == replica) continue;
      if (youngest == nullptr || job->arrival_order > youngest->arrival_order) youngest = job;
    }
  }
  if (youngest == nullptr) return false;
  EmitDrop(*youngest, Reason::kRoom, effects);
  return true;
}

bool BaselineScheduler::Grow(Replica& replica, int32_t more, std::vector<Effect>& effects) {
  Device& device = *replica.device;
  bool asked = false;
  for (size_t i = 0; i < replica.active.size(); ++i) {
    Job& job = *replica.active[i];
    if (job.paused || job.asked || job.computed < job.reserved || job.refused_epoch == device.room_epoch)
      continue;
    const int32_t tokens = std::min(std::max(job.most_tokens(), job.computed + 1), job.computed + more);
    const uint64_t bytes = KvBytes(*job.model, tokens) - job.device_bytes;
    const size_t before = replica.active.size();
    while (bytes > device.free() && DropYoungest(device, job, effects)) {
    }
    if (bytes > device.free()) continue;
    EmitGrow(job, tokens, effects);
    asked = true;
    if (replica.active.size() != before) return true;  // the list has changed: the rest comes next time
  }
  return asked;
}

bool BaselineScheduler::Serve(Replica& replica, const ComposeRule& rule, Nanoseconds now,
                              std::vector<Effect>& effects) {
  Device& device = *replica.device;
  Admit(replica, effects);
  if (device.asked > 0 || Grow(replica, kReserveTokens, effects)) return true;
  if (!ComposeStep(replica, rule, now, device.plan)) return false;
  if (device.turn.replica != &replica) ++counters_.turns;
  device.turn = {.replica = &replica, .steps_left = 0, .broken = false};
  ++replica.served;
  EmitRun(device, replica, Reason::kTurn, now, effects);
  return true;
}

bool BaselineScheduler::EvictAll(Replica& replica, Reason reason, std::vector<Effect>& effects) {
  if (replica.loading || replica.device->running == &replica) return false;
  if (replica.landed > 0) EmitEvict(replica, 0, reason, effects);
  return true;
}

bool BaselineScheduler::Load(Replica& replica, Reason reason, Nanoseconds now, std::vector<Effect>& effects) {
  const Model& model = *replica.model;
  if (replica.device->loading != nullptr || replica.landed == model.segments()) return false;
  if (model.quarantined_until > now) {
    wake_at_ = std::min(wake_at_, model.quarantined_until);
    return false;
  }
  if (model.weight_bytes - replica.bytes > replica.device->free()) return false;
  EmitLoad(replica, model.segments(), reason, now, effects);
  return true;
}

void BaselineScheduler::Refuse(Job& job, Reason reason, Nanoseconds now, std::vector<Effect>& effects) {
  EmitReject(job, reason, 0, 0, now, effects);
}

}  // namespace tidepool::compute::pool
