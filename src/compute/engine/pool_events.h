// What the pool did, as it did it: a bounded log that readers follow, each at its own pace.
//
// Events are numbered from 1 without gaps; a reader asks for what came after the last number it has seen. Who
// is slower than the log is long is told how many events are gone.
//
// Threads: any; adding allocates nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "compute/scheduler/pool_scheduler.h"

namespace tidepool::compute {

enum class PoolEventKind : uint8_t {
  kLoad,         // a load begins: bytes to come
  kLoaded,       // bytes that came, seconds since it began
  kLoadFailed,   // bytes that were missing (0: the file is at fault)
  kLoadStopped,  // another model is more urgent
  kEvict,        // bytes that were given up
  kSpill,        // KV of a request has gone to the host: bytes, seconds
  kRestore,      // and has come back
  kRecompute,    // KV of a request was given up: its tokens are computed again
  kReject,       // a request was refused
  kSwitch,       // another model computes now than before
  kWeightsLost,  // the file under resident weights was cut or failed
};
std::string_view PoolEventKindName(PoolEventKind kind);

struct PoolEvent {
  uint64_t number = 0;
  Nanoseconds at = 0;  // the engine's clock
  PoolEventKind kind = PoolEventKind::kLoad;
  Reason reason = Reason::kNone;
  std::shared_ptr<const std::string> model = {};
  uint64_t bytes = 0;
  int32_t segments = 0;  // resident afterwards
  double seconds = 0;
};

struct PoolEvents {
  std::vector<PoolEvent> events;
  uint64_t missed = 0;  // between `after` and the first of them
  uint64_t last = 0;    // number of the newest there is
};

class PoolEventLog {
 public:
  explicit PoolEventLog(size_t most) : ring_(most < 1 ? 1 : most) {}

  void Add(PoolEvent event);  // number is given here
  PoolEvents Since(uint64_t after, size_t most) const;

 private:
  mutable std::mutex mutex_;
  std::vector<PoolEvent> ring_;  // event n is at n % size
  uint64_t last_ = 0;
};

}  // namespace tidepool::compute
