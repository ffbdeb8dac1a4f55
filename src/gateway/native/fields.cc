#include "gateway/native/fields.h"

#include <fmt/format.h>

#include "gateway/openai/fields.h"

namespace tidepool::gateway::native {
namespace {

using openai::BadField;
using openai::Field;
using openai::FieldReader;
using openai::FieldType;
using openai::Treatment;

Status CheckKnown(FieldReader& reader) {
  TP_TRY(reader.Check());
  if (reader.ignored().empty()) return {};
  const std::string& name = reader.ignored().front();
  return Fail(BadField(name.substr(0, 64), fmt::format("There is no field \"{}\" here.", name.substr(0, 64)),
                       "unknown_field"));
}

Result<bool> OneFlag(const nlohmann::ordered_json& body, std::string_view name, bool otherwise) {
  const Field fields[] = {{name, FieldType::kBoolean, Treatment::kRead, ""}};
  FieldReader reader(body, fields);
  TP_TRY(CheckKnown(reader));
  return reader.Boolean(name).value_or(otherwise);
}

}  // namespace

Result<PullRequest> ParsePull(const nlohmann::ordered_json& body) {
  static const Field kFields[] = {{"source", FieldType::kString, Treatment::kRead, ""},
                                  {"name", FieldType::kString, Treatment::kRead, ""}};
  FieldReader reader(body, kFields);
  TP_TRY(CheckKnown(reader));
  PullRequest request;
  request.source = reader.String("source").value_or("");
  request.name = reader.String("name").value_or("");
  if (request.source.empty()) {
    return Fail(BadField("source",
                         "source is missing: a name of the catalogue, org/repo of the hub, a URL or a path.",
                         "missing_field"));
  }
  if (request.source.size() > 4096) return Fail(BadField("source", "source is longer than 4096 bytes."));
  if (request.name.size() > 512) return Fail(BadField("name", "name is longer than 512 bytes."));
  return request;
}

Result<bool> ParseUnload(const nlohmann::ordered_json& body) { return OneFlag(body, "force", false); }
Result<bool> ParseLoad(const nlohmann::ordered_json& body) { return OneFlag(body, "wait", true); }

Status CheckBench(const nlohmann::ordered_json& body) {
  static const Field kFields[] = {
      {"model", FieldType::kString, Treatment::kRead, ""},
      {"prompt_tokens", FieldType::kInteger, Treatment::kRead, "", 1, 65536},
      {"generate_tokens", FieldType::kInteger, Treatment::kRead, "", 1, 65536},
      {"repeat", FieldType::kInteger, Treatment::kRead, "", 1, 100},
      {"batch", FieldType::kArray, Treatment::kRead, ""},
  };
  FieldReader reader(body, kFields);
  TP_TRY(CheckKnown(reader));
  if (reader.String("model").value_or("").empty()) {
    return Fail(BadField("model", "model is missing.", "missing_field"));
  }
  const auto* batch = reader.Find("batch");
  if (batch == nullptr) return {};
  if (batch->empty() || batch->size() > 16)
    return Fail(BadField("batch", "batch must hold 1 to 16 batch sizes."));
  for (const auto& size : *batch) {
    if (!size.is_number_integer() || size.get<int64_t>() < 1 || size.get<int64_t>() > 1024) {
      return Fail(BadField(
          "batch", fmt::format("batch: {} is not a batch size from 1 to 1024.", openai::Shown(size))));
    }
  }
  return {};
}

}  // namespace tidepool::gateway::native
