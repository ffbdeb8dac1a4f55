#include <immintrin.h>

#include "chips/cpu/row_kernels.h"

namespace tidepool::chips::cpu {
namespace {

constexpr int kWidth = 8;
using Mask = uint32_t;

inline Mask AtLeast(const float* x, float floor) {
  const __m256 floors = _mm256_set1_ps(floor);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x), floors, _CMP_GE_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + 8), floors, _CMP_GE_OQ));
  return static_cast<Mask>(low) | static_cast<Mask>(high) << 8;
}

inline __m256d LowHalf(__m256 x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
inline __m256d HighHalf(__m256 x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }

#include "chips/cpu/row_kernels.inl"

}  // namespace

extern const RowKernels kAvx2RowKernels = MakeRowKernels("avx2");

}  // namespace tidepool::chips::cpu
