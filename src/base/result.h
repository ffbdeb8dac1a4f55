// Result<T>: how errors travel between folders.
//
// Exceptions do not cross a folder: a library that throws is wrapped in the .cc file that uses it.
// An Error says what went wrong, where (file, key, tensor, parameter) and what the reader can do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace tidepool {

// What kind of trouble it is; decides the HTTP status (gateway) and the exit code (cli).
enum class ErrorKind : uint8_t {
  kInvalid,          // the caller sent something wrong             400
  kUnauthenticated,  // no or a wrong key                           401
  kForbidden,        // a right key without the right               403
  kNotFound,         //                                             404
  kConflict,         // in use, exists already                      409
  kTooLarge,         // over a limit that the caller controls       413
  kOverloaded,       // a limit of the server is reached, retry     429
  kUnavailable,      // not now: draining, loading, no memory       503
  kTimeout,          // a deadline passed                           504
  kCancelled,        // the caller went away or cancelled           499
  kCorrupt,          // a file or peer holds something impossible   422
  kInternal,         // a defect of ours                            500
};

struct Error {
  ErrorKind kind = ErrorKind::kInternal;
  std::string code;          // machine-readable snake_case: "context_length_exceeded"
  std::string message;       // for people: what, the offending value, the remedy
  std::string param;         // the field, key, flag or tensor concerned; may be empty
  double retry_after_s = 0;  // > 0: when trying again makes sense
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = tl::expected<void, Error>;

inline tl::unexpected<Error> Fail(ErrorKind kind, std::string code, std::string message,
                                  std::string param = {}) {
  return tl::unexpected<Error>(Error{kind, std::move(code), std::move(message), std::move(param), 0});
}
inline tl::unexpected<Error> Fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

std::string_view ErrorKindName(ErrorKind kind);

}  // namespace tidepool

// Returns the error of `expression` (a Result or Status) to the caller, or goes on.
#define TP_TRY(expression)                                                     \
  do {                                                                         \
    if (auto tp_status_ = (expression); !tp_status_) {                         \
      return tl::unexpected<::tidepool::Error>(std::move(tp_status_).error()); \
    }                                                                          \
  } while (0)

#define TP_CONCAT_INNER(a, b) a##b
#define TP_CONCAT(a, b) TP_CONCAT_INNER(a, b)
// TP_ASSIGN(auto x, F()); declares x from a Result, or returns its error.
#define TP_ASSIGN(declaration, expression)                                                        \
  auto TP_CONCAT(tp_result_, __LINE__) = (expression);                                            \
  if (!TP_CONCAT(tp_result_, __LINE__)) {                                                         \
    return tl::unexpected<::tidepool::Error>(std::move(TP_CONCAT(tp_result_, __LINE__)).error()); \
  }                                                                                               \
  declaration = std::move(*TP_CONCAT(tp_result_, __LINE__))
