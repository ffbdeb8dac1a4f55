// A JSON document (config.json, an index, tokenizer_config.json) flattened into a MetadataTable: nested keys
// are joined with dots, arrays of one kind of scalar are arrays, other arrays are flattened with their
// indices
// ("layers.0.kind"). null is as good as absent. Numbers beyond int64 are doubles.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "models/formats/metadata_table.h"

namespace tidepool::formats {

struct JsonLimits {
  uint64_t max_keys = 100'000;
  uint64_t max_array_elements = 16'000'000;
  uint64_t max_memory_bytes = 1u << 30;  // keys and values as stored
  uint32_t max_depth = 64;
};

// The document must be an object. A key that occurs twice (also by flattening) is refused. Memory: what the
// table holds, bounded by max_memory_bytes; no tree is built. `name`: what errors call the file.
Result<MetadataTable> FlattenJson(std::string_view text, const std::string& name, const JsonLimits& limits);

}  // namespace tidepool::formats
