#include "gateway/security.h"

#include <fmt/format.h>

#include <algorithm>

#include "gateway/router.h"

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

// What the table of routes has, and OPTIONS.
const std::string& AllowedMethods() {
  static const std::string kMethods = [] {
    std::string out;
    for (const Route& route : Routes()) {
      if (out.find(route.method) == std::string::npos) out += std::string(route.method) + ", ";
    }
    return out + "OPTIONS";
  }();
  return kMethods;
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
    const auto network = platform::Network::Parse(item);
    if (!network)
      return Fail(ErrorKind::kInvalid, "bad_trusted_proxy", network.error().message, "trusted_proxy");
    security.proxies_.push_back(*network);
  }
  return security;
}

bool Security::IsTrustedProxy(std::string_view address) const {
  return platform::AnyContains(proxies_, address);
}

std::string Security::ClientAddress(const HttpRequest& request) const {
  const std::string peer = platform::NormalisedAddress(request.peer.address);
  if (!IsTrustedProxy(peer)) return peer;
  // Each proxy appends who it was reached from: the first from the end that is no proxy of ours is the
  // client. Several such headers are one list in their order (RFC 9110 5.3).
  std::string list;
  for (const HttpHeader& header : request.headers) {
    if (header.name == "x-forwarded-for") list += (list.empty() ? "" : ",") + header.value;
  }
  std::string client = peer;
  std::string_view rest = list;
  while (!rest.empty()) {
    const size_t comma = rest.rfind(',');
    const std::string address =
        platform::NormalisedAddress(Trim(comma == std::string_view::npos ? rest : rest.substr(comma + 1)));
    if (address.empty()) break;
    client = address;
    if (!IsTrustedProxy(address)) break;
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(0, comma);
  }
  return client;
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
  request.client_address = ClientAddress(request);
  const std::string* forwarded_scheme = request.Header("x-forwarded-proto");
  request.secure = request.peer.tls || (forwarded_scheme != nullptr && Lower(*forwarded_scheme) == "https" &&
                                        IsTrustedProxy(request.peer.address));
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

Status Security::CheckCaller(HttpRequest& request, const platform::Authenticator& keys) const {
  const auto text = [&](std::string_view name) -> std::string_view {
    const std::string* value = request.Header(name);
    return value == nullptr ? std::string_view() : Trim(*value);
  };
  platform::Credentials credentials;
  const std::string_view bearer = text("authorization");
  if (bearer.size() > 7 && Lower(bearer.substr(0, 7)) == "bearer ") credentials.key = Trim(bearer.substr(7));
  if (credentials.key.empty()) credentials.key = text("x-api-key");  // Anthropic's clients
  credentials.session = CookieValue(text("cookie"), kSessionCookie);
  credentials.csrf = text("tidepool-csrf");
  credentials.workspace = text("tidepool-workspace");
  credentials.writes = request.method != "GET" && request.method != "HEAD";
  credentials.address = request.client_address;
  if (!credentials.key.empty() || !credentials.session.empty()) {
    auto principal = keys.Authenticate(credentials);
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
              "No API key. Send it as \"Authorization: Bearer tp-...\" or \"x-api-key: tp-...\", or sign in. "
              "The operator's key was shown at "
              "the first start and is in admin.key of the server's home folder.");
}

std::string_view CookieValue(std::string_view header, std::string_view name) {
  std::string_view found;
  while (!header.empty()) {
    const size_t end = header.find(';');
    const std::string_view pair = Trim(header.substr(0, end));
    header = end == std::string_view::npos ? std::string_view() : header.substr(end + 1);
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos || pair.substr(0, equals) != name) continue;
    // Two of one name: another site's cookie shadows ours. Neither counts.
    if (!found.empty()) return {};
    found = pair.substr(equals + 1);
  }
  return found;
}

HttpResponse Security::Preflight(const HttpRequest& request) {
  HttpResponse response;
  response.status = 204;
  response.content_type.clear();
  response.headers.push_back({"Access-Control-Allow-Methods", AllowedMethods()});
  const std::string* wanted = request.Header("access-control-request-headers");
  // SDKs for browsers send a family of their own headers (x-stainless-*): allow what is asked, it carries no
  // right.
  response.headers.push_back(
      {"Access-Control-Allow-Headers",
       wanted != nullptr ? *wanted : "authorization, content-type, tidepool-progress, tidepool-workspace"});
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
