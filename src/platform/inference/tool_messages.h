// Tools and their calls in a conversation, in the shape that a model's template reads.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "platform/inference/model_assets.h"

namespace tidepool::platform {

// Arguments of earlier calls become objects, or text where the template wants text; ids become what Mistral's
// templates insist on (nine letters and digits). A template that does not show tools gets them in the system
// message (or, without that role, in the first user message), in the words of Qwen2.5's template; one that
// does not show calls gets them as text in the same form, and results as user messages. Fields of a wrong
// shape stay for the checks that follow.
nlohmann::ordered_json FitToolMessages(const ModelAssets& assets, nlohmann::ordered_json messages,
                                       const nlohmann::ordered_json& tools);

}  // namespace tidepool::platform
