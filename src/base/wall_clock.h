// The time of day as a dependency, for what is stored and for what has a date (expiry, periods of bills).
// It may jump, unlike base/clock.h.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tidepool {

class WallClock {
 public:
  virtual ~WallClock() = default;
  virtual int64_t unix_ms() const = 0;  // milliseconds since 1970-01-01 UTC; any thread
};

class SystemWallClock final : public WallClock {
 public:
  int64_t unix_ms() const override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
};

// For tests: stands still until it is told otherwise, and may go backwards.
class ManualWallClock final : public WallClock {
 public:
  explicit ManualWallClock(int64_t start_ms) : now_ms_(start_ms) {}
  int64_t unix_ms() const override { return now_ms_.load(std::memory_order_acquire); }
  void Set(int64_t unix_ms) { now_ms_.store(unix_ms, std::memory_order_release); }
  void Advance(int64_t by_ms) { now_ms_.fetch_add(by_ms, std::memory_order_acq_rel); }

 private:
  std::atomic<int64_t> now_ms_;
};

}  // namespace tidepool
