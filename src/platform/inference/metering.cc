#include "platform/inference/metering.h"

#include <algorithm>

#include "platform/catalog/catalog.h"
#include "platform/catalog/sha256.h"

namespace tidepool::platform {

std::string ModelVersion(const StoredModel& model) {
  std::vector<std::string> digests;
  for (const StoredFile& file : model.files) {
    if (file.name.ends_with(".gguf") || file.name.ends_with(".safetensors")) digests.push_back(file.sha256);
  }
  if (digests.empty()) return "builtin:" + model.id;
  if (digests.size() == 1) return digests[0];
  std::sort(digests.begin(), digests.end());
  std::string all;
  for (const std::string& digest : digests) all += digest + '\n';
  return Sha256Hex(all);
}

AdmissionRequest AdmissionOf(const MeteredCall& call) {
  AdmissionRequest request;
  request.payer = {.organisation = call.principal.organisation,
                   .workspace = call.principal.workspace,
                   .key = call.principal.key,
                   .member = call.principal.member};
  request.model = call.model;
  request.model_version = call.model_version;
  request.may_lower_output = !call.names_max_tokens;
  request.batch = call.batch;
  return request;
}

Result<std::shared_ptr<Meter>> AdmitPlan(UsageLedger& ledger, const MeteredCall& call, int32_t context_length,
                                         std::vector<ChoicePlan>& plan, RateState& rates) {
  AdmissionRequest request = AdmissionOf(call);
  request.choices = static_cast<int32_t>(plan.size());
  const auto room = [&](const ChoicePlan& choice) {
    return std::max<int64_t>(1, context_length - static_cast<int64_t>(choice.request.prompt.size()));
  };
  for (const ChoicePlan& choice : plan) {
    if (choice.first_of_prompt) request.prompt_tokens += static_cast<int64_t>(choice.request.prompt.size());
    const int64_t most = choice.request.sampling.max_tokens;
    request.max_output_tokens = std::max(request.max_output_tokens, most > 0 ? most : room(choice));
  }
  TP_ASSIGN(std::shared_ptr<Meter> meter, ledger.Admit(request, call.request_id, call.endpoint, &rates));
  if (meter->max_output_tokens() < request.max_output_tokens) {
    for (ChoicePlan& choice : plan) {
      choice.request.sampling.max_tokens =
          static_cast<int32_t>(std::min(meter->max_output_tokens(), room(choice)));
    }
  }
  return meter;
}

MeterTimes TimesOf(const compute::FinishEvent& event) {
  return {.queue_s = event.queue_s,
          .load_s = event.load_s,
          .prefill_s = event.prefill_s,
          .decode_s = event.decode_s,
          .stall_s = event.stall_s};
}

}  // namespace tidepool::platform
