// The kernels of one instruction set, after its simd_*.inl. Include once, inside an anonymous namespace.
// The order matters.
// clang-format off
#include "chips/cpu/vector_sums.inl"
#include "chips/cpu/elementwise.inl"
#include "chips/cpu/linear_float.inl"
#include "chips/cpu/linear_quantised.inl"
#include "chips/cpu/linear_dot.inl"
#include "chips/cpu/attention.inl"
#include "chips/cpu/attention_fixed.inl"
#include "chips/cpu/attention_by_type.inl"
#include "chips/cpu/attention_decode.inl"
// clang-format on

template <PanelLayout kLayout>
static void Linear(const LinearTask& task) {
  if constexpr (!IsQuantised(kLayout)) {
    LinearFloat<kLayout>(task);
  } else if constexpr (kTiles) {
    LinearDot<kLayout>(task);
  } else {
    LinearQuantised<kLayout>(task);
  }
}

constexpr KernelTable MakeTable(const char* name) {
  return KernelTable{
      name,
      kTiles ? kDotTileRows : 0,
      QuantiseRows,
      {Linear<kPanelF32>, Linear<kPanelF16>, Linear<kPanelBF16>, Linear<kPanelQ4_0>, Linear<kPanelQ4_1>,
       Linear<kPanelQ5_0>, Linear<kPanelQ5_1>, Linear<kPanelQ8_0>, Linear<kPanelQ2_K>, Linear<kPanelQ3_K>,
       Linear<kPanelQ4_K>, Linear<kPanelQ5_K>, Linear<kPanelQ6_K>, Linear<kPanelIQ4_NL>, Linear<kPanelIQ4_XS>,
       Linear<kPanelMXFP4>},
      Attend,
      AttendDecode,
      MergePartials,
      RmsNormRows,
      LayerNormRows,
      RopeRows,
      AddRows,
      PeakRows,
      {ActivateRows<kSiluKernel>, ActivateRows<kGeluTanhKernel>, ActivateRows<kGeluExactKernel>, ActivateRows<kTanhKernel>},
      ConvertToHalf,
      ConvertToBfloat,
      ConvertToQ8,
      ConvertKeyToI16,
      ConvertValueToI16,
      ProbeF32,
      ProbeInt8,
      int64_t{kProbeChains} * kLanes * 2,
      int64_t{kProbeChains} * kLanes * 4 * 2,
      ReadAllBytes,
  };
}
