#include "gateway/inference_call.h"

#include "platform/request_bodies/request_bodies.h"

namespace tidepool::gateway {
namespace {

class CancelListener final : public ExchangeListener {
 public:
  explicit CancelListener(std::shared_ptr<platform::Generation> generation)
      : generation_(std::move(generation)) {}
  void OnClosed() override { generation_->Cancel(); }

 private:
  const std::shared_ptr<platform::Generation> generation_;
};

}  // namespace

std::shared_ptr<ExchangeListener> MakeCancelListener(std::shared_ptr<platform::Generation> generation) {
  return std::make_shared<CancelListener>(std::move(generation));
}

HttpResponse WithRates(HttpResponse response, const platform::RateState& rates) {
  AppendRateHeaders(rates, response.headers);
  return response;
}

void NameUnread(Services& services, const std::string& model, const std::vector<TemplateMember>& members,
                std::vector<std::string>& ignored) {
  if (members.empty()) return;
  const auto described = services.inference.Describe(model);
  for (const TemplateMember& member : members) {
    if (!described || !TemplateMentions(described->chat_template, member.name))
      AddIgnored({member.path}, ignored);
  }
}

std::shared_ptr<platform::BodyRecording> MakeRecording(const Services& services, const HttpRequest& http) {
  if (services.hooks.bodies == nullptr) return nullptr;
  return services.hooks.bodies->Begin(http.principal, http.body);
}

HttpResponse WithIgnored(HttpResponse response, const std::vector<std::string>& ignored) {
  if (!ignored.empty()) response.headers.push_back({"Tidepool-Ignored", IgnoredHeader(ignored)});
  return response;
}

}  // namespace tidepool::gateway
