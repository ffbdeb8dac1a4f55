#include "models/formats/file_problem.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>

namespace tidepool::formats {

std::string Printable(std::string_view text, size_t limit) {
  std::string out;
  for (const char c : text) {
    if (out.size() >= limit) return out + "...";
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

tl::unexpected<Error> FileProblem::Make(ErrorKind kind, const char* code, std::string_view subject,
                                        std::string_view what, std::string_view remedy) const {
  std::string message = file_ + ": ";
  if (!subject.empty()) message += fmt::format("\"{}\": ", Printable(subject));
  message += what;
  message += ". ";
  message += remedy;
  return Fail(kind, code, std::move(message), Printable(subject));
}

tl::unexpected<Error> FileProblem::Corrupt(std::string_view subject, std::string_view what) const {
  return Make(
      ErrorKind::kCorrupt, "file_corrupt", subject, what,
      "The file is damaged or was not written by a sound converter; fetch it again or convert it anew");
}

tl::unexpected<Error> FileProblem::Truncated(std::string_view subject, std::string_view what) const {
  return Make(ErrorKind::kCorrupt, "file_truncated", subject, what,
              "The file is incomplete; fetch it again and compare its size and sha256 with the source's");
}

tl::unexpected<Error> FileProblem::Unsupported(std::string_view subject, std::string_view what,
                                               std::string_view remedy) const {
  return Make(ErrorKind::kInvalid, "unsupported_file", subject, what, remedy);
}

tl::unexpected<Error> FileProblem::OverLimit(std::string_view subject, std::string_view what) const {
  return Make(ErrorKind::kTooLarge, "file_over_limit", subject, what,
              "No model needs this much; if this one does, raise the limit in OpenLimits");
}

tl::unexpected<Error> FileProblem::NotFound(std::string_view what, std::string_view remedy) const {
  return Make(ErrorKind::kNotFound, "file_not_found", {}, what, remedy);
}

bool IsSoundName(std::string_view name, size_t max_bytes) {
  if (name.empty() || name.size() > max_bytes) return false;
  const bool has_control =
      std::any_of(name.begin(), name.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; });
  return !has_control && simdjson::validate_utf8(name.data(), name.size());
}

}  // namespace tidepool::formats
