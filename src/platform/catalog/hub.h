// Hugging Face's API, or a mirror that speaks it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "platform/catalog/http_client.h"
#include "platform/catalog/model_files.h"

namespace tidepool::platform {

// The files of org/repo, revision main. Large files carry their sha256.
Result<std::vector<RemoteFile>> ListHubFiles(const HttpClient& http, const std::string& endpoint,
                                             const std::string& repo, PullMonitor& monitor);
std::string HubFileUrl(const std::string& endpoint, const std::string& repo, const std::string& path);

// One page of /tree: [{"type": "file", "path", "size", "lfs": {"oid", "size"}}]. Entries of a wrong shape are
// an error.
Result<std::vector<RemoteFile>> ParseHubTree(std::string_view json);

}  // namespace tidepool::platform
