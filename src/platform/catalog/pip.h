// Runs `pip download` for wheels; never a shell, never an install.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "platform/catalog/pull_monitor.h"

namespace tidepool::platform {

// Fetches the wheels of `packages` ("name" or "name==version", already checked) into `folder`, which it
// empties first. Only wheels, no dependencies, nothing is built or run. The paths come in the order of the
// packages' names.
Result<std::vector<std::filesystem::path>> DownloadWheels(const std::string& pip_command,
                                                          const std::vector<std::string>& packages,
                                                          const std::filesystem::path& folder,
                                                          PullMonitor& monitor);

}  // namespace tidepool::platform
