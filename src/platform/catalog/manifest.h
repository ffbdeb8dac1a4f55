// A stored model as a file: JSON of the store's manifests. Hostile like every file.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "platform/catalog/catalog.h"

namespace tidepool::platform {

std::string WriteManifest(const StoredModel& model);
// kCorrupt when a field is missing, of a wrong kind, or unsafe (names that leave the folder, hashes that are
// none). `place` names the file in errors.
Result<StoredModel> ReadManifest(std::string_view json, const std::string& place);

// 64 lower-case hex digits.
bool IsSha256(std::string_view text);

}  // namespace tidepool::platform
