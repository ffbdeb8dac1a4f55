// Looks into a model's files when they are stored: what they are, and that they are readable at all.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "platform/catalog/catalog.h"

namespace tidepool::platform {

// Fills format, architecture, quantisation, parameters, context_length, generates, ranks, and the licence if
// it is empty and the file names one. An unreadable model is an error with the file's own reason.
Status InspectModel(const std::filesystem::path& path, StoredModel& model);

}  // namespace tidepool::platform
