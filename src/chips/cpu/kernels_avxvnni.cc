// Compiled with the flags of avxvnni: see kernel_table.h for what may be included here.
#include <immintrin.h>

#include "chips/cpu/kernel_table.h"

namespace tidepool::chips::cpu {
namespace {
// clang-format off
#include "chips/cpu/simd_avx2.inl"
#include "chips/cpu/kernels.inl"
// clang-format on
}  // namespace

const KernelTable kAvxVnniKernels = MakeTable("avxvnni");

}  // namespace tidepool::chips::cpu
