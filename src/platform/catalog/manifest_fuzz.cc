// Everything textual the catalog reads from disk or the network: manifests, the catalogue, the hub's lists,
// sources.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "platform/catalog/hub.h"
#include "platform/catalog/manifest.h"
#include "platform/catalog/model_files.h"
#include "platform/catalog/names.h"
#include "platform/catalog/shipped_catalogue.h"
#include "platform/catalog/source.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::platform;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto model = ReadManifest(text, "fuzz")) {
    // What was read can be written and read again.
    if (!ReadManifest(WriteManifest(*model), "fuzz")) std::abort();
  }
  (void)ParseCatalogue(text);
  if (const auto files = ParseHubTree(text)) (void)SelectModelFiles(*files, "", "fuzz");
  if (const auto source = ParseSource(text)) (void)source->canonical();
  if (const auto name = ParseModelName(text)) {
    if (!ParseModelName(name->id())) std::abort();
  }
  if (!ParseModelName(ToNameSegment(text))) std::abort();
  (void)ParseSplitName(text);
  (void)QuantisationInName(text);
  return 0;
}
