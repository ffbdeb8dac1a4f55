// The bytes of all request bodies that a server holds, under one limit: each body has its own limit, but many
// of them together would still fill the memory.
//
// A body is charged with its announced length before it is read (a chunked one as it grows), and given back
// when its exchange is gone: handlers and their answers may refer to it until then. Any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "base/metrics.h"

namespace tidepool::gateway {

class BodyBudget {
 public:
  BodyBudget(uint64_t limit, Gauge in_use, Counter refused);
  // False, and nothing is taken, if it does not fit.
  bool Take(uint64_t bytes);
  void GiveBack(uint64_t bytes);
  uint64_t limit() const { return limit_; }

 private:
  const uint64_t limit_;
  std::mutex mutex_;
  uint64_t used_ = 0;
  Gauge in_use_;
  Counter refused_;
};

// What one body holds of the budget; gives it back at its end.
class BodyCharge {
 public:
  BodyCharge() = default;
  explicit BodyCharge(std::shared_ptr<BodyBudget> budget) : budget_(std::move(budget)) {}
  BodyCharge(BodyCharge&& other) noexcept;
  BodyCharge& operator=(BodyCharge&& other) noexcept;
  ~BodyCharge() { Release(); }

  // Holds `bytes` in all from now on; false if the growth does not fit (what was held stays held).
  bool GrowTo(uint64_t bytes);
  void Release();

 private:
  std::shared_ptr<BodyBudget> budget_;  // nullptr: not counted
  uint64_t held_ = 0;
};

}  // namespace tidepool::gateway
