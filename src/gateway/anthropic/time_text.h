#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <string>

namespace tidepool::gateway::anthropic {

// RFC 3339 to the second, UTC.
inline std::string TimeText(int64_t unix_s) {
  const auto time = static_cast<time_t>(unix_s);
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  std::array<char, 32> text{};
  const size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text.data(), size};
}

}  // namespace tidepool::gateway::anthropic
