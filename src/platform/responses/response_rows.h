// Stored responses as rows of the store: what was said in them, input and body, sealed under the key file.
#pragma once

#include <string>

#include "platform/accounts/key_file.h"
#include "platform/responses/responses.h"

namespace tidepool::platform {

// Sealing takes a while: before the write, not on its thread.
struct SealedResponse {
  SealedResponse(const KeyFile& keys, const StoredResponse& response);
  std::string body, input;
};

Result<StoredResponse> ReadResponse(store::Session& session, const KeyFile& keys,
                                    const std::string& workspace, const std::string& id, int64_t now_ms);
Status InsertResponse(store::Session& session, const std::string& workspace, const StoredResponse& response,
                      const SealedResponse& sealed);
// Status and body of one that is (still) there.
Status UpdateResponse(store::Session& session, const StoredResponse& response, const SealedResponse& sealed);
// Seals some of those that an earlier version stored in clear. How many there were.
Result<int64_t> SealOldResponses(store::Session& session, const KeyFile& keys);
// All of a workspace are out of sight; DropExpired takes them away. How many there were.
Result<int64_t> ExpireResponses(store::Session& session, const std::string& workspace, int64_t now_ms);
// Some that have expired; fewer than kDropAtOnce: they were the last.
inline constexpr int64_t kDropAtOnce = 200;
Result<int64_t> DropExpired(store::Session& session, int64_t now_ms);
Result<int64_t> DeleteResponse(store::Session& session, const std::string& workspace, const std::string& id);
// The expired ones, and of this workspace the oldest ended ones beyond `max_stored`. How many went.
Result<int64_t> DropResponses(store::Session& session, const std::string& workspace, int64_t max_stored,
                              int64_t now_ms);
Status MarkFailed(store::Session& session);  // what runs

}  // namespace tidepool::platform
