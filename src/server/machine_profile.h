// What was measured of this machine, kept in $TIDEPOOL_HOME/machine.json so that only the first start
// measures.
//
// The file is believed only if it was written for the same processor, instruction set, number of threads,
// packing version and build, and holds numbers that can be; anything else is measured again. It decides speed
// and estimates, never results.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "chips/device.h"

namespace tidepool::server {

inline constexpr const char* kMachineProfileFile = "machine.json";  // in the home

struct MachineKey {
  std::string processor;  // DeviceInfo::name: model and threads
  std::string instruction_set;
  int threads = 0;
  uint32_t packing_version = 0;
  std::string build;  // version and commit
  bool operator==(const MachineKey&) const = default;
};
MachineKey KeyOf(const chips::Device& device);

struct MachineProfile {
  MachineKey key;
  chips::Roofline roofline;
  chips::cpu::KernelTuning tuning;
  bool tried = false;  // to tune; a machine that was too busy is not tried again but by doctor
  bool tuned = false;  // by measurement; else the defaults
};

// kNotFound when there is none; kCorrupt "machine_profile_unusable" with the reason when it is damaged,
// foreign, or not a regular file of at most 64 KiB.
Result<MachineProfile> ReadMachineProfile(const std::filesystem::path& file, const MachineKey& expected);
// Whole or not at all, readable by its owner only.
Status WriteMachineProfile(const std::filesystem::path& file, const MachineProfile& profile);

// Measures a roofline and, if `calibrate` and it was not tried before or `again`, the tuning. Of rates the
// best seen stay: a machine with one key does not become slower, it is only busier. Errors as MakeCpuDevice.
Status MeasureMachine(chips::Device& device, const chips::DeviceOptions& options, bool calibrate, bool again,
                      MachineProfile& profile);

nlohmann::ordered_json DescribeTuning(const chips::cpu::KernelTuning& tuning);

}  // namespace tidepool::server
