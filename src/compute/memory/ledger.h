// One ledger of bytes per device. Every byte the pool uses is charged here before it is taken and has one
// owner; the limit is hard. Nothing is inferred from free memory.
//
// Invariant: sum of all charges = used() <= limit(), except after the limit was lowered below what is used:
// then nothing is taken until enough was given back, so that used() only falls. Threads: any.
//
// Charges of kind kReserve are memory that only waits to be used (compute/kv/kv_reserve.h). They count as
// used, and as free too: whoever takes bytes that are not there gets them from the reserve, at once and on
// any thread, before anybody else is asked to give something up.
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

enum class ChargeKind : uint8_t { kWeights, kKv, kState, kScratch, kReserve };
inline constexpr int kChargeKinds = 5;
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
  // Gives a part back: at most bytes().
  void Release(uint64_t bytes);
  // `bytes` of it (at most bytes()) change their owner; nothing is taken or given back, so it cannot fail.
  Charge Split(std::string owner, ChargeKind kind, uint64_t bytes);
  // Takes over what `other` (of the same ledger) holds, in the name of this charge.
  void Merge(Charge other);
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

  // While running. Lower than what is used is allowed and takes nothing from anybody but the reserve: Take
  // refuses until the rest has drained. Returns what is over now; its owners are asked by the caller
  // (Engine::Trim, unloading).
  uint64_t SetLimit(uint64_t bytes);
  uint64_t over_limit_bytes() const;

  // Charges `bytes` to `owner` (a model's name), or refuses with kUnavailable "out_of_pool_memory" and the
  // numbers: asked, used, limit, and who holds most. When short, the reserve and then the reclaimer are asked
  // for the missing bytes first; the reclaimer may block for the rest of a step.
  Result<Charge> Take(std::string owner, ChargeKind kind, uint64_t bytes);
  // The same without the reclaimer: for the engine thread, which reclaims by itself. Of kind kReserve: only
  // what nobody has.
  Result<Charge> TryTake(std::string owner, ChargeKind kind, uint64_t bytes);

  // Who gives back what is only kept because there was room (prefix caches, empty slabs). Called on the
  // thread of Take, with the missing bytes; one call at a time. An empty function takes the reclaimer out and
  // waits for a call in progress.
  void SetReclaimer(std::function<void(uint64_t missing_bytes)> reclaimer);

  // Who holds the charges of kind kReserve and gives back at least `missing_bytes` of them, or all, before it
  // returns. Called on the thread of TryTake, Take or SetLimit, which it must not delay; it may only call
  // what gives charges back. An empty function takes it out and waits for a call in progress.
  void SetReserve(std::function<void(uint64_t missing_bytes)> give_up);

  uint64_t limit() const;
  uint64_t used() const;
  uint64_t free() const;  // what TryTake can have: the reserve counts; 0 while the others are over the limit
  uint64_t unused() const;  // what nobody has, not even the reserve
  // Bytes charged with this kind, over all owners.
  uint64_t used_by(ChargeKind kind) const;
  // used() - used_by(kind) of one moment.
  uint64_t used_besides(ChargeKind kind) const;
  // limit() less used_besides(kind), 0 while others alone are over: the most that `kind` can have beside
  // them.
  uint64_t room_besides(ChargeKind kind) const;
  // Grows whenever a charge changes.
  uint64_t changes() const;
  // By owner and kind, for /metrics, ps and tests.
  // `used`: used() of the same moment.
  std::map<std::pair<std::string, ChargeKind>, uint64_t> Snapshot(uint64_t* used = nullptr) const;

 private:
  friend class Charge;
  void Return(const std::string& owner, ChargeKind kind, uint64_t bytes);
  void Reassign(const std::string& owner, ChargeKind kind, const std::string& to, ChargeKind to_kind,
                uint64_t bytes);
  void AddLocked(const std::string& owner, ChargeKind kind, uint64_t bytes);
  void RemoveLocked(const std::string& owner, ChargeKind kind, uint64_t bytes);
  uint64_t ReserveLocked() const { return used_by_kind_[static_cast<size_t>(ChargeKind::kReserve)]; }
  uint64_t UnusedLocked() const { return limit_ > used_ ? limit_ - used_ : 0; }
  uint64_t FreeLocked() const {
    const uint64_t held = used_ - ReserveLocked();
    return limit_ > held ? limit_ - held : 0;
  }
  Error RefusalLocked(const std::string& owner, ChargeKind kind, uint64_t bytes) const;
  bool AskReserve(uint64_t missing_bytes);
  std::mutex reclaimer_mutex_;  // taken before mutex_, never after
  std::function<void(uint64_t)> reclaimer_;
  std::mutex reserve_mutex_;  // taken before mutex_, never after
  std::function<void(uint64_t)> reserve_;
  mutable std::mutex mutex_;
  uint64_t limit_;
  uint64_t used_ = 0;
  uint64_t changes_ = 0;
  std::array<uint64_t, kChargeKinds> used_by_kind_{};
  std::map<std::pair<std::string, ChargeKind>, uint64_t> charges_;
};

}  // namespace tidepool::compute
