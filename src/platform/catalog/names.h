// Names of models: `name:tag`, with name one segment ("smollm2") or two ("org/repo"). Safe as paths of the
// store.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::platform {

struct ModelName {
  std::string name;  // "smollm2", "org/repo"
  std::string tag;   // "135m", "Q4_K_M"; empty when none was given
  std::string id() const { return tag.empty() ? name : name + ":" + tag; }
};

// Segments are 1..96 characters of [A-Za-z0-9._-] and start with a letter or digit; so neither "..", nor a
// leading dash or dot, nor a separator can reach a path. kInvalid otherwise.
Result<ModelName> ParseModelName(std::string_view text);

// A valid segment made of any text: other characters become '-'. "model" if nothing is left.
std::string ToNameSegment(std::string_view text);

bool EqualsIgnoringCase(std::string_view a, std::string_view b);
std::string ToLowerAscii(std::string_view text);

// True for a relative path of a model's file, such as "model.gguf" or "1_Pooling/config.json": segments of
// any characters but separators and control characters, none of them empty, "." or ".."; at most 16 deep, 255
// bytes each.
bool IsSafeFileName(std::string_view name);

}  // namespace tidepool::platform
