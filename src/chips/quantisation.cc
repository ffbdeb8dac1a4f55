// Every product and sum below is written in the order in which the gguf package for Python does it, in
// float32 and without contraction (the build turns -ffp-contract off for this file), so that decoding agrees
// with it bit for bit. Bytes are read one by one: blocks have no alignment.
#include "chips/quantisation.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace tidepool::chips {
namespace {

// The non-linear 4-bit codebook of IQ4_NL and IQ4_XS.
constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// E2M1 (OCP microscaling formats 1.0) times two, so that it is whole; the block scale is halved instead.
constexpr int8_t kDoubledE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

int U8(const std::byte* p, int i) { return static_cast<int>(static_cast<uint8_t>(p[i])); }
int I8(const std::byte* p, int i) { return static_cast<int8_t>(static_cast<uint8_t>(p[i])); }
int LowNibble(const std::byte* p, int i) { return U8(p, i) & 15; }
int HighNibble(const std::byte* p, int i) { return U8(p, i) >> 4; }
uint16_t U16(const std::byte* p) { return static_cast<uint16_t>(U8(p, 0) | U8(p, 1) << 8); }
uint32_t U32(const std::byte* p) { return U16(p) | static_cast<uint32_t>(U16(p + 2)) << 16; }
float Half(const std::byte* p) { return HalfToFloat(U16(p)); }

// 2^(e-128), half of the E8M0 scale 2^(e-127): e = 0 and 1 are subnormal floats. 255, NaN in the OCP text, is
// 2^127 here as in ggml; files with it are refused before (formats::ValidateTensorValues).
float HalvedE8M0(int e) {
  const uint32_t bits = e < 2 ? uint32_t{0x00200000} << e : static_cast<uint32_t>(e - 1) << 23;
  return std::bit_cast<float>(bits);
}

// w = d (q - 8)
void Q4_0Block(const std::byte* p, float* out) {
  const float d = Half(p);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(LowNibble(p + 2, j) - 8);
    out[j + 16] = d * static_cast<float>(HighNibble(p + 2, j) - 8);
  }
}

// w = d q + m
void Q4_1Block(const std::byte* p, float* out) {
  const float d = Half(p);
  const float m = Half(p + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(LowNibble(p + 4, j)) + m;
    out[j + 16] = d * static_cast<float>(HighNibble(p + 4, j)) + m;
  }
}

// Five bits: nibbles from `low` (elements j and j + 16 share a byte), the fifth bit of element j is bit j of
// `high`.
int FiveBits(const std::byte* low, uint32_t high, int j) {
  const int nibble = j < 16 ? LowNibble(low, j) : HighNibble(low, j - 16);
  return nibble | static_cast<int>(high >> j & 1u) << 4;
}

// w = d (q - 16)
void Q5_0Block(const std::byte* p, float* out) {
  const float d = Half(p);
  const uint32_t high = U32(p + 2);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(FiveBits(p + 6, high, j) - 16);
}

// w = d q + m
void Q5_1Block(const std::byte* p, float* out) {
  const float d = Half(p);
  const float m = Half(p + 2);
  const uint32_t high = U32(p + 4);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(FiveBits(p + 8, high, j)) + m;
}

// w = d q
void Q8_0Block(const std::byte* p, float* out) {
  const float d = Half(p);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(I8(p + 2, j));
}

// Two-bit quants of Q2_K and Q3_K: 32 bytes hold four runs of 32 elements, one for each shift.
int TwoBits(const std::byte* qs, int element) {
  const int half = element / 128;
  const int shift = element % 128 / 32 * 2;
  return U8(qs, half * 32 + element % 32) >> shift & 3;
}

// w = (d s) q - (dmin m); one byte for each 16 elements: low nibble s, high nibble m.
void Q2_KBlock(const std::byte* p, float* out) {
  const std::byte* scales = p;
  const std::byte* qs = p + 16;
  const float d = Half(p + 80);
  const float dmin = Half(p + 82);
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(LowNibble(scales, group));
    const float minimum = dmin * static_cast<float>(HighNibble(scales, group));
    for (int i = group * 16; i < group * 16 + 16; ++i) {
      out[i] = scale * static_cast<float>(TwoBits(qs, i)) - minimum;
    }
  }
}

// 16 six-bit scales in 12 bytes: low four bits in the nibbles of bytes 0..7, high two bits in bytes 8..11.
int Q3_KScale(const std::byte* s, int group) {
  const int low = group < 8 ? LowNibble(s, group) : HighNibble(s, group - 8);
  const int high = U8(s, 8 + group % 4) >> (group / 4 * 2) & 3;
  return (low | high << 4) - 32;
}

// w = (d s) (q - 4 (1 - h)), h the element's bit in the mask (bit e / 32 of byte e % 32).
void Q3_KBlock(const std::byte* p, float* out) {
  const std::byte* mask = p;
  const std::byte* qs = p + 32;
  const std::byte* scales = p + 96;
  const float d = Half(p + 108);
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(Q3_KScale(scales, group));
    for (int i = group * 16; i < group * 16 + 16; ++i) {
      const int bit = U8(mask, i % 32) >> (i / 32) & 1;
      out[i] = scale * static_cast<float>(TwoBits(qs, i) - (1 - bit) * 4);
    }
  }
}

struct ScaleAndMinimum {
  int scale;
  int minimum;
};

// Eight pairs of six-bit numbers in 12 bytes (Q4_K, Q5_K).
ScaleAndMinimum SixBitPair(const std::byte* s, int j) {
  if (j < 4) return {U8(s, j) & 63, U8(s, j + 4) & 63};
  return {LowNibble(s, j + 4) | U8(s, j - 4) >> 6 << 4, HighNibble(s, j + 4) | U8(s, j) >> 6 << 4};
}

// w = (d s) q - (dmin m). 32 bytes of qs hold two groups: low nibbles, then high nibbles.
void Q4_KBlock(const std::byte* p, float* out) {
  const float d = Half(p);
  const float dmin = Half(p + 2);
  const std::byte* qs = p + 16;
  for (int group = 0; group < 8; ++group) {
    const auto [s, m] = SixBitPair(p + 4, group);
    const float scale = d * static_cast<float>(s);
    const float minimum = dmin * static_cast<float>(m);
    const int shift = group % 2 * 4;
    for (int j = 0; j < 32; ++j) {
      const int q = U8(qs, group / 2 * 32 + j) >> shift & 15;
      out[group * 32 + j] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// As Q4_K, with bit `group` of qh[j] as the fifth bit.
void Q5_KBlock(const std::byte* p, float* out) {
  const float d = Half(p);
  const float dmin = Half(p + 2);
  const std::byte* qh = p + 16;
  const std::byte* qs = p + 48;
  for (int group = 0; group < 8; ++group) {
    const auto [s, m] = SixBitPair(p + 4, group);
    const float scale = d * static_cast<float>(s);
    const float minimum = dmin * static_cast<float>(m);
    const int shift = group % 2 * 4;
    for (int j = 0; j < 32; ++j) {
      const int q = (U8(qs, group / 2 * 32 + j) >> shift & 15) | (U8(qh, j) >> group & 1) << 4;
      out[group * 32 + j] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// w = (d s) (q - 32). Each half of 128: four runs of 32; runs 0 and 1 are low nibbles of the 64 bytes of ql,
// 2 and 3 the high ones; bits 5 and 6 come from the run's two bits of qh.
void Q6_KBlock(const std::byte* p, float* out) {
  const std::byte* scales = p + 192;
  const float d = Half(p + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* ql = p + half * 64;
    const std::byte* qh = p + 128 + half * 32;
    for (int run = 0; run < 4; ++run) {
      for (int j = 0; j < 32; ++j) {
        const int low = U8(ql, run % 2 * 32 + j) >> (run / 2 * 4) & 15;
        const int high = U8(qh, j) >> (run * 2) & 3;
        const int i = half * 128 + run * 32 + j;
        const float scale = d * static_cast<float>(I8(scales, i / 16));
        out[i] = scale * static_cast<float>((low | high << 4) - 32);
      }
    }
  }
}

// w = d v[q]
void Iq4_NlBlock(const std::byte* p, float* out) {
  const float d = Half(p);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kIq4Values[LowNibble(p + 2, j)]);
    out[j + 16] = d * static_cast<float>(kIq4Values[HighNibble(p + 2, j)]);
  }
}

// w = (d s) v[q], s six bits minus 32 for each 32 elements: four in scales_l, two in scales_h.
void Iq4_XsBlock(const std::byte* p, float* out) {
  const float d = Half(p);
  const int high = U16(p + 2);
  const std::byte* low = p + 4;
  const std::byte* qs = p + 8;
  for (int group = 0; group < 8; ++group) {
    const int nibble = U8(low, group / 2) >> (group % 2 * 4) & 15;
    const float scale = d * static_cast<float>((nibble | (high >> (2 * group) & 3) << 4) - 32);
    for (int j = 0; j < 16; ++j) {
      out[group * 32 + j] = scale * static_cast<float>(kIq4Values[LowNibble(qs, group * 16 + j)]);
      out[group * 32 + j + 16] = scale * static_cast<float>(kIq4Values[HighNibble(qs, group * 16 + j)]);
    }
  }
}

// w = 2^(e-127) E2M1[q]
void Mxfp4Block(const std::byte* p, float* out) {
  const float d = HalvedE8M0(U8(p, 0));
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kDoubledE2M1[LowNibble(p + 1, j)]);
    out[j + 16] = d * static_cast<float>(kDoubledE2M1[HighNibble(p + 1, j)]);
  }
}

template <void (*kDecode)(const std::byte*, float*)>
void DecodeBlocks(DataType type, const std::byte* source, int64_t columns, float* out) {
  const DataTypeTraits& traits = TraitsOf(type);
  for (int64_t i = 0; i < columns; i += traits.block_elements) {
    kDecode(source, out + i);
    source += traits.block_bytes;
  }
}

}  // namespace

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 31u;
  const uint32_t mantissa = bits & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    // mantissa * 2^-24 is a normal float: exact even where the caller's thread flushes subnormals to zero.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);  // 127 - 15 = 112
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);  // NaN, made quiet
  // 65520 = 65504 + half a unit in the last place: it and everything above rounds to infinity.
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude >= 0x38800000u) {  // >= 2^-14: normal
    const uint32_t rounded = magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | rounded >> 13);
  }
  if (magnitude < 0x33000000u) return sign;  // < 2^-25: rounds to zero (2^-25 itself is a tie, to even: zero)
  // Subnormal: the value is m * 2^(e-150) with m of 24 bits; the result counts 2^-24, so shift m right by
  // 126-e.
  const uint32_t m = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t shift = 126u - (magnitude >> 23);
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rounded = m + half - 1 + (m >> shift & 1u);
  return static_cast<uint16_t>(sign | rounded >> shift);
}

float Bfloat16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 64u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float Float8E4M3ToFloat(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t exponent = bits >> 3 & 15u;
  const uint32_t mantissa = bits & 7u;
  if ((bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;  // 2^(1-7) / 8
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  return std::bit_cast<float>(sign | (exponent + 120) << 23 | mantissa << 20);  // 127 - 7 = 120
}

bool CanDequantise(DataType type) {
  switch (type) {
    case DataType::kI8:
    case DataType::kI16:
    case DataType::kI32:
    case DataType::kI64:
    case DataType::kF64: return false;
    default: return FindDataTypeTraits(type) != nullptr;
  }
}

void DequantiseRow(DataType type, const std::byte* source, int64_t columns, float* out) {
  CHECK(CanDequantise(type) && columns >= 0 && columns % TraitsOf(type).block_elements == 0);
  switch (type) {
    case DataType::kF32:
      if (columns > 0) std::memcpy(out, source, static_cast<size_t>(columns) * sizeof(float));
      return;
    case DataType::kF16:
      for (int64_t i = 0; i < columns; ++i) out[i] = Half(source + 2 * i);
      return;
    case DataType::kBF16:
      for (int64_t i = 0; i < columns; ++i) out[i] = Bfloat16ToFloat(U16(source + 2 * i));
      return;
    case DataType::kF8_E4M3:
      for (int64_t i = 0; i < columns; ++i) out[i] = Float8E4M3ToFloat(static_cast<uint8_t>(source[i]));
      return;
    case DataType::kQ4_0: return DecodeBlocks<Q4_0Block>(type, source, columns, out);
    case DataType::kQ4_1: return DecodeBlocks<Q4_1Block>(type, source, columns, out);
    case DataType::kQ5_0: return DecodeBlocks<Q5_0Block>(type, source, columns, out);
    case DataType::kQ5_1: return DecodeBlocks<Q5_1Block>(type, source, columns, out);
    case DataType::kQ8_0: return DecodeBlocks<Q8_0Block>(type, source, columns, out);
    case DataType::kQ2_K: return DecodeBlocks<Q2_KBlock>(type, source, columns, out);
    case DataType::kQ3_K: return DecodeBlocks<Q3_KBlock>(type, source, columns, out);
    case DataType::kQ4_K: return DecodeBlocks<Q4_KBlock>(type, source, columns, out);
    case DataType::kQ5_K: return DecodeBlocks<Q5_KBlock>(type, source, columns, out);
    case DataType::kQ6_K: return DecodeBlocks<Q6_KBlock>(type, source, columns, out);
    case DataType::kIQ4_NL: return DecodeBlocks<Iq4_NlBlock>(type, source, columns, out);
    case DataType::kIQ4_XS: return DecodeBlocks<Iq4_XsBlock>(type, source, columns, out);
    case DataType::kMXFP4: return DecodeBlocks<Mxfp4Block>(type, source, columns, out);
    default: CHECK(false);
  }
}

}  // namespace tidepool::chips
