// `messages` of the OpenAI dialect, which the platform's requests hold as they are.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "gateway/openai/fields.h"

namespace tidepool::gateway::openai {

// What the messages have besides what is read.
struct MessageNotes {
  std::vector<std::string> ignored;
  std::vector<TemplateMember> template_members;
  bool continues = false;  // the last message is an answer that its prefix or partial wants continued
};

// Checked: roles, content (string or text parts), tool calls and their results. "developer" becomes "system".
// Members of a message stay for the model's chat template; those of parts and calls that no table lists do
// not: templates show these objects whole. Errors name the place: "messages[2].content[0].type".
Result<Json> ReadMessages(const Json& messages, MessageNotes& notes);

// The tables of messages, under `place` ("messages[]" or "input.messages[]") and `pointer` ("/messages") of
// `example`, whose messages are: system, user with a text part, assistant with a call and a refusal, tool.
std::vector<FieldTable> MessageTables(std::string_view place, std::string_view pointer,
                                      std::string_view example);

}  // namespace tidepool::gateway::openai
