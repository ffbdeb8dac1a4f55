#include "models/formats/json_metadata.h"

#include <fmt/format.h>

#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "models/formats/file_problem.h"

namespace tidepool::formats {
namespace {

class Flattener final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Flattener(const FileProblem& problem, const JsonLimits& limits) : problem_(problem), limits_(limits) {}

  Result<MetadataTable> Finish() {
    if (error_) return Fail(std::move(*error_));
    if (const std::string* twice = table_.Seal(); twice != nullptr) {
      return problem_.Corrupt(*twice, "the key occurs twice");
    }
    return std::move(table_);
  }

  bool null() override { return Scalar(std::nullopt); }
  bool boolean(bool value) override { return Scalar(MetadataValue(value)); }
  bool number_integer(number_integer_t value) override { return Scalar(MetadataValue(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Scalar(MetadataValue(static_cast<int64_t>(value)));
    }
    return Scalar(MetadataValue(static_cast<double>(value)));
  }
  bool number_float(number_float_t value, const string_t&) override { return Scalar(MetadataValue(value)); }
  bool string(string_t& value) override { return Scalar(MetadataValue(std::move(value))); }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override { return Push(/*is_array=*/false); }
  bool start_array(std::size_t) override {
    if (frames_.empty()) return Refuse(problem_.Corrupt({}, "the JSON text must be an object, is an array"));
    return Push(/*is_array=*/true);
  }
  bool end_object() override {
    frames_.pop_back();
    return true;
  }
  bool end_array() override {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    path_.resize(frame.path_bytes);
    return frame.flat ? Emit(frame.values.Take()) : true;
  }
  bool key(string_t& value) override {
    path_.resize(frames_.back().path_bytes);
    if (!IsSoundName(value, kMaxNameBytes)) {
      return Refuse(
          problem_.Corrupt(value, "the key is empty, longer than 1024 bytes or has control characters"));
    }
    if (!path_.empty()) path_ += '.';
    path_ += value;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    return Refuse(problem_.Corrupt({}, "not valid JSON: " + Printable(error.what(), 200)));
  }

 private:
  // The elements of an array as long as they are scalars of one kind.
  struct Values {
    std::vector<int64_t> ints;
    std::vector<double> floats;
    std::vector<std::string> strings;
    uint64_t count = 0;
    bool booleans = false;

    // False: another kind than those before.
    bool Add(MetadataValue value) {
      if (auto* text = std::get_if<std::string>(&value)) {
        if (count != strings.size()) return false;
        strings.push_back(std::move(*text));
      } else if (const auto* flag = std::get_if<bool>(&value)) {
        if (count != ints.size() || (count > 0 && !booleans)) return false;
        booleans = true;
        ints.push_back(*flag ? 1 : 0);
      } else if (!AddNumber(value)) {
        return false;
      }
      ++count;
      return true;
    }

    bool AddNumber(const MetadataValue& value) {
      if (booleans || !strings.empty()) return false;
      const auto* integer = std::get_if<int64_t>(&value);
      if (integer != nullptr && floats.empty()) {
        ints.push_back(*integer);
        return true;
      }
      // One real number makes all of them real.
      for (const int64_t i : ints) floats.push_back(static_cast<double>(i));
      ints.clear();
      floats.push_back(integer != nullptr ? static_cast<double>(*integer) : std::get<double>(value));
      return true;
    }

    MetadataValue Take() {
      if (count == 0) return JsonEmptyArray{};
      if (!strings.empty()) return std::move(strings);
      if (!floats.empty()) return std::move(floats);
      return std::move(ints);
    }
  };

  struct Frame {
    size_t path_bytes = 0;  // of path_ that belong to the container itself
    bool is_array = false;
    bool flat = true;  // an array that can be given as one value
    uint64_t index = 0;
    Values values;
  };

  bool Refuse(tl::unexpected<Error> error) {
    if (!error_) error_ = std::move(error.value());
    return false;
  }

  // Puts the index of the next element of an array behind its path.
  bool NextElement(Frame& frame) {
    if (frame.index >= limits_.max_array_elements) {
      path_.resize(frame.path_bytes);
      return Refuse(problem_.OverLimit(
          path_, fmt::format("array of more than {} elements", limits_.max_array_elements)));
    }
    path_.resize(frame.path_bytes);
    path_ += fmt::format(".{}", frame.index++);
    return true;
  }

  bool Push(bool is_array) {
    if (frames_.size() >= limits_.max_depth) {
      return Refuse(problem_.OverLimit(path_, fmt::format("nested deeper than {}", limits_.max_depth)));
    }
    if (!frames_.empty() && frames_.back().is_array) {
      frames_.back().flat = false;
      frames_.back().values = {};
      if (!NextElement(frames_.back())) return false;
    }
    Frame frame;
    frame.path_bytes = path_.size();
    frame.is_array = is_array;
    frames_.push_back(std::move(frame));
    return true;
  }

  bool Scalar(std::optional<MetadataValue> value) {
    if (frames_.empty()) return Refuse(problem_.Corrupt({}, "the JSON text must be an object, is a scalar"));
    Frame& frame = frames_.back();
    if (!frame.is_array) return value ? Emit(std::move(*value)) : true;
    if (!NextElement(frame)) return false;
    if (!frame.flat) return true;  // a mixed array has no one value; its scalars are dropped
    if (!value || !Charge(ValueBytes(*value)) || !frame.values.Add(std::move(*value))) {
      if (error_) return false;
      frame.flat = false;
      frame.values = {};
    }
    return true;
  }

  static uint64_t ValueBytes(const MetadataValue& value) {
    if (const auto* text = std::get_if<std::string>(&value)) return sizeof(std::string) + text->size();
    return sizeof(double);
  }

  bool Charge(uint64_t bytes) {
    memory_bytes_ += bytes;
    if (memory_bytes_ <= limits_.max_memory_bytes) return true;
    return Refuse(problem_.OverLimit(
        path_, fmt::format("would take more than {} bytes of memory", limits_.max_memory_bytes)));
  }

  bool Emit(MetadataValue value) {
    constexpr uint64_t kEntryBytes = 128;
    if (table_.size() >= limits_.max_keys) {
      return Refuse(problem_.OverLimit(path_, fmt::format("more than {} keys", limits_.max_keys)));
    }
    if (!Charge(kEntryBytes + path_.size() + ValueBytes(value))) return false;
    table_.Add(path_, std::move(value));
    return true;
  }

  const FileProblem& problem_;
  const JsonLimits& limits_;
  MetadataTable table_;
  std::vector<Frame> frames_;
  std::string path_;
  uint64_t memory_bytes_ = 0;
  std::optional<Error> error_;
};

}  // namespace

Result<MetadataTable> FlattenJson(std::string_view text, const std::string& name, const JsonLimits& limits) {
  const FileProblem problem(name);
  Flattener flattener(problem, limits);
  try {
    nlohmann::json::sax_parse(text.begin(), text.end(), &flattener);
    return flattener.Finish();
  } catch (const std::bad_alloc&) {
    return problem.OverLimit({}, "not enough memory to read it");
  }
}

}  // namespace tidepool::formats
