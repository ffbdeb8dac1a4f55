#include "platform/catalog/inspect.h"

#include <fmt/format.h>

#include <array>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "models/formats/checkpoint.h"
#include "platform/catalog/names.h"

namespace tidepool::platform {
namespace {

// general.file_type of GGUF (llama.h's llama_ftype): what the file's maker calls the mixture.
std::string_view FileTypeName(int64_t file_type) {
  static const std::map<int64_t, std::string_view> kNames = {
      {0, "F32"},     {1, "F16"},     {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},
      {8, "Q5_0"},    {9, "Q5_1"},    {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"},
      {13, "Q3_K_L"}, {14, "Q4_K_S"}, {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"},
      {18, "Q6_K"},   {25, "IQ4_NL"}, {30, "IQ4_XS"}, {32, "BF16"},   {38, "MXFP4"}};
  const auto it = kNames.find(file_type);
  return it == kNames.end() ? std::string_view() : it->second;
}

// The type that holds most bytes.
std::string_view MainType(const formats::Checkpoint& checkpoint) {
  std::map<chips::DataType, uint64_t> bytes;
  for (const formats::Tensor& tensor : checkpoint.tensors()) bytes[tensor.type] += tensor.bytes.size();
  chips::DataType best = chips::DataType::kF32;
  uint64_t most = 0;
  for (const auto& [type, sum] : bytes) {
    if (sum > most) {
      best = type;
      most = sum;
    }
  }
  const chips::DataTypeTraits* traits = chips::FindDataTypeTraits(best);
  return traits == nullptr ? std::string_view("unknown") : traits->name;
}

int32_t ToContext(std::optional<int64_t> value) {
  if (!value || *value < 0) return 0;
  return static_cast<int32_t>(std::min<int64_t>(*value, std::numeric_limits<int32_t>::max()));
}

// Models with a classifier; and Qwen3-Reranker as published, whose files are those of any Qwen3: its name
// tells.
bool Ranks(const formats::Checkpoint& checkpoint, const StoredModel& model) {
  if (formats::FindClassifier(checkpoint) != nullptr) return true;
  if (checkpoint.architecture() != "qwen3") return false;
  for (const std::string& name :
       {model.id, model.source, std::string(checkpoint.metadata().String("general.name").value_or(""))}) {
    if (ToLowerAscii(name).find("reranker") != std::string::npos) return true;
  }
  return false;
}

// Encoders, and decoders whose file says how to pool, are for embeddings.
bool Generates(const formats::Checkpoint& checkpoint) {
  const std::string architecture(checkpoint.architecture());
  if (architecture.find("bert") != std::string::npos) return false;
  const auto pooling = checkpoint.metadata().Int(architecture + ".pooling_type");
  if (pooling && *pooling > 0) return false;
  return !checkpoint.ReadSideFile("1_Pooling/config.json") && !checkpoint.ReadSideFile("modules.json");
}

// bert counts positions in max_position_embeddings; sentence-transformers cuts earlier and says so.
int32_t SafetensorsContext(const formats::Checkpoint& checkpoint) {
  int32_t positions = ToContext(checkpoint.metadata().Int("max_position_embeddings"));
  // RoBERTa's positions begin after the padding token's.
  if (checkpoint.architecture().find("roberta") != std::string_view::npos && positions > 2) {
    const int64_t padding = checkpoint.metadata().Int("pad_token_id").value_or(1);
    positions = std::max<int32_t>(1, positions - ToContext(padding) - 1);
  }
  const auto text = checkpoint.ReadSideFile("sentence_bert_config.json");
  if (!text) return positions;
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("max_seq_length") || !json["max_seq_length"].is_number_integer()) {
    return positions;
  }
  const int32_t limit = ToContext(json["max_seq_length"].get<int64_t>());
  return limit > 0 && positions > 0 ? std::min(limit, positions) : std::max(limit, positions);
}

}  // namespace

Status InspectModel(const std::filesystem::path& path, StoredModel& model) {
  TP_ASSIGN(const std::unique_ptr<formats::Checkpoint> checkpoint, formats::Checkpoint::Open(path));
  const formats::Metadata& metadata = checkpoint->metadata();
  model.architecture = checkpoint->architecture();
  model.parameters = 0;
  for (const formats::Tensor& tensor : checkpoint->tensors()) {
    model.parameters += static_cast<uint64_t>(tensor.elements());
  }
  model.ranks = Ranks(*checkpoint, model);
  model.generates = !model.ranks && Generates(*checkpoint);
  if (checkpoint->format() == formats::Format::kGguf) {
    model.format = "gguf";
    model.context_length = ToContext(metadata.Int(model.architecture + ".context_length"));
    const auto file_type = metadata.Int("general.file_type");
    if (file_type) model.quantisation = FileTypeName(*file_type);
    if (model.licence.empty()) model.licence = metadata.String("general.license").value_or("");
  } else {
    model.format = "safetensors";
    model.context_length = SafetensorsContext(*checkpoint);
  }
  if (model.quantisation.empty()) model.quantisation = MainType(*checkpoint);
  return {};
}

}  // namespace tidepool::platform
