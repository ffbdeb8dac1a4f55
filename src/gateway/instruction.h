// What requests for embeddings say of their texts' side of a search, under the names that clients know.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "gateway/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway {

struct Instruction {
  std::string text;   // the client's own
  std::string query;  // the field that says "these are queries", so the makers' instruction; empty: none
};

// instruction, instruct, prompt_name, input_type and task, for the dialect's table.
std::span<const Field> InstructionFields();
// After FieldReader::Check. Values that say something else are named in `ignored`.
Status ReadInstruction(const FieldReader& reader, Instruction& out, std::vector<std::string>& ignored);
// Into the request. A model that reads no instruction refuses the client's own (in Inference::Embed); that
// the texts are queries says nothing to it, so the field is named in `ignored`.
void ApplyInstruction(const platform::Inference& inference, const Instruction& instruction,
                      platform::EmbeddingRequest& request, std::vector<std::string>& ignored);

}  // namespace tidepool::gateway
