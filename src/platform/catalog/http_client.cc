#include "platform/catalog/http_client.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/check.h"
#include "platform/catalog/address.h"
#include "platform/catalog/files.h"
#include "platform/catalog/names.h"

namespace tidepool::platform {
namespace {

constexpr int kMaxRedirects = 8;
constexpr size_t kMaxHeaderBytes = 64 << 10;
constexpr size_t kMaxErrorBody = 4 << 10;
constexpr uint64_t kMaxMetaBytes = 64 << 10;
constexpr double kMaxRetryAfter_s = 120;

struct CurlCleanup {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Curl = std::unique_ptr<CURL, CurlCleanup>;
using CurlUrl = std::unique_ptr<CURLU, CurlCleanup>;
using CurlList = std::unique_ptr<curl_slist, CurlCleanup>;

// ---- URLs -------------------------------------------------------------------------------------------

std::string UrlPart(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK || text == nullptr) return {};
  std::string out = text;
  curl_free(text);
  return out;
}

struct Url {
  std::string text;    // normalised
  std::string origin;  // scheme://host:port
  std::string scheme, host;
  std::string shown;  // without the query, which may hold signatures
};

// Absolute, or relative to `base`.
Result<Url> ParseUrl(const std::string& text, const std::string& base = {}) {
  const auto invalid = [&](std::string_view why) {
    return Fail(ErrorKind::kInvalid, "invalid_url", fmt::format("URL \"{}\": {}", text.substr(0, 200), why),
                "source");
  };
  const CurlUrl url(curl_url());
  CHECK(url != nullptr);
  if (!base.empty() && curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK)
    return invalid("bad base");
  if (curl_url_set(url.get(), CURLUPART_URL, text.c_str(), CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
    return invalid("cannot be read");
  }
  Url out;
  out.scheme = UrlPart(url.get(), CURLUPART_SCHEME);
  out.host = ToLowerAscii(UrlPart(url.get(), CURLUPART_HOST));
  if (out.scheme != "http" && out.scheme != "https") return invalid("only http and https are allowed");
  if (out.host.empty()) return invalid("no host");
  if (!UrlPart(url.get(), CURLUPART_USER).empty() || !UrlPart(url.get(), CURLUPART_PASSWORD).empty()) {
    return invalid("it holds a user name or password; use the setting hub.token");
  }
  curl_url_set(url.get(), CURLUPART_FRAGMENT, nullptr, 0);
  out.origin =
      fmt::format("{}://{}:{}", out.scheme, out.host, UrlPart(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT));
  out.text = UrlPart(url.get(), CURLUPART_URL);
  out.shown = out.text.substr(0, out.text.find('?'));
  return out;
}

// An operator who sets a proxy for the process wants it used; then names are looked up here as well, since
// the connection itself only shows the proxy's address.
bool ProxyFor(const Url& url) {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0';
  };
  return set("all_proxy") || set("ALL_PROXY") || set((url.scheme + "_proxy").c_str()) ||
         (url.scheme == "https" && set("HTTPS_PROXY"));
}

bool ResolvesToPrivate(const std::string& host) {
  if (IsPrivateLiteral(host) || host == "localhost" || host.ends_with(".localhost")) return true;
  addrinfo hints{}, *list = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &list) != 0) return false;  // the proxy will know, or fail
  bool found = false;
  for (const addrinfo* it = list; it != nullptr; it = it->ai_next)
    found = found || IsPrivateAddress(it->ai_addr);
  ::freeaddrinfo(list);
  return found;
}

Error PrivateAddress(const Url& url) {
  return {
      ErrorKind::kForbidden, "private_address",
      fmt::format(
          "{} leads to a private, loopback or link-local address, which pulls may not use; the setting that "
          "allows private addresses lifts this",
          url.shown),
      "source", 0};
}

// ---- one request and its answer ---------------------------------------------------------------------

struct Headers {
  long status = 0;
  std::string location, etag, last_modified, content_range, retry_after, link;
  std::optional<uint64_t> content_length;
};

std::optional<uint64_t> ParseUnsigned(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

using BodySink = std::function<Status(const Headers&, std::string_view)>;

struct Exchange {
  Headers headers;
  BodySink body;
  const PullMonitor* monitor = nullptr;
  bool allow_private = false;
  bool blocked = false;
  size_t header_bytes = 0;
  std::optional<Error> error;  // from the sink
};

size_t OnHeader(char* data, size_t size, size_t count, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const std::string_view line(data, size * count);
  exchange.header_bytes += line.size();
  if (exchange.header_bytes > kMaxHeaderBytes) return 0;
  if (line.starts_with("HTTP/")) {
    exchange.headers = {};  // after a 1xx comes the real one
    const size_t space = line.find(' ');
    if (space != std::string_view::npos) {
      exchange.headers.status = static_cast<long>(ParseUnsigned(line.substr(space + 1, 3)).value_or(0));
    }
    return line.size();
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return line.size();
  const std::string name = ToLowerAscii(line.substr(0, colon));
  const std::string value(Trim(line.substr(colon + 1)));
  Headers& headers = exchange.headers;
  if (name == "location") headers.location = value;
  if (name == "etag") headers.etag = value;
  if (name == "last-modified") headers.last_modified = value;
  if (name == "content-range") headers.content_range = value;
  if (name == "retry-after") headers.retry_after = value;
  if (name == "link") headers.link = value;
  if (name == "content-length") headers.content_length = ParseUnsigned(value);
  return line.size();
}

size_t OnBody(char* data, size_t size, size_t count, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const Status written = exchange.body(exchange.headers, {data, size * count});
  if (written) return size * count;
  exchange.error = written.error();
  return size * count == 0 ? 1 : 0;  // any other number than was given ends the transfer
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Exchange*>(user)->monitor->stopping() ? 1 : 0;
}

curl_socket_t OnOpenSocket(void* user, curlsocktype, curl_sockaddr* address) {
  auto& exchange = *static_cast<Exchange*>(user);
  if (!exchange.allow_private && IsPrivateAddress(&address->addr)) {
    exchange.blocked = true;
    return CURL_SOCKET_BAD;
  }
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

// Trouble of the line: worth another try.
bool IsTransient(const Error& error) {
  return error.code == "network" || error.code == "server_error" || error.code == "too_many_requests";
}

Error CurlError(const Url& url, CURLcode code, const char* detail) {
  const std::string words = *detail != '\0' ? detail : curl_easy_strerror(code);
  if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
    return {ErrorKind::kUnavailable, "tls",
            fmt::format("{}: the server's certificate is not valid: {}", url.shown, words), "", 0};
  }
  return {ErrorKind::kUnavailable, "network",
          fmt::format("{}: {}; check the network and try again", url.shown, words), "", 5};
}

struct Transport {
  const HttpOptions& options;
  std::string trusted_origin;  // empty: none

  Result<Headers> Hop(const Url& url, const std::vector<std::string>& extra, const BodySink& body,
                      const PullMonitor& monitor) const;
  // Follows redirects; `body` sees only the last answer's body.
  Result<Headers> Get(const std::string& url, const std::vector<std::string>& extra, const BodySink& body,
                      const PullMonitor& monitor) const;
};

Result<Headers> Transport::Hop(const Url& url, const std::vector<std::string>& extra, const BodySink& body,
                               const PullMonitor& monitor) const {
  TP_TRY(monitor.CheckStop());
  const bool trusted = !trusted_origin.empty() && url.origin == trusted_origin;
  Exchange exchange;
  exchange.body = body;
  exchange.monitor = &monitor;
  exchange.allow_private = options.allow_private_addresses || trusted;
  if (ProxyFor(url)) {
    if (!exchange.allow_private && ResolvesToPrivate(url.host)) return Fail(PrivateAddress(url));
    exchange.allow_private = true;  // the peer is the operator's proxy
  }
  const Curl curl(curl_easy_init());
  CHECK(curl != nullptr);
  CURL* c = curl.get();
  char detail[CURL_ERROR_SIZE] = "";
  CurlList list;
  const auto add = [&](const std::string& line) {
    curl_slist* longer = curl_slist_append(list.get(), line.c_str());
    CHECK(longer != nullptr);
    list.release();
    list.reset(longer);
  };
  for (const std::string& line : extra) add(line);
  if (trusted && !options.token.empty()) add("Authorization: Bearer " + options.token);
  curl_easy_setopt(c, CURLOPT_URL, url.text.c_str());
  curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_USERAGENT, "tidepool");
  curl_easy_setopt(c, CURLOPT_HTTPHEADER, list.get());
  curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, OnHeader);
  curl_easy_setopt(c, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(c, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, OnProgress);
  curl_easy_setopt(c, CURLOPT_XFERINFODATA, &exchange);
  curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, OnOpenSocket);
  curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, &exchange);
  curl_easy_setopt(c, CURLOPT_ERRORBUFFER, detail);
  curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 256L << 10);
  curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, static_cast<long>(options.connect_timeout.count()));
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, static_cast<long>(options.stall_timeout.count()));
  const CURLcode code = curl_easy_perform(c);
  if (exchange.error) return Fail(*exchange.error);
  TP_TRY(monitor.CheckStop());
  if (exchange.blocked) return Fail(PrivateAddress(url));
  if (code != CURLE_OK) return Fail(CurlError(url, code, detail));
  return exchange.headers;
}

bool IsRedirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

Result<Headers> Transport::Get(const std::string& text, const std::vector<std::string>& extra,
                               const BodySink& body, const PullMonitor& monitor) const {
  TP_ASSIGN(Url url, ParseUrl(text));
  const BodySink last_body = [&](const Headers& headers, std::string_view data) -> Status {
    return IsRedirect(headers.status) ? Status() : body(headers, data);
  };
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    TP_ASSIGN(Headers headers, Hop(url, extra, last_body, monitor));
    if (!IsRedirect(headers.status)) return headers;
    TP_ASSIGN(Url next, ParseUrl(headers.location, url.text));
    if (url.scheme == "https" && next.scheme == "http") {
      return Fail(ErrorKind::kForbidden, "insecure_redirect",
                  fmt::format("{} redirects to {}, from https down to http", url.shown, next.shown),
                  "source");
    }
    url = std::move(next);
  }
  return Fail(ErrorKind::kUnavailable, "too_many_redirects",
              fmt::format("{}: more than {} redirects", url.shown, kMaxRedirects), "source");
}

Error StatusError(const std::string& url, const Headers& headers, bool has_token) {
  const std::string shown = url.substr(0, url.find('?'));
  const auto make = [&](ErrorKind kind, const char* code, std::string_view words, double retry = 0) {
    return Error{kind, code, fmt::format("{}: HTTP {}: {}", shown, headers.status, words), "source", retry};
  };
  const double after =
      std::min(static_cast<double>(ParseUnsigned(headers.retry_after).value_or(0)), kMaxRetryAfter_s);
  switch (headers.status) {
    case 401:
      return make(ErrorKind::kUnauthenticated, "hub_unauthorized",
                  has_token ? "the setting hub.token is not accepted; check it"
                            : "no such repository, or it needs a token: check the name, or set hub.token");
    case 403:
      return make(ErrorKind::kForbidden, "hub_forbidden",
                  "access refused; accept the model's licence on its page, and set hub.token");
    case 404:
    case 410:
      return make(ErrorKind::kNotFound, "not_found", "there is no such file or repository; check the name");
    case 429: return make(ErrorKind::kOverloaded, "too_many_requests", "the server asks to slow down", after);
    case 408: return make(ErrorKind::kUnavailable, "server_error", "the server gave up waiting", after);
    default: break;
  }
  if (headers.status >= 500) {
    return make(ErrorKind::kUnavailable, "server_error", "the server has a problem; try again later", after);
  }
  return make(ErrorKind::kUnavailable, "unexpected_status", "the server's answer makes no sense here");
}

// Waits before another try; the server's wish counts if it is longer.
bool WaitBeforeRetry(const HttpOptions& options, int attempt, const Error& error,
                     const PullMonitor& monitor) {
  auto wait = options.first_retry * (1 << std::min(attempt, 6));
  if (error.code == "too_many_requests" || error.code == "server_error") {
    wait = std::max(wait, std::chrono::milliseconds(static_cast<int64_t>(error.retry_after_s * 1000)));
  }
  return monitor.Sleep(wait);
}

std::string NextPage(const std::string& link) {
  // <https://...?cursor=abc>; rel="next"
  const size_t rel = link.find("rel=\"next\"");
  if (rel == std::string::npos) return {};
  const size_t open = link.rfind('<', rel);
  const size_t close = link.find('>', open == std::string::npos ? 0 : open);
  if (open == std::string::npos || close == std::string::npos || close > rel) return {};
  return link.substr(open + 1, close - open - 1);
}

// ---- a download that resumes ------------------------------------------------------------------------

// What the bytes on disk are the beginning of.
struct Meta {
  std::string url, etag, last_modified;
  uint64_t total = 0;
};

Meta ReadMeta(const std::filesystem::path& path) {
  Meta out;
  const auto text = ReadWholeFile(path, kMaxMetaBytes);
  if (!text) return out;
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object()) return out;
  const auto string_of = [&](const char* key) {
    const auto it = json.find(key);
    return it != json.end() && it->is_string() ? it->get<std::string>() : std::string();
  };
  out = {string_of("url"), string_of("etag"), string_of("last_modified"), 0};
  if (json.contains("total") && json["total"].is_number_unsigned()) out.total = json["total"].get<uint64_t>();
  return out;
}

struct ContentRange {
  uint64_t first = 0;
  std::optional<uint64_t> total;
};
// "bytes 100-199/1000"
std::optional<ContentRange> ParseContentRange(std::string_view text) {
  if (!text.starts_with("bytes ")) return std::nullopt;
  text.remove_prefix(6);
  const size_t dash = text.find('-'), slash = text.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || dash > slash) return std::nullopt;
  const auto first = ParseUnsigned(text.substr(0, dash));
  if (!first) return std::nullopt;
  return ContentRange{*first, ParseUnsigned(text.substr(slash + 1))};
}

class Downloader {
 public:
  Downloader(const Transport& transport, const DownloadRequest& request, PullMonitor& monitor, File file)
      : transport_(transport),
        request_(request),
        monitor_(monitor),
        file_(std::move(file)),
        meta_path_(request.path.string() + ".meta") {}

  Result<uint64_t> Run();

 private:
  Status Restart();
  Status Attempt();
  Status BeginBody(const Headers& headers);
  Status TakeBody(const Headers& headers, std::string_view data);
  Status CheckTotal(std::optional<uint64_t> total);
  bool complete() const { return total_ && done_ == *total_; }

  const Transport& transport_;
  const DownloadRequest& request_;
  PullMonitor& monitor_;
  File file_;
  const std::filesystem::path meta_path_;
  Meta meta_;
  uint64_t done_ = 0;  // bytes on disk
  std::optional<uint64_t> total_;
  bool in_body_ = false;
  bool space_checked_ = false;
  std::string error_body_;
};

Status Downloader::Restart() {
  done_ = 0;
  total_.reset();
  meta_ = {};
  ::unlink(meta_path_.c_str());
  return file_.Truncate(0);
}

Status Downloader::CheckTotal(std::optional<uint64_t> total) {
  if (total && request_.expected_bytes != 0 && *total != request_.expected_bytes) {
    return Fail(
        ErrorKind::kCorrupt, "size_mismatch",
        fmt::format(
            "{}: the server announces {} bytes, {} were expected; the file has changed or the mirror is "
            "wrong",
            request_.url.substr(0, request_.url.find('?')), *total, request_.expected_bytes),
        "source");
  }
  if (total && *total > request_.max_bytes) {
    return Fail(ErrorKind::kTooLarge, "file_too_large",
                fmt::format("{}: {} bytes, the limit is {}", request_.url.substr(0, request_.url.find('?')),
                            *total, request_.max_bytes),
                "source");
  }
  if (total && !space_checked_ && request_.on_total) TP_TRY(request_.on_total(*total));
  space_checked_ = space_checked_ || total.has_value();
  total_ = total;
  return {};
}

Status Downloader::BeginBody(const Headers& headers) {
  in_body_ = true;
  if (headers.status == 206) {
    const auto range = ParseContentRange(headers.content_range);
    const bool same = range && range->first == done_ && (meta_.total == 0 || range->total == meta_.total) &&
                      (meta_.etag.empty() || headers.etag.empty() || headers.etag == meta_.etag);
    if (!same) {
      TP_TRY(Restart());
      return Fail(ErrorKind::kUnavailable, "network", "the file changed while it was fetched; starting over");
    }
    return CheckTotal(range->total);
  }
  if (done_ != 0) TP_TRY(Restart());  // the server sends all of it again
  TP_TRY(CheckTotal(headers.content_length));
  meta_ = {request_.url, headers.etag, headers.last_modified, total_.value_or(0)};
  const nlohmann::ordered_json json = {{"url", meta_.url},
                                       {"etag", meta_.etag},
                                       {"last_modified", meta_.last_modified},
                                       {"total", meta_.total}};
  return WriteWholeFile(meta_path_,
                        json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

Status Downloader::TakeBody(const Headers& headers, std::string_view data) {
  if (headers.status != 200 && headers.status != 206) {
    error_body_.append(data.substr(0, kMaxErrorBody - std::min(kMaxErrorBody, error_body_.size())));
    return {};
  }
  if (!in_body_) TP_TRY(BeginBody(headers));
  const uint64_t limit = total_ ? *total_ : request_.max_bytes;
  if (data.size() > limit - done_) {
    return Fail(ErrorKind::kCorrupt, "size_mismatch",
                fmt::format("the server sends more than the {} bytes it may", limit), "source");
  }
  TP_TRY(file_.Write(data.data(), data.size()));
  done_ += data.size();
  if (request_.on_progress) request_.on_progress(done_);
  return {};
}

Status Downloader::Attempt() {
  in_body_ = false;
  std::vector<std::string> headers;
  if (done_ > 0) {
    headers.push_back(fmt::format("Range: bytes={}-", done_));
    // Only strong validators may be used with If-Range (RFC 9110 13.1.5).
    if (!meta_.etag.empty() && !meta_.etag.starts_with("W/")) {
      headers.push_back("If-Range: " + meta_.etag);
    } else if (!meta_.last_modified.empty()) {
      headers.push_back("If-Range: " + meta_.last_modified);
    }
  }
  TP_ASSIGN(const Headers answer,
            transport_.Get(
                request_.url, headers,
                [this](const Headers& h, std::string_view data) { return TakeBody(h, data); }, monitor_));
  if (answer.status == 416 && done_ > 0) {
    TP_TRY(Restart());
    return Fail(ErrorKind::kUnavailable, "network",
                "the server does not know the rest of the file; starting over");
  }
  if (answer.status != 200 && answer.status != 206) {
    return Fail(StatusError(request_.url, answer, !transport_.options.token.empty()));
  }
  if (!in_body_) TP_TRY(BeginBody(answer));  // an empty file
  if (total_ && done_ < *total_) {
    return Fail(ErrorKind::kUnavailable, "network", "the connection ended early");
  }
  total_ = done_;
  return {};
}

Result<uint64_t> Downloader::Run() {
  meta_ = ReadMeta(meta_path_);
  TP_ASSIGN(done_, file_.Size());
  const bool validator =
      !meta_.last_modified.empty() || (!meta_.etag.empty() && !meta_.etag.starts_with("W/"));
  const bool resumable = meta_.url == request_.url && (validator || request_.content_is_checked);
  const bool too_long = request_.expected_bytes != 0 && done_ > request_.expected_bytes;
  if (done_ > 0 && (!resumable || too_long)) TP_TRY(Restart());
  TP_TRY(file_.Seek(done_));
  if (request_.expected_bytes != 0 && done_ == request_.expected_bytes) total_ = done_;
  if (request_.on_progress) request_.on_progress(done_);
  for (int attempt = 0; !complete(); ++attempt) {
    const uint64_t before = done_;
    const Status status = Attempt();
    if (status) break;
    if (!IsTransient(status.error())) return Fail(status.error());
    if (done_ > before) attempt = 0;
    if (attempt + 1 >= transport_.options.max_attempts) return Fail(status.error());
    if (!WaitBeforeRetry(transport_.options, attempt, status.error(), monitor_)) TP_TRY(monitor_.CheckStop());
  }
  if (request_.expected_bytes != 0 && done_ != request_.expected_bytes) {
    return Fail(ErrorKind::kCorrupt, "size_mismatch",
                fmt::format("{} bytes arrived, {} were expected", done_, request_.expected_bytes), "source");
  }
  TP_TRY(file_.Sync());
  return done_;
}

Transport TransportOf(const HttpOptions& options) {
  Transport transport{options, {}};
  if (!options.trusted_endpoint.empty()) {
    const auto endpoint = ParseUrl(options.trusted_endpoint);
    if (endpoint) transport.trusted_origin = endpoint->origin;
  }
  return transport;
}

}  // namespace

HttpClient::HttpClient(HttpOptions options) : options_(std::move(options)) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  CHECK(initialised == CURLE_OK);
}

Result<HttpText> HttpClient::GetText(const std::string& url, uint64_t max_bytes, PullMonitor& monitor) const {
  const Transport transport = TransportOf(options_);
  for (int attempt = 0;; ++attempt) {
    HttpText out;
    const auto get = [&]() -> Status {
      TP_ASSIGN(const Headers headers,
                transport.Get(
                    url, {"Accept: application/json"},
                    [&](const Headers& h, std::string_view data) -> Status {
                      const uint64_t limit = h.status == 200 ? max_bytes : kMaxErrorBody;
                      if (data.size() > limit - std::min<uint64_t>(limit, out.body.size())) {
                        if (h.status != 200) return {};
                        return Fail(ErrorKind::kTooLarge, "answer_too_large",
                                    fmt::format("{}: the answer is larger than {} bytes", url, max_bytes));
                      }
                      out.body.append(data);
                      return {};
                    },
                    monitor));
      if (headers.status != 200) return Fail(StatusError(url, headers, !options_.token.empty()));
      out.next_page = NextPage(headers.link);
      return {};
    };
    const Status status = get();
    if (status) return out;
    if (!IsTransient(status.error()) || attempt + 1 >= options_.max_attempts) return Fail(status.error());
    if (!WaitBeforeRetry(options_, attempt, status.error(), monitor)) TP_TRY(monitor.CheckStop());
  }
}

Result<uint64_t> HttpClient::Download(const DownloadRequest& request, PullMonitor& monitor) const {
  const Transport transport = TransportOf(options_);
  TP_ASSIGN(File file, File::Open(request.path, O_RDWR | O_CREAT));
  return Downloader(transport, request, monitor, std::move(file)).Run();
}

}  // namespace tidepool::platform
