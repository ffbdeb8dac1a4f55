// Metadata as a sorted table of owned keys and values. Strings and arrays of a GGUF file stay in the mapping.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "models/formats/checkpoint.h"

namespace tidepool::formats {

// GGUF's numbers for value types.
enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Bytes of one value; 0 for strings and arrays (and for unknown types).
size_t GgufScalarBytes(GgufValueType type);

// An array where the file keeps it: numbers packed, or strings with a u64 length before each.
struct GgufArray {
  GgufValueType element_type = GgufValueType::kU8;
  uint64_t count = 0;
  std::span<const std::byte> bytes;
};

// Reads one packed number; the type must be a scalar one. U64 beyond the range of int64 becomes a double.
using MetadataScalar = std::variant<int64_t, double, bool>;
MetadataScalar ReadGgufScalar(GgufValueType type, const std::byte* source);

struct JsonEmptyArray {};  // no elements: of every kind
using MetadataValue =
    std::variant<int64_t, double, bool, std::string_view, std::string, GgufArray, JsonEmptyArray,
                 std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

class MetadataTable final : public Metadata {
 public:
  void Add(std::string key, MetadataValue value) { entries_.push_back({std::move(key), std::move(value)}); }
  size_t size() const { return entries_.size(); }
  // Sorts; call once after the last Add. Returns a key that was added twice, or nullptr.
  const std::string* Seal();

  bool Has(std::string_view key) const override { return FindValue(key) != nullptr; }
  std::optional<int64_t> Int(std::string_view key) const override;
  std::optional<double> Float(std::string_view key) const override;
  std::optional<bool> Bool(std::string_view key) const override;
  std::optional<std::string_view> String(std::string_view key) const override;
  std::optional<std::vector<int64_t>> Ints(std::string_view key) const override;
  std::optional<std::vector<double>> Floats(std::string_view key) const override;
  std::optional<std::vector<std::string_view>> Strings(std::string_view key) const override;
  std::vector<std::string_view> Keys() const override;

 private:
  struct Entry {
    std::string key;
    MetadataValue value;
  };
  const MetadataValue* FindValue(std::string_view key) const;

  std::vector<Entry>
      entries_;  // sorted by key after Seal; a search costs the same whatever keys a file chose
};

}  // namespace tidepool::formats
