// A flat hash map from a piece's bytes to a number: open addressing, keys in one arena, no allocation on
// lookup. Built once, then read from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::text {

class PieceMap {
 public:
  static constexpr int32_t kMissing = -1;

  void Reserve(size_t pieces);
  void ReserveBytes(size_t bytes) { arena_.reserve(bytes); }  // of all keys together
  // Adds or, if the key is there already, replaces. `value` >= 0.
  void Insert(std::string_view key, int32_t value);
  int32_t Find(std::string_view key) const;  // kMissing if absent
  bool Contains(std::string_view key) const { return Find(key) != kMissing; }
  size_t size() const { return count_; }
  // Calls visit(key, value) for every entry, in no particular order.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    for (const Slot& slot : slots_) {
      if (slot.value != kMissing) visit(std::string_view(arena_).substr(slot.offset, slot.size), slot.value);
    }
  }
  size_t longest() const { return longest_; }  // bytes of the longest key

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t value = kMissing;
    uint32_t offset = 0;
    uint32_t size = 0;
  };
  void Grow(size_t slots);

  std::vector<Slot> slots_;
  std::string arena_;
  size_t count_ = 0;
  size_t longest_ = 0;
};

}  // namespace tidepool::text
