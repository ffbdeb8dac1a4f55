#include "server/doctor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <vector>

namespace tidepool::server {
namespace {

using Json = nlohmann::ordered_json;

struct Disk {
  uint64_t free_bytes = 0;
  double write_bytes_per_s = 0;
};

// Writes 64 MiB and syncs: enough to tell a network disk from a local one, short enough to wait for.
Disk MeasureDisk(const std::filesystem::path& home) {
  Disk disk;
  struct statvfs stat{};
  if (::statvfs(home.c_str(), &stat) == 0) disk.free_bytes = uint64_t{stat.f_bavail} * stat.f_frsize;
  constexpr size_t kProbeBytes = size_t{64} << 20;
  if (disk.free_bytes < 4 * kProbeBytes) return disk;
  const std::filesystem::path path = home / "doctor.probe";
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return disk;
  const std::vector<char> chunk(size_t{4} << 20, 'x');
  const auto start = std::chrono::steady_clock::now();
  size_t written = 0;
  while (written < kProbeBytes) {
    const ssize_t got = ::write(file, chunk.data(), chunk.size());
    if (got <= 0) break;
    written += static_cast<size_t>(got);
  }
  ::fdatasync(file);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  ::close(file);
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  if (took.count() > 0) disk.write_bytes_per_s = static_cast<double>(written) / took.count();
  return disk;
}

double LoadAverage() {
  double load = 0;
  return ::getloadavg(&load, 1) == 1 ? load : 0;
}

Json Advice(const chips::DeviceInfo& info, const chips::Roofline& roofline, uint64_t pool_bytes,
            const Disk& disk) {
  Json advice = Json::array();
  const auto add = [&](const char* topic, const char* level, std::string text) {
    advice.push_back({{"topic", topic}, {"level", level}, {"text", std::move(text)}});
  };
  const std::vector<std::string> sets = chips::CpuInstructionSets();
  if (sets.front() == "reference") {
    add("processor", "warn", "no AVX2: only the slow reference kernels run here; use a newer processor");
  } else if (info.instruction_set != sets.front()) {
    add("processor", "hint",
        fmt::format("{} is used although this processor has {}; unset pool.instruction_set",
                    info.instruction_set, sets.front()));
  } else {
    add("processor", "ok",
        fmt::format("the best kernels for this processor are in use ({})", info.instruction_set));
  }
  if (LoadAverage() > info.threads * 0.5) {
    add("load", "warn",
        fmt::format("other programs use the processor (load {:.1f} on {} threads): answers will be slower",
                    LoadAverage(), info.threads));
  }
  // Decode reads every weight once per token, so this is the ceiling that people meet first.
  add("memory", "hint",
      fmt::format(
          "memory reads at {:.1f} GB/s: one stream of a model with 1 GB of weights decodes at most {:.0f} "
          "tokens/s; smaller quantisations (Q4_K_M) and several requests at once raise the total",
          roofline.memory_bytes_per_s / 1e9, roofline.memory_bytes_per_s / 1e9));
  if (pool_bytes < (uint64_t{2} << 30)) {
    add("pool", "warn",
        fmt::format("the pool has only {:.1f} GiB; raise pool.memory to hold more than small models",
                    static_cast<double>(pool_bytes) / (1 << 30)));
  }
  if (disk.free_bytes < (uint64_t{10} << 30)) {
    add("disk", "warn",
        fmt::format("{:.1f} GiB free: remove models (tidepool rm) or move TIDEPOOL_HOME",
                    static_cast<double>(disk.free_bytes) / (1 << 30)));
  }
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < 4096) {
    add("files", "hint",
        fmt::format("open files are limited to {}; `ulimit -n 65536` allows more connections",
                    static_cast<uint64_t>(files.rlim_cur)));
  }
  return advice;
}

}  // namespace

Json DescribeMachine(chips::Device& device, uint64_t pool_bytes, const std::filesystem::path& home) {
  const chips::DeviceInfo& info = device.info();
  const chips::Roofline roofline = device.MeasureRoofline();
  const Disk disk = MeasureDisk(home);
  return {{"device", info.name},
          {"threads", info.threads},
          {"instruction_set", info.instruction_set},
          {"instruction_sets", chips::CpuInstructionSets()},
          {"memory_bytes", info.memory_bytes},
          {"pool_bytes", pool_bytes},
          {"memory_bytes_per_s", roofline.memory_bytes_per_s},
          {"int8_ops_per_s", roofline.int8_ops_per_s},
          {"f32_flops_per_s", roofline.f32_flops_per_s},
          {"disk_free_bytes", disk.free_bytes},
          {"disk_write_bytes_per_s", disk.write_bytes_per_s},
          {"home", home.string()},
          {"load_average", LoadAverage()},
          {"advice", Advice(info, roofline, pool_bytes, disk)}};
}

}  // namespace tidepool::server
