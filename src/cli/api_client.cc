#include "cli/api_client.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <chrono>

namespace tidepool::cli {
namespace {

// A reply that is not a stream; lists of thousands of models are far below.
constexpr size_t kMaxReplyBytes = 256u << 20;

ErrorKind KindOf(int status) {
  switch (status) {
    case 401: return ErrorKind::kUnauthenticated;
    case 403: return ErrorKind::kForbidden;
    case 404: return ErrorKind::kNotFound;
    case 409: return ErrorKind::kConflict;
    case 413: return ErrorKind::kTooLarge;
    case 422: return ErrorKind::kCorrupt;
    case 429: return ErrorKind::kOverloaded;
    case 499: return ErrorKind::kCancelled;
    case 503: return ErrorKind::kUnavailable;
    case 504: return ErrorKind::kTimeout;
    default: return status >= 500 ? ErrorKind::kInternal : ErrorKind::kInvalid;
  }
}

}  // namespace

std::string TextField(const Json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return {};
  return it->is_string() ? it->get<std::string>() : it->dump();
}

double NumberField(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_number() ? it->get<double>() : 0;
}

Error ServerError(int status, std::string_view body) {
  Error error{KindOf(status), "http_" + std::to_string(status),
              fmt::format("the server answered with status {}", status), "", 0};
  const auto json = Json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("error")) return error;
  const auto& inner = json["error"];
  if (inner.is_string()) error.message = inner.get<std::string>();
  if (!inner.is_object()) return error;
  const auto text = [&](const char* key, std::string* out) {
    if (inner.contains(key) && inner[key].is_string()) *out = inner[key].get<std::string>();
  };
  text("message", &error.message);
  text("code", &error.code);
  text("param", &error.param);
  return error;
}

struct ApiClient::Request {
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  std::string body;
  std::string reply;
  std::function<bool(std::string_view)> on_bytes;  // streams; only for status 200
  bool ended = false;                              // by on_bytes

  Request() : easy(curl_easy_init()) {}
  ~Request() {
    curl_slist_free_all(headers);
    curl_easy_cleanup(easy);
  }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  void Header(const std::string& line) { headers = curl_slist_append(headers, line.c_str()); }
  long status() const {
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
  }
  size_t Receive(std::string_view bytes) {
    if (on_bytes && status() == 200) {
      if (on_bytes(bytes)) return bytes.size();
      ended = true;
      return 0;
    }
    if (reply.size() + bytes.size() > kMaxReplyBytes) return 0;
    reply.append(bytes);
    return bytes.size();
  }
  static size_t Write(char* data, size_t size, size_t count, void* self) {
    return static_cast<Request*>(self)->Receive({data, size * count});
  }
};

ApiClient::ApiClient(std::string url, std::string key, std::function<bool()> interrupted)
    : url_(std::move(url)), key_(std::move(key)), interrupted_(std::move(interrupted)) {
  static const bool initialised = curl_global_init(CURL_GLOBAL_DEFAULT) == 0;
  (void)initialised;
  while (url_.ends_with('/')) url_.pop_back();
}

ApiClient::~ApiClient() = default;

std::string ApiClient::Segment(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<uint8_t>(c));
  }
  return out;
}

// A multi handle instead of curl_easy_perform: its poll returns when a signal arrives, so Ctrl-C acts at
// once.
Status ApiClient::Perform(Request& request) {
  CURLM* multi = curl_multi_init();
  curl_multi_add_handle(multi, request.easy);
  CURLcode code = CURLE_OK;
  bool cancelled = false;
  for (int running = 1; running > 0 && !cancelled;) {
    if (curl_multi_perform(multi, &running) != CURLM_OK) break;
    if (running > 0) curl_multi_poll(multi, nullptr, 0, 100, nullptr);
    cancelled = interrupted_ && interrupted_();
  }
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
    if (message->msg == CURLMSG_DONE) code = message->data.result;
  }
  curl_multi_remove_handle(multi, request.easy);
  curl_multi_cleanup(multi);
  if (cancelled) return Fail(ErrorKind::kCancelled, "interrupted", "interrupted");
  if (code == CURLE_OK || (request.ended && code == CURLE_WRITE_ERROR)) return {};
  if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST) {
    return Fail(ErrorKind::kUnavailable, "no_server",
                fmt::format("no server answers at {}; start one with: tidepool serve", url_));
  }
  if (code == CURLE_OPERATION_TIMEDOUT) {
    return Fail(ErrorKind::kTimeout, "timeout", fmt::format("the server at {} did not answer in time", url_));
  }
  return Fail(ErrorKind::kUnavailable, "connection_failed",
              fmt::format("the connection to {} failed: {}", url_, curl_easy_strerror(code)));
}

Result<std::string> ApiClient::ExchangeText(const char* method, std::string_view path, const Json* body,
                                            double timeout_s) {
  Request request;
  const std::string url = url_ + std::string(path);
  curl_easy_setopt(request.easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(request.easy, CURLOPT_CUSTOMREQUEST, method);
  curl_easy_setopt(request.easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(request.easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(request.easy, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  curl_easy_setopt(request.easy, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
  curl_easy_setopt(request.easy, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout_s * 1000));
  curl_easy_setopt(request.easy, CURLOPT_WRITEFUNCTION, Request::Write);
  curl_easy_setopt(request.easy, CURLOPT_WRITEDATA, &request);
  request.Header("Accept: application/json, */*;q=0.5");
  if (!key_.empty()) request.Header("Authorization: Bearer " + key_);
  if (body != nullptr) {
    request.body = body->dump(-1, ' ', false, Json::error_handler_t::replace);
    request.Header("Content-Type: application/json");
    request.Header("Expect:");
    curl_easy_setopt(request.easy, CURLOPT_POSTFIELDS, request.body.c_str());
    curl_easy_setopt(request.easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  }
  curl_easy_setopt(request.easy, CURLOPT_HTTPHEADER, request.headers);
  TP_TRY(Perform(request));
  const auto status = static_cast<int>(request.status());
  if (status >= 400) return Fail(ServerError(status, request.reply));
  return std::move(request.reply);
}

Result<Json> ApiClient::Exchange(const char* method, std::string_view path, const Json* body,
                                 double timeout_s) {
  TP_ASSIGN(const std::string text, ExchangeText(method, path, body, timeout_s));
  auto json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) {
    return Fail(ErrorKind::kCorrupt, "bad_reply",
                fmt::format("{}{} did not answer with JSON; is it a Tidepool server?", url_, path));
  }
  return json;
}

Result<std::string> ApiClient::GetText(std::string_view path, double timeout_s) {
  return ExchangeText("GET", path, nullptr, timeout_s);
}
Result<Json> ApiClient::Get(std::string_view path, double timeout_s) {
  return Exchange("GET", path, nullptr, timeout_s);
}
Result<Json> ApiClient::GetAll(const std::string& path, double timeout_s) {
  Json all;
  std::string after;
  do {
    TP_ASSIGN(Json page,
              Get(fmt::format("{}{}limit=1000{}{}", path, path.find('?') == std::string::npos ? '?' : '&',
                              after.empty() ? "" : "&after=", Segment(after)),
                  timeout_s));
    const std::string next = TextField(page, "next_cursor");
    const Json rows = page.value("data", Json::array());
    if (!next.empty() && (next == after || rows.empty()))
      return Fail(ErrorKind::kInternal, "endless_list", fmt::format("the pages of {} do not end", path));
    if (all.is_null()) {
      all = std::move(page);
    } else {
      for (const Json& row : rows) all["data"].push_back(row);
    }
    after = next;
  } while (!after.empty());
  all["has_more"] = false;
  all["next_cursor"] = nullptr;
  return all;
}
Result<Json> ApiClient::Post(std::string_view path, const Json& body, double timeout_s) {
  return Exchange("POST", path, &body, timeout_s);
}
Result<Json> ApiClient::Put(std::string_view path, const Json& body, double timeout_s) {
  return Exchange("PUT", path, &body, timeout_s);
}

Result<Json> ApiClient::Patch(std::string_view path, const Json& body, double timeout_s) {
  return Exchange("PATCH", path, &body, timeout_s);
}
Result<Json> ApiClient::Delete(std::string_view path, double timeout_s) {
  return Exchange("DELETE", path, nullptr, timeout_s);
}

int ApiClient::Probe(std::string_view path, double timeout_s) {
  Request request;
  const std::string url = url_ + std::string(path);
  curl_easy_setopt(request.easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(request.easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(request.easy, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  curl_easy_setopt(request.easy, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout_s * 1000));
  curl_easy_setopt(request.easy, CURLOPT_WRITEFUNCTION, Request::Write);
  curl_easy_setopt(request.easy, CURLOPT_WRITEDATA, &request);
  if (!Perform(request)) return 0;
  return static_cast<int>(request.status());
}

Status ApiClient::Stream(std::string_view path, const Json& body, const std::vector<std::string>& headers,
                         const std::function<bool(const SseEvent&)>& on_event) {
  return ReadEvents(path, &body, headers, on_event);
}

Status ApiClient::Follow(std::string_view path, const std::function<bool(const SseEvent&)>& on_event) {
  return ReadEvents(path, nullptr, {}, on_event);
}

Status ApiClient::ReadEvents(std::string_view path, const Json* body, const std::vector<std::string>& headers,
                             const std::function<bool(const SseEvent&)>& on_event) {
  Request request;
  bool wanted = true;
  SseParser parser([&](const SseEvent& event) { wanted = wanted && on_event(event); });
  request.on_bytes = [&](std::string_view bytes) { return parser.Feed(bytes) && wanted; };
  const std::string url = url_ + std::string(path);
  if (body != nullptr) request.body = body->dump(-1, ' ', false, Json::error_handler_t::replace);
  curl_easy_setopt(request.easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(request.easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(request.easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(request.easy, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  curl_easy_setopt(request.easy, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
  // The server sends comments while it has nothing to say; silence for five minutes is a dead connection.
  curl_easy_setopt(request.easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(request.easy, CURLOPT_LOW_SPEED_TIME, 300L);
  curl_easy_setopt(request.easy, CURLOPT_WRITEFUNCTION, Request::Write);
  curl_easy_setopt(request.easy, CURLOPT_WRITEDATA, &request);
  if (body != nullptr) {
    curl_easy_setopt(request.easy, CURLOPT_POSTFIELDS, request.body.c_str());
    curl_easy_setopt(request.easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    request.Header("Content-Type: application/json");
  }
  request.Header("Accept: text/event-stream");
  request.Header("Expect:");
  if (!key_.empty()) request.Header("Authorization: Bearer " + key_);
  for (const auto& header : headers) request.Header(header);
  curl_easy_setopt(request.easy, CURLOPT_HTTPHEADER, request.headers);
  TP_TRY(Perform(request));
  const auto status = static_cast<int>(request.status());
  if (status >= 400) return Fail(ServerError(status, request.reply));
  return {};
}

}  // namespace tidepool::cli
