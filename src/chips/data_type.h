// Element and block types of tensors, as GGUF numbers them, and their sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tidepool::chips {

// Values below 1000 are ggml's type ids, so that a GGUF file's number can be checked and cast.
enum class DataType : uint16_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
  kMXFP4 = 39,
  kF8_E4M3 = 1000,  // safetensors; block scales come in a tensor of their own
};

// Blocks run along the innermost dimension (the columns of a weight).
struct DataTypeTraits {
  std::string_view name;   // "Q4_K"
  int32_t block_elements;  // 1 for plain types
  int32_t block_bytes;
};

// nullptr for a type this build does not know.
const DataTypeTraits* FindDataTypeTraits(DataType type);
// The type must be known.
const DataTypeTraits& TraitsOf(DataType type);
// Bytes of one row of `columns` elements; columns must be a multiple of block_elements.
size_t RowBytes(DataType type, int64_t columns);

}  // namespace tidepool::chips
