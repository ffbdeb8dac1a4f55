// What moving KV between a device and the host arena means: a list of copies that somebody else carries out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tidepool::compute {

enum class KvDirection : uint8_t { kToHost, kToDevice };

// One contiguous copy. Neighbouring blocks whose memory lies side by side at both ends are one copy.
struct KvCopy {
  const std::byte* source = nullptr;
  std::byte* destination = nullptr;
  size_t bytes = 0;
};

// Begun by a BlockPool. Neither end of a copy is used for anything else until the move is ended or aborted
// there, whatever becomes of the sequence meanwhile.
struct KvMove {
  uint64_t id = 0;  // of the pool that began it
  KvDirection direction = KvDirection::kToHost;
  std::vector<KvCopy> copies;  // may be empty: nothing has to be copied, end the move at once
  uint64_t bytes = 0;          // sum of copies
};

}  // namespace tidepool::compute
