// What this machine and this process may use: instruction sets, cores, memory.
#pragma once

#include <cstdint>
#include <string>

namespace tidepool::chips::cpu {

struct ProcessorFeatures {
  bool avx2 = false;         // AVX2 + FMA + F16C, and the system saves their registers
  bool avx_vnni = false;     // avx2 and the VEX encoding of VNNI, 256 bits wide
  bool avx512 = false;       // F + BW + VL + DQ (implies avx2)
  bool avx512_vnni = false;  // avx512 and VNNI
  bool avx512_bf16 = false;  // avx512_vnni and dot products of bf16 pairs
  // These are faster than float32: on AMD (measured on Zen 5: twice). A Xeon of the fifth generation makes
  // about 0.08 TFLOPS a thread of them (while it was busy), 0.14 of float32. Taken from the vendor, not
  // measured at start: the kernels must not change from one start to the next, since their bits differ.
  bool fast_bf16 = false;
  // KernelTuning's. A first-level cache waits for few lines at a time (24 on a Zen 4, 16 on Xeons of the
  // fourth generation and later); more are under way to the second level.
  int64_t fetch_level = 1;
  // avx512_vnni, AVX512-BF16, AMX-TILE, AMX-INT8 and AMX-BF16, and the kernel has allowed this process to use
  // tiles.
  bool amx = false;
};
// The first call asks the kernel for tiles, where the processor has them: they add 8 KiB to the registers
// that the kernel saves of each thread that uses them.
const ProcessorFeatures& DetectFeatures();

std::string ProcessorName();  // "Intel(R) Xeon(R) Processor @ 2.50GHz"

// Limits of the control group of this process and its ancestors (version 2, or version 1). 0: no limit.
struct CgroupLimits {
  double cores = 0;
  uint64_t memory_bytes = 0;
};
// `cgroup_root` is /sys/fs/cgroup, `membership` the text of /proc/self/cgroup: arguments so that it can be
// tested.
CgroupLimits ReadCgroupLimits(const std::string& cgroup_root, const std::string& membership);

// Cores by affinity mask and quota, at least 1.
int UsableCores();
// Physical memory or the control group's limit, whichever is less.
uint64_t UsableMemoryBytes();

}  // namespace tidepool::chips::cpu
