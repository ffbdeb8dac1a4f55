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

// Where its words are kept, if its workspace keeps them; nullptr: nowhere.
std::shared_ptr<platform::BodyRecording> MakeRecording(const Services& services, const HttpRequest& http);

template <typename Request>
void FillCaller(Request& request, const Services& services, const HttpRequest& http) {
  request.request_id = http.id;
  request.principal = http.principal;
  request.recording = MakeRecording(services, http);
}

// Embeddings and scores: the limits that they are answered or refused with, to be given to WithRates.
template <typename Request>
std::shared_ptr<const platform::RateState> WatchRates(Request& request) {
  request.rates = std::make_shared<platform::RateState>();
  return request.rates;
}
HttpResponse WithRates(HttpResponse response, const platform::RateState& rates);

// Work without a stream: only a client that leaves ends it early.
std::shared_ptr<ExchangeListener> MakeCancelListener(std::shared_ptr<platform::Generation> generation);

// Of members that the model's chat template sees, those that it does not mention, to `ignored`.
void NameUnread(Services& services, const std::string& model, const std::vector<TemplateMember>& members,
                std::vector<std::string>& ignored);

// Names the fields that had no effect in the header Tidepool-Ignored.
HttpResponse WithIgnored(HttpResponse response, const std::vector<std::string>& ignored);

}  // namespace tidepool::gateway
