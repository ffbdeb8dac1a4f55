#include "platform/request_bodies/redaction.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "models/grammar/automaton.h"
#include "models/grammar/program.h"
#include "models/grammar/regex.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using grammar::Automaton;

// What a pattern's states may take before they are begun anew.
constexpr uint64_t kMaxAutomatonBytes = 4u << 20;
constexpr int kMaxJsonInJson = 4;

bool Continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

Result<std::shared_ptr<const grammar::Program>> CompilePattern(const std::string& text) {
  if (text.empty() || text.size() > kMaxPatternBytes) {
    return Fail(ErrorKind::kInvalid, "bad_pattern",
                fmt::format("it must have 1 to {} bytes, not {}", kMaxPatternBytes, text.size()));
  }
  grammar::Expressions expressions;
  TP_ASSIGN(const grammar::ExprId root, grammar::ParseRegex(text, grammar::RegexUse::kPart, expressions));
  if (expressions.overflow()) return Fail(ErrorKind::kInvalid, "bad_pattern", "it is too large");
  TP_ASSIGN(grammar::Program program, grammar::Compile(expressions, root));
  auto shared = std::make_shared<const grammar::Program>(std::move(program));
  Automaton automaton(shared);
  if (automaton.start() == Automaton::kDead || automaton.start() == Automaton::kTooComplex)
    return Fail(ErrorKind::kInvalid, "bad_pattern", "it matches nothing, or is too complex");
  if (automaton.accepts(automaton.start()))
    return Fail(ErrorKind::kInvalid, "bad_pattern",
                "it matches the empty text, so it would be found everywhere");
  return shared;
}

Error NamedPattern(size_t i, const std::string& text, const Error& error) {
  const std::string name = fmt::format("redact.patterns[{}]", i);
  return Error{ErrorKind::kInvalid, "bad_pattern",
               fmt::format("{} (\"{}\"): {}.", name, text.substr(0, 100), error.message), name, 0};
}

}  // namespace

struct Redactor::Pattern {
  explicit Pattern(std::shared_ptr<const grammar::Program> of) : program(std::move(of)) { Renew(); }
  void Renew() {
    automaton.emplace(program);
    for (size_t byte = 0; byte < 256; ++byte)
      begins[byte] = automaton->Step(automaton->start(), static_cast<uint8_t>(byte)) != Automaton::kDead;
  }
  std::shared_ptr<const grammar::Program> program;
  std::optional<Automaton> automaton;
  std::array<bool, 256> begins{};
};

Status CheckPatterns(const std::vector<std::string>& patterns) {
  if (patterns.size() > kMaxPatterns) {
    return Fail(
        ErrorKind::kInvalid, "too_many_patterns",
        fmt::format("redact.patterns holds {} patterns; {} are allowed.", patterns.size(), kMaxPatterns),
        "redact.patterns");
  }
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (const auto compiled = CompilePattern(patterns[i]); !compiled)
      return Fail(NamedPattern(i, patterns[i], compiled.error()));
  }
  return {};
}

Redactor::Redactor(const BodyRule& rule) : rule_(rule) {}
Redactor::~Redactor() = default;

Result<std::unique_ptr<Redactor>> Redactor::Make(const BodyRule& rule) {
  std::unique_ptr<Redactor> out(new Redactor(rule));
  for (size_t i = 0; i < rule.patterns.size(); ++i) {
    auto program = CompilePattern(rule.patterns[i]);
    if (!program) return Fail(NamedPattern(i, rule.patterns[i], program.error()));
    out->patterns_.push_back(std::make_unique<Pattern>(std::move(*program)));
  }
  out->Begin();
  return out;
}

void Redactor::Begin() {
  steps_left_ = kMaxPatternSteps;
  found_ = 0;
  for (const auto& pattern : patterns_) {
    if (pattern->automaton->bytes() > kMaxAutomatonBytes) pattern->Renew();
  }
}

// From each place the longest match. One that may go on where the text is cut, or where the automaton gives
// up, counts to the end. Returns how far all patterns have looked.
size_t Redactor::FindPatterns(std::string_view text, bool more, std::vector<Finding>& out) {
  size_t looked = text.size();
  for (const auto& pattern : patterns_) {
    Automaton& automaton = *pattern->automaton;
    for (size_t i = 0; i < looked;) {
      if (!pattern->begins[static_cast<uint8_t>(text[i])] || Continues(text[i])) {
        ++i;
        continue;
      }
      grammar::StateId state = automaton.start();
      size_t end = 0, at = i;
      while (at < text.size() && steps_left_ > 0) {
        const uint64_t before = automaton.work();
        state = automaton.Step(state, static_cast<uint8_t>(text[at]));
        // A state that is made costs what its places do.
        steps_left_ -= 1 + static_cast<int64_t>(automaton.work() - before);
        ++at;
        if (state == Automaton::kDead || state == Automaton::kTooComplex) break;
        if (automaton.accepts(state)) end = at;
        if (automaton.ended(state)) break;
      }
      if (steps_left_ <= 0) {
        looked = i;
        break;
      }
      const bool open =
          state != Automaton::kDead && state != Automaton::kTooComplex && !automaton.ended(state);
      if (state == Automaton::kTooComplex || (more && open && at == text.size())) end = text.size();
      if (end == 0) {
        ++i;
        continue;
      }
      out.push_back({i, end, "pattern"});
      i = end;
    }
  }
  return looked;
}

Redactor::Text Redactor::Redact(std::string_view text, size_t most, bool more) {
  Text out;
  out.cut = text.size() > most;
  // What is only looked at may hold the rest of what begins before.
  const size_t window =
      text.size() - most > kLookBeyondBytes && out.cut ? most + kLookBeyondBytes : text.size();
  const std::string_view seen = text.substr(0, window);
  findings_.clear();
  FindSensitive(seen, rule_, findings_);
  const size_t looked =
      patterns_.empty() ? window : FindPatterns(seen, more || window < text.size(), findings_);
  size_t keep = std::min(most, text.size());
  if (looked < keep) {
    keep = looked;
    out.cut = true;
  }
  while (keep > 0 && keep < text.size() && Continues(text[keep])) --keep;
  std::sort(findings_.begin(), findings_.end(), [](const Finding& a, const Finding& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  size_t done = 0;
  for (size_t i = 0; i < findings_.size();) {
    const Finding& first = findings_[i];
    size_t end = first.end;
    for (++i; i < findings_.size() && findings_[i].begin < end; ++i) end = std::max(end, findings_[i].end);
    if (first.begin >= keep) break;
    out.kept.append(text.substr(done, first.begin - done));
    out.kept.append("[redacted:").append(first.name).append("]");
    ++found_;
    done = end;
  }
  if (done < keep) out.kept.append(text.substr(done, keep - done));
  return out;
}

std::string Redactor::WalkString(std::string_view text, size_t& left, bool& cut, int depth) {
  if (left == 0 && !text.empty()) {
    cut = true;
    return {};
  }
  // Images and files: their bytes are no text that anybody would look for names in, and no text to read.
  const size_t data = text.starts_with("data:") && text.size() > 256 ? text.substr(0, 200).find(";base64,")
                                                                     : std::string_view::npos;
  if (data != std::string_view::npos) {
    return fmt::format("[{}: {} bytes of base64]", Redact(text.substr(0, data), data).kept,
                       text.size() - data - 8);
  }
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (depth < kMaxJsonInJson && begin != std::string_view::npos &&
      (text[begin] == '{' || text[begin] == '[') && text.size() <= left) {
    // With escapes in it (\u0040), a text would hide what the JSON in it says.
    Json inner = Json::parse(text, nullptr, false);
    if (inner.is_structured()) {
      const int64_t before = found_;
      size_t inner_left = left;
      Walk(inner, inner_left, cut, depth + 1);
      if (found_ != before) {
        left -= std::min(left, text.size());
        return inner.dump(-1, ' ', false, Json::error_handler_t::replace);
      }
    }
  }
  Text kept = Redact(text, left);
  cut = cut || kept.cut;
  left -= std::min(left, text.size());
  return std::move(kept.kept);
}

void Redactor::Walk(Json& value, size_t& left, bool& cut, int depth) {
  if (value.is_string()) {
    value = WalkString(value.get_ref<const std::string&>(), left, cut, depth);
    return;
  }
  if (value.is_number_integer()) {
    const std::string text = value.dump();
    if (text.size() < 8) return;  // shorter than what any kind finds; own patterns look at texts
    Text kept = Redact(text, text.size());
    if (kept.kept != text) value = std::move(kept.kept);
    return;
  }
  if (value.is_array()) {
    for (Json& item : value) Walk(item, left, cut, depth);
    return;
  }
  if (!value.is_object()) return;
  Json out = Json::object();
  for (auto& [name, item] : value.items()) {
    Walk(item, left, cut, depth);
    size_t whole = name.size();
    bool shortened = false;
    out[WalkString(name, whole, shortened, kMaxJsonInJson)] = std::move(item);
  }
  value = std::move(out);
}

bool Redactor::RedactJson(Json& value, size_t most) {
  bool cut = false;
  size_t left = most;
  Walk(value, left, cut, 0);
  return cut;
}

}  // namespace tidepool::platform
