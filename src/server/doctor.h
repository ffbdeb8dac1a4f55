// What the machine has, measured, and what would make it faster.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "chips/device.h"
#include "models/formats/checkpoint.h"
#include "platform/catalog/catalog.h"
#include "server/machine_profile.h"

namespace tidepool::server {

struct DoctorInput {
  chips::Device* device = nullptr;
  chips::DeviceOptions options;  // what it was made with
  MachineProfile profile;        // in use
  bool calibrate = true;         // tune anew, for the next start
  uint64_t pool_bytes = 0;
  std::filesystem::path home;
  const platform::Catalog* catalog = nullptr;  // whose models are looked through for tensors on slow paths
};

// Takes two or three seconds (rooflines, tuning and kernels are measured anew; they are kept for the next
// start). Fields: machine, disk, limits, tuning, `kernels` (one a weight type, with the share of the limit),
// and `advice`, a list of {"id", "topic", "level": "ok"|"hint"|"warn", "text", "values", "reason"} in plain
// words.
nlohmann::ordered_json DescribeMachine(const DoctorInput& input);
// The weights of a model that take a slower path than its type's kernels, or none at all: [{"type",
// "tensors", "example", "shape" (of the example), "block" (elements), "reason" (a code), "why"}].
nlohmann::ordered_json SlowTensors(const chips::Device& device, const formats::Checkpoint& checkpoint);

}  // namespace tidepool::server
