// What a deployment changes about requests to its base model: names, defaults, template, limits; and what it
// asks of the pool.
//
// Threads: any.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "platform/catalog/deployment_book.h"
#include "platform/inference/deployments.h"
#include "platform/inference/elasticity.h"
#include "platform/inference/inference.h"
#include "platform/inference/running_generation.h"

namespace tidepool::platform {

// Defaults where the request is silent.
void FillIn(const DeploymentSpec& spec, SamplingRequest& sampling);
// Also thinking, and the system prompt in front of messages that have none (system or developer).
void FillIn(const DeploymentSpec& spec, ChatRequest& request);

// `own` (0: not known) or the deployment's, whichever is shorter.
int32_t ContextOf(const DeploymentSpec& spec, int32_t own);
// Each choice ends within `context` (ContextOf) and the deployment's output. kInvalid
// "context_length_exceeded", as the engine says it, when a prompt, or a prompt with the answer that the
// caller asked for (`named`), does not fit.
Status LimitPlan(const DeploymentSpec& spec, int32_t context, bool named, std::vector<ChoicePlan>& plan);

// By base model: pinned if one is, the longer times, the earlier deadlines, the larger weight.
std::map<std::string, PolicyChange> PolicyOfDeployments(
    const std::vector<std::shared_ptr<const DeploymentSpec>>& specs);

// Tokenizer and template of deployments with a template of their own, made once for each and base.
class DeploymentAssets {
 public:
  // As the deployment's requests see the model: its name, context and template.
  ReadyModel As(const std::shared_ptr<const DeploymentSpec>& spec, const ReadyModel& base);
  std::shared_ptr<const ModelAssets> Of(const std::shared_ptr<const DeploymentSpec>& spec,
                                        const std::shared_ptr<const ModelAssets>& base);
  void Keep(const DeploymentBook& book);  // forgets those that are gone

 private:
  struct Made {
    std::shared_ptr<const DeploymentSpec> spec;
    std::shared_ptr<const ModelAssets> base, assets;
  };
  std::mutex mutex_;
  std::map<std::string, Made> made_;  // by name
};

}  // namespace tidepool::platform
