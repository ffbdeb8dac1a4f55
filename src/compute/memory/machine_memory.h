// What this process may have of the machine's memory: where default limits come from. Nothing here asks what
// is free at the moment.
#pragma once

#include <cstdint>
#include <string>

namespace tidepool::compute {

struct MachineMemory {
  uint64_t physical_bytes = 0;
  uint64_t cgroup_bytes = 0;  // the least limit of this process's control group and its ancestors; 0: none
  // What there is to divide: the lesser of the two.
  uint64_t usable_bytes = 0;
  // "15.6 GiB of the machine" or "8.0 GiB by the control group": for logs and messages.
  std::string Describe() const;
};

// Reads /proc and /sys. Control groups of version 1 and 2, nested, "max".
MachineMemory ReadMachineMemory();
// The same from other roots, for tests: the text of /proc/meminfo, /sys/fs/cgroup, the text of
// /proc/self/cgroup.
MachineMemory ReadMachineMemory(const std::string& meminfo, const std::string& cgroup_root,
                                const std::string& membership);

}  // namespace tidepool::compute
