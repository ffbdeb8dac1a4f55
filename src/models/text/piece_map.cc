#include "models/text/piece_map.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>
#include <cstring>

#include "base/check.h"

namespace tidepool::text {
namespace {

uint32_t HashOf(std::string_view key) { return static_cast<uint32_t>(XXH3_64bits(key.data(), key.size())); }

}  // namespace

void PieceMap::Reserve(size_t pieces) {
  // At most half full: an absent key ends after about 2.5 probes.
  const size_t wanted = std::bit_ceil(pieces * 2 + 16);
  if (wanted > slots_.size()) Grow(wanted);
}

void PieceMap::Grow(size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.value == kMissing) continue;
    size_t i = slot.hash & mask;
    while (slots_[i].value != kMissing) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

void PieceMap::Insert(std::string_view key, int32_t value) {
  CHECK(value >= 0);
  CHECK(arena_.size() + key.size() <= UINT32_MAX);
  Reserve(count_ + 1);
  const uint32_t hash = HashOf(key);
  const size_t mask = slots_.size() - 1;
  size_t i = hash & mask;
  for (; slots_[i].value != kMissing; i = (i + 1) & mask) {
    Slot& slot = slots_[i];
    if (slot.hash == hash && slot.size == key.size() &&
        std::memcmp(arena_.data() + slot.offset, key.data(), key.size()) == 0) {
      slot.value = value;
      return;
    }
  }
  slots_[i] = {hash, value, static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(key.size())};
  arena_.append(key);
  ++count_;
  if (key.size() > longest_) longest_ = key.size();
}

int32_t PieceMap::Find(std::string_view key) const {
  if (key.size() > longest_ || slots_.empty()) return kMissing;
  const uint32_t hash = HashOf(key);
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask; slots_[i].value != kMissing; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.hash == hash && slot.size == key.size() &&
        std::memcmp(arena_.data() + slot.offset, key.data(), key.size()) == 0) {
      return slot.value;
    }
  }
  return kMissing;
}

}  // namespace tidepool::text
