// What the x-ratelimit-* headers say: of the limit that has the least left, in share.
#pragma once

#include <cstdint>
#include <optional>

namespace tidepool::platform {

struct RateState {
  struct Window {
    int64_t limit = 0, remaining = 0;
    double reset_s = 0;  // until it is full again
  };
  std::optional<Window> requests, tokens;
};

}  // namespace tidepool::platform
