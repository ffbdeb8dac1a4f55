#include "chips/cpu/panel_layout.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "chips/quantisation.h"

namespace tidepool::chips::cpu {
namespace {

constexpr int kVectorBytes = 4 * kPanelRows;
constexpr int kVectors = kGroup / 4;

// A group of 32 columns of one row, as read from the file.
struct Group {
  uint8_t codes[kGroup];
  uint16_t scale = 0;        // f16 (bf16 for MXFP4): of the group, or of its super-block
  uint16_t minimum = 0;      // f16
  int8_t sub_scale[2] = {};  // K types; the second only where scales are by 16 columns
  uint8_t sub_minimum[2] = {};
};

// The readers below are compiled once for each layout and each group of a super-block: with both constant,
// every shift is a constant and the loops become vectors. (As one general function packing is three to five
// times slower.)
#define TIDEPOOL_ALWAYS_INLINE [[gnu::always_inline]] inline

uint8_t U8(const std::byte* p) { return static_cast<uint8_t>(*p); }
uint16_t U16(const std::byte* p) { return static_cast<uint16_t>(U8(p) | U8(p + 1) << 8); }

// 16 bytes: low nibbles are codes 0..15, high nibbles 16..31.
TIDEPOOL_ALWAYS_INLINE void SplitNibbles(const std::byte* p, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = U8(p + j) & 15;
    codes[j + 16] = static_cast<uint8_t>(U8(p + j) >> 4);
  }
}

TIDEPOOL_ALWAYS_INLINE void AddFifthBits(const std::byte* p, uint8_t* codes) {
  for (int byte = 0; byte < kGroup / 8; ++byte) {
    // Bit k to byte k: a copy of the byte in each, its own bit kept, anything but zero made 1 by the carry
    // into bit 7.
    const uint64_t own = (U8(p + byte) * 0x0101010101010101u) & 0x8040201008040201u;
    const uint64_t fifth = (((own + 0x7F7F7F7F7F7F7F7Fu) >> 7) & 0x0101010101010101u) << 4;
    uint64_t eight = 0;
    std::memcpy(&eight, codes + 8 * byte, 8);
    eight |= fifth;
    std::memcpy(codes + 8 * byte, &eight, 8);
  }
}

// Scale and minimum i of the 12 bytes of Q4_K and Q5_K.
TIDEPOOL_ALWAYS_INLINE void ReadSixBitPair(const std::byte* s, int i, Group& group) {
  if (i < 4) {
    group.sub_scale[0] = static_cast<int8_t>(U8(s + i) & 63);
    group.sub_minimum[0] = U8(s + i + 4) & 63;
  } else {
    group.sub_scale[0] = static_cast<int8_t>((U8(s + i + 4) & 15) | (U8(s + i - 4) >> 6) << 4);
    group.sub_minimum[0] = static_cast<uint8_t>(U8(s + i + 4) >> 4 | (U8(s + i) >> 6) << 4);
  }
}

TIDEPOOL_ALWAYS_INLINE void ReadQ2K(const std::byte* block, int i, Group& group) {
  const std::byte* codes = block + 16 + i / 4 * 32;
  for (int l = 0; l < kGroup; ++l) group.codes[l] = (U8(codes + l) >> 2 * (i % 4)) & 3;
  for (int p = 0; p < 2; ++p) {
    group.sub_scale[p] = static_cast<int8_t>(U8(block + 2 * i + p) & 15);
    group.sub_minimum[p] = static_cast<uint8_t>(U8(block + 2 * i + p) >> 4);
  }
  group.scale = U16(block + 80);
  group.minimum = U16(block + 82);
}

TIDEPOOL_ALWAYS_INLINE void ReadQ3K(const std::byte* block, int i, Group& group) {
  const std::byte* codes = block + 32 + i / 4 * 32;
  const std::byte* packed = block + 96;
  for (int l = 0; l < kGroup; ++l) {
    const int high = (U8(block + l) >> i) & 1;
    group.codes[l] = static_cast<uint8_t>(((U8(codes + l) >> 2 * (i % 4)) & 3) + 4 * high);
  }
  for (int p = 0; p < 2; ++p) {
    const int s = 2 * i + p;
    const int low = s < 8 ? U8(packed + s) & 15 : U8(packed + s - 8) >> 4;
    const int high = (U8(packed + 8 + s % 4) >> 2 * (s / 4)) & 3;
    group.sub_scale[p] = static_cast<int8_t>((low | high << 4) - 32);
  }
  group.scale = U16(block + 108);
}

TIDEPOOL_ALWAYS_INLINE void ReadQ4K(const std::byte* block, int i, const std::byte* codes, Group& group) {
  group.scale = U16(block);
  group.minimum = U16(block + 2);
  ReadSixBitPair(block + 4, i, group);
  codes += i / 2 * 32;
  for (int l = 0; l < kGroup; ++l) group.codes[l] = (U8(codes + l) >> 4 * (i % 2)) & 15;
}

TIDEPOOL_ALWAYS_INLINE void ReadQ6K(const std::byte* block, int i, Group& group) {
  const std::byte* low = block + i / 4 * 64 + i % 2 * 32;
  const std::byte* high = block + 128 + i / 4 * 32;
  const int nibble = i % 4 / 2 * 4, pair = i % 4 * 2;
  for (int l = 0; l < kGroup; ++l) {
    group.codes[l] = static_cast<uint8_t>(((U8(low + l) >> nibble) & 15) | ((U8(high + l) >> pair) & 3) << 4);
  }
  for (int p = 0; p < 2; ++p) group.sub_scale[p] = static_cast<int8_t>(U8(block + 192 + 2 * i + p));
  group.scale = U16(block + 208);
}

TIDEPOOL_ALWAYS_INLINE void ReadIq4Xs(const std::byte* block, int i, Group& group) {
  group.scale = U16(block);
  const int low = (U8(block + 4 + i / 2) >> 4 * (i % 2)) & 15;
  const int high = (U16(block + 2) >> 2 * i) & 3;
  group.sub_scale[0] = static_cast<int8_t>((low | high << 4) - 32);
  SplitNibbles(block + 8 + i * 16, group.codes);
}

// 2^(e - 128) as bf16: exact, subnormals included. 255 becomes 2^127, as DequantiseRow has it.
uint16_t HalvedE8M0(uint8_t e) { return static_cast<uint16_t>(e < 2 ? 0x0020 << e : (e - 1) << 7); }

// Group g of a row; i = g % kSuperGroups.
TIDEPOOL_ALWAYS_INLINE void ReadGroup(PanelLayout layout, const std::byte* row, int64_t g, int i,
                                      Group& group) {
  const auto block = [&](int bytes) { return row + g * bytes; };
  const auto super_block = [&](int bytes) { return row + g / kSuperGroups * bytes; };
  const std::byte* p = nullptr;
  switch (layout) {
    case kPanelQ4_0:
    case kPanelIQ4_NL:
      p = block(18);
      group.scale = U16(p);
      return SplitNibbles(p + 2, group.codes);
    case kPanelQ4_1:
      p = block(20);
      group.scale = U16(p);
      group.minimum = U16(p + 2);
      return SplitNibbles(p + 4, group.codes);
    case kPanelQ5_0:
      p = block(22);
      group.scale = U16(p);
      SplitNibbles(p + 6, group.codes);
      return AddFifthBits(p + 2, group.codes);
    case kPanelQ5_1:
      p = block(24);
      group.scale = U16(p);
      group.minimum = U16(p + 2);
      SplitNibbles(p + 8, group.codes);
      return AddFifthBits(p + 4, group.codes);
    case kPanelQ8_0:
      p = block(34);
      group.scale = U16(p);
      for (int l = 0; l < kGroup; ++l) group.codes[l] = U8(p + 2 + l) ^ 0x80;  // + 128
      return;
    case kPanelMXFP4:
      p = block(17);
      group.scale = HalvedE8M0(U8(p));
      return SplitNibbles(p + 1, group.codes);
    case kPanelQ2_K: return ReadQ2K(super_block(84), i, group);
    case kPanelQ3_K: return ReadQ3K(super_block(110), i, group);
    case kPanelQ4_K: p = super_block(144); return ReadQ4K(p, i, p + 16, group);
    case kPanelQ5_K:
      p = super_block(176);
      ReadQ4K(p, i, p + 48, group);
      for (int l = 0; l < kGroup; ++l) {
        group.codes[l] = static_cast<uint8_t>(group.codes[l] | ((U8(p + 16 + l) >> i) & 1) << 4);
      }
      return;
    case kPanelQ6_K: return ReadQ6K(super_block(210), i, group);
    case kPanelIQ4_XS: return ReadIq4Xs(super_block(136), i, group);
    default: CHECK(false);
  }
}

using CodeTile = uint8_t[kVectors][kVectorBytes];

// Code vectors to planes; see the header.
template <CodeStorage kStorage>
void StorePlanes(const CodeTile& tile, std::byte* out) {
  auto* __restrict to = reinterpret_cast<uint8_t*>(out);
  if constexpr (kStorage == kByte) {
    std::memcpy(to, tile, sizeof tile);
    return;
  }
  constexpr bool kTwo = kStorage == kTwoBits || kStorage == kTwoBitsPlusBit;
  constexpr int kBits = kTwo ? 2 : 4, kLow = kTwo ? 2 : 4;  // bits and vectors of the low plane
  constexpr int kMask = (1 << kBits) - 1;
  for (int v = 0; v < kLow; ++v, to += kVectorBytes) {
    for (int b = 0; b < kVectorBytes; ++b) {
      int byte = 0;
#pragma GCC unroll 8
      for (int f = 0; f < kVectors / kLow; ++f) byte |= (tile[v + f * kLow][b] & kMask) << f * kBits;
      to[b] = static_cast<uint8_t>(byte);
    }
  }
  if constexpr (kStorage == kNibblePlusBit || kStorage == kTwoBitsPlusBit) {
    for (int b = 0; b < kVectorBytes; ++b) {
      int byte = 0;
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) byte |= ((tile[j][b] >> kBits) & 1) << j;
      to[b] = static_cast<uint8_t>(byte);
    }
  } else if constexpr (kStorage == kNibblePlusTwoBits) {
    for (int v = 0; v < 2; ++v, to += kVectorBytes) {
      for (int b = 0; b < kVectorBytes; ++b) {
        int byte = 0;
#pragma GCC unroll 8
        for (int f = 0; f < kVectors / 2; ++f) byte |= (tile[2 * f + v][b] >> 4) << 2 * f;
        to[b] = static_cast<uint8_t>(byte);
      }
    }
  }
}

uint8_t LoadCode(CodeStorage storage, const std::byte* codes, int lane, int column) {
  const auto* from = reinterpret_cast<const uint8_t*>(codes);
  const int j = column / 4, at = lane * 4 + column % 4;
  switch (storage) {
    case kByte: return from[j * kVectorBytes + at];
    case kNibble: return (from[j % 4 * kVectorBytes + at] >> j / 4 * 4) & 15;
    case kNibblePlusBit:
      return static_cast<uint8_t>(LoadCode(kNibble, codes, lane, column) |
                                  ((from[4 * kVectorBytes + at] >> j) & 1) << 4);
    case kNibblePlusTwoBits:
      return static_cast<uint8_t>(LoadCode(kNibble, codes, lane, column) |
                                  ((from[(4 + j % 2) * kVectorBytes + at] >> j / 2 * 2) & 3) << 4);
    case kTwoBits: return (from[j % 2 * kVectorBytes + at] >> j / 2 * 2) & 3;
    case kTwoBitsPlusBit:
      return static_cast<uint8_t>(LoadCode(kTwoBits, codes, lane, column) |
                                  ((from[2 * kVectorBytes + at] >> j) & 1) << 2);
  }
  CHECK(false);
}

void Put16(std::byte* base, int lane, uint16_t value) { std::memcpy(base + 2 * lane, &value, 2); }
uint16_t Get16(const std::byte* base, int lane) { return U16(base + 2 * lane); }

// The place of group g's scales in a panel: the f16 row and, for the K types, the int8 rows.
struct ScalePlace {
  size_t halves, bytes;
};
TIDEPOOL_ALWAYS_INLINE ScalePlace PlaceOf(ScaleKind kind, int64_t g) {
  if (!IsSuper(kind)) return {static_cast<size_t>(g) * ScaleBytes(kind), 0};
  const size_t block = static_cast<size_t>(g / kSuperGroups) * ScaleBytes(kind);
  const size_t factors = size_t{2} * kPanelRows * (HasMinimum(kind) ? 2 : 1);
  return {block, block + factors + static_cast<size_t>(g % kSuperGroups) * SuperGroupBytes(kind)};
}

TIDEPOOL_ALWAYS_INLINE void StoreScales(ScaleKind kind, int64_t g, int lane, const Group& group,
                                        std::byte* panel) {
  const ScalePlace place = PlaceOf(kind, g);
  Put16(panel + place.halves, lane, group.scale);
  if (HasMinimum(kind)) Put16(panel + place.halves + 2 * kPanelRows, lane, group.minimum);
  if (!IsSuper(kind)) return;
  std::byte* to = panel + place.bytes + lane;
  for (int p = 0; p < (ScalesBy16(kind) ? 2 : 1); ++p) {
    *to = static_cast<std::byte>(group.sub_scale[p]);
    to += kPanelRows;
    if (HasMinimum(kind)) {
      *to = static_cast<std::byte>(group.sub_minimum[p]);
      to += kPanelRows;
    }
  }
}

// Up to 16 rows from `source` on; what is beyond stays zero, with a scale of zero.
template <PanelLayout kLayout>
void PackQuantisedPanel(int64_t columns, size_t row_bytes, const std::byte* source, int rows,
                        std::byte* destination) {
  constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  std::byte* codes = destination + CodesOffset(kLayout, columns);
  std::memset(destination, 0, static_cast<size_t>(codes - destination));
  CodeTile tile = {};
  Group group;
  const auto pack_group = [&](int64_t g, auto part) {
    for (int r = 0; r < rows; ++r) {
      ReadGroup(kLayout, source + static_cast<size_t>(r) * row_bytes, g, decltype(part)::value, group);
      for (int j = 0; j < kVectors; ++j) std::memcpy(&tile[j][4 * r], &group.codes[4 * j], 4);
      StoreScales(kFormat.scales, g, r, group, destination);
    }
    StorePlanes<kFormat.storage>(tile, codes);
    codes += CodeBytes(kFormat.storage);
  };
  const int64_t groups = columns / kGroup;
  if constexpr (IsSuper(kFormat.scales)) {
    for (int64_t g = 0; g < groups; g += kSuperGroups) {
      [&]<int... kParts>(std::integer_sequence<int, kParts...>) {
        (pack_group(g + kParts, std::integral_constant<int, kParts>()), ...);
      }(std::make_integer_sequence<int, kSuperGroups>());
    }
  } else {
    for (int64_t g = 0; g < groups; ++g) pack_group(g, std::integral_constant<int, 0>());
  }
}

using PackPanelFunction = void (*)(int64_t, size_t, const std::byte*, int, std::byte*);
template <PanelLayout... kLayouts>
constexpr std::array<PackPanelFunction, kPanelLayouts> PackPanelFunctions() {
  std::array<PackPanelFunction, kPanelLayouts> functions = {};
  ((functions[kLayouts] = PackQuantisedPanel<kLayouts>), ...);
  return functions;
}
constexpr auto kPackQuantisedPanel =
    PackPanelFunctions<kPanelQ4_0, kPanelQ4_1, kPanelQ5_0, kPanelQ5_1, kPanelQ8_0, kPanelQ2_K, kPanelQ3_K,
                       kPanelQ4_K, kPanelQ5_K, kPanelQ6_K, kPanelIQ4_NL, kPanelIQ4_XS, kPanelMXFP4>();

void PackFloatPanel(const WeightSpec& spec, PanelLayout layout, const std::byte* source, int64_t panel,
                    std::byte* destination) {
  constexpr int64_t kColumns = 256;  // a multiple of every block size
  float values[kPanelRows][kColumns] = {};
  const size_t row_bytes = RowBytes(spec.type, spec.columns);
  const int64_t first = panel * kPanelRows;
  const int64_t rows = std::min<int64_t>(kPanelRows, spec.rows - first);
  for (int64_t begin = 0; begin < spec.columns; begin += kColumns) {
    const int64_t columns = std::min(kColumns, spec.columns - begin);
    for (int64_t r = 0; r < rows; ++r) {
      const std::byte* row = source + static_cast<size_t>(first + r) * row_bytes + RowBytes(spec.type, begin);
      if (layout == kPanelF32) {
        DequantiseRow(spec.type, row, columns, values[r]);
        continue;
      }
      auto* to = reinterpret_cast<uint16_t*>(destination) + begin * kPanelRows + r;
      for (int64_t c = 0; c < columns; ++c) to[c * kPanelRows] = U16(row + 2 * c);
    }
    if (layout == kPanelF32) {
      auto* to = reinterpret_cast<float*>(destination) + begin * kPanelRows;
      for (int64_t c = 0; c < columns; ++c) {
        for (int r = 0; r < kPanelRows; ++r) to[c * kPanelRows + r] = values[r][c];
      }
    } else {
      auto* to = reinterpret_cast<uint16_t*>(destination) + begin * kPanelRows;
      for (int64_t c = 0; c < columns; ++c)
        std::fill(to + c * kPanelRows + rows, to + (c + 1) * kPanelRows, 0);
    }
  }
}

void DecodeQuantisedRow(PanelLayout layout, int64_t columns, const std::byte* panel, int lane, float* out) {
  const PanelFormat& format = kPanelFormats[layout];
  const std::byte* codes = panel + CodesOffset(layout, columns);
  const uint8_t* table = layout == kPanelMXFP4 ? kMxfp4Codes : kIq4Codes;
  for (int64_t g = 0; g < columns / kGroup; ++g, codes += CodeBytes(format.storage), out += kGroup) {
    const ScalePlace place = PlaceOf(format.scales, g);
    const uint16_t bits = Get16(panel + place.halves, lane);
    const float factor = format.scales == kBfloatScale ? Bfloat16ToFloat(bits) : HalfToFloat(bits);
    const bool minimum = HasMinimum(format.scales);
    const float minimum_factor =
        minimum ? HalfToFloat(Get16(panel + place.halves + 2 * kPanelRows, lane)) : 0.0f;
    const int parts = ScalesBy16(format.scales) ? 2 : 1, part_columns = kGroup / parts;
    const std::byte* sub = panel + place.bytes + lane;
    for (int p = 0; p < parts; ++p) {
      float scale = factor, offset = minimum_factor;
      if (IsSuper(format.scales)) {
        scale = factor * static_cast<float>(static_cast<int8_t>(U8(sub)));
        sub += kPanelRows;
        if (minimum) {
          offset = -(minimum_factor * static_cast<float>(U8(sub)));
          sub += kPanelRows;
        }
      }
      for (int c = p * part_columns; c < (p + 1) * part_columns; ++c) {
        int code = LoadCode(format.storage, codes, lane, c);
        if (format.codebook) code = table[code];
        const float scaled = scale * static_cast<float>(code - format.zero);
        out[c] = minimum ? scaled + offset : scaled;
      }
    }
  }
}

}  // namespace

PanelLayout LayoutOf(const WeightSpec& spec) {
  if (spec.precision == WeightPrecision::kFloat32) return kPanelF32;
  switch (spec.type) {
    case DataType::kF16: return kPanelF16;
    case DataType::kBF16: return kPanelBF16;
    case DataType::kQ4_0: return kPanelQ4_0;
    case DataType::kQ4_1: return kPanelQ4_1;
    case DataType::kQ5_0: return kPanelQ5_0;
    case DataType::kQ5_1: return kPanelQ5_1;
    case DataType::kQ8_0: return kPanelQ8_0;
    case DataType::kQ2_K: return kPanelQ2_K;
    case DataType::kQ3_K: return kPanelQ3_K;
    case DataType::kQ4_K: return kPanelQ4_K;
    case DataType::kQ5_K: return kPanelQ5_K;
    case DataType::kQ6_K: return kPanelQ6_K;
    case DataType::kIQ4_NL: return kPanelIQ4_NL;
    case DataType::kIQ4_XS: return kPanelIQ4_XS;
    case DataType::kMXFP4: return kPanelMXFP4;
    default: return kPanelF32;
  }
}

size_t CodesOffset(PanelLayout layout, int64_t columns) {
  if (!IsQuantised(layout)) return 0;
  const ScaleKind kind = kPanelFormats[layout].scales;
  const int64_t units = columns / kGroup / (IsSuper(kind) ? kSuperGroups : 1);
  return (static_cast<size_t>(units) * ScaleBytes(kind) + 63) / 64 * 64;
}

size_t PanelBytes(PanelLayout layout, int64_t columns) {
  if (IsQuantised(layout)) {
    return CodesOffset(layout, columns) +
           static_cast<size_t>(columns / kGroup) * CodeBytes(kPanelFormats[layout].storage);
  }
  const size_t element = layout == kPanelF32 ? 4 : 2;
  return (static_cast<size_t>(columns) * kPanelRows * element + 63) / 64 * 64;
}

void PackPanel(const WeightSpec& spec, PanelLayout layout, const std::byte* source, int64_t panel,
               std::byte* destination) {
  if (IsQuantised(layout)) {
    const size_t row_bytes = RowBytes(spec.type, spec.columns);
    const int64_t first = panel * kPanelRows;
    const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, spec.rows - first));
    kPackQuantisedPanel[layout](spec.columns, row_bytes, source + static_cast<size_t>(first) * row_bytes,
                                rows, destination);
  } else {
    PackFloatPanel(spec, layout, source, panel, destination);
  }
}

void DecodePanelRow(PanelLayout layout, int64_t columns, const std::byte* weight, int64_t row, float* out) {
  const std::byte* panel = weight + static_cast<size_t>(row / kPanelRows) * PanelBytes(layout, columns);
  const int lane = static_cast<int>(row % kPanelRows);
  if (IsQuantised(layout)) return DecodeQuantisedRow(layout, columns, panel, lane, out);
  for (int64_t c = 0; c < columns; ++c) {
    const int64_t at = c * kPanelRows + lane;
    if (layout == kPanelF32) {
      std::memcpy(&out[c], panel + at * 4, 4);
    } else {
      out[c] = layout == kPanelF16 ? HalfToFloat(U16(panel + at * 2)) : Bfloat16ToFloat(U16(panel + at * 2));
    }
  }
}

}  // namespace tidepool::chips::cpu
