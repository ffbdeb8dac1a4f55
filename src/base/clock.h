// Time as a dependency: the pool runs the same code in real and in virtual time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tidepool {

// Nanoseconds since an arbitrary, monotonic start.
using Nanoseconds = int64_t;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Nanoseconds now() const = 0;  // monotonic; any thread
};

class SteadyClock final : public Clock {
 public:
  Nanoseconds now() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

// For tests and the simulator: moves only when told to.
class ManualClock final : public Clock {
 public:
  Nanoseconds now() const override { return now_.load(std::memory_order_acquire); }
  void Advance(Nanoseconds by) { now_.fetch_add(by, std::memory_order_acq_rel); }

 private:
  std::atomic<Nanoseconds> now_{0};
};

inline constexpr Nanoseconds kMillisecond = 1'000'000;
inline constexpr Nanoseconds kSecond = 1'000'000'000;

// Seconds since 1970-01-01 UTC, for `created` fields and logs.
inline int64_t UnixTimeSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace tidepool
