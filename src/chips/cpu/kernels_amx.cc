// Compiled with the flags of AMX and AVX-512: see kernel_table.h for what may be included here.
#include <immintrin.h>

#include "chips/cpu/tile_kernels.h"

namespace tidepool::chips::cpu {
namespace {
// clang-format off
#include "chips/cpu/simd_avx512.inl"
#include "chips/cpu/amx_tiles.inl"
#include "chips/cpu/amx_kernels.inl"
// clang-format on
}  // namespace

const TileKernels kAmxTileKernels = MakeTileKernels();

}  // namespace tidepool::chips::cpu
