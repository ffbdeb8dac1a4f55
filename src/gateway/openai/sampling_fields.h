// The fields that chat and text completions share: sampling, stops, and what is known but not supported.
#pragma once

#include <string>
#include <vector>

#include "gateway/openai/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

const std::vector<Field>& SamplingFields();
// After FieldReader::Check. What a table cannot say is checked here: the parts of stop and logit_bias, min <=
// max.
Result<platform::SamplingRequest> ReadSampling(const FieldReader& reader, std::vector<std::string>& ignored);

inline constexpr std::string_view kServiceTierHelp =
    "priority: before other work of its account, refused last; flex: when there is time, at the batch price; "
    "default: "
    "neither; auto: as the deployment says";
Status ReadServiceTier(const FieldReader& reader, std::optional<compute::JobClass>& out);
std::string_view ServiceTierName(compute::JobClass priority);

// `stop`: a string or at most 16 strings.
Status ReadStop(const FieldReader& reader, std::vector<std::string>& out);

// Values of fields that ask for nothing.
bool IsEmptyOrFalse(const Json& value);  // false, [], {}, ""

// Token ids: an array of integers 0 .. 2^31 - 1, at most `limit`.
Result<std::vector<int32_t>> ReadTokens(const Json& value, std::string_view name, size_t limit);

inline constexpr size_t kMaxPromptTokens = 2'000'000;

}  // namespace tidepool::gateway::openai
