// A GGUF model: one file, or a split set "<prefix>-00001-of-00003.gguf".
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "models/formats/checkpoint.h"
#include "models/formats/mapped_file.h"

namespace tidepool::formats {

// "<prefix>-NNNNN-of-NNNNN.gguf" taken apart (also with the extension .safetensors).
struct SplitName {
  std::string prefix;
  uint32_t number = 0;  // from 1
  uint32_t count = 0;
  std::string extension;
};
std::optional<SplitName> ParseSplitName(const std::string& file_name);

// `file` is `path`, mapped: any part of the set.
Result<std::unique_ptr<Checkpoint>> OpenGguf(const std::filesystem::path& path, MappedFile file,
                                             const OpenLimits& limits);

}  // namespace tidepool::formats
