// OpenAI's request bodies, checked and turned into the platform's requests. Pure: JSON in, request or Error
// out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "gateway/instruction.h"
#include "gateway/openai/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

// How the client wants the answer.
struct ReplyOptions {
  bool stream = false;
  bool include_usage = false;  // a last chunk with the usage
  bool logprobs = false;
  bool tools = false;                            // tools were offered: an answer may begin with a call
  std::string service_tier;                      // where the request named one
  bool events = true;                            // the stream is server-sent events, so progress can go along
  std::vector<std::string> ignored;              // for the header Tidepool-Ignored
  std::vector<TemplateMember> template_members;  // and these, as far as the chat template does not read them
};

struct ParsedChat {
  platform::ChatRequest request;
  ReplyOptions reply;
};
struct ParsedCompletion {
  platform::CompletionRequest request;
  ReplyOptions reply;
};
struct ParsedEmbedding {
  platform::EmbeddingRequest request;
  bool base64 = false;
  int32_t dimensions = 0;  // 0: all
  Instruction instruction;
  std::vector<std::string> ignored;
};
struct ParsedTokenize {
  bool chat = false;
  platform::ChatRequest request;  // chat; else only `model` is used
  std::string text;
  bool add_special = true, parse_special = false;
  std::vector<std::string> ignored;
  std::vector<TemplateMember> template_members;
};
struct ParsedDetokenize {
  std::string model;
  std::vector<int32_t> tokens;
  std::vector<std::string> ignored;
};

Result<ParsedChat> ParseChat(const Json& body);
Result<ParsedCompletion> ParseCompletion(const Json& body);
Result<ParsedEmbedding> ParseEmbedding(const Json& body);
Result<ParsedTokenize> ParseTokenize(const Json& body);
Result<ParsedDetokenize> ParseDetokenize(const Json& body);

DialectRequest ChatDialect();
DialectRequest CompletionDialect();
DialectRequest EmbeddingDialect();
DialectRequest TokenizeDialect();
DialectRequest DetokenizeDialect();

Json ChatSchema();
Json CompletionSchema();
Json EmbeddingSchema();
Json TokenizeSchema();
Json DetokenizeSchema();

}  // namespace tidepool::gateway::openai
