// HTTP to the server, over libcurl. One request at a time; not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/sse.h"

namespace tidepool::cli {

using Json = nlohmann::ordered_json;

// A field of a reply: strings as they are, other values as JSON; empty when absent or null.
std::string TextField(const Json& json, const char* key);
// 0 when absent or not a number.
double NumberField(const Json& json, const char* key);

class ApiClient {
 public:
  // Requests stop with kCancelled soon after `interrupted` returns true.
  ApiClient(std::string url, std::string key, std::function<bool()> interrupted);
  ~ApiClient();
  ApiClient(const ApiClient&) = delete;
  ApiClient& operator=(const ApiClient&) = delete;

  const std::string& url() const { return url_; }
  void set_key(std::string key) { key_ = std::move(key); }

  // Errors of the server come back with its code and message; no server is kUnavailable "no_server".
  Result<Json> Get(std::string_view path, double timeout_s = 30);
  // All pages of a list, as one reply: that of the first page with every page's `data`.
  Result<Json> GetAll(const std::string& path, double timeout_s = 60);
  // As it is, for answers that are not JSON.
  Result<std::string> GetText(std::string_view path, double timeout_s = 60);
  Result<Json> Post(std::string_view path, const Json& body, double timeout_s = 30);
  Result<Json> Put(std::string_view path, const Json& body, double timeout_s = 30);
  Result<Json> Patch(std::string_view path, const Json& body, double timeout_s = 30);
  Result<Json> Delete(std::string_view path, double timeout_s = 30);
  // The status of GET `path` without a key, or 0 when nobody answers.
  int Probe(std::string_view path, double timeout_s);
  // POST that answers with events. `on_event` is called for each; returning false ends the stream without an
  // error.
  Status Stream(std::string_view path, const Json& body, const std::vector<std::string>& headers,
                const std::function<bool(const SseEvent&)>& on_event);

  // The same with GET; at its end the server has closed the stream.
  Status Follow(std::string_view path, const std::function<bool(const SseEvent&)>& on_event);

  // One segment of a path: everything but letters, digits, '-', '.', '_' and '~' is escaped.
  static std::string Segment(std::string_view text);

 private:
  struct Request;
  Result<std::string> ExchangeText(const char* method, std::string_view path, const Json* body,
                                   double timeout_s);
  Result<Json> Exchange(const char* method, std::string_view path, const Json* body, double timeout_s);
  Status Perform(Request& request);
  Status ReadEvents(std::string_view path, const Json* body, const std::vector<std::string>& headers,
                    const std::function<bool(const SseEvent&)>& on_event);

  std::string url_;
  std::string key_;
  std::function<bool()> interrupted_;
};

// The Error in a reply of the server: {"error": {"message", "code", "param"}}.
Error ServerError(int status, std::string_view body);

}  // namespace tidepool::cli
