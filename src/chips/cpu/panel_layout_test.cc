#include "chips/cpu/panel_layout.h"

#include <gtest/gtest.h>

#include "chips/cpu/random_weights.h"

namespace tidepool::chips::cpu {
namespace {

// Packing loses nothing: a packed row decodes to the very floats of the file's row, for any bytes of the
// codes and scales.
TEST(PanelLayout, DecodesToTheFloatsOfTheSource) {
  std::mt19937 random(1);
  for (const DataType type : AllWeightTypes()) {
    for (const WeightPrecision precision : {WeightPrecision::kNative, WeightPrecision::kFloat32}) {
      for (const int64_t rows : {1, 16, 35}) {
        const int64_t columns = 3 * std::max<int64_t>(32, TraitsOf(type).block_elements);
        SCOPED_TRACE(TraitsOf(type).name);
        const WeightSpec spec{type, rows, columns, precision};
        const PanelLayout layout = LayoutOf(spec);
        const std::vector<std::byte> source = RandomWeights(type, rows, columns, random);
        const size_t panel_bytes = PanelBytes(layout, columns);
        EXPECT_EQ(panel_bytes % 64, 0u);
        std::vector<std::byte> packed(panel_bytes * static_cast<size_t>(PanelCount(rows)), std::byte{0xa5});
        for (int64_t panel = 0; panel < PanelCount(rows); ++panel) {
          PackPanel(spec, layout, source.data(), panel,
                    packed.data() + static_cast<size_t>(panel) * panel_bytes);
        }
        std::vector<float> expected(static_cast<size_t>(columns)), decoded(static_cast<size_t>(columns));
        for (int64_t row = 0; row < rows; ++row) {
          DequantiseRow(type, source.data() + static_cast<size_t>(row) * RowBytes(type, columns), columns,
                        expected.data());
          DecodePanelRow(layout, columns, packed.data(), row, decoded.data());
          ASSERT_EQ(expected, decoded) << "row " << row;
        }
      }
    }
  }
}

// Packing must not grow what decode has to read: bits per weight of the panels, padding of scales apart.
TEST(PanelLayout, BytesPerWeightAreThoseOfTheFileOrNearly) {
  for (const DataType type : AllWeightTypes()) {
    constexpr int64_t kColumns = 4096;
    const WeightSpec spec{type, 16, kColumns, WeightPrecision::kNative};
    const auto packed = static_cast<double>(PanelBytes(LayoutOf(spec), kColumns));
    // Q2_K's 4-bit scales and minimums take a byte each: 3.1 instead of 2.6 bits.
    const double allowed = type == DataType::kQ2_K ? 1.20 : 1.10;
    EXPECT_LE(packed / static_cast<double>(16 * RowBytes(type, kColumns)), allowed) << TraitsOf(type).name;
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
