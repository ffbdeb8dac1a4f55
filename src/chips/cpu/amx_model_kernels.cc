// The tile kernels over the software model of tile registers, for amx_test.cc. Compiled with the flags of
// avx512: see kernel_table.h for what may be included here.
#include <immintrin.h>

#include "chips/cpu/tile_kernels.h"

namespace tidepool::chips::cpu {

[[noreturn]] void TileModelFailed(const char* what);

namespace {
// clang-format off
#include "chips/cpu/simd_avx512.inl"
#include "chips/cpu/amx_tiles_model.inl"

TP_INLINE Ints ToBfloat(Floats first, Floats second) {
  alignas(64) float floats[32];
  alignas(64) uint16_t halves[32];
  Store(floats, first);
  Store(floats + kLanes, second);
  for (int i = 0; i < 32; ++i) halves[i] = BfloatBits(floats[i]);
  return LoadInts(halves);
}

#include "chips/cpu/amx_kernels.inl"
// clang-format on
}  // namespace

extern const TileKernels kModelTileKernels;
const TileKernels kModelTileKernels = MakeTileKernels();

}  // namespace tidepool::chips::cpu
