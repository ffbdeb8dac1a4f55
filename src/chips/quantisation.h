// Reference decoding of every weight type to float32: slow, obvious, the oracle of all kernels.
// Layouts: the block table of the GGUF type documentation; each function's comment has its formula.
#pragma once

#include <cstddef>
#include <cstdint>

#include "chips/data_type.h"

namespace tidepool::chips {

float HalfToFloat(uint16_t bits);   // IEEE binary16, subnormals and infinities included
uint16_t FloatToHalf(float value);  // round to nearest even
float Bfloat16ToFloat(uint16_t bits);
uint16_t FloatToBfloat16(float value);  // round to nearest even, NaN stays NaN
float Float8E4M3ToFloat(uint8_t bits);  // e4m3fn: bias 7, no infinities, 0x7f and 0xff are NaN

// True if rows of this type can be decoded by DequantiseRow.
bool CanDequantise(DataType type);

// Decodes `columns` elements (a multiple of the block size) from `source` (no alignment needed).
void DequantiseRow(DataType type, const std::byte* source, int64_t columns, float* destination);

}  // namespace tidepool::chips
