// Text files beside the weights: tokenizer, templates, configurations.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::formats {

// True for a relative path of plain names ("vocab.txt", "1_Pooling/config.json"): no "..", no root, no
// backslash or control character, at most four parts. Names come from hostile JSON.
bool IsSafeRelativePath(std::string_view name);

// The text of `folder`/`name`, at most `max_bytes`; nullopt if the name is unsafe, or the file is absent, too
// large or not a regular file. Links are followed: stores and hub caches are made of them, and whoever may
// make a link in the folder may as well copy the file. What fetches models must not create links from
// archives.
std::optional<std::string> ReadTextBeside(const std::filesystem::path& folder, std::string_view name,
                                          uint64_t max_bytes = 64u << 20);

}  // namespace tidepool::formats
