#include "gateway/http_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cctype>

namespace tidepool::gateway {
namespace {

namespace http = boost::beast::http;

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); });
  return out;
}

// True if the request line ends with a version of HTTP as it must be written. What spoils it otherwise (a
// bare line feed) is a malformed request, not another version.
bool NamesAVersion(std::string_view input) {
  const std::string_view line = input.substr(0, input.find('\n'));
  if (line.size() < 9) return false;
  const std::string_view version = line.substr(line.size() - 9);
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return version.starts_with("HTTP/") && digit(version[5]) && version[6] == '.' && digit(version[7]) &&
         version[8] == '\r';
}

}  // namespace

struct HttpParser::Impl {
  http::request_parser<http::string_body> parser;
  HttpRequest request;
  bool started = false;
  bool header_reported = false;
  bool keep_alive = true;
  bool expects_continue = false;
  bool has_body = false;
};

const std::string* HttpRequest::Header(std::string_view name) const {
  for (const HttpHeader& header : headers) {
    if (header.name == name) return &header.value;
  }
  return nullptr;
}

size_t HttpRequest::CountHeader(std::string_view name) const {
  return static_cast<size_t>(std::count_if(headers.begin(), headers.end(),
                                           [&](const HttpHeader& header) { return header.name == name; }));
}

std::string_view HttpRequest::PathValue(std::string_view name) const {
  for (const auto& [key, value] : path_values) {
    if (key == name) return value;
  }
  return {};
}

HttpParser::HttpParser(const HttpLimits& limits) : impl_(std::make_unique<Impl>()), limits_(limits) {
  impl_->parser.header_limit(limits.max_header_bytes);
  impl_->parser.body_limit(limits.max_body_bytes);
  impl_->parser.eager(false);
}
HttpParser::~HttpParser() = default;

HttpRequest& HttpParser::request() { return impl_->request; }
bool HttpParser::keep_alive() const { return impl_->keep_alive; }
bool HttpParser::expects_continue() const { return impl_->expects_continue; }
bool HttpParser::started() const { return impl_->started; }
bool HttpParser::has_body() const { return impl_->has_body; }
std::optional<uint64_t> HttpParser::content_length() const {
  const auto length = impl_->parser.content_length();
  return length ? std::optional<uint64_t>(*length) : std::nullopt;
}
uint64_t HttpParser::body_bytes() const {
  return std::max(impl_->parser.get().body().size(), impl_->request.body.size());
}

HttpParser::State HttpParser::Refuse(int status, std::string code, std::string message) {
  status_ = status;
  code_ = std::move(code);
  message_ = std::move(message);
  return State::kRefused;
}

HttpParser::State HttpParser::CheckHeader() {
  auto& message = impl_->parser.get();
  HttpRequest& request = impl_->request;
  request.method = std::string(message.method_string());
  request.target = std::string(message.target());
  request.version = static_cast<int>(message.version());
  for (const auto& field : message) {
    request.headers.push_back({Lower(field.name_string()), std::string(field.value())});
  }
  impl_->keep_alive = impl_->parser.keep_alive();
  if (request.version != 10 && request.version != 11) {
    return Refuse(505, "http_version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are spoken here.");
  }
  if (const std::string* encoding = request.Header("transfer-encoding")) {
    if (request.version == 10 || request.CountHeader("transfer-encoding") > 1 ||
        Lower(*encoding) != "chunked") {
      return Refuse(501, "transfer_encoding_not_supported",
                    "The only Transfer-Encoding supported is \"chunked\", in HTTP/1.1.");
    }
  }
  if (request.CountHeader("host") > 1 || (request.version == 11 && request.CountHeader("host") == 0)) {
    return Refuse(400, "bad_host", "A request must have exactly one Host header.");
  }
  if (const std::string* expect = request.Header("expect")) {
    if (Lower(*expect) != "100-continue") {
      return Refuse(417, "expectation_failed", "The only Expect supported is \"100-continue\".");
    }
    impl_->expects_continue = request.version == 11;
  }
  impl_->has_body = impl_->parser.chunked() || impl_->parser.content_length().value_or(0) > 0;
  impl_->parser.eager(true);
  return State::kHeader;
}

HttpParser::State HttpParser::Feed(std::string& input) {
  // RFC 9112 2.2: empty lines before a request line are ignored (some clients send one after a body).
  if (!impl_->started) {
    size_t skip = 0;
    while (input.size() >= skip + 2 && input[skip] == '\r' && input[skip + 1] == '\n') skip += 2;
    input.erase(0, skip);
    if (input.empty() || input == "\r") return State::kNeedMore;
    impl_->started = true;
  }
  size_t consumed = 0;
  boost::system::error_code problem;
  while (!impl_->parser.is_done() && (impl_->header_reported || !impl_->parser.is_header_done())) {
    const size_t step = impl_->parser.put(
        boost::asio::const_buffer(input.data() + consumed, input.size() - consumed), problem);
    consumed += step;
    if (problem || step == 0 || consumed == input.size()) break;
  }
  input.erase(0, consumed);
  if (problem == http::error::need_more) {
    problem = {};
    // Beast wants a whole line (a header line, a chunk's size with its extension) in one piece.
    if (input.size() > limits_.max_header_bytes) problem = http::error::header_limit;
  }
  if (problem == http::error::header_limit || problem == http::error::buffer_overflow) {
    return Refuse(431, "headers_too_large",
                  fmt::format("The request's header is longer than {} bytes.", limits_.max_header_bytes));
  }
  if (problem == http::error::body_limit) {
    // Of a declared length: found before CheckHeader. Whose error it is depends on the path.
    impl_->request.method = std::string(impl_->parser.get().method_string());
    impl_->request.target = std::string(impl_->parser.get().target());
    return Refuse(413, "body_too_large",
                  fmt::format("The request's body is longer than {} bytes (setting http.max_body).",
                              limits_.max_body_bytes));
  }
  if (problem == http::error::bad_version && NamesAVersion(input)) {
    return Refuse(505, "http_version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are spoken here.");
  }
  if (problem)
    return Refuse(400, "malformed_http", fmt::format("Malformed HTTP request: {}.", problem.message()));
  if (impl_->parser.is_header_done() && !impl_->header_reported) {
    impl_->header_reported = true;
    return CheckHeader();
  }
  if (impl_->header_reported && impl_->parser.is_done()) {
    impl_->request.body = std::move(impl_->parser.get().body());
    return State::kDone;
  }
  return State::kNeedMore;
}

}  // namespace tidepool::gateway
