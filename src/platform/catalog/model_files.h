// Which files of a folder, repository or package are a model: pure functions over names and sizes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::platform {

// A file somewhere: on the hub, in a wheel, in a folder.
struct RemoteFile {
  std::string path;    // relative, safe (IsSafeFileName)
  uint64_t bytes = 0;  // 0: not known
  std::string sha256;  // "" : not known
};

struct SelectedFile {
  std::string name;               // in the model's folder
  std::vector<RemoteFile> parts;  // joined in order; usually one
};

struct Selection {
  std::string format;        // "gguf" or "safetensors"
  std::string quantisation;  // as the file's name says it, upper case; "" if it does not
  std::vector<SelectedFile> files;
};

// "-00002-of-00005" before .gguf or .safetensors.
struct SplitName {
  std::string stem;
  uint32_t number = 0, count = 0;
};
std::optional<SplitName> ParseSplitName(std::string_view file);
// The file of `number` in the same set.
std::string SplitFileName(std::string_view file, uint32_t number);

// "Q4_K_M" of "model-q4_k_m.gguf"; "" if the name says none.
std::string QuantisationInName(std::string_view file);

// Chooses the model among `files`. `want`: "" (then Q4_K_M before others), a quantisation in any case, or a
// file's path. GGUF comes before safetensors. Parts named "x.gguf.part00", "x.gguf.part01" ... are joined.
// Projectors, draft heads and matrices are never the model. `place` names the source in errors. kNotFound
// lists what there is; kInvalid when several fit.
Result<Selection> SelectModelFiles(const std::vector<RemoteFile>& files, std::string_view want,
                                   const std::string& place);

}  // namespace tidepool::platform
