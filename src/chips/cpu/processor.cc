#include "chips/cpu/processor.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tidepool::chips::cpu {
namespace {

#if defined(__x86_64__)
// Tiles: the processor's instructions (CPUID 7), that the system saves the registers (XCR0), and that the
// kernel lets this process have them (Linux 5.16; every thread inherits it).
bool DetectAmx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kBfloat = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kAmx = kBfloat | kTile | kInt8;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kAmx) != kAmx) return false;
  constexpr unsigned kTileState = 3u << 17;  // XTILECFG, XTILEDATA
  // AVX-512 has been found, so XGETBV is there.
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  if ((eax & kTileState) != kTileState) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

ProcessorFeatures Detect() {
  ProcessorFeatures features;
#if defined(__x86_64__)
  // The builtin also asks XGETBV whether the system saves the registers. F16C has no name in older compilers.
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
  features.avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  // Leaf 7, sub-leaf 1, exists where EAX of sub-leaf 0 says so. No names in older compilers either.
  unsigned last = 0;
  const bool more = __get_cpuid_count(7, 0, &last, &ebx, &ecx, &edx) != 0 && last >= 1 &&
                    __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0;
  features.avx_vnni = features.avx2 && more && (eax & (1u << 4)) != 0;
  const bool bfloat = more && (eax & (1u << 5)) != 0;
  features.avx512 = features.avx2 && __builtin_cpu_supports("avx512f") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq");
  features.avx512_vnni = features.avx512 && __builtin_cpu_supports("avx512vnni");
  features.avx512_bf16 = features.avx512_vnni && bfloat;
  features.fast_bf16 = features.avx512_bf16 && __builtin_cpu_is("amd") != 0;
  if (features.avx512 && __builtin_cpu_is("amdfam19h") != 0) features.fetch_level = 2;
  if (features.avx512_bf16 && __builtin_cpu_is("intel") != 0) features.fetch_level = 3;
  features.amx = features.avx512_bf16 && DetectAmx();
#endif
  return features;
}

std::string ReadFirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// 0 for "max", absence or nonsense; version 1 writes "no limit" as a number near 2^63.
uint64_t ParseLimit(const std::string& text) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return 0;
  const uint64_t value = std::strtoull(text.c_str(), nullptr, 10);
  return value >= (uint64_t{1} << 60) ? 0 : value;
}

template <typename T>
void Tighten(T& limit, T candidate) {
  if (candidate > 0 && (limit == 0 || candidate < limit)) limit = candidate;
}

void ReadVersion2(const std::string& folder, CgroupLimits& limits) {
  std::istringstream cpu_max(ReadFirstLine(folder + "/cpu.max"));  // "200000 100000" or "max 100000"
  std::string quota;
  double period = 0;
  if (cpu_max >> quota >> period && period > 0) {
    Tighten(limits.cores, static_cast<double>(ParseLimit(quota)) / period);
  }
  Tighten(limits.memory_bytes, ParseLimit(ReadFirstLine(folder + "/memory.max")));
  // Above it nobody is killed, but everybody is made to wait for pages to be taken from him.
  Tighten(limits.memory_bytes, ParseLimit(ReadFirstLine(folder + "/memory.high")));
}

void ReadVersion1Cpu(const std::string& folder, CgroupLimits& limits) {
  const uint64_t quota = ParseLimit(ReadFirstLine(folder + "/cpu.cfs_quota_us"));  // -1: none
  const uint64_t period = ParseLimit(ReadFirstLine(folder + "/cpu.cfs_period_us"));
  if (period > 0) Tighten(limits.cores, static_cast<double>(quota) / static_cast<double>(period));
}

void ReadVersion1Memory(const std::string& folder, CgroupLimits& limits) {
  Tighten(limits.memory_bytes, ParseLimit(ReadFirstLine(folder + "/memory.limit_in_bytes")));
}

// "cpu,cpuacct" has "cpu" and not "acct".
bool HasController(const std::string& controllers, std::string_view name) {
  std::istringstream list(controllers);
  for (std::string one; std::getline(list, one, ',');) {
    if (one == name) return true;
  }
  return false;
}

// "/a/b" -> "/a" -> "" : every ancestor's limit holds too.
template <typename Visit>
void ForEachAncestor(std::string path, Visit&& visit) {
  if (path.find("..") != std::string::npos) path.clear();  // outside our namespace: only the root is visible
  if (path == "/") path.clear();
  for (;;) {
    visit(path);
    if (path.empty()) return;
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
}

std::string ReadWholeFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

CgroupLimits OwnCgroupLimits() {
  return ReadCgroupLimits("/sys/fs/cgroup", ReadWholeFile("/proc/self/cgroup"));
}

}  // namespace

const ProcessorFeatures& DetectFeatures() {
  static const ProcessorFeatures features = Detect();
  return features;
}

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return "CPU";
}

CgroupLimits ReadCgroupLimits(const std::string& cgroup_root, const std::string& membership) {
  CgroupLimits limits;
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "hierarchy:controllers:path"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      // Beside version 1 (hybrid), version 2 is mounted in a folder of its own.
      ForEachAncestor(path, [&](const std::string& p) {
        ReadVersion2(cgroup_root + p, limits);
        ReadVersion2(cgroup_root + "/unified" + p, limits);
      });
      continue;
    }
    // Each hierarchy of version 1 has its own tree: a path of one says nothing of another.
    if (HasController(controllers, "cpu")) {
      ForEachAncestor(path, [&](const std::string& p) { ReadVersion1Cpu(cgroup_root + "/cpu" + p, limits); });
    }
    if (HasController(controllers, "memory")) {
      ForEachAncestor(path,
                      [&](const std::string& p) { ReadVersion1Memory(cgroup_root + "/memory" + p, limits); });
    }
  }
  return limits;
}

int UsableCores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) cores = CPU_COUNT(&mask);
  const double quota = OwnCgroupLimits().cores;
  if (quota > 0) cores = std::min(cores, static_cast<int>(std::ceil(quota)));
  return std::max(cores, 1);
}

uint64_t UsableMemoryBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  uint64_t bytes = pages > 0 && page_bytes > 0
                       ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes)
                       : std::numeric_limits<uint64_t>::max();
  const uint64_t limit = OwnCgroupLimits().memory_bytes;
  return limit > 0 ? std::min(bytes, limit) : bytes;
}

}  // namespace tidepool::chips::cpu
