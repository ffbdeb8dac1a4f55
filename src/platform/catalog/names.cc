#include "platform/catalog/names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "platform/catalog/catalog.h"

namespace tidepool::platform {
namespace {

constexpr size_t kMaxSegment = 96;
constexpr size_t kMaxFileSegment = 255;  // NAME_MAX
constexpr int kMaxFileDepth = 16;
constexpr size_t kMaxComparedName = 256;

bool IsAlnum(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsSegmentChar(char c) { return IsAlnum(c) || c == '.' || c == '_' || c == '-'; }
char LowerAscii(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool IsSegment(std::string_view text) {
  return !text.empty() && text.size() <= kMaxSegment && IsAlnum(text.front()) &&
         std::all_of(text.begin(), text.end(), IsSegmentChar);
}

// Optimal string alignment (Damerau-Levenshtein with adjacent swaps), case ignored.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = LowerAscii(a[i - 1]) == LowerAscii(b[j - 1]);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (same ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && LowerAscii(a[i - 1]) == LowerAscii(b[j - 2]) &&
                           LowerAscii(a[i - 2]) == LowerAscii(b[j - 1]);
      if (swapped) current[j] = std::min(current[j], before[j - 2] + 1);
    }
    before.swap(previous);
    previous.swap(current);
  }
  return previous[b.size()];
}

}  // namespace

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return LowerAscii(x) == LowerAscii(y); });
}

std::string ToLowerAscii(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), LowerAscii);
  return out;
}

Result<ModelName> ParseModelName(std::string_view text) {
  const size_t colon = text.find(':');
  ModelName out;
  out.name = text.substr(0, colon);
  if (colon != std::string_view::npos) out.tag = text.substr(colon + 1);
  const size_t slash = out.name.find('/');
  const std::string_view name = out.name;
  const bool name_ok = slash == std::string::npos
                           ? IsSegment(name)
                           : IsSegment(name.substr(0, slash)) && IsSegment(name.substr(slash + 1));
  const bool tag_ok = colon == std::string_view::npos || IsSegment(out.tag);
  if (name_ok && tag_ok) return out;
  return Fail(
      ErrorKind::kInvalid, "invalid_model_name",
      fmt::format("\"{}\" is not a model name; write name:tag or org/repo:tag with letters, digits, '.', '_' "
                  "and '-'",
                  text.substr(0, 128)),
      "model");
}

std::string ToNameSegment(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kMaxSegment)) {
    const char fitted = IsSegmentChar(c) ? c : '-';
    if (out.empty() && !IsAlnum(fitted)) continue;
    out += fitted;
  }
  return out.empty() ? "model" : out;
}

bool IsSafeFileName(std::string_view name) {
  int depth = 0;
  for (size_t from = 0;;) {
    const size_t slash = name.find('/', from);
    const std::string_view segment =
        name.substr(from, slash == std::string_view::npos ? slash : slash - from);
    if (segment.empty() || segment == "." || segment == ".." || segment.size() > kMaxFileSegment)
      return false;
    for (const char c : segment) {
      if (static_cast<unsigned char>(c) < 0x20 || c == '\\' || c == 0x7f) return false;
    }
    if (++depth > kMaxFileDepth) return false;
    if (slash == std::string_view::npos) return true;
    from = slash + 1;
  }
}

std::vector<std::string> CloseNames(std::string_view name, const std::vector<std::string>& candidates,
                                    size_t count) {
  struct Scored {
    size_t distance;
    const std::string* name;
  };
  std::vector<Scored> scored;
  name = name.substr(0, kMaxComparedName);
  const size_t allowed = std::max<size_t>(2, name.size() / 3);
  for (const std::string& candidate : candidates) {
    const std::string_view other = std::string_view(candidate).substr(0, kMaxComparedName);
    size_t distance = EditDistance(name, other);
    // A name without its tag (or the other way round) is close: "smolm2" for "smollm2:135m".
    const std::string_view stem = other.substr(0, other.find(':'));
    if (name.find(':') == std::string_view::npos) distance = std::min(distance, EditDistance(name, stem));
    const bool begins = name.size() >= 3 && EqualsIgnoringCase(other.substr(0, name.size()), name);
    if (begins) distance = std::min<size_t>(distance, 1);
    if (distance <= allowed) scored.push_back({distance, &candidate});
  }
  std::sort(scored.begin(), scored.end(), [](const Scored& a, const Scored& b) {
    return a.distance != b.distance ? a.distance < b.distance : *a.name < *b.name;
  });
  std::vector<std::string> out;
  for (const Scored& s : scored) {
    if (out.size() == count) break;
    out.push_back(*s.name);
  }
  return out;
}

}  // namespace tidepool::platform
