// Tokenizers from GGUF metadata (tokenizer.ggml.*).
#pragma once

#include <memory>

#include "base/result.h"
#include "models/formats/checkpoint.h"
#include "models/text/tokenizer.h"

namespace tidepool::text {

Result<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const formats::Checkpoint& checkpoint);

}  // namespace tidepool::text
