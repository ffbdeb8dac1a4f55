#include "models/formats/metadata_table.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace tidepool::formats {
namespace {

template <typename T>
T Load(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof value);
  return value;
}

// The strings of an array in the mapping. The lengths were checked at Open; they are checked again because a
// mapped file may have been overwritten since (see mapped_file.h).
std::optional<std::vector<std::string_view>> MappedStrings(const GgufArray& array) {
  std::vector<std::string_view> out;
  out.reserve(array.count);
  size_t at = 0;
  for (uint64_t i = 0; i < array.count; ++i) {
    if (array.bytes.size() - at < sizeof(uint64_t)) return std::nullopt;
    const auto length = Load<uint64_t>(array.bytes.data() + at);
    at += sizeof(uint64_t);
    if (length > array.bytes.size() - at) return std::nullopt;
    out.emplace_back(reinterpret_cast<const char*>(array.bytes.data()) + at, length);
    at += length;
  }
  return out;
}

std::optional<int64_t> AsInt(const MetadataScalar& scalar) {
  if (const auto* i = std::get_if<int64_t>(&scalar)) return *i;
  if (const auto* b = std::get_if<bool>(&scalar)) return *b ? 1 : 0;
  return std::nullopt;
}

std::optional<double> AsFloat(const MetadataScalar& scalar) {
  if (const auto* i = std::get_if<int64_t>(&scalar)) return static_cast<double>(*i);
  if (const auto* d = std::get_if<double>(&scalar)) return *d;
  return std::nullopt;
}

// All numbers of an array through `convert`; nullopt if one of them has no such value.
template <typename T, typename Convert>
std::optional<std::vector<T>> MappedNumbers(const GgufArray& array, Convert convert) {
  const size_t stride = GgufScalarBytes(array.element_type);
  if (stride == 0) {
    if (array.count == 0) return std::vector<T>{};
    return std::nullopt;
  }
  std::vector<T> out;
  out.reserve(array.count);
  for (uint64_t i = 0; i < array.count; ++i) {
    const std::optional<T> value =
        convert(ReadGgufScalar(array.element_type, array.bytes.data() + i * stride));
    if (!value) return std::nullopt;
    out.push_back(*value);
  }
  return out;
}

}  // namespace

size_t GgufScalarBytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool: return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16: return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32: return 4;
    case GgufValueType::kU64:
    case GgufValueType::kI64:
    case GgufValueType::kF64: return 8;
    default: return 0;
  }
}

MetadataScalar ReadGgufScalar(GgufValueType type, const std::byte* source) {
  switch (type) {
    case GgufValueType::kU8: return int64_t{Load<uint8_t>(source)};
    case GgufValueType::kI8: return int64_t{Load<int8_t>(source)};
    case GgufValueType::kU16: return int64_t{Load<uint16_t>(source)};
    case GgufValueType::kI16: return int64_t{Load<int16_t>(source)};
    case GgufValueType::kU32: return int64_t{Load<uint32_t>(source)};
    case GgufValueType::kI32: return int64_t{Load<int32_t>(source)};
    case GgufValueType::kI64: return Load<int64_t>(source);
    case GgufValueType::kF32: return static_cast<double>(Load<float>(source));
    case GgufValueType::kF64: return Load<double>(source);
    case GgufValueType::kBool: return Load<uint8_t>(source) != 0;
    case GgufValueType::kU64: {
      const auto value = Load<uint64_t>(source);
      if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return static_cast<int64_t>(value);
      return static_cast<double>(value);
    }
    default: break;
  }
  CHECK(GgufScalarBytes(type) != 0);
  return false;
}

const std::string* MetadataTable::Seal() {
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.key < b.key; });
  const auto twice = std::adjacent_find(entries_.begin(), entries_.end(),
                                        [](const Entry& a, const Entry& b) { return a.key == b.key; });
  return twice == entries_.end() ? nullptr : &twice->key;
}

const MetadataValue* MetadataTable::FindValue(std::string_view key) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), key,
                                      [](const Entry& entry, std::string_view k) { return entry.key < k; });
  return found == entries_.end() || found->key != key ? nullptr : &found->value;
}

std::optional<int64_t> MetadataTable::Int(std::string_view key) const {
  const MetadataValue* value = FindValue(key);
  const auto* i = value == nullptr ? nullptr : std::get_if<int64_t>(value);
  return i == nullptr ? std::nullopt : std::optional<int64_t>(*i);
}

std::optional<double> MetadataTable::Float(std::string_view key) const {
  const MetadataValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* i = std::get_if<int64_t>(value)) return static_cast<double>(*i);
  if (const auto* d = std::get_if<double>(value)) return *d;
  return std::nullopt;
}

std::optional<bool> MetadataTable::Bool(std::string_view key) const {
  const MetadataValue* value = FindValue(key);
  const auto* b = value == nullptr ? nullptr : std::get_if<bool>(value);
  return b == nullptr ? std::nullopt : std::optional<bool>(*b);
}

std::optional<std::string_view> MetadataTable::String(std::string_view key) const {
  const MetadataValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* mapped = std::get_if<std::string_view>(value)) return *mapped;
  if (const auto* owned = std::get_if<std::string>(value)) return std::string_view(*owned);
  return std::nullopt;
}

std::optional<std::vector<int64_t>> MetadataTable::Ints(std::string_view key) const {
  const MetadataValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  if (std::holds_alternative<JsonEmptyArray>(*value)) return std::vector<int64_t>{};
  if (const auto* owned = std::get_if<std::vector<int64_t>>(value)) return *owned;
  if (const auto* mapped = std::get_if<GgufArray>(value)) return MappedNumbers<int64_t>(*mapped, AsInt);
  return std::nullopt;
}

std::optional<std::vector<double>> MetadataTable::Floats(std::string_view key) const {
  const MetadataValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  if (std::holds_alternative<JsonEmptyArray>(*value)) return std::vector<double>{};
  if (const auto* owned = std::get_if<std::vector<double>>(value)) return *owned;
  if (const auto* ints = std::get_if<std::vector<int64_t>>(value)) {
    return std::vector<double>(ints->begin(), ints->end());
  }
  if (const auto* mapped = std::get_if<GgufArray>(value)) return MappedNumbers<double>(*mapped, AsFloat);
  return std::nullopt;
}

std::optional<std::vector<std::string_view>> MetadataTable::Strings(std::string_view key) const {
  const MetadataValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  if (std::holds_alternative<JsonEmptyArray>(*value)) return std::vector<std::string_view>{};
  if (const auto* owned = std::get_if<std::vector<std::string>>(value)) {
    return std::vector<std::string_view>(owned->begin(), owned->end());
  }
  const auto* mapped = std::get_if<GgufArray>(value);
  if (mapped == nullptr) return std::nullopt;
  if (mapped->count == 0) return std::vector<std::string_view>{};
  if (mapped->element_type != GgufValueType::kString) return std::nullopt;
  return MappedStrings(*mapped);
}

std::vector<std::string_view> MetadataTable::Keys() const {
  std::vector<std::string_view> keys;
  keys.reserve(entries_.size());
  for (const Entry& entry : entries_) keys.push_back(entry.key);
  return keys;
}

}  // namespace tidepool::formats
