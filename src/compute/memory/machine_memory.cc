#include "compute/memory/machine_memory.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

#include "chips/cpu/processor.h"

namespace tidepool::compute {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// "MemTotal:       16303428 kB"; 0 when the line is missing or absurd.
uint64_t MemTotal(const std::string& meminfo) {
  std::istringstream lines(meminfo);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("MemTotal:", 0) != 0) continue;
    const uint64_t kib = std::strtoull(line.c_str() + 9, nullptr, 10);
    return kib < (uint64_t{1} << 50) ? kib * 1024 : 0;
  }
  return 0;
}

}  // namespace

MachineMemory ReadMachineMemory(const std::string& meminfo, const std::string& cgroup_root,
                                const std::string& membership) {
  MachineMemory memory;
  memory.physical_bytes = MemTotal(meminfo);
  memory.cgroup_bytes = chips::cpu::ReadCgroupLimits(cgroup_root, membership).memory_bytes;
  memory.usable_bytes = memory.physical_bytes;
  const bool tighter = memory.physical_bytes == 0 || memory.cgroup_bytes < memory.physical_bytes;
  if (memory.cgroup_bytes > 0 && tighter) memory.usable_bytes = memory.cgroup_bytes;
  return memory;
}

MachineMemory ReadMachineMemory() {
  return ReadMachineMemory(ReadText("/proc/meminfo"), "/sys/fs/cgroup", ReadText("/proc/self/cgroup"));
}

std::string MachineMemory::Describe() const {
  const bool by_cgroup = cgroup_bytes > 0 && usable_bytes == cgroup_bytes;
  return fmt::format("{:.1f} GiB {}", static_cast<double>(usable_bytes) / (1 << 30),
                     by_cgroup ? "by the control group" : "of the machine");
}

}  // namespace tidepool::compute
