// The catalogue that ships inside the binary: data/catalogue.json.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "platform/catalog/catalog.h"

namespace tidepool::platform {

// The file's text, embedded at build time.
std::string_view ShippedCatalogueJson();
// {"models": [{"id": "name:tag", "sources": [...], ...}]}; kCorrupt with the entry when a field is wrong.
Result<std::vector<CatalogueEntry>> ParseCatalogue(std::string_view json);

}  // namespace tidepool::platform
