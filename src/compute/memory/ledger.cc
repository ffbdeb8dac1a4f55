#include "compute/memory/ledger.h"

#include <fmt/format.h>

#include "base/check.h"

namespace tidepool::compute {

std::string_view ChargeKindName(ChargeKind kind) {
  switch (kind) {
    case ChargeKind::kWeights: return "weights";
    case ChargeKind::kKv: return "kv";
    case ChargeKind::kState: return "state";
    case ChargeKind::kScratch: return "scratch";
  }
  return "unknown";
}

Charge& Charge::operator=(Charge&& other) noexcept {
  if (this != &other) {
    Release();
    ledger_ = std::exchange(other.ledger_, nullptr);
    owner_ = std::move(other.owner_);
    kind_ = other.kind_;
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void Charge::Release() {
  if (ledger_ != nullptr) ledger_->Return(owner_, kind_, bytes_);
  ledger_ = nullptr;
  bytes_ = 0;
}

Result<Charge> Ledger::Take(std::string owner, ChargeKind kind, uint64_t bytes) {
  auto charge = TryTake(owner, kind, bytes);
  if (charge || bytes > limit()) return charge;
  std::lock_guard lock(reclaimer_mutex_);
  if (!reclaimer_) return charge;
  uint64_t missing = 0;
  {
    std::lock_guard state(mutex_);
    if (bytes <= limit_ && bytes + used_ > limit_) missing = bytes + used_ - limit_;
  }
  if (missing > 0) reclaimer_(missing);
  return TryTake(std::move(owner), kind, bytes);
}

uint64_t Ledger::SetLimit(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  limit_ = bytes;
  return used_ > limit_ ? used_ - limit_ : 0;
}

uint64_t Ledger::over_limit_bytes() const {
  std::lock_guard lock(mutex_);
  return used_ > limit_ ? used_ - limit_ : 0;
}

uint64_t Ledger::limit() const {
  std::lock_guard lock(mutex_);
  return limit_;
}

void Ledger::SetReclaimer(std::function<void(uint64_t)> reclaimer) {
  std::lock_guard lock(reclaimer_mutex_);
  reclaimer_ = std::move(reclaimer);
}

Result<Charge> Ledger::TryTake(std::string owner, ChargeKind kind, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes > FreeLocked()) {
    std::string most = "nobody";
    uint64_t most_bytes = 0;
    for (const auto& [key, held] : charges_) {
      if (held > most_bytes) {
        most_bytes = held;
        most = fmt::format("{} ({})", key.first, ChargeKindName(key.second));
      }
    }
    return Fail(
        ErrorKind::kUnavailable, "out_of_pool_memory",
        fmt::format("{} asks for {} bytes of {}, but {} of the pool's {} bytes are used (most by {}: {} "
                    "bytes); unload a model, lower max_tokens or raise the pool's limit",
                    owner, bytes, ChargeKindName(kind), used_, limit_, most, most_bytes));
  }
  if (bytes > 0) {
    used_ += bytes;
    used_by_kind_[static_cast<size_t>(kind)] += bytes;
    charges_[{owner, kind}] += bytes;
  }
  Charge charge;
  charge.ledger_ = this;
  charge.owner_ = std::move(owner);
  charge.kind_ = kind;
  charge.bytes_ = bytes;
  return charge;
}

void Ledger::Return(const std::string& owner, ChargeKind kind, uint64_t bytes) {
  if (bytes == 0) return;
  std::lock_guard lock(mutex_);
  const auto entry = charges_.find({owner, kind});
  CHECK(entry != charges_.end() && entry->second >= bytes && used_ >= bytes);
  used_ -= bytes;
  used_by_kind_[static_cast<size_t>(kind)] -= bytes;
  entry->second -= bytes;
  if (entry->second == 0) charges_.erase(entry);
}

uint64_t Ledger::used() const {
  std::lock_guard lock(mutex_);
  return used_;
}

uint64_t Ledger::free() const {
  std::lock_guard lock(mutex_);
  return FreeLocked();
}

uint64_t Ledger::used_by(ChargeKind kind) const {
  std::lock_guard lock(mutex_);
  return used_by_kind_[static_cast<size_t>(kind)];
}

uint64_t Ledger::used_besides(ChargeKind kind) const {
  std::lock_guard lock(mutex_);
  return used_ - used_by_kind_[static_cast<size_t>(kind)];
}

uint64_t Ledger::room_besides(ChargeKind kind) const {
  std::lock_guard lock(mutex_);
  const uint64_t others = used_ - used_by_kind_[static_cast<size_t>(kind)];
  return limit_ > others ? limit_ - others : 0;
}

std::map<std::pair<std::string, ChargeKind>, uint64_t> Ledger::Snapshot() const {
  std::lock_guard lock(mutex_);
  return charges_;
}

}  // namespace tidepool::compute
