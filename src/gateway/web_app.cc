#include "gateway/web_app.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "base/check.h"

namespace tidepool::gateway {
namespace {

// No script, style, font, picture or request leaves the server's own origin. Styles are set by script through
// the CSSOM, which needs no 'unsafe-inline'. Pictures that the application makes itself are data: or blob:.
constexpr std::string_view kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

constexpr std::string_view kNoWebApp =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tidepool</title><h1>Tidepool</h1>"
    "<p>This server was built without its web application (Node.js was not at hand, or TIDEPOOL_WEB was "
    "off). "
    "The API is here all the same: <a href=\"/openapi.json\">/openapi.json</a> describes it, and the command "
    "<code>tidepool</code> speaks it.</p></html>";

std::string_view PathOf(const HttpRequest& request) {
  const std::string_view target = request.target;
  return target.substr(0, target.find('?'));
}

const WebAsset* FindAsset(std::span<const WebAsset> assets, std::string_view path) {
  const auto found =
      std::lower_bound(assets.begin(), assets.end(), path,
                       [](const WebAsset& asset, std::string_view wanted) { return asset.path < wanted; });
  return found != assets.end() && found->path == path ? &*found : nullptr;
}

bool IsUnder(std::string_view path, std::string_view folder) {
  return path == folder ||
         (path.starts_with(folder) && path.size() > folder.size() && path[folder.size()] == '/');
}

// What programs ask for gets an answer for programs.
bool BelongsToApi(std::string_view path) {
  return IsUnder(path, "/v1") || IsUnder(path, "/api") || IsUnder(path, "/assets") ||
         IsUnder(path, "/compatible-mode");
}

// Accept-Encoding names `coding` without refusing it ("br;q=0").
bool Accepts(const HttpRequest& request, std::string_view coding) {
  const std::string* header = request.Header("accept-encoding");
  std::string_view rest = header == nullptr ? std::string_view() : std::string_view(*header);
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    std::string_view item = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const size_t semicolon = item.find(';');
    const std::string_view weight =
        semicolon == std::string_view::npos ? std::string_view() : item.substr(semicolon);
    item = item.substr(0, semicolon);
    while (!item.empty() && item.front() == ' ') item.remove_prefix(1);
    while (!item.empty() && item.back() == ' ') item.remove_suffix(1);
    if (item != coding) continue;
    const size_t equals = weight.find("q=");
    if (equals == std::string_view::npos) return true;
    return weight.find_first_of("123456789", equals) != std::string_view::npos;
  }
  return false;
}

std::string Inflate(std::string_view compressed) {
  z_stream stream{};
  CHECK(inflateInit2(&stream, 16 + MAX_WBITS) == Z_OK);
  CHECK(compressed.size() <= std::numeric_limits<uInt>::max());
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(compressed.data()));
  stream.avail_in = static_cast<uInt>(compressed.size());
  std::string out;
  int status = Z_OK;
  char buffer[16384];
  while (status == Z_OK) {
    stream.next_out = reinterpret_cast<Bytef*>(buffer);
    stream.avail_out = sizeof buffer;
    status = inflate(&stream, Z_NO_FLUSH);
    out.append(buffer, sizeof buffer - stream.avail_out);
  }
  inflateEnd(&stream);
  CHECK(status == Z_STREAM_END);  // our own bytes
  return out;
}

void AddPageHeaders(HttpResponse& response) {
  response.headers.push_back({"Content-Security-Policy", std::string(kPolicy)});
  response.headers.push_back({"Referrer-Policy", "no-referrer"});
  response.headers.push_back({"Cross-Origin-Opener-Policy", "same-origin"});
  response.headers.push_back({"Permissions-Policy", "camera=(), geolocation=(), microphone=()"});
}

void ServeWebApp(Services& /*services*/, std::shared_ptr<Exchange> exchange) {
  exchange->Send(WebReply(exchange->request(), WebAssets()));
}

// GET or HEAD / by a program: how clients of Ollama ask whether a server is there.
void AnswerPing(Services& /*services*/, std::shared_ptr<Exchange> exchange) {
  HttpResponse response;
  response.content_type = "text/plain; charset=utf-8";
  response.body = "Ollama is running";
  exchange->Send(std::move(response));
}

}  // namespace

const Route* WebRoute(const HttpRequest& request) {
  static const Route kRoute{"GET",       "/{page...}", platform::Role::kNone, Lane::kWorker, false,
                            ServeWebApp, "web",        "The web application"};
  if (request.method != "GET" && request.method != "HEAD") return nullptr;
  const std::string_view path = PathOf(request);
  if (FindAsset(WebAssets(), path) != nullptr) return &kRoute;
  const std::string* accept = request.Header("accept");
  const bool browser = accept != nullptr && accept->find("text/html") != std::string::npos;
  static const Route kPing{"GET",      "/",   platform::Role::kNone,        Lane::kInline, false,
                           AnswerPing, "web", "Whether the server is there"};
  if (path == "/" && !browser) return &kPing;
  return browser && !BelongsToApi(path) ? &kRoute : nullptr;
}

HttpResponse WebReply(const HttpRequest& request, std::span<const WebAsset> assets) {
  HttpResponse response;
  const WebAsset* asset = FindAsset(assets, PathOf(request));
  if (asset == nullptr) asset = FindAsset(assets, "/index.html");
  if (asset == nullptr) {
    response.content_type = "text/html; charset=utf-8";
    response.body = kNoWebApp;
    AddPageHeaders(response);
    return response;
  }
  response.content_type = asset->content_type;
  response.headers.push_back(
      {"Cache-Control", asset->immutable ? "public, max-age=31536000, immutable" : "no-cache"});
  response.headers.push_back({"ETag", std::string(asset->etag)});
  response.headers.push_back({"Vary", "Accept-Encoding"});
  if (asset->content_type.starts_with("text/html")) AddPageHeaders(response);
  const std::string* known = request.Header("if-none-match");
  if (known != nullptr && known->find(asset->etag) != std::string::npos) {
    response.status = 304;
    return response;
  }
  if (!asset->brotli.empty() && Accepts(request, "br")) {
    response.headers.push_back({"Content-Encoding", "br"});
    response.body = asset->brotli;
  } else if (Accepts(request, "gzip")) {
    response.headers.push_back({"Content-Encoding", "gzip"});
    response.body = asset->gzip;
  } else {
    response.body = Inflate(asset->gzip);
  }
  return response;
}

}  // namespace tidepool::gateway
