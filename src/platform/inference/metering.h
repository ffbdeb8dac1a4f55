// From a planned request to what the ledger admits. Threads: any.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "platform/accounts/principal.h"
#include "platform/inference/running_generation.h"
#include "platform/ledger/usage_ledger.h"

namespace tidepool::platform {

struct StoredModel;

// Who asks for what, as far as the ledger is concerned.
struct MeteredCall {
  Principal principal;
  std::string request_id;
  std::string_view endpoint;  // "chat.completions", "completions", "embeddings"
  std::string model, model_version;
  bool names_max_tokens = true;  // false: limits may lower the output
  bool batch = false;
};

// What a model is, whatever it is called: the digest of its weights' files, so that another name, or another
// file beside them, makes no new free quota.
std::string ModelVersion(const StoredModel& model);

AdmissionRequest AdmissionOf(const MeteredCall& call);
// Reserves the plan's prompts and the most they may put out; where limits lower the output, the plan's
// max_tokens follow. `rates` is filled whether it is admitted or not.
Result<std::shared_ptr<Meter>> AdmitPlan(UsageLedger& ledger, const MeteredCall& call, int32_t context_length,
                                         std::vector<ChoicePlan>& plan, RateState& rates);
MeterTimes TimesOf(const compute::FinishEvent& event);

}  // namespace tidepool::platform
