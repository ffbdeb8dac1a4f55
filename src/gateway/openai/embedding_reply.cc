#include "gateway/openai/embedding_reply.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/reply.h"

namespace tidepool::gateway::openai {

static_assert(std::endian::native == std::endian::little, "embeddings are sent as little-endian float32");

std::string Base64(const unsigned char* bytes, size_t size) {
  static constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((size + 2) / 3 * 4);
  for (size_t i = 0; i < size; i += 3) {
    const unsigned second = i + 1 < size ? bytes[i + 1] : 0u;
    const unsigned third = i + 2 < size ? bytes[i + 2] : 0u;
    const unsigned group = static_cast<unsigned>(bytes[i]) << 16 | second << 8 | third;
    out.push_back(kAlphabet[group >> 18 & 63]);
    out.push_back(kAlphabet[group >> 12 & 63]);
    out.push_back(i + 1 < size ? kAlphabet[group >> 6 & 63] : '=');
    out.push_back(i + 2 < size ? kAlphabet[group & 63] : '=');
  }
  return out;
}

std::vector<float> Shortened(const std::vector<float>& vector, size_t dimensions) {
  std::vector<float> out(vector.begin(), vector.begin() + static_cast<std::ptrdiff_t>(dimensions));
  double sum = 0;
  for (const float value : out) sum += static_cast<double>(value) * value;
  if (sum > 0) {
    const double scale = 1 / std::sqrt(sum);
    for (float& value : out) value = static_cast<float>(value * scale);
  }
  return out;
}

HttpResponse EmbeddingResponse(const Result<platform::EmbeddingReply>& reply, const EmbeddingFormat& format) {
  if (!reply) return ErrorResponse(reply.error());
  const size_t dimensions = static_cast<size_t>(format.dimensions);
  std::string out = R"({"object":"list","data":[)";
  for (size_t i = 0; i < reply->vectors.size(); ++i) {
    const std::vector<float>& whole = reply->vectors[i];
    if (dimensions > whole.size()) {
      return ErrorResponse(
          BadField("dimensions", fmt::format("dimensions is {}, but the vectors of {} have {}.", dimensions,
                                             reply->model, whole.size())));
    }
    const std::vector<float> vector = dimensions == 0 ? whole : Shortened(whole, dimensions);
    if (i > 0) out.push_back(',');
    fmt::format_to(std::back_inserter(out), R"({{"object":"embedding","index":{},"embedding":)", i);
    if (format.base64) {
      out.push_back('"');
      out.append(
          Base64(reinterpret_cast<const unsigned char*>(vector.data()), vector.size() * sizeof(float)));
      out.append("\"}");
      continue;
    }
    out.push_back('[');
    for (size_t j = 0; j < vector.size(); ++j) {
      if (j > 0) out.push_back(',');
      fmt::format_to(std::back_inserter(out), "{}", std::isfinite(vector[j]) ? vector[j] : 0.0f);
    }
    out.append("]}");
  }
  out.append(R"(],"model":)");
  AppendJsonString(out, reply->model);
  fmt::format_to(std::back_inserter(out), R"(,"usage":{{"prompt_tokens":{0},"total_tokens":{0}}}}})",
                 reply->prompt_tokens);
  HttpResponse response;
  response.body = std::move(out);
  return response;
}

}  // namespace tidepool::gateway::openai
