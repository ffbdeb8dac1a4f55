// One GGUF file (version 2 or 3, little-endian), parsed from memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/formats/checkpoint.h"
#include "models/formats/metadata_table.h"

namespace tidepool::formats {

struct GgufFile {
  uint32_t version = 0;
  uint64_t alignment = 32;
  MetadataTable metadata;       // sealed; values point into the bytes given to ParseGguf
  std::vector<Tensor> tensors;  // in the file's order; bytes lie in the bytes given to ParseGguf
};

// `name`: what errors call the file. Memory taken is bounded by the bytes given: about 200 bytes a tensor and
// 100 a key, plus their names; arrays and strings stay where they are.
Result<GgufFile> ParseGguf(std::span<const std::byte> bytes, const std::string& name,
                           const OpenLimits& limits);

}  // namespace tidepool::formats
