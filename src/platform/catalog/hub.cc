#include "platform/catalog/hub.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "platform/catalog/manifest.h"
#include "platform/catalog/names.h"

namespace tidepool::platform {
namespace {

constexpr uint64_t kMaxPageBytes = 32 << 20;
constexpr int kMaxPages = 100;
constexpr size_t kMaxFiles = 100'000;

std::string WithoutSlash(std::string endpoint) {
  while (endpoint.ends_with('/')) endpoint.pop_back();
  return endpoint;
}

// Percent-encodes everything but unreserved characters and '/'.
std::string EncodePath(std::string_view path) {
  std::string out;
  for (const char c : path) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '-' || c == '.' || c == '_' || c == '~' || c == '/';
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace

Result<std::vector<RemoteFile>> ParseHubTree(std::string_view text) {
  const auto bad = [](std::string_view what) {
    return Fail(
        ErrorKind::kCorrupt, "hub_answer",
        fmt::format("the hub's list of files: {}; is the setting hub.endpoint a Hugging Face API?", what));
  };
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) return bad("not a JSON list");
  std::vector<RemoteFile> out;
  for (const auto& item : json) {
    if (!item.is_object() || !item.contains("path") || !item["path"].is_string())
      return bad("an entry has no path");
    const auto type = item.find("type");
    if (type != item.end() && *type != "file") continue;
    RemoteFile file;
    file.path = item["path"].get<std::string>();
    const auto read_size = [&](const nlohmann::json& object) {
      const auto size = object.find("size");
      if (size != object.end() && size->is_number_unsigned()) file.bytes = size->get<uint64_t>();
    };
    read_size(item);
    if (const auto lfs = item.find("lfs"); lfs != item.end() && lfs->is_object()) {
      read_size(*lfs);
      const auto oid = lfs->find("oid");
      if (oid != lfs->end() && oid->is_string()) {
        file.sha256 = ToLowerAscii(oid->get<std::string>());
        if (!IsSha256(file.sha256))
          return bad(fmt::format("the sha256 of {} is not 64 hex digits", file.path));
      }
    }
    if (!IsSafeFileName(file.path)) continue;  // unsafe names are never used
    out.push_back(std::move(file));
    if (out.size() > kMaxFiles) return bad(fmt::format("more than {} files", kMaxFiles));
  }
  return out;
}

Result<std::vector<RemoteFile>> ListHubFiles(const HttpClient& http, const std::string& endpoint,
                                             const std::string& repo, PullMonitor& monitor) {
  std::string url = fmt::format("{}/api/models/{}/tree/main?recursive=true", WithoutSlash(endpoint), repo);
  std::vector<RemoteFile> out;
  for (int page = 0; !url.empty(); ++page) {
    if (page == kMaxPages) {
      return Fail(ErrorKind::kCorrupt, "hub_answer",
                  fmt::format("{}: more than {} pages of files", repo, kMaxPages));
    }
    TP_ASSIGN(const HttpText answer, http.GetText(url, kMaxPageBytes, monitor));
    TP_ASSIGN(const std::vector<RemoteFile> files, ParseHubTree(answer.body));
    out.insert(out.end(), files.begin(), files.end());
    if (out.size() > kMaxFiles) {
      return Fail(ErrorKind::kTooLarge, "hub_answer", fmt::format("{}: more than {} files", repo, kMaxFiles));
    }
    url = answer.next_page;
  }
  return out;
}

std::string HubFileUrl(const std::string& endpoint, const std::string& repo, const std::string& path) {
  return fmt::format("{}/{}/resolve/main/{}", WithoutSlash(endpoint), repo, EncodePath(path));
}

}  // namespace tidepool::platform
