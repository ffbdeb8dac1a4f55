// Compiled with the flags of avx512bf16: see kernel_table.h for what may be included here.
#include <immintrin.h>

#include "chips/cpu/kernel_table.h"

namespace tidepool::chips::cpu {
namespace {
// clang-format off
#include "chips/cpu/simd_avx512.inl"
#include "chips/cpu/linear_bfloat.inl"
// clang-format on
}  // namespace

const BfloatKernels kAvx512Bf16Kernels = {LinearBfloat, ProbeBfloat, kBfloatProbeOperations};

}  // namespace tidepool::chips::cpu
