// One ledger of bytes per device. Every byte the pool uses is charged here before it is taken and has one
// owner; the limit is hard. Nothing is inferred from free memory.
//
// Invariant: sum of all charges = used() <= limit(), except after the limit was lowered below what is used:
// then nothing is taken until enough was given back, so that used() only falls. Threads: any.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace tidepool::compute {

enum class ChargeKind : uint8_t { kWeights, kKv, kState, kScratch };
inline constexpr int kChargeKinds = 4;
std::string_view ChargeKindName(ChargeKind kind);

class Ledger;

// Gives its bytes back when it goes out of scope. Move-only. The ledger must outlive it.
class Charge {
 public:
  Charge() = default;
  Charge(Charge&& other) noexcept { *this = std::move(other); }
  Charge& operator=(Charge&& other) noexcept;
  ~Charge() { Release(); }
  void Release();
  uint64_t bytes() const { return bytes_; }

 private:
  friend class Ledger;
  Ledger* ledger_ = nullptr;
  std::string owner_;
  ChargeKind kind_ = ChargeKind::kWeights;
  uint64_t bytes_ = 0;
};

class Ledger {
 public:
  explicit Ledger(uint64_t limit_bytes) : limit_(limit_bytes) {}

  // While running. Lower than what is used is allowed and takes nothing from anybody: Take refuses until the
  // rest has drained. Returns what is over now; its owners are asked by the caller (Engine::Trim, unloading).
  uint64_t SetLimit(uint64_t bytes);
  uint64_t over_limit_bytes() const;

  // Charges `bytes` to `owner` (a model's name), or refuses with kUnavailable "out_of_pool_memory" and the
  // numbers: asked, used, limit, and who holds most. When short it asks the reclaimer for the missing bytes
  // first, which may block for the rest of a step.
  Result<Charge> Take(std::string owner, ChargeKind kind, uint64_t bytes);
  // The same without the reclaimer: for the engine thread, which reclaims by itself.
  Result<Charge> TryTake(std::string owner, ChargeKind kind, uint64_t bytes);

  // Who gives back what is only kept because there was room (prefix caches, empty slabs). Called on the
  // thread of Take, with the missing bytes; one call at a time. An empty function takes the reclaimer out and
  // waits for a call in progress.
  void SetReclaimer(std::function<void(uint64_t missing_bytes)> reclaimer);

  uint64_t limit() const;
  uint64_t used() const;
  uint64_t free() const;  // 0 while over the limit
  // Bytes charged with this kind, over all owners.
  uint64_t used_by(ChargeKind kind) const;
  // used() - used_by(kind) of one moment.
  uint64_t used_besides(ChargeKind kind) const;
  // limit() less used_besides(kind), 0 while others alone are over: the most that `kind` can have beside
  // them.
  uint64_t room_besides(ChargeKind kind) const;
  // By owner and kind, for /metrics, ps and tests.
  std::map<std::pair<std::string, ChargeKind>, uint64_t> Snapshot() const;

 private:
  friend class Charge;
  void Return(const std::string& owner, ChargeKind kind, uint64_t bytes);
  uint64_t FreeLocked() const { return limit_ > used_ ? limit_ - used_ : 0; }
  std::mutex reclaimer_mutex_;  // taken before mutex_, never after
  std::function<void(uint64_t)> reclaimer_;
  mutable std::mutex mutex_;
  uint64_t limit_;
  uint64_t used_ = 0;
  std::array<uint64_t, kChargeKinds> used_by_kind_{};
  std::map<std::pair<std::string, ChargeKind>, uint64_t> charges_;
};

}  // namespace tidepool::compute
