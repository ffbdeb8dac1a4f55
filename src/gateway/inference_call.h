// What the handlers of every dialect do around a call of the platform, besides CheckModel (services.h) and
// Attach (reply_sink.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/fields.h"
#include "gateway/http.h"
#include "gateway/reply_sink.h"
#include "gateway/services.h"

namespace tidepool::gateway {

template <typename Request>
void FillCaller(Request& request, const HttpRequest& http) {
  request.request_id = http.id;
  request.principal = http.principal;
}

// Work without a stream: only a client that leaves ends it early.
std::shared_ptr<ExchangeListener> MakeCancelListener(std::shared_ptr<platform::Generation> generation);

// Of members that the model's chat template sees, those that it does not mention, to `ignored`.
void NameUnread(Services& services, const std::string& model, const std::vector<TemplateMember>& members,
                std::vector<std::string>& ignored);

// Names the fields that had no effect in the header Tidepool-Ignored.
HttpResponse WithIgnored(HttpResponse response, const std::vector<std::string>& ignored);

}  // namespace tidepool::gateway
