// How this folder words its errors: the file, the key or tensor, what is wrong, what to do. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::formats {

// `text` as it may be printed: control and non-ASCII bytes as \xNN, at most `limit` characters, then "...".
// Names in hostile files may be binary, or megabytes long.
std::string Printable(std::string_view text, size_t limit = 120);

// Errors about one file. `subject` is the key, tensor or field concerned ("" for the file as a whole).
class FileProblem {
 public:
  explicit FileProblem(std::string file) : file_(std::move(file)) {}
  const std::string& file() const { return file_; }

  // kCorrupt "file_corrupt": something impossible; the remedy is another copy of the file.
  tl::unexpected<Error> Corrupt(std::string_view subject, std::string_view what) const;
  // kCorrupt "file_truncated": the file ends before what it announces.
  tl::unexpected<Error> Truncated(std::string_view subject, std::string_view what) const;
  // kInvalid "unsupported_file": a sound file that this build cannot use.
  tl::unexpected<Error> Unsupported(std::string_view subject, std::string_view what,
                                    std::string_view remedy) const;
  // kTooLarge "file_over_limit": more than OpenLimits allows.
  tl::unexpected<Error> OverLimit(std::string_view subject, std::string_view what) const;
  // kNotFound "file_not_found".
  tl::unexpected<Error> NotFound(std::string_view what, std::string_view remedy) const;

 private:
  tl::unexpected<Error> Make(ErrorKind kind, const char* code, std::string_view subject,
                             std::string_view what, std::string_view remedy) const;
  std::string file_;
};

// True for names that can be keys, tensors or files: 1..max_bytes bytes of UTF-8 without control characters.
bool IsSoundName(std::string_view name, size_t max_bytes);

inline constexpr size_t kMaxNameBytes = 1024;

}  // namespace tidepool::formats
