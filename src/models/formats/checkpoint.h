// A model file or folder, opened: named tensors, metadata, text assets. Memory-mapped, never copied.
//
// Every file is hostile. Open() validates everything it will ever hand out: a Tensor's bytes lie inside the
// mapping and match its shape and type. Errors name the file, the key or tensor, and the remedy.
//
// Threads: immutable after Open; any thread. Tensors, strings and spans live as long as the Checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "chips/data_type.h"

namespace tidepool::formats {

enum class Format : uint8_t { kGguf, kSafetensors };

struct Tensor {
  std::string name;
  chips::DataType type = chips::DataType::kF32;
  // Outermost first: a weight is [outputs, inputs] in both formats (GGUF's order is reversed on reading).
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
};

// Limits on what a file may claim; beyond them it is refused before memory is taken.
struct OpenLimits {
  uint64_t max_tensors = 1'000'000;
  uint64_t max_metadata_keys = 100'000;
  uint64_t max_array_elements = 16'000'000;  // of one metadata array
  uint64_t max_string_bytes = 64u << 20;     // of one metadata string
  uint64_t max_json_bytes = 256u << 20;      // of a safetensors header, config.json, tokenizer.json
  uint64_t max_metadata_bytes = 1u << 30;    // all metadata in memory together
  uint32_t max_files = 4096;                 // of a split or sharded model
};

// Metadata by key. GGUF: its own keys ("llama.block_count"). Safetensors: config.json flattened with dots
// ("num_hidden_layers", "rope_scaling.factor", "text_config.hidden_size").
class Metadata {
 public:
  virtual ~Metadata() = default;
  virtual bool Has(std::string_view key) const = 0;
  // nullopt when missing, null, or of another kind. Integers are accepted where floats are asked for.
  virtual std::optional<int64_t> Int(std::string_view key) const = 0;
  virtual std::optional<double> Float(std::string_view key) const = 0;
  virtual std::optional<bool> Bool(std::string_view key) const = 0;
  virtual std::optional<std::string_view> String(std::string_view key) const = 0;
  virtual std::optional<std::vector<int64_t>> Ints(std::string_view key) const = 0;  // also bool arrays: 0/1
  virtual std::optional<std::vector<double>> Floats(std::string_view key) const = 0;
  virtual std::optional<std::vector<std::string_view>> Strings(std::string_view key) const = 0;
  virtual std::vector<std::string_view> Keys() const = 0;
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  // `path`: a .gguf file (any part of a split set, or its only file), a .safetensors file with its
  // config.json beside it, or a folder with config.json and *.safetensors (one, or sharded with an index).
  static Result<std::unique_ptr<Checkpoint>> Open(const std::filesystem::path& path,
                                                  const OpenLimits& limits = {});

  virtual Format format() const = 0;
  virtual const std::filesystem::path& path() const = 0;
  // GGUF: general.architecture ("llama"). Safetensors: model_type ("qwen3"), the text_config's if nested.
  virtual std::string_view architecture() const = 0;
  virtual const Metadata& metadata() const = 0;
  virtual std::span<const Tensor> tensors() const = 0;
  virtual const Tensor* Find(std::string_view name) const = 0;
  // All tensor bytes (for progress and memory estimates).
  virtual uint64_t tensor_bytes() const = 0;

  // Files beside safetensors weights, whole; empty when absent (GGUF keeps all of it in metadata()).
  virtual std::string_view tokenizer_json() const = 0;
  virtual std::string_view tokenizer_config_json() const = 0;
  virtual std::string_view generation_config_json() const = 0;
  // chat_template.jinja, else tokenizer_config.json's chat_template (the "default" one of a list), else
  // GGUF's tokenizer.chat_template. Empty: none.
  virtual std::string_view chat_template() const = 0;
  // The memory that reading tensors has filled goes back to the system; they can be read again.
  virtual void ReleasePages() const = 0;
  // Other text files of the folder by name ("vocab.txt", "modules.json", "1_Pooling/config.json"); bounded.
  virtual std::optional<std::string> ReadSideFile(std::string_view name) const = 0;
};

// Looks for values that no sound model has, in the fields where a few bytes spoil many weights: block scales
// and minima that are NaN or infinite, E8M0 scales whose products overflow; in plain float tensors, every
// value. Integers pass. Reads the tensor once at memory speed; architectures call it for what they pack,
// since Open does not read tensor data. Error: kCorrupt "bad_tensor_values" with the first bad element's
// block.
Status ValidateTensorValues(const Checkpoint& checkpoint, const Tensor& tensor);

// The whole tensor as float32, also F8_E4M3 with its "<name>_scale_inv" block scales (128 x 128).
// Kinds that cannot be decoded give kInvalid.
Result<std::vector<float>> TensorToFloat(const Checkpoint& checkpoint, const Tensor& tensor);

// The classifier of a model that ranks or classifies, under the names that Hugging Face and GGUF give it;
// nullptr: none.
const Tensor* FindClassifier(const Checkpoint& checkpoint);

}  // namespace tidepool::formats
