// From a query and documents to what a model that ranks reads.
#pragma once

#include "base/result.h"
#include "compute/engine/engine.h"
#include "platform/inference/deployments.h"
#include "platform/inference/inference.h"

namespace tidepool::platform {

// Encoders read the pair as they were trained: [CLS] query [SEP] document [SEP], RoBERTa's with two
// separators; Qwen3-Reranker reads its prompt around them (its model card), in which client's text is never a
// control token. A document that is too long is cut at its end; a query that leaves no room is kInvalid.
Result<compute::EmbedRequest> PlanRerank(const RerankRequest& request, const ReadyModel& model);

// A score from 0 to 1 of a model's logit.
float Relevance(float logit);

}  // namespace tidepool::platform
