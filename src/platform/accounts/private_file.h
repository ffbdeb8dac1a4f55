// Files that only their owner may read: keys and secrets.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::platform {

// Mode 0600, whole or not at all: written beside, synced, renamed, the folder synced.
Status WritePrivateFile(const std::filesystem::path& path, std::string_view text);
// nullopt when there is no such file. Tightens permissions that let others read it. kCorrupt for what is no
// regular file of at most 1 MiB.
Result<std::optional<std::string>> ReadPrivateFile(const std::filesystem::path& path);

}  // namespace tidepool::platform
