#include "platform/catalog/shipped_catalogue.h"

#include <fmt/format.h>

#include <set>

#include "platform/catalog/manifest.h"
#include "platform/catalog/names.h"
#include "platform/catalog/source.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

std::string StringField(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

}  // namespace

Result<std::vector<CatalogueEntry>> ParseCatalogue(std::string_view text) {
  const auto corrupt = [](std::string_view id, std::string_view what) {
    return Fail(ErrorKind::kCorrupt, "catalogue", fmt::format("catalogue.json: entry \"{}\": {}", id, what));
  };
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("models") || !json["models"].is_array()) {
    return corrupt("", "the file has no list \"models\"");
  }
  std::vector<CatalogueEntry> out;
  std::set<std::string> seen;
  for (const Json& item : json["models"]) {
    if (!item.is_object()) return corrupt("", "not an object");
    CatalogueEntry entry;
    entry.id = StringField(item, "id");
    const auto name = ParseModelName(entry.id);
    if (!name || name->tag.empty()) return corrupt(entry.id, "id is not name:tag");
    if (!seen.insert(ToLowerAscii(entry.id)).second) return corrupt(entry.id, "listed twice");
    if (!item.contains("sources") || !item["sources"].is_array() || item["sources"].empty()) {
      return corrupt(entry.id, "no sources");
    }
    for (const Json& source : item["sources"]) {
      const auto parsed = ParseSource(source.is_string() ? source.get<std::string>() : std::string());
      if (!parsed || parsed->kind == SourceKind::kPath || parsed->kind == SourceKind::kName) {
        return corrupt(entry.id, "a source is neither hub, url nor pypi");
      }
      entry.sources.push_back(source.get<std::string>());
    }
    entry.sha256 = StringField(item, "sha256");
    if (!entry.sha256.empty() && !IsSha256(entry.sha256))
      return corrupt(entry.id, "sha256 is not 64 hex digits");
    entry.licence = StringField(item, "licence");
    entry.family = StringField(item, "family");
    entry.parameters = StringField(item, "parameters");
    entry.seen_in = StringField(item, "seen_in");
    if (entry.licence.empty() || entry.family.empty() || entry.parameters.empty() || entry.seen_in.empty()) {
      return corrupt(entry.id, "licence, family, parameters or seen_in is missing");
    }
    const auto context = item.find("context");
    if (context == item.end() || !context->is_number_unsigned() || context->get<uint64_t>() > (1u << 30)) {
      return corrupt(entry.id, "context is not a number of tokens");
    }
    entry.context_length = context->get<int32_t>();
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace tidepool::platform
