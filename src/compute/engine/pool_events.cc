#include "compute/engine/pool_events.h"

#include <algorithm>
#include <utility>

namespace tidepool::compute {

std::string_view PoolEventKindName(PoolEventKind kind) {
  switch (kind) {
    case PoolEventKind::kLoad: return "load";
    case PoolEventKind::kLoaded: return "loaded";
    case PoolEventKind::kLoadFailed: return "load_failed";
    case PoolEventKind::kLoadStopped: return "load_stopped";
    case PoolEventKind::kEvict: return "evict";
    case PoolEventKind::kSpill: return "spill";
    case PoolEventKind::kRestore: return "restore";
    case PoolEventKind::kRecompute: return "recompute";
    case PoolEventKind::kReject: return "reject";
    case PoolEventKind::kSwitch: return "switch";
    case PoolEventKind::kWeightsLost: return "weights_lost";
  }
  return "unknown";
}

void PoolEventLog::Add(PoolEvent event) {
  const std::lock_guard lock(mutex_);
  event.number = ++last_;
  ring_[last_ % ring_.size()] = std::move(event);
}

PoolEvents PoolEventLog::Since(uint64_t after, size_t most) const {
  const std::lock_guard lock(mutex_);
  PoolEvents found;
  found.last = last_;
  if (after >= last_) return found;
  const uint64_t kept = std::min<uint64_t>(last_, ring_.size());
  const uint64_t first = std::max(after, last_ - kept) + 1;
  found.missed = first - 1 - after;
  for (uint64_t number = first; number <= last_ && found.events.size() < most; ++number)
    found.events.push_back(ring_[number % ring_.size()]);
  return found;
}

}  // namespace tidepool::compute
