// Embedding vectors as OpenAI spells them.
#pragma once

#include <string>
#include <vector>

#include "gateway/http.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

struct EmbeddingFormat {
  bool base64 = false;     // little-endian float32 instead of an array of numbers
  int32_t dimensions = 0;  // 0: all; fewer: the first ones, normalised again (Matryoshka)
};

HttpResponse EmbeddingResponse(const Result<platform::EmbeddingReply>& reply, const EmbeddingFormat& format);

// RFC 4648, with padding.
std::string Base64(const unsigned char* bytes, size_t size);
// The first `dimensions` numbers scaled to length 1; a zero vector stays zero.
std::vector<float> Shortened(const std::vector<float>& vector, size_t dimensions);

}  // namespace tidepool::gateway::openai
