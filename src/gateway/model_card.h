// What clients of every dialect are told that a model can do: the same whether it is loaded or not.
#pragma once

#include <string>
#include <vector>

#include "gateway/services.h"

namespace tidepool::gateway {

struct ModelCard {
  bool generates = false;  // answers: chat, completions, structured output
  bool ranks = false;      // scores for /v1/rerank; neither: embeddings
  bool tools = false;      // its template shows tools (others are shown them in a system message)
  bool thinks = false;     // reasons where it is asked to, or always
  // Prompt and answer together, as the server's settings allow; an answer alone may be as long. 0: not known.
  int32_t context_length = 0;
  platform::ModelDescription description;

  // "chat", "completion", "structured_output", "tools", "thinking"; or "embeddings", or "rerank".
  std::vector<std::string> Capabilities() const;
};

// A model whose files cannot be read (any more) shows what is known without them. Opens files the first time.
ModelCard CardOf(const Services& services, const platform::DeploymentStatus& status);

}  // namespace tidepool::gateway
