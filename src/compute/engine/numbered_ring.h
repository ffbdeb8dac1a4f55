// Reading a bounded log whose records are numbered from 1 without gaps: record n is at n % size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tidepool::compute {

// Appends to `found` at most `most` records after number `after` of a log whose newest is `last`, oldest
// first. Returns how many between `after` and the first of them are not kept any more.
template <typename Record>
uint64_t ReadRing(const std::vector<Record>& ring, uint64_t last, uint64_t after, size_t most,
                  std::vector<Record>& found) {
  if (after >= last) return 0;
  const uint64_t kept = std::min<uint64_t>(last, ring.size());
  const uint64_t first = std::max(after, last - kept) + 1;
  for (uint64_t number = first; number <= last && found.size() < most; ++number)
    found.push_back(ring[number % ring.size()]);
  return first - 1 - after;
}

}  // namespace tidepool::compute
