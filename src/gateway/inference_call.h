// What the handlers of every dialect do around a call of the platform: who calls, may they use the model, and
// the ties between a connection and the work it asked for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/http.h"
#include "gateway/openai/reply.h"
#include "gateway/services.h"

namespace tidepool::gateway {

template <typename Request>
void FillCaller(Request& request, const HttpRequest& http) {
  request.request_id = http.id;
  request.principal = http.principal;
}

// A key may be for some models only. They are meant by their stored ids, whatever alias the request uses.
Status CheckModel(Services& services, const HttpRequest& http, const std::string& model);

// The reply answers for a generation that could not start; else the connection steers it.
void Attach(const std::shared_ptr<Exchange>& exchange, const std::shared_ptr<openai::Reply>& reply,
            Result<std::shared_ptr<platform::Generation>> generation);

// Work without a stream: only a client that leaves ends it early.
std::shared_ptr<ExchangeListener> MakeCancelListener(std::shared_ptr<platform::Generation> generation);

// Names the fields that had no effect in the header Tidepool-Ignored.
HttpResponse WithIgnored(HttpResponse response, const std::vector<std::string>& ignored);

}  // namespace tidepool::gateway
