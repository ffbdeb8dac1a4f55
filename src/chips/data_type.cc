#include "chips/data_type.h"

#include <array>
#include <cstdint>

#include "base/check.h"

namespace tidepool::chips {
namespace {

struct Entry {
  DataType type;
  DataTypeTraits traits;
};

// Elements and bytes of a block: the GGUF type documentation. 256 elements is ggml's "super-block".
constexpr std::array kEntries = {
    Entry{DataType::kF32, {"F32", 1, 4}},
    Entry{DataType::kF16, {"F16", 1, 2}},
    Entry{DataType::kQ4_0, {"Q4_0", 32, 2 + 16}},
    Entry{DataType::kQ4_1, {"Q4_1", 32, 2 + 2 + 16}},
    Entry{DataType::kQ5_0, {"Q5_0", 32, 2 + 4 + 16}},
    Entry{DataType::kQ5_1, {"Q5_1", 32, 2 + 2 + 4 + 16}},
    Entry{DataType::kQ8_0, {"Q8_0", 32, 2 + 32}},
    Entry{DataType::kQ2_K, {"Q2_K", 256, 16 + 64 + 2 + 2}},
    Entry{DataType::kQ3_K, {"Q3_K", 256, 32 + 64 + 12 + 2}},
    Entry{DataType::kQ4_K, {"Q4_K", 256, 2 + 2 + 12 + 128}},
    Entry{DataType::kQ5_K, {"Q5_K", 256, 2 + 2 + 12 + 32 + 128}},
    Entry{DataType::kQ6_K, {"Q6_K", 256, 128 + 64 + 16 + 2}},
    Entry{DataType::kIQ4_NL, {"IQ4_NL", 32, 2 + 16}},
    Entry{DataType::kIQ4_XS, {"IQ4_XS", 256, 2 + 2 + 4 + 128}},
    Entry{DataType::kI8, {"I8", 1, 1}},
    Entry{DataType::kI16, {"I16", 1, 2}},
    Entry{DataType::kI32, {"I32", 1, 4}},
    Entry{DataType::kI64, {"I64", 1, 8}},
    Entry{DataType::kF64, {"F64", 1, 8}},
    Entry{DataType::kBF16, {"BF16", 1, 2}},
    Entry{DataType::kMXFP4, {"MXFP4", 32, 1 + 16}},
    Entry{DataType::kF8_E4M3, {"F8_E4M3", 1, 1}},
};

}  // namespace

const DataTypeTraits* FindDataTypeTraits(DataType type) {
  for (const Entry& entry : kEntries) {
    if (entry.type == type) return &entry.traits;
  }
  return nullptr;
}

const DataTypeTraits& TraitsOf(DataType type) {
  const DataTypeTraits* traits = FindDataTypeTraits(type);
  CHECK(traits != nullptr);
  return *traits;
}

size_t RowBytes(DataType type, int64_t columns) {
  const DataTypeTraits& traits = TraitsOf(type);
  CHECK(columns >= 0 && columns % traits.block_elements == 0);
  return static_cast<size_t>(columns / traits.block_elements) * static_cast<size_t>(traits.block_bytes);
}

}  // namespace tidepool::chips
