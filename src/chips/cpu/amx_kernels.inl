// The kernels over tile registers, after simd_avx512.inl and the tiles (amx_tiles.inl, or amx_tiles_model.inl). Include once,
// inside an anonymous namespace. The order matters.
// clang-format off
#include "chips/cpu/vector_sums.inl"
#include "chips/cpu/attention.inl"
#include "chips/cpu/attention_fixed.inl"
#include "chips/cpu/amx_linear.inl"
#include "chips/cpu/amx_attention.inl"
// clang-format on

constexpr TileKernels MakeTileKernels() {
  return TileKernels{
      ConvertToTiles,
      {nullptr, LinearTiles<kPanelF16>, LinearTiles<kPanelBF16>, LinearTiles<kPanelQ4_0>,
       LinearTiles<kPanelQ4_1>, LinearTiles<kPanelQ5_0>, LinearTiles<kPanelQ5_1>, LinearTiles<kPanelQ8_0>,
       LinearTiles<kPanelQ2_K>, LinearTiles<kPanelQ3_K>, LinearTiles<kPanelQ4_K>, LinearTiles<kPanelQ5_K>,
       LinearTiles<kPanelQ6_K>, LinearTiles<kPanelIQ4_NL>, LinearTiles<kPanelIQ4_XS>,
       LinearTiles<kPanelMXFP4>},
      ProbeTilesInt8,
      int64_t{kTileProbeChains} * kTileRows * kTileRows * 64 * 2,
      AttendOnTiles,
  };
}
