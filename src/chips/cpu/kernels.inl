// The kernels of one instruction set, after its simd_*.inl. Include once, inside an anonymous namespace.
// The order matters.
// clang-format off
#include "chips/cpu/elementwise.inl"
#include "chips/cpu/linear_float.inl"
#include "chips/cpu/linear_quantised.inl"
#include "chips/cpu/attention.inl"
// clang-format on

constexpr KernelTable MakeTable(const char* name) {
  return KernelTable{
      name,
      false,  // every kernel reads the int8 codes
      QuantiseRows,
      {LinearFloat<kPanelF32>, LinearFloat<kPanelF16>, LinearFloat<kPanelBF16>, LinearQuantised<kPanelQ4_0>,
       LinearQuantised<kPanelQ4_1>, LinearQuantised<kPanelQ5_0>, LinearQuantised<kPanelQ5_1>,
       LinearQuantised<kPanelQ8_0>, LinearQuantised<kPanelQ2_K>, LinearQuantised<kPanelQ3_K>,
       LinearQuantised<kPanelQ4_K>, LinearQuantised<kPanelQ5_K>, LinearQuantised<kPanelQ6_K>,
       LinearQuantised<kPanelIQ4_NL>, LinearQuantised<kPanelIQ4_XS>, LinearQuantised<kPanelMXFP4>},
      Attend,
      MergePartials,
      RmsNormRows,
      LayerNormRows,
      RopeRows,
      AddRows,
      {ActivateRows<kSiluKernel>, ActivateRows<kGeluTanhKernel>, ActivateRows<kGeluExactKernel>},
      ConvertToHalf,
      ProbeF32,
      ProbeInt8,
      int64_t{kProbeChains} * kLanes * 2,
      int64_t{kProbeChains} * kLanes * 4 * 2,
      ReadAllBytes,
  };
}
