// The thread of a pull and those who watch it: progress out, stop wishes in.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/result.h"

namespace tidepool::platform {

class PullMonitor {
 public:
  // From the job's thread.
  bool stopping() const { return stop_.load(std::memory_order_acquire); }
  Status CheckStop() const {
    if (!stopping()) return {};
    return Fail(ErrorKind::kCancelled, "stopped", "the pull was stopped");
  }
  // Sleeps in small parts; false when stopped meanwhile.
  bool Sleep(std::chrono::milliseconds time) const {
    const auto end = std::chrono::steady_clock::now() + time;
    while (!stopping() && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return !stopping();
  }
  void SetPhase(std::string phase) {
    const std::lock_guard lock(mutex_);
    phase_ = std::move(phase);
  }
  void SetTotal(uint64_t bytes) { total_.store(bytes, std::memory_order_relaxed); }
  void SetDone(uint64_t bytes) { done_.store(bytes, std::memory_order_relaxed); }

  // From any thread.
  void Stop() { stop_.store(true, std::memory_order_release); }
  std::string phase() const {
    const std::lock_guard lock(mutex_);
    return phase_;
  }
  uint64_t done() const { return done_.load(std::memory_order_relaxed); }
  uint64_t total() const { return total_.load(std::memory_order_relaxed); }
  // Bytes a second over the last kSpeedWindow, from the moments at which it was asked.
  double Speed() {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    const uint64_t bytes = done();
    if (!samples_.empty() && bytes < samples_.back().second)
      samples_.clear();  // a new phase counts from zero
    samples_.emplace_back(now, bytes);
    while (samples_.size() > 2 &&
           (now - samples_.front().first > kSpeedWindow || samples_.size() > kMaxSamples)) {
      samples_.pop_front();
    }
    const double seconds = std::chrono::duration<double>(now - samples_.front().first).count();
    return seconds <= 0 ? 0 : static_cast<double>(bytes - samples_.front().second) / seconds;
  }

 private:
  static constexpr auto kSpeedWindow = std::chrono::seconds(5);
  static constexpr size_t kMaxSamples = 256;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> done_{0}, total_{0};
  mutable std::mutex mutex_;
  std::string phase_ = "resolving";
  std::deque<std::pair<std::chrono::steady_clock::time_point, uint64_t>> samples_;
};

}  // namespace tidepool::platform
