// What the machine has, measured, and what would make it faster.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "chips/device.h"

namespace tidepool::server {

// Takes about a second (rooflines are measured anew). Fields: machine, disk, limits, and `advice`, a list of
// {"topic", "level": "ok"|"hint"|"warn", "text"} in plain words.
nlohmann::ordered_json DescribeMachine(chips::Device& device, uint64_t pool_bytes,
                                       const std::filesystem::path& home);

}  // namespace tidepool::server
