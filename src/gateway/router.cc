#include "gateway/router.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::gateway {
namespace {

constexpr size_t kMaxTarget = 8192;
constexpr size_t kMaxSegments = 64;

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// "/a/b/" -> {"a", "b"}: a trailing slash means the same path.
std::vector<std::string_view> Split(std::string_view path) {
  std::vector<std::string_view> segments;
  if (!path.empty() && path.front() == '/') path.remove_prefix(1);
  if (!path.empty() && path.back() == '/') path.remove_suffix(1);
  while (!path.empty()) {
    const size_t slash = path.find('/');
    segments.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  return segments;
}

bool IsGreedy(std::string_view segment) { return segment.starts_with('{') && segment.ends_with("...}"); }
bool IsValue(std::string_view segment) { return segment.starts_with('{'); }
std::string_view ValueName(std::string_view segment) {
  const size_t tail = IsGreedy(segment) ? 4 : 1;
  return segment.substr(1, segment.size() - 1 - tail);
}

// Where each segment of `pattern` begins in `path`; false if it does not fit. At most one greedy segment.
bool Fits(const std::vector<std::string_view>& pattern, const std::vector<std::string_view>& path,
          std::vector<std::pair<std::string_view, std::string>>& raw) {
  raw.clear();
  size_t greedy = pattern.size();
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (IsGreedy(pattern[i])) greedy = i;
  }
  const bool has_greedy = greedy < pattern.size();
  if (has_greedy ? path.size() < pattern.size() : path.size() != pattern.size()) return false;
  size_t at = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const size_t take = i == greedy ? path.size() - pattern.size() + 1 : 1;
    if (!IsValue(pattern[i])) {
      if (pattern[i] != path[at]) return false;
    } else {
      std::string joined(path[at]);
      for (size_t j = 1; j < take; ++j) joined.append("/").append(path[at + j]);
      raw.emplace_back(ValueName(pattern[i]), std::move(joined));
    }
    at += take;
  }
  return true;
}

// "limit:integer after": is `name` one of them?
bool IsNamed(std::string_view parameters, std::string_view name) {
  while (!parameters.empty()) {
    const size_t space = parameters.find(' ');
    const std::string_view item = parameters.substr(0, space);
    if (item.substr(0, item.find(':')) == name) return true;
    parameters = space == std::string_view::npos ? std::string_view() : parameters.substr(space + 1);
  }
  return false;
}

}  // namespace

Result<std::string> PercentDecode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int high = i + 2 < text.size() ? HexValue(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
      if (high < 0 || low < 0) {
        return Fail(ErrorKind::kInvalid, "bad_path",
                    "The path holds a % that is not followed by two hex digits.");
      }
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return Fail(ErrorKind::kInvalid, "bad_path", "The path holds a control character.");
    }
    out.push_back(c);
  }
  return out;
}

bool TakesParameter(const Route& route, std::string_view name) { return IsNamed(route.query, name); }

Result<std::vector<std::pair<std::string, std::string>>> ParseQuery(std::string_view target,
                                                                    std::string_view allowed) {
  std::vector<std::pair<std::string, std::string>> out;
  const size_t mark = target.find('?');
  std::string_view rest = mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  rest = rest.substr(0, rest.find('#'));
  while (!rest.empty()) {
    const size_t end = rest.find('&');
    std::string pair(rest.substr(0, end));
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    if (pair.empty()) continue;
    for (char& c : pair) {
      if (c == '+') c = ' ';
    }
    const size_t equals = pair.find('=');
    auto name = PercentDecode(std::string_view(pair).substr(0, equals));
    auto value = PercentDecode(equals == std::string::npos ? std::string_view()
                                                           : std::string_view(pair).substr(equals + 1));
    if (!name || !value)
      return Fail(ErrorKind::kInvalid, "bad_query", "The query holds a bad escape or a control character.");
    const bool known = IsNamed(allowed, *name);
    const bool twice =
        std::any_of(out.begin(), out.end(), [&](const auto& given) { return given.first == *name; });
    if (!known || twice) {
      return Fail(ErrorKind::kInvalid, "unknown_parameter",
                  fmt::format("The query parameter \"{}\" is {}.", name->substr(0, 60),
                              known ? "given twice" : "not known here"),
                  name->substr(0, 60));
    }
    out.emplace_back(std::move(*name), std::move(*value));
  }
  return out;
}

Result<RouteMatch> MatchRoute(std::span<const Route> routes, std::string_view method,
                              std::string_view target) {
  RouteMatch match;
  if (target.size() > kMaxTarget) return Fail(ErrorKind::kInvalid, "bad_path", "The path is too long.");
  // RFC 9112 3.2.2: a server must accept the absolute form too.
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!target.starts_with(scheme)) continue;
    target.remove_prefix(scheme.size());
    const size_t slash = target.find('/');
    target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
  }
  const std::string_view path = target.substr(0, target.find('?'));
  if (!path.starts_with('/')) return match;
  auto segments = Split(path);
  // Bailian's address of the same interface: what can be called under /v1, its clients call under this.
  if (segments.size() > 2 && segments[0] == "compatible-mode" && segments[1] == "v1") {
    segments.erase(segments.begin());
  }
  if (segments.size() > kMaxSegments)
    return Fail(ErrorKind::kInvalid, "bad_path", "The path has too many parts.");
  const std::string_view wanted = method == "HEAD" ? std::string_view("GET") : method;
  std::vector<std::pair<std::string_view, std::string>> raw;
  for (const Route& route : routes) {
    if (!Fits(Split(route.pattern), segments, raw)) continue;
    if (route.method != wanted) {
      if (match.allow.find(route.method) == std::string::npos) {
        if (!match.allow.empty()) match.allow += ", ";
        match.allow += route.method;
      }
      continue;
    }
    for (const auto& [name, value] : raw) {
      TP_ASSIGN(std::string decoded, PercentDecode(value));
      if (decoded.empty())
        return Fail(ErrorKind::kInvalid, "bad_path", fmt::format("The path's {} is empty.", name));
      match.values.emplace_back(std::string(name), std::move(decoded));
    }
    match.route = &route;
    match.allow.clear();
    return match;
  }
  return match;
}

}  // namespace tidepool::gateway
