// Bytes as HTTP, whole and in pieces (the verdict must be the same), then the target through the router and
// the headers through the security rules.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "gateway/http_parser.h"
#include "gateway/router.h"
#include "gateway/security.h"

namespace {

using tidepool::gateway::HttpLimits;
using tidepool::gateway::HttpParser;

HttpParser::State Feed(HttpParser& parser, std::string_view bytes, size_t step) {
  std::string input;
  auto state = HttpParser::State::kNeedMore;
  for (size_t at = 0; at < bytes.size(); at += step) {
    input.append(bytes.substr(at, step));
    do {
      state = parser.Feed(input);
    } while (state == HttpParser::State::kHeader);
    if (state != HttpParser::State::kNeedMore) break;
  }
  return state;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::gateway;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  // Far above the input: with a limit inside it, how much is seen at once decides which error comes first.
  const HttpLimits limits{1u << 20, 1u << 20};
  HttpParser whole(limits), pieces(limits);
  const auto at_once = Feed(whole, bytes, std::max<size_t>(1, bytes.size()));
  const auto in_pieces = Feed(pieces, bytes, 1 + data[0] % 16);
  // What is accepted does not depend on how it was cut; what is refused may be refused later.
  CHECK((at_once == HttpParser::State::kDone) == (in_pieces == HttpParser::State::kDone));
  if (at_once != HttpParser::State::kDone) return 0;
  HttpRequest& request = whole.request();
  CHECK(request.body == pieces.request().body);
  const auto match = MatchRoute(Routes(), request.method, request.target);
  if (match && match->route != nullptr) {
    for (const auto& [name, value] : match->values) {
      CHECK(!value.empty());
      CHECK(std::none_of(value.begin(), value.end(),
                         [](char c) { return static_cast<unsigned char>(c) < 0x20; }));
    }
  }
  GatewayOptions options;
  options.cors_origins = {"https://a.example"};
  options.trusted_proxy = "127.0.0.0/8,2001:db8::/32";
  static const Security security = Security::Create(options, ListenAddress{"127.0.0.1", 8433, true}).value();
  request.peer.local_address = "127.0.0.1";
  request.peer.address = "127.0.0.1";
  request.peer.loopback = true;
  const auto source = security.CheckSource(request);
  // Whatever X-Forwarded-For holds, the client has an address.
  CHECK(!request.client_address.empty());
  if (const std::string* cookie = request.Header("cookie"); cookie != nullptr) {
    const std::string_view value = CookieValue(*cookie, kSessionCookie);
    CHECK(value.find(';') == std::string_view::npos);
  }
  if (const auto query = ParseQuery(request.target, "limit:integer after workspace")) {
    for (const auto& [name, value] : *query) CHECK(name == "limit" || name == "after" || name == "workspace");
  }
  // A web page of another origin never gets through.
  const std::string* origin = request.Header("origin");
  if (source && origin != nullptr && request.allowed_origin.empty()) {
    CHECK(request.Header("host") != nullptr && origin->size() > request.Header("host")->size());
  }
  return 0;
}
