// From requests to what the engine is asked: prompts rendered and tokenized, sampling merged with the model's
// defaults, constraints compiled. Knows no deployments' names and no metering.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "compute/engine/engine.h"
#include "platform/inference/constraints.h"
#include "platform/inference/deployments.h"
#include "platform/inference/inference.h"
#include "platform/inference/model_assets.h"
#include "platform/inference/prompt.h"
#include "platform/inference/running_generation.h"

namespace tidepool::platform {

// Who asks, which every request to the engine names.
template <typename Request, typename Asked>
void SetCaller(const Request& request, Asked& asked) {
  asked.request_id = request.request_id;
  asked.workspace = request.principal.workspace;
  asked.account = request.principal.account;
  asked.account_weights = request.principal.account_weights;
}

Error CannotGenerate(const std::string& id);
Error CannotRank(const std::string& id);

Result<RenderedPrompt> RenderRequest(const ModelAssets& assets, const ChatRequest& request);
Result<std::vector<ChoicePlan>> PlanChat(const ChatRequest& request, const ReadyModel& model,
                                         Constraints& constraints);
Result<std::vector<ChoicePlan>> PlanCompletion(const CompletionRequest& request, const ReadyModel& model,
                                               Constraints& constraints);
Result<compute::EmbedRequest> PlanEmbedding(const EmbeddingRequest& request, const ReadyModel& model);
// Puts request.instruction before its inputs, for models that were trained to read one; else kInvalid.
Status WriteInstruction(const StoredModel& model, const std::string& name, EmbeddingRequest& request);

}  // namespace tidepool::platform
