// What the answer must be: response_format, and the fields of vLLM and llama.cpp that say the same.
#pragma once

#include "base/result.h"
#include "gateway/openai/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

// After FieldReader::Check. At most one of the fields may ask for something.
Result<platform::OutputFormat> ReadOutputFormat(const FieldReader& reader);

}  // namespace tidepool::gateway::openai
