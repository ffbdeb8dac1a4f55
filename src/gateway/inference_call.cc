#include "gateway/inference_call.h"

#include <fmt/format.h>

#include "gateway/openai/fields.h"

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

Status CheckModel(Services& services, const HttpRequest& http, const std::string& model) {
  if (http.principal.models.empty()) return {};
  const auto found = services.inference.Find(model);
  if (http.principal.MayUseModel(found ? found->id : model)) return {};
  return Fail(
      ErrorKind::kForbidden, "model_not_allowed",
      fmt::format("The key {}... is not for the model \"{}\".", http.principal.key_id, model.substr(0, 100)),
      "model");
}

void Attach(const std::shared_ptr<Exchange>& exchange, const std::shared_ptr<openai::Reply>& reply,
            Result<std::shared_ptr<platform::Generation>> generation) {
  if (!generation) return reply->Fail(generation.error());
  exchange->Listen(openai::MakeReplyListener(reply, std::move(*generation)));
}

std::shared_ptr<ExchangeListener> MakeCancelListener(std::shared_ptr<platform::Generation> generation) {
  return std::make_shared<CancelListener>(std::move(generation));
}

HttpResponse WithIgnored(HttpResponse response, const std::vector<std::string>& ignored) {
  if (!ignored.empty()) response.headers.push_back({"Tidepool-Ignored", openai::IgnoredHeader(ignored)});
  return response;
}

}  // namespace tidepool::gateway
