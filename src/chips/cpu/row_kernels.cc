// The kernels for any processor, and the choice among the sets.
#include "chips/cpu/row_kernels.h"

#include "chips/device.h"
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace tidepool::chips::cpu {
namespace {

static_assert(kRowBlock == chips::kPeakBlock && kRowLanes == chips::kPeakLanes);

constexpr int kWidth = 4;
using Mask = uint32_t;

inline Mask AtLeast(const float* x, float floor) {
  Mask mask = 0;
#if defined(__x86_64__)
  const __m128 floors = _mm_set1_ps(floor);
  for (int l = 0; l < 16; l += 4) {
    mask |= static_cast<Mask>(_mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(x + l), floors))) << l;
  }
#else
  for (int l = 0; l < 16; ++l) mask |= static_cast<Mask>(x[l] >= floor) << l;
#endif
  return mask;
}

typedef float FourFloats __attribute__((vector_size(16)));
typedef double TwoDoubles __attribute__((vector_size(16)));
inline TwoDoubles LowHalf(FourFloats x) {
  return TwoDoubles{static_cast<double>(x[0]), static_cast<double>(x[1])};
}
inline TwoDoubles HighHalf(FourFloats x) {
  return TwoDoubles{static_cast<double>(x[2]), static_cast<double>(x[3])};
}

#include "chips/cpu/row_kernels.inl"

}  // namespace

const RowKernels kBaselineRowKernels = MakeRowKernels("baseline");

const RowKernels* const* RowKernelSets() {
  struct Sets {
    const RowKernels* list[4] = {};
    Sets() {
      const RowKernels** next = list;
#if defined(__x86_64__)
      if (__builtin_cpu_supports("avx512f")) *next++ = &kAvx512RowKernels;
      if (__builtin_cpu_supports("avx2")) *next++ = &kAvx2RowKernels;
#endif
      *next = &kBaselineRowKernels;
    }
  };
  static const Sets sets;
  return sets.list;
}

}  // namespace tidepool::chips::cpu
