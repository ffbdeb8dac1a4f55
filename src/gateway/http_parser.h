// Bytes to requests: the framing of HTTP/1.0 and HTTP/1.1 (Boost.Beast's message parser) with our limits.
//
// Refused besides what Beast refuses: bare line feeds, a Transfer-Encoding other than "chunked", a missing or
// doubled Host (RFC 9112 3.2), versions other than 1.0 and 1.1, chunk extensions and trailers longer than the
// header limit. Threads: owned by one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "gateway/http.h"

namespace tidepool::gateway {

struct HttpLimits {
  uint32_t max_header_bytes = 32u << 10;
  uint64_t max_body_bytes = 16u << 20;
};

class HttpParser {
 public:
  enum class State : uint8_t { kNeedMore, kHeader, kDone, kRefused };

  explicit HttpParser(const HttpLimits& limits);
  ~HttpParser();

  // Consumes what it can from the front of `input`. kHeader is reported once, when the header is complete and
  // the body is not looked at yet: call again to go on.
  State Feed(std::string& input);

  // The header's part after kHeader (the body is still empty), all of it after kDone.
  HttpRequest& request();
  bool keep_alive() const;
  bool expects_continue() const;
  bool started() const;                            // at least one byte of a request was seen
  bool has_body() const;                           // after kHeader: a body follows
  std::optional<uint64_t> content_length() const;  // after kHeader; none for a chunked body
  uint64_t body_bytes() const;                     // so far

  // After kRefused:
  int status() const { return status_; }
  const std::string& code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  State Refuse(int status, std::string code, std::string message);
  State CheckHeader();
  struct Impl;
  std::unique_ptr<Impl> impl_;
  HttpLimits limits_;
  int status_ = 0;
  std::string code_, message_;
};

}  // namespace tidepool::gateway
