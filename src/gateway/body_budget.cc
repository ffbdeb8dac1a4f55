#include "gateway/body_budget.h"

#include <utility>

namespace tidepool::gateway {

BodyBudget::BodyBudget(uint64_t limit, Gauge in_use, Counter refused)
    : limit_(limit), in_use_(in_use), refused_(refused) {}

bool BodyBudget::Take(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > limit_ - used_) {
    refused_.Increment();
    return false;
  }
  used_ += bytes;
  in_use_.Set(static_cast<double>(used_));
  return true;
}

void BodyBudget::GiveBack(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  used_ -= bytes;
  in_use_.Set(static_cast<double>(used_));
}

BodyCharge::BodyCharge(BodyCharge&& other) noexcept
    : budget_(other.budget_), held_(std::exchange(other.held_, 0)) {}

BodyCharge& BodyCharge::operator=(BodyCharge&& other) noexcept {
  if (this == &other) return *this;
  Release();
  budget_ = other.budget_;
  held_ = std::exchange(other.held_, 0);
  return *this;
}

bool BodyCharge::GrowTo(uint64_t bytes) {
  if (budget_ == nullptr || bytes <= held_) return true;
  if (!budget_->Take(bytes - held_)) return false;
  held_ = bytes;
  return true;
}

void BodyCharge::Release() {
  if (held_ > 0) budget_->GiveBack(held_);
  held_ = 0;
}

}  // namespace tidepool::gateway
