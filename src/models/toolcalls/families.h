// The parsers, one a format (format.h has the shapes).
#pragma once

#include <memory>
#include <vector>

#include "models/toolcalls/parser.h"

namespace tidepool::toolcalls {

std::unique_ptr<Parser> MakeHermesParser(std::vector<Tool> tools);
std::unique_ptr<Parser> MakeQwenXmlParser(std::vector<Tool> tools);
std::unique_ptr<Parser> MakeMistralParser(std::vector<Tool> tools);
std::unique_ptr<Parser> MakeDeepSeekParser(std::vector<Tool> tools);
std::unique_ptr<Parser> MakeKimiParser(std::vector<Tool> tools);
std::unique_ptr<Parser> MakeGlmParser(std::vector<Tool> tools);
std::unique_ptr<Parser> MakeDsmlParser(std::vector<Tool> tools);
std::unique_ptr<Parser> MakeGemmaParser(std::vector<Tool> tools);
// `llama`: also after <|python_tag|>; else also inside <tool_call>, in a list and in a fence.
std::unique_ptr<Parser> MakeJsonAnswerParser(std::vector<Tool> tools, bool llama);

}  // namespace tidepool::toolcalls
