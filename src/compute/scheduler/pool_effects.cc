// What a policy asks for, and what the account of bytes and jobs says of it at once; what a step holds.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "compute/scheduler/pool_state.h"

namespace tidepool::compute::pool {

// ---- effects -------------------------------------------------------------------------------------------

void PoolState::SetSegments(Replica& replica, int32_t segments) {
  const uint64_t shared = SharedBytes(replica);
  Device& device = *replica.device;
  device.weight_bytes -= std::max(replica.bytes, shared);
  replica.bytes = replica.model->prefix_bytes[Index(segments)];
  device.weight_bytes += std::max(replica.bytes, shared);
}

void PoolState::EmitLoad(Replica& replica, int32_t segments, Reason reason, Nanoseconds now,
                         std::vector<Effect>& effects) {
  Device& device = *replica.device;
  CHECK(device.loading == nullptr && !replica.loading && segments > replica.landed);
  replica.loading = true;
  replica.loading_to = segments;
  replica.load_began = now;
  device.loading = &replica;
  device.land_at = INT64_MAX;
  device.lands = false;
  const uint64_t charged = device.weight_bytes;
  SetSegments(replica, segments);
  replica.load_bytes = device.weight_bytes - charged;
  ++counters_.switches;
  effects.push_back({.kind = EffectKind::kLoad,
                     .reason = reason,
                     .device = device.id,
                     .model = replica.model->model.model,
                     .segments = segments});
}

void PoolState::EmitStopLoad(Device& device, std::vector<Effect>& effects) {
  CHECK(device.loading != nullptr && !device.loading->stopping);
  device.loading->stopping = true;
  effects.push_back({.kind = EffectKind::kStopLoad,
                     .reason = Reason::kUrgent,
                     .device = device.id,
                     .model = device.loading->model->model.model});
}

void PoolState::EmitEvict(Replica& replica, int32_t keep, Reason reason, std::vector<Effect>& effects) {
  Device& device = *replica.device;
  CHECK(!replica.loading && keep < replica.landed && device.running != &replica);
  ++counters_.evictions;
  replica.landed = keep;
  SetSegments(replica, keep);
  NewRoom(device);
  if (device.turn.replica == &replica) device.turn = {};
  effects.push_back({.kind = EffectKind::kEvict,
                     .reason = reason,
                     .device = device.id,
                     .model = replica.model->model.model,
                     .segments = keep});
}

void PoolState::EmitAdmit(Job& job, int32_t tokens, std::vector<Effect>& effects) {
  Device& device = *job.replica->device;
  job.asked = true;
  ++device.asked;
  job.on = &device;
  job.held = 0;
  job.reserved = tokens;
  if (job.committed == 0) {
    job.committed_to = hosts_[Index(device.device.host)].get();
    job.promised = job.first_promise();
    Commit(job, KvBytes(*job.model, job.promised));
  }
  ChargeDevice(job, KvBytes(*job.model, tokens));
  effects.push_back({.kind = EffectKind::kAdmit,
                     .device = device.id,
                     .model = job.model->model.model,
                     .job = job.job.job,
                     .tokens = tokens});
}

void PoolState::EmitGrow(Job& job, int32_t tokens, std::vector<Effect>& effects) {
  Device& device = *job.on;
  job.asked = true;
  ++device.asked;
  job.held = job.reserved;
  job.reserved = tokens;
  ChargeDevice(job, KvBytes(*job.model, tokens));
  effects.push_back({.kind = EffectKind::kGrow,
                     .device = device.id,
                     .model = job.model->model.model,
                     .job = job.job.job,
                     .tokens = tokens});
}

void PoolState::EmitSpill(Job& job, Reason reason, std::vector<Effect>& effects) {
  CHECK(job.place == Place::kActive && !job.asked);
  Replica& replica = *job.replica;
  Device& device = *replica.device;
  Detach(job);
  Attach(job, replica, Place::kSpilling);
  job.spilled_to = hosts_[Index(device.device.host)].get();
  ChargeHost(job, KvBytes(*job.model, job.computed));
  ++device.spilling;
  device.spilling_bytes += job.device_bytes;
  ++counters_.spills;
  effects.push_back({.kind = EffectKind::kSpill,
                     .reason = reason,
                     .device = device.id,
                     .model = job.model->model.model,
                     .job = job.job.job});
}

void PoolState::EmitRestore(Job& job, int32_t tokens, std::vector<Effect>& effects) {
  CHECK(job.place == Place::kSpilled);
  Replica& replica = *job.replica;
  Device& device = *replica.device;
  Detach(job);
  Attach(job, replica, Place::kRestoring);
  job.on = &device;
  job.reserved = tokens;
  ChargeDevice(job, KvBytes(*job.model, tokens));
  ++device.restoring;
  ++counters_.restores;
  effects.push_back({.kind = EffectKind::kRestore,
                     .device = device.id,
                     .model = job.model->model.model,
                     .job = job.job.job,
                     .tokens = tokens});
}

void PoolState::EmitDrop(Job& job, Reason reason, std::vector<Effect>& effects) {
  CHECK((job.place == Place::kActive || job.place == Place::kSpilled) && !job.asked);
  Replica& replica = *job.replica;
  Detach(job);
  if (job.on != nullptr) ChargeDevice(job, 0);
  if (job.spilled_to != nullptr) ChargeHost(job, 0);
  if (job.committed > 0) {  // what waits holds nothing, and is promised memory anew
    Host& host = *job.committed_to;
    Commit(job, 0);
    if (host.full) ReturnHostRoom(host);
  }
  if (job.computed > 0) ++counters_.drops;
  job.prompt = job.job.prompt_tokens + job.produced;
  job.computed = job.reserved = 0;
  Attach(job, replica, Place::kWaiting);
  effects.push_back({.kind = EffectKind::kDrop,
                     .reason = reason,
                     .device = replica.device->id,
                     .model = job.model->model.model,
                     .job = job.job.job});
}

void PoolState::EmitReject(Job& job, Reason reason, double retry_after_s, int32_t position, Nanoseconds now,
                           std::vector<Effect>& effects) {
  CHECK(job.place == Place::kNowhere || job.place == Place::kWaiting);
  effects.push_back({.kind = EffectKind::kReject,
                     .reason = reason,
                     .model = job.model->model.model,
                     .job = job.job.job,
                     .retry_after_s = retry_after_s,
                     .queue_position = position});
  ++counters_.rejected;
  if (job.replica != nullptr) {
    Detach(job);
  } else {
    std::erase(unplaced_, &job);
  }
  Free(job, now);
}

void PoolState::EmitYield(Device& device, std::vector<Effect>& effects) {
  if (!device.busy || device.yielding || device.plan.steps <= 1) return;
  device.yielding = true;
  effects.push_back(
      {.kind = EffectKind::kYield, .device = device.id, .model = device.running->model->model.model});
}

void PoolState::EmitRun(Device& device, Replica& replica, Reason reason, Nanoseconds /*now*/,
                        std::vector<Effect>& effects) {
  CHECK(!device.busy && !device.plan.sequences.empty());
  device.busy = true;
  device.running = &replica;
  device.plan.landing = device.landing = !replica.resident();
  effects.push_back(
      {.kind = EffectKind::kRun, .reason = reason, .device = device.id, .model = replica.model->model.model});
}

// ---- a step --------------------------------------------------------------------------------------------

bool PoolState::ComposeStep(Replica& replica, const ComposeRule& rule, Nanoseconds now, PoolPlan& plan) {
  const PoolModel& limits = replica.model->model;
  plan.model = limits.model;
  plan.tokens = plan.logit_rows = plan.decodes = 0;
  plan.steps = 1;
  plan.sequences.clear();
  const bool prefills = rule.prefill && replica.prefilling > 0;
  const auto add = [&](Job& job, int32_t count, int32_t rows) {
    plan.sequences.push_back({.job = job.job.job, .begin = job.computed, .count = count, .logit_rows = rows});
    plan.tokens += count;
    plan.logit_rows += rows;
  };
  int32_t steps = rule.most_steps;
  if (rule.decode && replica.runnable > replica.prefilling) {
    order_.clear();
    for (Job* job : replica.active) {
      if (!job->paused && !job->prefilling() && job->computed < job->reserved) order_.push_back(job);
    }
    auto most =
        static_cast<size_t>(std::min({limits.max_sequences, limits.batch_tokens, limits.max_logit_rows}));
    if (prefills && most > 1) --most;  // decodes never shut prefill out
    if (order_.size() > most) {
      std::nth_element(order_.begin(), order_.begin() + static_cast<ptrdiff_t>(most), order_.end(),
                       [&](const Job* a, const Job* b) {
                         const double x = Urgency(*a, now), y = Urgency(*b, now);
                         return x != y ? x < y : a->arrival_order < b->arrival_order;
                       });
      order_.resize(most);
    }
    for (Job* job : order_) {
      steps = std::min(steps, job->reserved - job->computed);
      add(*job, 1, 1);
      plan.sequences.back().spare = job->reserved - job->computed - 1;
    }
    plan.decodes = static_cast<int32_t>(order_.size());
  }
  if (prefills) {
    order_.clear();
    for (Job* job : replica.active) {
      if (!job->paused && job->prefilling()) order_.push_back(job);
    }
    std::sort(order_.begin(), order_.end(), [&](const Job* a, const Job* b) {
      const double x = Urgency(*a, now), y = Urgency(*b, now);
      return x != y ? x < y : a->arrival_order < b->arrival_order;
    });
    int32_t taken = 0;
    int32_t beyond_left = rule.most_beyond;
    for (Job* job : order_) {
      if (static_cast<int32_t>(plan.sequences.size()) >= limits.max_sequences || taken >= rule.most_prefills)
        break;
      const int32_t remaining = job->prompt - job->computed;
      const int32_t rows_left = limits.max_logit_rows - plan.logit_rows;
      if (job->beyond && beyond_left <= 0) continue;
      if (!plan.sequences.empty() && !MayLengthen(*job, now)) continue;
      int32_t count = std::min({remaining, limits.batch_tokens - plan.tokens, job->reserved - job->computed});
      if (job->beyond) count = std::min(count, beyond_left);
      if (!limits.causal) {
        const int32_t room = plan.tokens == 0 ? limits.max_step_tokens : limits.batch_tokens - plan.tokens;
        if (remaining > room) continue;
        count = remaining;
      }
      int32_t rows = 0;
      if (job->job.prompt_logits) {
        count = std::min(count, rows_left);
        rows = count;
      } else if (job->job.wants_logits && count == remaining) {
        rows = 1;
        if (rows_left < 1) {
          --count;
          rows = 0;
        }
      }
      if (count < 1) continue;
      add(*job, count, rows);
      if (job->beyond) beyond_left -= count;
      ++taken;
      steps = 1;
    }
  }
  plan.steps = std::max(steps, 1);
  return !plan.sequences.empty();
}

}  // namespace tidepool::compute::pool
