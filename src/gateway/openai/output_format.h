// What the answer must be: response_format, and the fields of vLLM and llama.cpp that say the same.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "gateway/openai/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

// After FieldReader::Check. At most one of the fields may ask for something.
Result<platform::OutputFormat> ReadOutputFormat(const FieldReader& reader, std::vector<std::string>& ignored);

// `prefix`: of the places and pointers: "" or "parameters". `example` has a response_format with a schema.
std::vector<FieldTable> ResponseFormatTables(std::string_view prefix, std::string_view example);
// Its example has structured_outputs.
FieldTable StructuredOutputsTable(std::string_view example);

}  // namespace tidepool::gateway::openai
