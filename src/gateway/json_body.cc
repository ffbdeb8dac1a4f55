#include "gateway/json_body.h"

#include <fmt/format.h>

#include <unordered_set>
#include <vector>

namespace tidepool::gateway {
namespace {

using Json = nlohmann::ordered_json;

// Builds the document from the parser's events. Keys are appended to an object without the search that
// ordered_json's operator[] makes (quadratic for a hostile object); a hash set finds duplicates.
class Builder {
 public:
  // The interface nlohmann::json::sax_parse asks for.
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  bool null() { return Add(Json(nullptr)) != nullptr; }
  bool boolean(bool value) { return Add(Json(value)) != nullptr; }
  bool number_integer(number_integer_t value) { return Add(Json(value)) != nullptr; }
  bool number_unsigned(number_unsigned_t value) { return Add(Json(value)) != nullptr; }
  bool number_float(number_float_t value, const string_t& /*text*/) { return Add(Json(value)) != nullptr; }
  bool string(string_t& value) { return Add(Json(std::move(value))) != nullptr; }
  bool binary(binary_t& /*value*/) { return false; }
  bool start_object(size_t /*size*/) { return Open(Json::object()); }
  bool start_array(size_t /*size*/) { return Open(Json::array()); }
  bool end_object() { return CloseTop(); }
  bool end_array() { return CloseTop(); }

  bool key(string_t& name) {
    Frame& frame = stack_.back();
    if (frame.keys.size() >= limits_.max_keys_per_object) {
      return Refuse("json_too_large",
                    fmt::format("An object has more than {} keys.", limits_.max_keys_per_object));
    }
    if (!frame.keys.insert(name).second) {
      return Refuse("duplicate_key",
                    fmt::format("The key \"{}\" appears twice in one object.", name.substr(0, 64)));
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& problem) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." without its tag.
    std::string text = problem.what();
    if (const size_t end = text.find("] "); end != std::string::npos) text.erase(0, end + 2);
    if (text.size() > 300) text.resize(300);
    return Refuse("malformed_json", fmt::format("The body is not JSON (byte {}): {}", position, text));
  }

  Json document;
  Error error;

 private:
  struct Frame {
    Json* value = nullptr;
    std::unordered_set<std::string> keys;
  };

  bool Refuse(std::string code, std::string message) {
    error = Error{ErrorKind::kInvalid, std::move(code), std::move(message), "", 0};
    return false;
  }

  Json* Add(Json value) {
    if (++values_ > limits_.max_values) {
      Refuse("json_too_large", fmt::format("The body holds more than {} values.", limits_.max_values));
      return nullptr;
    }
    if (stack_.empty()) {
      document = std::move(value);
      return &document;
    }
    Json& parent = *stack_.back().value;
    if (parent.is_array()) {
      auto& items = *parent.get_ptr<Json::array_t*>();
      items.push_back(std::move(value));
      return &items.back();
    }
    auto& members = *parent.get_ptr<Json::object_t*>();
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }

  bool Open(Json container) {
    if (stack_.size() >= static_cast<size_t>(limits_.max_depth)) {
      return Refuse("json_too_deep", fmt::format("The body nests deeper than {} levels.", limits_.max_depth));
    }
    Json* added = Add(std::move(container));
    if (added == nullptr) return false;
    stack_.push_back({added, {}});
    return true;
  }

  bool CloseTop() {
    stack_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  std::vector<Frame> stack_;  // pointers stay valid: only the innermost container grows
  std::string key_;
  size_t values_ = 0;
};

// Length of the UTF-8 character at `text[at]`, 0 if it is not one (RFC 3629, table 3-7 of Unicode).
size_t CharacterLength(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto tail = [&](size_t i) { return i < text.size() && (byte(i) & 0xc0) == 0x80; };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return tail(at + 1) ? 2 : 0;
  if (!tail(at + 1)) return 0;
  const unsigned char second = byte(at + 1);
  if (lead < 0xf0) {
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return 0;
    return tail(at + 2) ? 3 : 0;
  }
  if (lead > 0xf4 || (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return 0;
  return tail(at + 2) && tail(at + 3) ? 4 : 0;
}

}  // namespace

Result<Json> ParseJson(std::string_view text, const JsonLimits& limits) {
  Builder builder(limits);
  try {
    if (Json::sax_parse(text.begin(), text.end(), &builder, nlohmann::detail::input_format_t::json, true)) {
      return std::move(builder.document);
    }
  } catch (const std::exception& problem) {
    return Fail(ErrorKind::kInvalid, "malformed_json",
                fmt::format("The body is not JSON: {}", problem.what()));
  }
  return Fail(std::move(builder.error));
}

std::string DumpJson(const Json& value) {
  return value.dump(-1, ' ', false, nlohmann::detail::error_handler_t::replace);
}

void AppendJsonString(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out.push_back('"');
  size_t plain = 0;  // start of the run not copied yet
  const auto flush = [&](size_t end) { out.append(text.substr(plain, end - plain)); };
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\' && byte != 0x7f) {
      ++i;
      continue;
    }
    if (byte >= 0x80) {
      if (const size_t length = CharacterLength(text, i); length > 0) {
        i += length;
        continue;
      }
      flush(i);
      out.append("\xef\xbf\xbd");
    } else {
      flush(i);
      out.push_back('\\');
      switch (byte) {
        case '"': out.push_back('"'); break;
        case '\\': out.push_back('\\'); break;
        case '\n': out.push_back('n'); break;
        case '\r': out.push_back('r'); break;
        case '\t': out.push_back('t'); break;
        default:
          out.append("u00");
          out.push_back(kHex[byte >> 4]);
          out.push_back(kHex[byte & 15]);
      }
    }
    plain = ++i;
  }
  flush(text.size());
  out.push_back('"');
}

}  // namespace tidepool::gateway
