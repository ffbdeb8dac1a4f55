#include "compute/engine/pool_events.h"

#include <utility>

#include "compute/engine/numbered_ring.h"

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
  found.missed = ReadRing(ring_, last_, after, most, found.events);
  return found;
}

}  // namespace tidepool::compute
