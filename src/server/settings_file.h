// The TOML settings file as flat "section.name" -> text pairs. Only settings_file.cc knows the TOML library.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tidepool::server {

// Arrays become comma separated text. Errors carry file, line and column.
Result<std::vector<std::pair<std::string, std::string>>> ReadSettingsFile(const std::filesystem::path& path);

}  // namespace tidepool::server
