#include "platform/catalog/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "platform/catalog/names.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormatVersion = 1;
constexpr size_t kMaxManifestBytes = 4 << 20;
constexpr size_t kMaxFiles = 10'000;

// Reads typed fields; the first wrong one is remembered.
class FieldReader {
 public:
  FieldReader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  std::string String(const char* key) {
    const Json* value = Get(key);
    if (value == nullptr || !value->is_string()) return Wrong<std::string>(key, "a string");
    return value->get<std::string>();
  }
  uint64_t Unsigned(const char* key, uint64_t most = std::numeric_limits<int64_t>::max()) {
    const Json* value = Get(key);
    if (value == nullptr || !value->is_number_integer()) return Wrong<uint64_t>(key, "a whole number");
    if (value->is_number_unsigned()) {
      const auto number = value->get<uint64_t>();
      if (number <= most) return number;
    } else if (value->get<int64_t>() >= 0 && static_cast<uint64_t>(value->get<int64_t>()) <= most) {
      return static_cast<uint64_t>(value->get<int64_t>());
    }
    return Wrong<uint64_t>(key, "a whole number in range");
  }
  bool Bool(const char* key) {
    const Json* value = Get(key);
    if (value == nullptr || !value->is_boolean()) return Wrong<bool>(key, "true or false");
    return value->get<bool>();
  }
  const std::string& problem() const { return problem_; }

 private:
  const Json* Get(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() ? nullptr : &*it;
  }
  template <typename T>
  T Wrong(const char* key, const char* wanted) {
    if (problem_.empty()) problem_ = fmt::format("{}{} is not {}", where_, key, wanted);
    return T{};
  }
  const Json& object_;
  const std::string where_;
  std::string problem_;
};

}  // namespace

bool IsSha256(std::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string WriteManifest(const StoredModel& model) {
  Json json;
  json["version"] = kFormatVersion;
  json["id"] = model.id;
  json["source"] = model.source;
  json["licence"] = model.licence;
  json["created"] = model.created;
  json["format"] = model.format;
  json["architecture"] = model.architecture;
  json["quantisation"] = model.quantisation;
  json["parameters"] = model.parameters;
  json["context_length"] = model.context_length;
  json["generates"] = model.generates;
  json["ranks"] = model.ranks;
  json["files"] = Json::array();
  for (const StoredFile& file : model.files) {
    json["files"].push_back({{"name", file.name}, {"sha256", file.sha256}, {"bytes", file.bytes}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<StoredModel> ReadManifest(std::string_view text, const std::string& place) {
  const auto corrupt = [&](std::string_view what) {
    return Fail(ErrorKind::kCorrupt, "manifest",
                fmt::format("{}: {}; remove the file and pull the model again", place, what));
  };
  if (text.size() > kMaxManifestBytes) return corrupt("too large for a manifest");
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return corrupt("not a JSON object");

  FieldReader fields(json, "");
  if (fields.Unsigned("version") != kFormatVersion)
    return corrupt(fmt::format("not of version {}", kFormatVersion));
  StoredModel model;
  model.id = fields.String("id");
  model.source = fields.String("source");
  model.licence = fields.String("licence");
  model.created = static_cast<int64_t>(fields.Unsigned("created"));
  model.format = fields.String("format");
  model.architecture = fields.String("architecture");
  model.quantisation = fields.String("quantisation");
  model.parameters = fields.Unsigned("parameters");
  model.context_length =
      static_cast<int32_t>(fields.Unsigned("context_length", std::numeric_limits<int32_t>::max()));
  model.generates = fields.Bool("generates");
  if (json.contains("ranks")) model.ranks = fields.Bool("ranks");  // (older manifests have no such field)
  if (!fields.problem().empty()) return corrupt(fields.problem());
  const auto name = ParseModelName(model.id);
  if (!name || name->tag.empty()) return corrupt("field id is not name:tag");

  const auto files = json.find("files");
  if (files == json.end() || !files->is_array() || files->empty() || files->size() > kMaxFiles) {
    return corrupt("field files is not a list of files");
  }
  std::set<std::string> names;
  for (const Json& item : *files) {
    if (!item.is_object()) return corrupt("a file is not an object");
    FieldReader of_file(item, "files: ");
    StoredFile file{of_file.String("name"), of_file.String("sha256"), of_file.Unsigned("bytes")};
    if (!of_file.problem().empty()) return corrupt(of_file.problem());
    if (!IsSafeFileName(file.name)) return corrupt("a file's name leaves the model's folder");
    if (!IsSha256(file.sha256)) return corrupt("a file's sha256 is not 64 hex digits");
    if (!names.insert(file.name).second) return corrupt(fmt::format("file {} is listed twice", file.name));
    if (file.bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - model.bytes) {
      return corrupt("the sizes of the files overflow");
    }
    model.bytes += file.bytes;
    model.files.push_back(std::move(file));
  }
  return model;
}

}  // namespace tidepool::platform
