// A Hugging Face folder: config.json, weights in one or several .safetensors files, tokenizer and template
// files.
#pragma once

#include <filesystem>
#include <memory>

#include "models/formats/checkpoint.h"

namespace tidepool::formats {

// The folder's model.safetensors.index.json, else its model.safetensors, else its only .safetensors file.
Result<std::unique_ptr<Checkpoint>> OpenSafetensorsFolder(const std::filesystem::path& folder,
                                                          const OpenLimits& limits);
// A file with config.json beside it. A shard ("-00001-of-00003") with an index beside it stands for its
// folder.
Result<std::unique_ptr<Checkpoint>> OpenSafetensorsFile(const std::filesystem::path& path,
                                                        const OpenLimits& limits);

}  // namespace tidepool::formats
