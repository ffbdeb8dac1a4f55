// Who may speak to the server, before a body is read: peers and listening rules, Host (DNS rebinding), Origin
// (foreign web pages), keys, content types.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/http_server.h"
#include "platform/accounts/authenticator.h"
#include "platform/accounts/network.h"

namespace tidepool::gateway {

// kInvalid if the server would be reachable beyond this machine without protection: TLS, a trusted proxy in
// front, or the explicit allow_plain_http; and never without a key.
Status CheckListening(const GatewayOptions& options, const ListenAddress& address);

class Security {
 public:
  // kInvalid for a trusted_proxy that is no list of addresses or CIDR ranges.
  static Result<Security> Create(const GatewayOptions& options, const ListenAddress& address);

  // kForbidden for a peer that must come through the proxy, an unlisted Host, a foreign Origin. Fills
  // request.allowed_origin when the Origin is one that CORS allows.
  Status CheckSource(HttpRequest& request) const;
  // The caller behind the key or the session's cookie; fills request.principal and request.owns_machine.
  Status CheckCaller(HttpRequest& request, const platform::Authenticator& keys) const;
  bool IsTrustedProxy(std::string_view address) const;
  // Headers for a preflight request (OPTIONS with Access-Control-Request-Method) from an allowed origin.
  static HttpResponse Preflight(const HttpRequest& request);

 private:
  // Of the client: what X-Forwarded-For says counts only from trusted proxies, read from its end.
  std::string ClientAddress(const HttpRequest& request) const;
  bool HostAllowed(std::string_view host, const HttpRequest& request) const;

  bool open_ = false;
  bool loopback_ = true;
  bool any_origin_ = false;
  std::string listen_address_;
  std::vector<std::string> hosts_;    // lower case
  std::vector<std::string> origins_;  // lower case
  std::vector<platform::Network> proxies_;
};

inline constexpr std::string_view kSessionCookie = "tidepool_session";
// The value of a cookie in a Cookie header (RFC 6265 5.4: "a=1; b=2"); "" if it is not there, or twice.
std::string_view CookieValue(std::string_view header, std::string_view name);

// "application/json", with parameters (charset must be UTF-8).
bool IsJsonContentType(std::string_view value);
// A client's request id is echoed if it is 1 to 128 characters of [A-Za-z0-9._:-].
bool IsSaneRequestId(std::string_view id);

}  // namespace tidepool::gateway
