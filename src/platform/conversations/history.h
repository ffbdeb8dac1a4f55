// From turns to the messages of a request, within the model's context.
#pragma once

#include <functional>

#include "platform/conversations/conversations.h"

namespace tidepool::platform {

// The OpenAI messages of a way through the tree: the system prompt, then each turn; files stand before what
// was said. Turns without text are left out, and what one side said twice in a row is joined.
nlohmann::ordered_json MessagesOf(std::string_view system, const std::vector<const Turn*>& path);

// How many of the oldest turns to leave out so that the rest fits `room` tokens; the last one always stays.
// `count` gives the tokens of what is left after leaving out n. Always leaves a person's turn first, as
// templates expect.
Result<int32_t> TurnsToDrop(const std::vector<const Turn*>& path, int64_t room,
                            const std::function<Result<int64_t>(int32_t dropped)>& count);

// The first line of what was said, at most 60 characters, for a conversation without a title.
std::string TitleFrom(std::string_view content);

}  // namespace tidepool::platform
