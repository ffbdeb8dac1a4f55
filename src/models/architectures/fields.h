// Reads a model's configuration under either naming scheme, with the range each field may have.
//
// Every error names the file, the key, the value and what was expected. Thread: any; borrows the Checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/formats/checkpoint.h"

namespace tidepool::architectures {

// One field's name in both worlds. `gguf` without the architecture prefix ("attention.head_count"); `hf` as
// in config.json, alternatives separated by '|' in order of preference
// ("rope_parameters.rope_theta|rope_theta"). Empty: that format has no such field.
struct FieldKey {
  std::string_view gguf;
  std::string_view hf;
};

class Fields {
 public:
  explicit Fields(const formats::Checkpoint& checkpoint);

  bool is_gguf() const { return checkpoint_.format() == formats::Format::kGguf; }
  const formats::Checkpoint& checkpoint() const { return checkpoint_; }
  std::string file() const { return checkpoint_.path().string(); }

  // Required. An array whose elements are all equal (GGUF's per-layer head counts) counts as its element.
  Result<int64_t> Int(FieldKey key, int64_t minimum, int64_t maximum) const;
  Result<double> Float(FieldKey key, double minimum, double maximum) const;
  // Missing or null gives `otherwise`; a wrong kind or range is still an error.
  Result<int64_t> IntOr(FieldKey key, int64_t otherwise, int64_t minimum, int64_t maximum) const;
  Result<double> FloatOr(FieldKey key, double otherwise, double minimum, double maximum) const;
  Result<bool> BoolOr(FieldKey key, bool otherwise) const;
  Result<std::string> StringOr(FieldKey key, std::string_view otherwise) const;
  Result<std::vector<int64_t>> IntsOr(FieldKey key, std::vector<int64_t> otherwise) const;
  Result<std::vector<std::string>> StringsOr(FieldKey key, std::vector<std::string> otherwise) const;
  bool Has(FieldKey key) const { return Find(key).has_value(); }

  // An error about `key`: "<file>: <key> <trouble>. <remedy>".
  tl::unexpected<Error> Bad(FieldKey key, std::string_view trouble) const;

 private:
  // The full name of the first alternative that is present with a value.
  std::optional<std::string> Find(FieldKey key) const;
  std::string Name(FieldKey key) const;  // found or preferred, for messages
  bool HasValue(const std::string& name) const;
  Result<int64_t> CheckedInt(FieldKey key, const std::string& name, int64_t minimum, int64_t maximum) const;
  Result<double> CheckedFloat(FieldKey key, const std::string& name, double minimum, double maximum) const;

  const formats::Checkpoint& checkpoint_;
  std::string prefix_;  // "llama." or "text_config." or ""
};

}  // namespace tidepool::architectures
