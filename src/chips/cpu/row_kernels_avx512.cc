#include <immintrin.h>

#include "chips/cpu/row_kernels.h"

namespace tidepool::chips::cpu {
namespace {

constexpr int kWidth = 16;
using Mask = __mmask16;

inline Mask AtLeast(const float* x, float floor) {
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(x), _mm512_set1_ps(floor), _CMP_GE_OQ);
}

// Compressed in registers and stored whole: compressing stores are slow on some processors.
inline size_t Take(Mask mask, const float* x, int32_t first_id, int32_t* ids, float* values) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i all = _mm512_add_epi32(_mm512_set1_epi32(first_id), lanes);
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(mask, all));
  _mm512_storeu_ps(values, _mm512_maskz_compress_ps(mask, _mm512_loadu_ps(x)));
  return static_cast<size_t>(__builtin_popcount(mask));
}

inline __m512d LowHalf(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
inline __m512d HighHalf(__m512 x) {
  return _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
}

#include "chips/cpu/row_kernels.inl"

}  // namespace

extern const RowKernels kAvx512RowKernels = MakeRowKernels("avx512");

}  // namespace tidepool::chips::cpu
