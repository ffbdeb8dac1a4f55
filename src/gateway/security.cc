#include "gateway/security.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace tidepool::gateway {
namespace {

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// "[::1]:80" -> "::1", "host:80" -> "host". The port does not matter: proxies and port mappings change it.
std::string HostName(std::string_view host) {
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    return end == std::string_view::npos ? std::string() : Lower(host.substr(1, end - 1));
  }
  std::string name = Lower(host.substr(0, host.find(':')));
  if (name.ends_with('.')) name.pop_back();
  return name;
}

bool IsLoopbackName(std::string_view name) {
  return name == "localhost" || name.ends_with(".localhost") || name == "::1" || name == "127.0.0.1";
}

// Set by proxies. A loopback peer that sends one speaks for somebody else.
constexpr std::string_view kForwardingHeaders[] = {"forwarded",         "x-forwarded-for", "x-forwarded-host",
                                                   "x-forwarded-proto", "x-real-ip",       "via"};

bool WasForwarded(const HttpRequest& request) {
  return std::any_of(std::begin(kForwardingHeaders), std::end(kForwardingHeaders),
                     [&](std::string_view name) { return request.Header(name) != nullptr; });
}

}  // namespace

Status CheckListening(const GatewayOptions& options, const ListenAddress& address) {
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    return Fail(
        ErrorKind::kInvalid, "bad_tls_settings",
        fmt::format(
            "A certificate needs its key and a key its certificate: set both http.tls_certificate (now "
            "\"{}\") and http.tls_key (now \"{}\"), or neither.",
            options.tls_certificate, options.tls_key),
        options.tls_certificate.empty() ? "http.tls_certificate" : "http.tls_key");
  }
  if (address.loopback) return {};
  if (options.open) {
    return Fail(
        ErrorKind::kInvalid, "open_beyond_loopback",
        fmt::format(
            "The server does not listen on {} without keys: `open` is for loopback only. Remove --open, "
            "or listen on 127.0.0.1.",
            address.address),
        "open");
  }
  if (options.tls_certificate.empty() && options.trusted_proxy.empty() && !options.allow_plain_http) {
    return Fail(
        ErrorKind::kInvalid, "plain_http_beyond_loopback",
        fmt::format(
            "Listening on {} would send keys over the network in the clear. Set http.tls_certificate and "
            "http.tls_key, or http.trusted_proxy (a proxy in front that speaks TLS), or http.allow_plain if "
            "the network is yours.",
            address.address),
        "listen");
  }
  return {};
}

Result<Security> Security::Create(const GatewayOptions& options, const ListenAddress& address) {
  Security security;
  security.open_ = options.open;
  security.loopback_ = address.loopback;
  security.listen_address_ = address.address;
  for (const std::string& host : options.allowed_hosts) security.hosts_.push_back(HostName(host));
  for (const std::string& origin : options.cors_origins) {
    if (origin == "*") security.any_origin_ = true;
    security.origins_.push_back(Lower(origin));
  }
  std::string_view list = options.trusted_proxy;
  while (!list.empty()) {
    const size_t comma = list.find(',');
    const std::string_view item = Trim(list.substr(0, comma));
    list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
    if (item.empty()) continue;
    Range range;
    const size_t slash = item.find('/');
    const std::string base(item.substr(0, slash));
    range.v6 = base.find(':') != std::string::npos;
    const int full = range.v6 ? 128 : 32;
    range.bits = full;
    bool good = inet_pton(range.v6 ? AF_INET6 : AF_INET, base.c_str(), range.bytes) == 1;
    if (good && slash != std::string_view::npos) {
      const std::string_view bits = item.substr(slash + 1);
      const auto [end, problem] = std::from_chars(bits.data(), bits.data() + bits.size(), range.bits);
      good =
          problem == std::errc() && end == bits.data() + bits.size() && range.bits >= 0 && range.bits <= full;
    }
    if (!good) {
      return Fail(ErrorKind::kInvalid, "bad_trusted_proxy",
                  fmt::format("\"{}\" is not an address or a CIDR range such as 10.0.0.0/8.", item),
                  "trusted_proxy");
    }
    security.proxies_.push_back(range);
  }
  return security;
}

bool Security::IsTrustedProxy(std::string_view address) const {
  unsigned char bytes[16] = {};
  const bool v6 = address.find(':') != std::string_view::npos;
  if (inet_pton(v6 ? AF_INET6 : AF_INET, std::string(address).c_str(), bytes) != 1) return false;
  return std::any_of(proxies_.begin(), proxies_.end(), [&](const Range& range) {
    if (range.v6 != v6) return false;
    const int whole = range.bits / 8;
    if (std::memcmp(bytes, range.bytes, static_cast<size_t>(whole)) != 0) return false;
    const int rest = range.bits % 8;
    if (rest == 0) return true;
    const int mask = 0xff << (8 - rest) & 0xff;
    return (bytes[whole] & mask) == (range.bytes[whole] & mask);
  });
}

bool Security::HostAllowed(std::string_view host, const HttpRequest& request) const {
  const std::string name = HostName(host);
  if (name.empty()) return false;
  if (IsLoopbackName(name) || name == listen_address_) return true;
  // The address itself: rebinding needs a name, and a listener on 0.0.0.0 is reached by any of its addresses.
  if (name == request.peer.local_address) return true;
  return std::find(hosts_.begin(), hosts_.end(), name) != hosts_.end();
}

Status Security::CheckSource(HttpRequest& request) const {
  if (!proxies_.empty() && !request.peer.tls && !request.peer.loopback &&
      !IsTrustedProxy(request.peer.address)) {
    return Fail(ErrorKind::kForbidden, "not_through_proxy",
                fmt::format("{} is not a trusted proxy, and this server is reached through one.",
                            request.peer.address));
  }
  const std::string* host = request.Header("host");
  if (host != nullptr && !HostAllowed(*host, request)) {
    return Fail(ErrorKind::kForbidden, "host_not_allowed",
                fmt::format("The Host \"{}\" is not one of this server's names. Add it to the setting "
                            "http.allowed_hosts if it "
                            "is yours.",
                            host->substr(0, 100)),
                "Host");
  }
  const std::string* origin = request.Header("origin");
  if (origin == nullptr) return {};
  const std::string wanted = Lower(*origin);
  if (any_origin_ || std::find(origins_.begin(), origins_.end(), wanted) != origins_.end()) {
    request.allowed_origin = *origin;
    return {};
  }
  // The server's own pages.
  const size_t scheme = wanted.find("://");
  if (host != nullptr && scheme != std::string::npos && wanted.substr(scheme + 3) == Lower(*host)) return {};
  return Fail(ErrorKind::kForbidden, "origin_not_allowed",
              fmt::format("Web pages of \"{}\" may not use this server. Add it to the setting "
                          "http.cors_origins to allow them.",
                          origin->substr(0, 100)),
              "Origin");
}

Status Security::CheckKey(HttpRequest& request, const platform::KeyStore& keys) const {
  const std::string* header = request.Header("authorization");
  std::string_view key;
  if (header != nullptr) {
    std::string_view value = Trim(*header);
    if (value.size() > 7 && Lower(value.substr(0, 7)) == "bearer ") key = Trim(value.substr(7));
  }
  if (!key.empty()) {
    auto principal = keys.Verify(key);
    if (principal) {
      request.principal = std::move(*principal);
      request.owns_machine = request.principal.is_operator && request.peer.loopback && !WasForwarded(request);
      return {};
    }
    // SDKs insist on sending some key: an open server does not mind which.
    if (!open_) return Fail(std::move(principal).error());
  }
  if (open_ && loopback_) {
    request.principal = platform::Principal{};
    request.principal.is_operator = true;
    request.principal.role = platform::Role::kOperator;
    request.principal.key = "open";
    request.principal.key_id = "open";
    return {};
  }
  return Fail(ErrorKind::kUnauthenticated, "missing_api_key",
              "No API key. Send it as \"Authorization: Bearer tp-...\"; the admin key was shown at the first "
              "start and is "
              "in admin.key of the server's home folder.");
}

HttpResponse Security::Preflight(const HttpRequest& request) {
  HttpResponse response;
  response.status = 204;
  response.content_type.clear();
  response.headers.push_back({"Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS"});
  const std::string* wanted = request.Header("access-control-request-headers");
  // SDKs for browsers send a family of their own headers (x-stainless-*): allow what is asked, it carries no
  // right.
  response.headers.push_back(
      {"Access-Control-Allow-Headers",
       wanted != nullptr ? *wanted : "authorization, content-type, tidepool-progress"});
  response.headers.push_back({"Access-Control-Max-Age", "600"});
  return response;
}

bool IsJsonContentType(std::string_view value) {
  const size_t semicolon = value.find(';');
  if (Lower(Trim(value.substr(0, semicolon))) != "application/json") return false;
  if (semicolon == std::string_view::npos) return true;
  const std::string parameters = Lower(value.substr(semicolon + 1));
  const size_t charset = parameters.find("charset=");
  if (charset == std::string::npos) return true;
  std::string_view name = std::string_view(parameters).substr(charset + 8);
  name = Trim(name.substr(0, name.find(';')));
  return name == "utf-8" || name == "\"utf-8\"" || name == "utf8";
}

bool IsSaneRequestId(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '_' || c == ':' || c == '-';
  });
}

}  // namespace tidepool::gateway
