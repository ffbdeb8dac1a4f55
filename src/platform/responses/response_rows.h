// Stored responses as rows of the store.
#pragma once

#include <string>

#include "platform/responses/responses.h"

namespace tidepool::platform {

Result<StoredResponse> ReadResponse(store::Session& session, const std::string& workspace,
                                    const std::string& id, int64_t now_ms);
Status InsertResponse(store::Session& session, const std::string& workspace, const StoredResponse& response);
// Status and body of one that is (still) there.
Status UpdateResponse(store::Session& session, const StoredResponse& response);
Result<int64_t> DeleteResponse(store::Session& session, const std::string& workspace, const std::string& id);
// The expired ones, and of this workspace the oldest ended ones beyond `max_stored`. How many went.
Result<int64_t> DropResponses(store::Session& session, const std::string& workspace, int64_t max_stored,
                              int64_t now_ms);
Status MarkFailed(store::Session& session);  // what runs

}  // namespace tidepool::platform
