// Which weights are in memory: cold (the file only), warm (in memory, may go any time), resident (in memory,
// charged to the ledger, a step may use it), for each segment of each model.
//
// A model's resident segments are always its first ones: loads go up in order, evictions come down from the
// last. That is what a step wants: it may begin when segment 0 has landed, and waits at the gate for the
// rest.
//
// One *mover* thread brings segments into memory in chunks and takes them out. It does the latter first, so
// the bytes in memory follow the budgets: at any time resident <= what the ledger holds, and resident + warm
// exceed the ledger's charge + warm_bytes by one chunk at most (and by what another process keeps in the page
// cache).
//
// Nothing here evicts resident weights by itself: a load that finds the ledger short stops with the number of
// bytes that are missing, and keeps what has landed. The scheduler decides who goes.
//
// Threads: everything from any thread, and nothing blocks but the gate; callbacks come from the mover and
// must not block. Evict is bookkeeping (microseconds): the engine calls it between steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "compute/memory/ledger.h"
#include "compute/residency/weight_backing.h"
#include "models/architectures/model.h"

namespace tidepool::compute {

enum class SegmentState : uint8_t { kCold, kWarm, kLoading, kResident };

struct LoadReport {
  // ok; kCancelled (CancelLoad, Evict, Detach); kUnavailable "out_of_pool_memory" with missing_bytes;
  // kCorrupt "packed_file_damaged": the file must be discarded and packed again; other errors of the file.
  Status status;
  uint64_t resident_bytes = 0;  // now
  uint64_t missing_bytes = 0;   // what the ledger lacked for the rest of the load; of that code at least 1
  uint64_t cold_bytes = 0;      // moved by this load, from disk
  uint64_t warm_bytes = 0;      // moved by this load, already in memory
  double seconds = 0;           // of moving
};

struct ResidencyCounts {  // bytes by state; together the model's
  uint64_t cold = 0, warm = 0, loading = 0, resident = 0;
};

// Bytes per second, learned from what was moved (exponential average over about the last 16 segments); 0
// until then. Warm: already in memory.
struct LoadRates {
  double cold_bytes_per_s = 0;
  double warm_bytes_per_s = 0;
};

enum class SegmentWait : uint8_t { kLanded, kNotYet, kNotComing };

// One model's weights (or several models' with the same key). Detaches when the last owner lets go: whatever
// it holds is given back.
class ResidentWeights {
 public:
  virtual ~ResidentWeights() = default;
  virtual const std::string& name() const = 0;
  virtual uint64_t total_bytes() const = 0;
  virtual int32_t segment_count() const = 0;

  // Resident, and how much of it: a step may begin with landed_segments() > 0.
  virtual int32_t landed_segments() const = 0;
  virtual uint64_t landed_bytes() const = 0;
  bool complete() const { return landed_segments() == segment_count(); }
  virtual bool loading() const = 0;
  virtual std::vector<SegmentState> states() const = 0;
  virtual ResidencyCounts counts() const = 0;

  // Makes the first `segments` segments resident (-1: all). Several calls while one is under way are one
  // load; each `done` is told once, when its segments have landed or the load has failed. Loads of several
  // models are served in the order they came.
  virtual void Load(std::function<void(const LoadReport&)> done, int32_t segments = -1) = 0;
  // Ends a load: what has landed stays, the rest is given back. Waiters are told kCancelled (and the gate
  // false).
  virtual void CancelLoad() = 0;
  // Cold segments become warm as far as the warm budget goes (others' warm bytes, least recently used, make
  // room), and the checksums of warm ones are compared if they were not, so that a load need not. Behind all
  // loads in the queue. `done` (may be empty) gets the bytes that are warm or resident then.
  virtual void Warm(std::function<void(uint64_t)> done = {}) = 0;

  // Makes the last resident segments warm (or cold, when the warm budget has no room) until at least `bytes`
  // are back in the ledger, or all are. Ends a load first. Returns the bytes freed. No step of this model may
  // be under way, or its results are read from disk.
  virtual uint64_t Evict(uint64_t bytes) = 0;

  // For who must not wait blindly: returns when the segment is resident, when no load will bring it (failed,
  // cancelled, or none is under way), or after `most`.
  virtual SegmentWait AwaitSegment(int32_t segment, Nanoseconds most) = 0;
  // For Step::gate: waits without end. Valid as long as this object.
  virtual architectures::LayerGate& gate() = 0;
  // Least recently used order of warm weights: Load, Warm and Touch make it the most recent.
  virtual void Touch() = 0;
  // Seconds a load of all that is not resident would take by the learned rates; 0 while they are unknown.
  virtual double EstimateLoadSeconds() const = 0;
};

struct ResidencyOptions {
  uint64_t warm_bytes = 0;                   // budget of warm weights of all models together
  uint64_t chunk_bytes = uint64_t{4} << 20;  // what is moved between two looks at the queue
};

struct ModelResidency {
  std::string name;
  ResidencyCounts bytes;
  uint64_t loads = 0;  // begun
  uint64_t completed_loads = 0, failed_loads = 0, cancelled_loads = 0, evictions = 0;
  uint64_t cold_bytes_moved = 0, warm_bytes_moved = 0;
  double load_seconds = 0;
};

class Residency {
 public:
  // `ledger` and `clock` outlive it.
  static std::unique_ptr<Residency> Start(Ledger& ledger, const Clock& clock,
                                          const ResidencyOptions& options);
  // Cancels all loads, gives everything back and joins. Handles may outlive it: they are empty then.
  virtual ~Residency() = default;

  // `name`: the ledger's owner. `key`: what identifies the bytes (PackedKey::FileName()); a second Attach
  // with a key that is attached gives the first one's weights and drops `backing`. Segments that are in
  // memory already (another process, an earlier life) become warm as far as the warm budget has room; the
  // others leave memory.
  virtual std::shared_ptr<ResidentWeights> Attach(std::string name, const std::string& key,
                                                  std::unique_ptr<WeightBacking> backing) = 0;

  virtual uint64_t warm_limit() const = 0;
  virtual uint64_t warm_used() const = 0;
  // Lowering it makes the least recently used warm weights cold.
  virtual void SetWarmLimit(uint64_t bytes) = 0;
  virtual LoadRates rates() const = 0;
  virtual std::vector<ModelResidency> Snapshot() const = 0;
  // Before the process ends: from now on nothing is taken out of memory. Pages of packed files are clean, so
  // the system takes them when it needs them; until then the next process finds them.
  virtual void LeaveInMemory() = 0;
  // Returns when the mover has nothing to do: for tests and shutdown.
  virtual void WaitIdle() = 0;
};

}  // namespace tidepool::compute
