// The web application's files: which request gets which, how they are compressed and kept, and what pages may
// do. Oracles: zlib for gzip, RFC 9110 for negotiation and conditional requests.
#include "gateway/web_app.h"

#include <gtest/gtest.h>
#include <zlib.h>

namespace tidepool::gateway {
namespace {

std::string Gzip(std::string_view text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

const std::string kScript(100'000, 'x');
const std::string kScriptGzip = Gzip(kScript);
const std::string kIndexGzip = Gzip("<!doctype html>index");
const WebAsset kAssets[] = {
    {"/assets/a-1.js", "text/javascript; charset=utf-8", "\"e1\"", true, kScriptGzip, "BROTLI"},
    {"/index.html", "text/html; charset=utf-8", "\"e2\"", false, kIndexGzip, ""},
};

HttpRequest Get(std::string target, std::vector<HttpHeader> headers = {}) {
  HttpRequest request;
  request.method = "GET";
  request.target = std::move(target);
  request.headers = std::move(headers);
  return request;
}

std::string HeaderOf(const HttpResponse& response, std::string_view name) {
  for (const HttpHeader& header : response.headers) {
    if (header.name == name) return header.value;
  }
  return "";
}

TEST(WebReply, TheBestEncodingTheClientTakes) {
  const auto reply = [](std::string_view accepts) {
    return WebReply(Get("/assets/a-1.js?x=1", {{"accept-encoding", std::string(accepts)}}), kAssets);
  };
  EXPECT_EQ(HeaderOf(reply("gzip, deflate, br, zstd"), "Content-Encoding"), "br");
  EXPECT_EQ(reply("gzip, br").body, "BROTLI");
  EXPECT_EQ(HeaderOf(reply("gzip, deflate"), "Content-Encoding"), "gzip");
  EXPECT_EQ(reply("gzip;q=0.5, br;q=0").body, kScriptGzip);
  for (const std::string_view none : {"", "identity", "gzip;q=0", "gzip;q=0.000", "bro"}) {
    EXPECT_EQ(reply(none).body, kScript) << none;
    EXPECT_EQ(HeaderOf(reply(none), "Content-Encoding"), "") << none;
  }
  EXPECT_EQ(HeaderOf(reply(""), "Vary"), "Accept-Encoding");
}

TEST(WebReply, FilesWithAHashAreKeptAndPagesAreAskedForAgain) {
  EXPECT_EQ(HeaderOf(WebReply(Get("/assets/a-1.js"), kAssets), "Cache-Control"),
            "public, max-age=31536000, immutable");
  const HttpResponse page = WebReply(Get("/chat/conv-1"), kAssets);
  EXPECT_EQ(page.body, "<!doctype html>index");
  EXPECT_EQ(HeaderOf(page, "Cache-Control"), "no-cache");
  const HttpResponse known = WebReply(Get("/", {{"if-none-match", "W/\"e2\""}}), kAssets);
  EXPECT_EQ(known.status, 304);
  EXPECT_EQ(known.body, "");
  EXPECT_EQ(HeaderOf(known, "ETag"), "\"e2\"");
  EXPECT_EQ(WebReply(Get("/", {{"if-none-match", "\"old\""}}), kAssets).status, 200);
}

TEST(WebReply, PagesReachNoOtherHost) {
  const std::string policy = HeaderOf(WebReply(Get("/"), kAssets), "Content-Security-Policy");
  EXPECT_TRUE(policy.starts_with("default-src 'none'")) << policy;
  for (const std::string_view loose : {"unsafe", "http", "*", "//"}) {
    EXPECT_EQ(policy.find(loose), std::string::npos) << loose;
  }
  EXPECT_NE(policy.find("frame-ancestors 'none'"), std::string::npos);
  EXPECT_EQ(HeaderOf(WebReply(Get("/assets/a-1.js"), kAssets), "Content-Security-Policy"), "");
}

TEST(WebReply, ABinaryWithoutTheApplicationSaysSo) {
  const HttpResponse reply = WebReply(Get("/"), {});
  EXPECT_EQ(reply.status, 200);
  EXPECT_NE(reply.body.find("without its web application"), std::string::npos);
  EXPECT_NE(HeaderOf(reply, "Content-Security-Policy"), "");
}

TEST(WebRoute, PagesAreForBrowsersAndTheApiKeepsItsPaths) {
  const HttpHeader browser{"accept", "text/html,application/xhtml+xml,*/*;q=0.8"};
  for (const char* page : {"/", "/chat", "/chat/conv-1", "/models/org/repo:Q4", "/v1x", "/nothing?x=/v1/"}) {
    const Route* route = WebRoute(Get(page, {browser}));
    ASSERT_NE(route, nullptr) << page;
    EXPECT_EQ(route->access, platform::Role::kNone);
    if (page == std::string_view("/")) continue;
    EXPECT_EQ(WebRoute(Get(page, {{"accept", "*/*"}})), nullptr) << page;
    EXPECT_EQ(WebRoute(Get(page)), nullptr) << page;
  }
  // Programs ask "/" whether a server is there, as Ollama's clients do; they are not sent the application.
  for (const HttpRequest& program : {Get("/"), Get("/", {{"accept", "*/*"}})}) {
    const Route* route = WebRoute(program);
    ASSERT_NE(route, nullptr);
    EXPECT_NE(route, WebRoute(Get("/", {browser})));
    EXPECT_EQ(route->access, platform::Role::kNone);
  }
  for (const char* path : {"/v1", "/v1/nothing", "/api/v1/nothing", "/assets/gone-9.js"}) {
    EXPECT_EQ(WebRoute(Get(path, {browser})), nullptr) << path;
  }
  HttpRequest post = Get("/chat", {browser});
  post.method = "POST";
  EXPECT_EQ(WebRoute(post), nullptr);
}

TEST(WebAssets, InOrderAndWhole) {
  std::string_view before;
  for (const WebAsset& asset : WebAssets()) {
    EXPECT_LT(before, asset.path);
    before = asset.path;
    EXPECT_EQ(asset.immutable, asset.path.starts_with("/assets/")) << asset.path;
    EXPECT_FALSE(WebReply(Get(std::string(asset.path)), WebAssets()).body.empty()) << asset.path;
  }
}

}  // namespace
}  // namespace tidepool::gateway
