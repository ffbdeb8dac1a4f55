// One ledger of bytes per device. Every byte the pool uses is charged here before it is taken and has one owner;
// the limit is hard. Nothing is inferred from free memory.
//
// Invariant: sum of all charges = used() <= limit(). Threads: any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/result.h"

namespace tidepool::compute {

enum class ChargeKind : uint8_t { kWeights, kKv, kState, kScratch };
std::string_view ChargeKindName(ChargeKind kind);

class Ledger;

// Gives its bytes back when it goes out of scope. Move-only.
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

  // Charges `bytes` to `owner` (a model's name), or refuses with kUnavailable "out_of_pool_memory" and the numbers:
  // asked, used, limit, and who holds most.
  Result<Charge> Take(std::string owner, ChargeKind kind, uint64_t bytes);

  uint64_t limit() const { return limit_; }
  uint64_t used() const;
  uint64_t free() const;
  // By owner and kind, for /metrics, ps and tests.
  std::map<std::pair<std::string, ChargeKind>, uint64_t> Snapshot() const;

 private:
  friend class Charge;
  void Return(const std::string& owner, ChargeKind kind, uint64_t bytes);
  const uint64_t limit_;
  mutable std::mutex mutex_;
  uint64_t used_ = 0;
  std::map<std::pair<std::string, ChargeKind>, uint64_t> charges_;
};

}  // namespace tidepool::compute
