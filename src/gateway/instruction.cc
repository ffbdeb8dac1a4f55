#include "gateway/instruction.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::gateway {
namespace {

using enum FieldType;
using enum Treatment;

constexpr Field kInstructionFields[] = {
    {"instruction", kString, kRead,
     "Of queries: what is looked for, put before each text as Qwen3-Embedding has it; other models refuse "
     "it"},
    {"instruct", kString, kRead, "Bailian's name of instruction"},
    {"prompt_name", kString, kRead,
     "text-embeddings-inference's: query puts the makers' instruction before each text, of models that read "
     "one; else ignored"},
    {"input_type", kString, kRead, "Cohere's, Voyage's: so do query and search_query here"},
    {"task", kString, kRead, "Jina's: so does retrieval.query here"},
};

// Values that ask for an instruction, and those that ask for none.
constexpr std::string_view kQueries[] = {"query", "search_query", "retrieval.query"};
constexpr std::string_view kDocuments[] = {"document",          "passage", "search_document",
                                           "retrieval.passage", "text",    ""};

bool IsOneOf(std::string_view value, std::span<const std::string_view> values) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

std::span<const Field> InstructionFields() { return kInstructionFields; }

Status ReadInstruction(const FieldReader& reader, Instruction& out, std::vector<std::string>& ignored) {
  const auto text = reader.String("instruction"), older = reader.String("instruct");
  if (text && older && *text != *older)
    return Fail(BadField("instruct", "instruct and instruction differ; send one of them."));
  out.text = text.value_or(older.value_or(""));
  for (const char* name : {"prompt_name", "input_type", "task"}) {
    const auto side = reader.String(name);
    if (!side || IsOneOf(*side, kDocuments)) continue;
    if (out.text.empty() && out.query.empty() && IsOneOf(*side, kQueries)) {
      out.query = name;
    } else if (!IsOneOf(*side, kQueries)) {
      AddIgnored({name}, ignored);
    }
  }
  return {};
}

void ApplyInstruction(const platform::Inference& inference, const Instruction& instruction,
                      platform::EmbeddingRequest& request, std::vector<std::string>& ignored) {
  request.instruction = instruction.text;
  if (!instruction.text.empty() || instruction.query.empty()) return;
  const auto found = inference.Find(request.model);
  const bool tokens = std::any_of(request.inputs.begin(), request.inputs.end(),
                                  [](const platform::Prompt& input) { return input.is_tokens; });
  if (found && !tokens && platform::ReadsInstruction(found->model)) {
    request.instruction = platform::kSearchInstruction;
  } else {
    AddIgnored({instruction.query}, ignored);
  }
}

}  // namespace tidepool::gateway
