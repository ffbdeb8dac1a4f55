// HTTP for pulls: small texts, and large files that resume. libcurl, one easy handle a request.
//
// Redirects are followed here, hop by hop, so that every address is checked: the peer's real address at the
// moment of connecting (names cannot be rebound in between), http and https only, no step from https down to
// http, the token only to the hub itself.
//
// Threads: immutable; a call blocks its thread and stops soon after the monitor says so.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/result.h"
#include "platform/catalog/pull_monitor.h"

namespace tidepool::platform {

struct HttpOptions {
  bool allow_private_addresses = false;
  std::string trusted_endpoint;  // the hub's URL, set by the operator: it may be private, and gets the token
  std::string token;
  std::chrono::milliseconds first_retry{500};  // doubles with each further one
  int max_attempts = 6;                        // in a row without a byte of progress
  std::chrono::seconds connect_timeout{30};
  std::chrono::seconds stall_timeout{60};  // without a byte
};

struct HttpText {
  std::string body;
  std::string next_page;  // from a Link header with rel="next"
};

struct DownloadRequest {
  std::string url;
  std::filesystem::path
      path;  // appended to if it holds the beginning already; "<path>.meta" remembers of what
  uint64_t expected_bytes = 0;      // 0: unknown
  bool content_is_checked = false;  // a sha256 is checked afterwards: resuming needs no ETag
  uint64_t max_bytes = 0;
  // Called once the size is known, before bytes are written: may refuse (no space).
  std::function<Status(uint64_t total)> on_total;
  std::function<void(uint64_t done)> on_progress;
};

class HttpClient {
 public:
  explicit HttpClient(HttpOptions options);
  Result<HttpText> GetText(const std::string& url, uint64_t max_bytes, PullMonitor& monitor) const;
  // Returns the file's size. The file is synced.
  Result<uint64_t> Download(const DownloadRequest& request, PullMonitor& monitor) const;

 private:
  HttpOptions options_;
};

}  // namespace tidepool::platform
