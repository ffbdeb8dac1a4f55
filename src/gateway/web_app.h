// The web application, built into the binary: the files of apps/web, compressed when they were bundled.
//
// Names of files under /assets/ hold a hash of their content and are kept by browsers for ever; index.html is
// asked for again each time (an ETag answers 304). Every page of the application is the same index.html:
// which page it is, the script reads from the address. Pages carry a Content-Security-Policy that names no
// other host.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "gateway/http.h"
#include "gateway/router.h"

namespace tidepool::gateway {

struct WebAsset {
  std::string_view path;  // "/assets/index-Dk3x.js", "/index.html"
  std::string_view content_type;
  std::string_view etag;  // quoted
  bool immutable = false;
  std::string_view gzip;    // RFC 1952
  std::string_view brotli;  // RFC 7932; empty where it saves nothing
};

// In the order of their paths. Empty when the binary was built without the web application. Generated from
// the bundle (apps/web/embed.mjs), or web_assets_none.cc.
std::span<const WebAsset> WebAssets();

// The route that serves this request: a file of the application, or a page (a GET by a browser, which accepts
// text/html, of anything that is not part of the API). nullptr: neither.
const Route* WebRoute(const HttpRequest& request);

// The answer to such a request, from the files given.
HttpResponse WebReply(const HttpRequest& request, std::span<const WebAsset> assets);

}  // namespace tidepool::gateway
