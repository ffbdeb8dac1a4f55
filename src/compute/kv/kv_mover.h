// Carries out the copies of KV moves beside the engine: one thread, a bounded queue, both directions in turn
// by chunks, so that a long spill does not hold a restore back.
//
// Every accepted job is answered exactly once, through `done`, on the thread that moves (KvMover) or inside
// Advance (SimulatedKvMover), with no lock held: when `done` runs, no copy of this job is running or will.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "compute/kv/kv_copy.h"

namespace tidepool::compute {

enum class KvMoveOutcome : uint8_t { kDone, kCancelled };

struct KvMoverJob {
  KvDirection direction = KvDirection::kToHost;
  std::vector<KvCopy> copies;
  std::function<void(KvMoveOutcome)> done;
};

struct KvMoverStats {
  struct Direction {
    int32_t queued = 0;             // jobs, the running one included
    uint64_t queued_bytes = 0;      // left to copy
    uint64_t moved_bytes = 0;       // since the start
    uint64_t jobs_done = 0;         // cancelled ones not counted
    double busy_s = 0;              // spent copying
    double recent_bytes_per_s = 0;  // of the last 64 MiB or so; 0: nothing was copied yet
  };
  Direction to_host, to_device;
  const Direction& of(KvDirection direction) const {
    return direction == KvDirection::kToHost ? to_host : to_device;
  }
};

class KvMover {
 public:
  virtual ~KvMover() = default;
  // The job's number, for Cancel. kOverloaded "kv_mover_full" when too many wait: nothing was taken, try
  // again after the next `done`. A job may be done before Submit returns.
  virtual Result<uint64_t> Submit(KvMoverJob job) = 0;
  // The job stops at its next chunk and answers kCancelled, unless it was done first. Unknown: nothing.
  virtual void Cancel(uint64_t job) = 0;
  virtual KvMoverStats stats() const = 0;
};

struct KvMoverOptions {
  int32_t max_jobs = 1024;  // waiting, both directions together
  uint64_t chunk_bytes = 1u << 20;
  // How to copy; empty: memcpy. A device with its own memory gives its own, which returns when it is done.
  std::function<void(const KvCopy& chunk, KvDirection direction)> copy;
};

// With its own thread. The destructor cancels what waits, answers it and joins.
std::unique_ptr<KvMover> MakeKvMover(KvMoverOptions options);

struct SimulatedKvMoverOptions {
  int32_t max_jobs = 1024;
  double to_host_bytes_per_s = 1e9;  // alone
  double to_device_bytes_per_s = 1e9;
  // While both directions move, each goes at this share of its speed: 1 on a link that is full duplex.
  double shared_speed = 1;
};

// Moves when the clock has moved, for tests and simulated devices. Copies are carried out at the end of a
// job. Threads: one.
class SimulatedKvMover : public KvMover {
 public:
  // Does what is due at clock.now(), in the order in which it ends, and runs `done`, which may submit more.
  virtual void Advance() = 0;
  // When the next job will be done if nothing is added; nullopt: nothing waits.
  virtual std::optional<Nanoseconds> next_completion() const = 0;
};
std::unique_ptr<SimulatedKvMover> MakeSimulatedKvMover(const Clock& clock, SimulatedKvMoverOptions options);

}  // namespace tidepool::compute
