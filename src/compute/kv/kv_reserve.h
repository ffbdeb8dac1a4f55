// Memory for KV that is ready before it is needed: mapped, and every page touched.
//
// The kernel fills a page with zeros when it is first touched, at about 1 GB/s in a virtual machine: 60 MB of
// KV for a prompt of 512 tokens cost 60 ms of its prefill. A thread of the lowest scheduling class does that
// ahead of need, up to a bound, for all pools of a device: a slab takes a run of ready memory of the size it
// wants. What pools give back is kept too, up to the bound, and cleared before it is used again.
//
//   untouched --touched--> ready --Take--> taken --Return--> dirty --cleared--> ready
//   ready, dirty --GiveUp--> untouched;   taken --Return--> untouched, when there is enough
//
// Every byte that is ready, dirty or on its way there is charged to the ledger: owner "kv_reserve", kind
// kReserve. Whoever is short of ledger bytes gets them first (GiveUp, called by the ledger); then the reserve
// rests for a while. It keeps at most half of what is free, so that it leaves as much to others as it holds.
// While no pool uses it, it holds nothing.
//
// Threads: any. Take never waits. Only for devices whose memory the host can touch; on others it stays empty.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "chips/device.h"
#include "compute/memory/ledger.h"

namespace tidepool::compute {

struct KvReserveOptions {
  uint64_t ready_bytes = uint64_t{256} << 20;  // the bound; 0: off
  uint64_t chunk_bytes = uint64_t{64} << 20;   // address space taken at a time: the longest run it makes
  uint64_t quantum_bytes = uint64_t{2} << 20;  // charged and touched at a time: one huge page
  Nanoseconds rest = 10 * kSecond;             // after a shortage
  bool thread = true;                          // false: memory becomes ready only in Fill (tests)
  MetricsRegistry* metrics = nullptr;          // outlives the reserve
};

struct KvReserveStats {
  uint64_t ready_bytes = 0;    // can be taken
  uint64_t dirty_bytes = 0;    // came back, to be cleared
  uint64_t filling_bytes = 0;  // being touched or cleared
  uint64_t charged_bytes = 0;  // the sum of these, in the ledger
  uint64_t taken_bytes = 0;    // with pools, in their charge
  uint64_t taken_total = 0, returned_total = 0, given_up_total = 0, fresh_total = 0;
  int32_t chunks = 0;
};

namespace internal {
struct KvReserveChunk;
}  // namespace internal

// A run of ready memory, with its charge. Ends by KvReserve::Return.
struct KvRegion {
  std::byte* data = nullptr;  // page aligned, all zeros
  uint64_t bytes = 0;         // whole pages: what is charged
  Charge charge;
  internal::KvReserveChunk* chunk = nullptr;
};

class KvReserve {
 public:
  static constexpr uint64_t kPageBytes = 4096;

  // `device` and `ledger` outlive the reserve; one reserve per ledger.
  KvReserve(chips::Device& device, Ledger& ledger, const KvReserveOptions& options);
  ~KvReserve();  // all regions must have come back
  KvReserve(const KvReserve&) = delete;
  KvReserve& operator=(const KvReserve&) = delete;

  // Pools that use it. The first starts the filling, the last ends it.
  void AddUser();
  void RemoveUser();

  // Ready memory for as many units of `unit_bytes` as there are side by side, at least `least` and at most
  // `most` (1 <= least <= most), charged to `owner` as KV. Nothing when there is none, and never waits: when
  // another thread is inside, there is none.
  std::optional<KvRegion> Take(const std::string& owner, uint64_t unit_bytes, uint64_t least, uint64_t most);
  // Keeps the memory, or gives it back to the system and then its charge to the ledger.
  void Return(KvRegion region);
  // The same for memory of the device that did not come from here.
  void Return(chips::DeviceBuffer memory, Charge charge);
  // Memory that a pool had to take fresh: for the metrics.
  void CountFresh(uint64_t bytes);

  // Gives at least `bytes`, or all it has, back to the system and to the ledger, then rests. What the thread
  // is touching at this moment (at most a quantum) is given back with it; the page it is at may come once
  // more, until the thread notices. Returns the bytes of charge given back.
  uint64_t GiveUp(uint64_t bytes);
  // One quantum made ready on this thread. False: there is nothing to do (enough, no room, resting, no user).
  bool Fill();

  KvReserveStats stats() const;
  // Tests: walks everything and CHECKs that states, sums and charge agree.
  void CheckInvariants() const;

 private:
  using Chunk = internal::KvReserveChunk;
  enum State : uint8_t { kUntouched, kFilling, kReady, kDirty, kTaken };
  static constexpr int kStates = 5;
  struct Run {
    uint64_t bytes = 0;
    State state = kUntouched;
  };
  friend struct internal::KvReserveChunk;

  struct Place {
    Chunk* chunk = nullptr;
    uint64_t offset = 0, bytes = 0;
  };

  void Work();
  bool FillLocked(std::unique_lock<std::mutex>& lock);
  bool MapChunk(std::unique_lock<std::mutex>& lock);
  bool Keeps(uint64_t bytes) const;
  bool Resting() const { return clock_.now() < rest_until_; }
  uint64_t Target(uint64_t more_free) const;
  uint64_t Held() const { return bytes_[kReady] + bytes_[kDirty] + bytes_[kFilling]; }
  std::optional<Place> FindLast(State state) const;
  std::optional<Place> FindUntouched(uint64_t least_bytes) const;
  void GiveUpShortRuns();
  void Mark(const Place& place, State state);
  void Discard(const Place& place);
  void GiveUpLocked(uint64_t bytes);
  void Publish();

  chips::Device& device_;
  Ledger& ledger_;
  const KvReserveOptions options_;
  const uint64_t limit_;
  const SteadyClock clock_;
  mutable std::mutex mutex_;  // held for moments, never while memory is touched
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::array<uint64_t, kStates> bytes_{};
  Charge charge_;  // of what is ready, dirty or being filled, unless given up
  Place filling_;
  std::atomic<bool> filling_given_up_{false};
  bool filling_up_ = false;  // between the low-water mark and the target
  // The longest run that some pool could not do without; what is shorter is not filled. Fragmented: much is
  // ready, but nothing so long.
  uint64_t useful_bytes_ = 0;
  bool fragmented_ = false;
  int32_t users_ = 0;
  Nanoseconds rest_until_ = 0;
  uint64_t taken_total_ = 0, returned_total_ = 0, given_up_total_ = 0;
  std::atomic<uint64_t> fresh_total_{0};
  bool stop_ = false;
  struct Metrics {
    Gauge ready;
    Counter taken, fresh, given_up;
  };
  std::optional<Metrics> metrics_;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace tidepool::compute
