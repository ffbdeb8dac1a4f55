// The first byte chooses what the rest is: 0 a .safetensors file, 1 a JSON document, 2 a file name, 3 a
// folder: config.json, model.safetensors.index.json, tokenizer_config.json and shard.safetensors, separated
// by the byte 0xff (which JSON cannot contain).
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "models/formats/checkpoint.h"
#include "models/formats/file_builder_for_test.h"
#include "models/formats/gguf_checkpoint.h"
#include "models/formats/json_metadata.h"
#include "models/formats/safetensors_file.h"
#include "models/formats/side_files.h"

namespace tidepool::formats {
namespace {

volatile uint64_t g_sink = 0;

void FuzzFile(std::string_view text) {
  const auto tensors = ParseSafetensors(AsBytes(text), "fuzz.safetensors", {});
  if (!tensors) return;
  const std::byte* end = nullptr;
  for (const Tensor& tensor : *tensors) {
    CHECK(end == nullptr || tensor.bytes.data() == end);
    end = tensor.bytes.data() + tensor.bytes.size();
    const auto element_bytes = chips::TraitsOf(tensor.type).block_bytes;
    CHECK(static_cast<uint64_t>(tensor.elements() * element_bytes) == tensor.bytes.size());
    for (const std::byte b : tensor.bytes) g_sink = g_sink + static_cast<uint64_t>(b);
  }
}

void FuzzJson(std::string_view text) {
  JsonLimits limits;
  limits.max_memory_bytes = 16u << 20;
  const auto table = FlattenJson(text, "fuzz.json", limits);
  if (!table) return;
  for (const std::string_view key : table->Keys()) {
    CHECK(table->Has(key));
    const int kinds = table->Bool(key).has_value() + table->Float(key).has_value() +
                      table->String(key).has_value() + table->Strings(key).has_value() +
                      table->Floats(key).has_value();
    CHECK(kinds == 1 || (kinds == 2 && table->Strings(key)->empty()));
  }
}

void FuzzName(std::string_view name) {
  if (IsSafeRelativePath(name)) {
    const std::filesystem::path path = std::filesystem::path("/root") / name;
    CHECK(path.lexically_normal().string().starts_with("/root/"));
  }
  if (const auto split = ParseSplitName(std::string(name)))
    CHECK(split->number >= 1 && split->number <= split->count);
}

void FuzzFolder(std::string_view text) {
  static const TemporaryFolder folder;
  constexpr std::array kNames = {"config.json", "model.safetensors.index.json", "tokenizer_config.json",
                                 "shard.safetensors"};
  for (size_t i = 0; i < kNames.size(); ++i) {
    const size_t end = i + 1 == kNames.size() ? text.size() : std::min(text.find('\xff'), text.size());
    const std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (part.empty()) {
      std::filesystem::remove(folder.path() / kNames[i]);
    } else {
      folder.Write(kNames[i], part);
    }
  }
  const auto checkpoint = Checkpoint::Open(folder.path());
  if (!checkpoint) return;
  CHECK(!(*checkpoint)->architecture().empty());
  for (const Tensor& tensor : (*checkpoint)->tensors()) {
    const auto values = TensorToFloat(**checkpoint, tensor);
    if (values) CHECK(values->size() == static_cast<size_t>(tensor.elements()));
  }
  g_sink = g_sink + (*checkpoint)->chat_template().size();
}

}  // namespace
}  // namespace tidepool::formats

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::formats;  // NOLINT
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0: FuzzFile(rest); break;
    case 1: FuzzJson(rest); break;
    case 2: FuzzName(rest); break;
    default: FuzzFolder(rest); break;
  }
  return 0;
}
