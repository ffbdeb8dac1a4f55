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
      {"prompt_tokens", FieldType::kInteger, Treatment::kRead, "", 0, 65536},
      {"generate_tokens", FieldType::kInteger, Treatment::kRead, "", 1, 65536},
      {"depth", FieldType::kInteger, Treatment::kRead, "", 1, 65536},
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
  if (batch->size() > 16) return Fail(BadField("batch", "batch must hold at most 16 batch sizes."));
  for (const auto& size : *batch) {
    if (!size.is_number_integer() || size.get<int64_t>() < 1 || size.get<int64_t>() > 1024) {
      return Fail(BadField(
          "batch", fmt::format("batch: {} is not a batch size from 1 to 1024.", openai::Shown(size))));
    }
  }
  return {};
}

Status CheckResize(const nlohmann::ordered_json& body) {
  static const Field kFields[] = {{"memory", FieldType::kAny, Treatment::kRead, ""},
                                  {"warm_memory", FieldType::kAny, Treatment::kRead, ""},
                                  {"host_kv", FieldType::kAny, Treatment::kRead, ""}};
  FieldReader reader(body, kFields);
  return CheckKnown(reader);
}

std::span<const Field> PoolPolicyFields() {
  static const Field kFields[] = {
      {"model", FieldType::kString, Treatment::kRead, "a model of the store"},
      {"pinned", FieldType::kBoolean, Treatment::kRead, "true: kept resident, loaded at once"},
      {"idle_ttl_s", FieldType::kNumber, Treatment::kRead,
       "its weights go after so long without work; -1: when room is needed", -1, 31536000},
      {"min_resident_s", FieldType::kNumber, Treatment::kRead, "and not earlier after they came", 0, 86400},
      {"ttft_s", FieldType::kNumber, Treatment::kRead, "until the first token is due", 0, 86400, true},
      {"tpot_s", FieldType::kNumber, Treatment::kRead, "from one token to the next", 0, 3600, true},
      {"weight", FieldType::kNumber, Treatment::kRead, "of its requests against other models'", 0.001, 1000},
  };
  return kFields;
}

Result<PoolPolicyRequest> ParsePoolPolicy(const nlohmann::ordered_json& body) {
  FieldReader reader(body, PoolPolicyFields());
  TP_TRY(CheckKnown(reader));
  PoolPolicyRequest request;
  request.model = reader.String("model").value_or("");
  if (request.model.empty()) return Fail(BadField("model", "model is missing.", "missing_field"));
  request.change = {.pinned = reader.Boolean("pinned"),
                    .idle_ttl_s = reader.Number("idle_ttl_s"),
                    .min_resident_s = reader.Number("min_resident_s"),
                    .ttft_s = reader.Number("ttft_s"),
                    .tpot_s = reader.Number("tpot_s"),
                    .weight = reader.Number("weight")};
  TP_TRY(platform::CheckPolicyChange(request.change));
  return request;
}

Result<bool> ParseCordon(const nlohmann::ordered_json& body) {
  const Field fields[] = {{"cordoned", FieldType::kBoolean, Treatment::kRead, ""}};
  FieldReader reader(body, fields);
  TP_TRY(CheckKnown(reader));
  const auto cordoned = reader.Boolean("cordoned");
  if (!cordoned) return Fail(BadField("cordoned", "cordoned is missing: true or false.", "missing_field"));
  return *cordoned;
}

}  // namespace tidepool::gateway::native
