#include "compute/memory/ledger.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace tidepool::compute {
namespace {

constexpr int32_t kReserveTries = 16;

}  // namespace

std::string_view ChargeKindName(ChargeKind kind) {
  switch (kind) {
    case ChargeKind::kWeights: return "weights";
    case ChargeKind::kKv: return "kv";
    case ChargeKind::kState: return "state";
    case ChargeKind::kScratch: return "scratch";
    case ChargeKind::kReserve: return "reserve";
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

void Charge::Release(uint64_t bytes) {
  CHECK(bytes <= bytes_);
  if (ledger_ != nullptr) ledger_->Return(owner_, kind_, bytes);
  bytes_ -= bytes;
}

Charge Charge::Split(std::string owner, ChargeKind kind, uint64_t bytes) {
  CHECK(bytes <= bytes_);
  Charge part;
  if (ledger_ != nullptr) ledger_->Reassign(owner_, kind_, owner, kind, bytes);
  part.ledger_ = ledger_;
  part.owner_ = std::move(owner);
  part.kind_ = kind;
  part.bytes_ = bytes;
  bytes_ -= bytes;
  return part;
}

void Charge::Merge(Charge other) {
  if (other.bytes_ == 0) return;
  CHECK(ledger_ == other.ledger_);
  ledger_->Reassign(other.owner_, other.kind_, owner_, kind_, other.bytes_);
  bytes_ += std::exchange(other.bytes_, 0);
}

Result<Charge> Ledger::Take(std::string owner, ChargeKind kind, uint64_t bytes) {
  auto charge = TryTake(owner, kind, bytes);
  if (charge || bytes > limit()) return charge;
  std::lock_guard lock(reclaimer_mutex_);
  if (!reclaimer_) return charge;
  uint64_t missing = 0;
  {
    std::lock_guard state(mutex_);
    if (bytes <= limit_ && bytes > FreeLocked()) missing = bytes + (used_ - ReserveLocked()) - limit_;
  }
  if (missing > 0) reclaimer_(missing);
  return TryTake(std::move(owner), kind, bytes);
}

uint64_t Ledger::SetLimit(uint64_t bytes) {
  uint64_t from_reserve = 0;
  {
    std::lock_guard lock(mutex_);
    limit_ = bytes;
    if (used_ > limit_) from_reserve = std::min(used_ - limit_, ReserveLocked());
  }
  if (from_reserve > 0) AskReserve(from_reserve);
  return over_limit_bytes();
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

void Ledger::SetReserve(std::function<void(uint64_t)> give_up) {
  std::lock_guard lock(reserve_mutex_);
  reserve_ = std::move(give_up);
}

bool Ledger::AskReserve(uint64_t missing_bytes) {
  std::lock_guard lock(reserve_mutex_);
  if (!reserve_) return false;
  reserve_(missing_bytes);
  return true;
}

Result<Charge> Ledger::TryTake(std::string owner, ChargeKind kind, uint64_t bytes) {
  // Another thread may take what the reserve gave up for this one; not time after time.
  for (int32_t tries = 0;; ++tries) {
    uint64_t missing = 0;
    {
      std::lock_guard lock(mutex_);
      if (bytes <= UnusedLocked()) {
        AddLocked(owner, kind, bytes);
        break;
      }
      if (kind == ChargeKind::kReserve || bytes > FreeLocked() || tries == kReserveTries) {
        return Fail(RefusalLocked(owner, kind, bytes));
      }
      missing = bytes + used_ - limit_;  // no overflow: bytes <= limit_
    }
    if (!AskReserve(missing)) tries = kReserveTries - 1;
  }
  Charge charge;
  charge.ledger_ = this;
  charge.owner_ = std::move(owner);
  charge.kind_ = kind;
  charge.bytes_ = bytes;
  return charge;
}

// What the reserve holds stands in nobody's way.
Error Ledger::RefusalLocked(const std::string& owner, ChargeKind kind, uint64_t bytes) const {
  std::string most = "nobody";
  uint64_t most_bytes = 0;
  for (const auto& [key, held] : charges_) {
    if (held > most_bytes && key.second != ChargeKind::kReserve) {
      most_bytes = held;
      most = fmt::format("{} ({})", key.first, ChargeKindName(key.second));
    }
  }
  return {
      .kind = ErrorKind::kUnavailable,
      .code = "out_of_pool_memory",
      .message = fmt::format(
          "{} asks for {} bytes of {}, but {} of the pool's {} bytes are used (most by {}: {} bytes); unload "
          "a model, lower max_tokens or raise the pool's limit",
          owner, bytes, ChargeKindName(kind), used_ - ReserveLocked(), limit_, most, most_bytes),
      .param = {}};
}

void Ledger::AddLocked(const std::string& owner, ChargeKind kind, uint64_t bytes) {
  if (bytes == 0) return;
  ++changes_;
  used_ += bytes;
  used_by_kind_[static_cast<size_t>(kind)] += bytes;
  charges_[{owner, kind}] += bytes;
}

void Ledger::RemoveLocked(const std::string& owner, ChargeKind kind, uint64_t bytes) {
  if (bytes == 0) return;
  const auto entry = charges_.find({owner, kind});
  CHECK(entry != charges_.end() && entry->second >= bytes && used_ >= bytes);
  ++changes_;
  used_ -= bytes;
  used_by_kind_[static_cast<size_t>(kind)] -= bytes;
  entry->second -= bytes;
  if (entry->second == 0) charges_.erase(entry);
}

void Ledger::Return(const std::string& owner, ChargeKind kind, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  RemoveLocked(owner, kind, bytes);
}

void Ledger::Reassign(const std::string& owner, ChargeKind kind, const std::string& to, ChargeKind to_kind,
                      uint64_t bytes) {
  std::lock_guard lock(mutex_);
  RemoveLocked(owner, kind, bytes);
  AddLocked(to, to_kind, bytes);
}

uint64_t Ledger::used() const {
  std::lock_guard lock(mutex_);
  return used_;
}

uint64_t Ledger::free() const {
  std::lock_guard lock(mutex_);
  return FreeLocked();
}

uint64_t Ledger::unused() const {
  std::lock_guard lock(mutex_);
  return UnusedLocked();
}

uint64_t Ledger::changes() const {
  std::lock_guard lock(mutex_);
  return changes_;
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

std::map<std::pair<std::string, ChargeKind>, uint64_t> Ledger::Snapshot(uint64_t* used) const {
  std::lock_guard lock(mutex_);
  if (used != nullptr) *used = used_;
  return charges_;
}

}  // namespace tidepool::compute
