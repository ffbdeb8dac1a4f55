// A hostile tokenizer.json: the input up to the first 0x00 byte is the file, the rest is text to encode with
// it. Whatever the file says, encoding and decoding end and stay in bounds.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::text;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const auto tokenizer = Tokenizer::FromJson(input.substr(0, end));
  if (!tokenizer || end == std::string_view::npos) return 0;
  const std::string_view text = input.substr(end + 1);
  for (const bool special : {false, true}) {
    const auto ids = (*tokenizer)->Encode(text, {.add_special = special, .parse_special = special});
    (void)(*tokenizer)->Decode(ids, special);
    for (const TokenId id : ids) {
      if (id < 0) std::abort();
      (void)(*tokenizer)->TokenBytes(id);
    }
  }
  return 0;
}
