#include "gateway/model_card.h"

namespace tidepool::gateway {

std::vector<std::string> ModelCard::Capabilities() const {
  if (ranks) return {"rerank"};
  if (!generates) return {"embeddings"};
  std::vector<std::string> out = {"chat", "completion", "structured_output"};
  if (tools) out.emplace_back("tools");
  if (thinks) out.emplace_back("thinking");
  return out;
}

ModelCard CardOf(const Services& services, const platform::DeploymentStatus& status) {
  ModelCard card;
  card.ranks = status.model.ranks;
  card.generates = status.model.generates && !card.ranks;
  card.context_length = status.context_length;
  auto described = services.inference.Describe(status.name());
  if (!described) return card;
  card.description = std::move(*described);
  card.tools = card.generates && card.description.tools;
  card.thinks = card.generates && card.description.reasons;
  return card;
}

}  // namespace tidepool::gateway
