// What must hold after every event and decision, whatever the policy: bytes have one owner each, jobs are in
// one list each, counts are what they count.
#include <fmt/format.h>

#include <unordered_map>

#include "compute/scheduler/pool_state.h"

namespace tidepool::compute::pool {
namespace {

struct Tally {
  uint64_t kv_bytes = 0, spilling_bytes = 0;
  int32_t asked = 0, spilling = 0, restoring = 0;
};

}  // namespace

std::string PoolState::CheckReplica(const Replica& replica) const {
  const Model& model = *replica.model;
  const std::string at = fmt::format("model {} on device {}: ", model.model.model, replica.device->id);
  int32_t runnable = 0, prefilling = 0;
  int64_t backlog = 0;
  const auto check_list = [&](const std::vector<Job*>& list, auto&& fits) -> std::string {
    for (const Job* job : list) {
      if (job->replica != &replica || job->gone || !fits(job->place)) {
        return fmt::format("{}job {} is in a list that is not its own", at, job->job.job);
      }
      if (job->place == Place::kActive && job->computed > job->reserved) {
        return fmt::format("{}job {} has {} tokens in room for {}", at, job->job.job, job->computed,
                           job->reserved);
      }
      if (job->place == Place::kActive && (job->on != replica.device || job->spilled_to != nullptr)) {
        return fmt::format("{}job {} is active without its KV on the device", at, job->job.job);
      }
      if (job->on != nullptr && job->device_bytes != KvBytes(model, job->reserved)) {
        return fmt::format("{}job {} is charged {} bytes for {} tokens", at, job->job.job, job->device_bytes,
                           job->reserved);
      }
      if (job->place == Place::kWaiting && !job->asked && job->device_bytes + job->host_bytes > 0) {
        return fmt::format("{}job {} waits and holds memory", at, job->job.job);
      }
      if (job->paused) continue;
      if (job->place == Place::kActive) {
        ++runnable;
        prefilling += job->prefilling();
        backlog += job->prefilling() ? job->prompt - job->computed : 0;
      } else if (job->place == Place::kWaiting) {
        backlog += job->prompt;
      }
    }
    return {};
  };
  std::string wrong = check_list(replica.waiting, [](Place p) { return p == Place::kWaiting; });
  if (wrong.empty()) wrong = check_list(replica.active, [](Place p) { return p == Place::kActive; });
  if (wrong.empty()) {
    wrong = check_list(replica.spilled, [](Place p) {
      return p == Place::kSpilling || p == Place::kSpilled || p == Place::kRestoring;
    });
  }
  if (!wrong.empty()) return wrong;
  if (runnable != replica.runnable || prefilling != replica.prefilling || backlog != replica.backlog) {
    return fmt::format("{}counts {}/{}/{} instead of {}/{}/{}", at, replica.runnable, replica.prefilling,
                       replica.backlog, runnable, prefilling, backlog);
  }
  const int32_t charged = replica.loading ? replica.loading_to : replica.landed;
  if (replica.bytes != model.prefix_bytes[Index(charged)]) {
    return fmt::format("{}charged {} bytes for {} segments", at, replica.bytes, charged);
  }
  if (replica.loading != (replica.device->loading == &replica)) return at + "loading, but not on its device";
  return {};
}

std::string PoolState::CheckInvariants() const {
  std::unordered_map<const Device*, Tally> devices;
  std::unordered_map<const Host*, std::pair<uint64_t, uint64_t>> hosts;
  std::unordered_map<const Host*, std::map<const Account*, uint64_t>> promises;
  std::map<const Account*, int64_t> accounts;
  size_t homeless = 0, gone = 0;
  for (const auto& [id, job] : jobs_) {
    ++accounts[job->account];
    gone += job->gone;
    homeless += !job->gone && job->replica == nullptr;
    if ((job->on == nullptr) != (job->device_bytes == 0) && job->reserved > 0 && !job->gone &&
        KvBytes(*job->model, 1) > 0) {
      return fmt::format("job {} is charged {} bytes on no device", id, job->device_bytes);
    }
    if (job->on != nullptr) {
      Tally& tally = devices[job->on];
      tally.kv_bytes += job->device_bytes;
      tally.asked += job->asked;
      if (job->place == Place::kSpilling) {
        ++tally.spilling;
        tally.spilling_bytes += job->device_bytes;
      }
      tally.restoring += job->place == Place::kRestoring;
    }
    if (job->spilled_to != nullptr) hosts[job->spilled_to].first += job->host_bytes;
    if (job->committed > 0) {
      hosts[job->committed_to].second += job->committed;
      promises[job->committed_to][job->account] += job->committed;
    }
  }
  for (const auto& host : hosts_) {
    const auto& [kv, committed] = hosts[host.get()];
    if (kv != host->kv_bytes || committed != host->committed || promises[host.get()] != host->committed_to) {
      return fmt::format("a host holds {} bytes of KV and promises {}; its jobs say {} and {}",
                         host->kv_bytes, host->committed, kv, committed);
    }
  }
  size_t listed = 0;
  std::unordered_map<const Model*, std::pair<int32_t, int32_t>> models;
  for (const auto& device : devices_) {
    const Tally& tally = devices[device.get()];
    uint64_t weights = 0;
    std::map<uint64_t, uint64_t> of_file;
    for (const Replica* replica : device->replicas) {
      if (std::string wrong = CheckReplica(*replica); !wrong.empty()) return wrong;
      const uint64_t id = replica->model->model.weights_id;
      uint64_t& counted = id == 0 ? weights : of_file[id];
      counted = id == 0 ? counted + replica->bytes : std::max(counted, replica->bytes);
      listed += static_cast<size_t>(replica->jobs());
      models[replica->model].first += static_cast<int32_t>(replica->waiting.size());
      models[replica->model].second += static_cast<int32_t>(replica->active.size() + replica->spilled.size());
    }
    for (const auto& [id, bytes] : of_file) weights += bytes;
    if (weights != device->weight_bytes || tally.kv_bytes != device->kv_bytes) {
      return fmt::format("device {} holds {} bytes of weights and {} of KV; the owners say {} and {}",
                         device->id, device->weight_bytes, device->kv_bytes, weights, tally.kv_bytes);
    }
    if (tally.asked != device->asked || tally.spilling != device->spilling ||
        tally.restoring != device->restoring || tally.spilling_bytes != device->spilling_bytes) {
      return fmt::format("device {} counts {} asked, {} spilling, {} restoring instead of {}, {}, {}",
                         device->id, device->asked, device->spilling, device->restoring, tally.asked,
                         tally.spilling, tally.restoring);
    }
  }
  for (const auto& [id, model] : models_) {
    const auto& [waiting, admitted] = models[model.get()];
    if (waiting != model->waiting || admitted != model->admitted) {
      return fmt::format("model {} counts {} waiting and {} admitted instead of {} and {}", id,
                         model->waiting, model->admitted, waiting, admitted);
    }
  }
  if (homeless != unplaced_.size() || listed + homeless + gone != jobs_.size()) {
    return fmt::format("{} jobs: {} in lists, {} unplaced ({} without a replica), {} gone", jobs_.size(),
                       listed, unplaced_.size(), homeless, gone);
  }
  return accounts_.Check(accounts);
}

}  // namespace tidepool::compute::pool
