// TextStream: whatever the bytes, the options and the cuts, the total is the same and is well-formed. Stop
// strings may be off for the first bytes. Input: one byte of options, one of cut size and of how many bytes
// come with stop strings off, then fields up to 0x00: open tag, close tag, two stop strings; the rest is the
// answer.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "models/text/text_stream.h"
#include "models/text/utf8.h"

namespace {

using namespace tidepool::text;

std::string_view TakeField(std::string_view& input) {
  const size_t end = input.find('\0');
  const std::string_view field = input.substr(0, end);
  input = end == std::string_view::npos ? std::string_view() : input.substr(end + 1);
  return field;
}

TextDelta Run(const TextStreamOptions& options, std::string_view answer, size_t off, size_t cut) {
  TextStream stream(options);
  TextDelta total;
  for (size_t at = 0; at < answer.size();) {
    const size_t size = at < off ? std::min(cut, off - at) : cut;
    TextDelta delta;
    stream.Push(answer.substr(at, size), delta, at >= off);
    at += size;
    if (!IsValidUtf8(delta.content) || !IsValidUtf8(delta.reasoning)) std::abort();
    total.content += delta.content;
    total.reasoning += delta.reasoning;
    if (delta.stopped) {
      total.stopped = true;
      total.stop = delta.stop;
    }
  }
  stream.Finish(total);
  return total;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint8_t flags = data[0];
  const size_t cut = 1 + data[1] % 7;
  std::string_view input(reinterpret_cast<const char*>(data) + 2, size - 2);
  TextStreamOptions options;
  options.reasoning.open_tag = TakeField(input);
  options.reasoning.close_tag = TakeField(input);
  options.stop = {std::string(TakeField(input)), std::string(TakeField(input))};
  options.include_stop = flags & 1;
  options.strip_leading_space = flags & 2;
  options.reasoning.starts_inside = flags & 4;
  const size_t off = flags & 8 ? data[1] / 7 : 0;
  const TextDelta whole = Run(options, input, off, input.size() + 1);
  const TextDelta cuts = Run(options, input, off, cut);
  if (whole.stopped && off >= input.size()) std::abort();
  if (whole.content != cuts.content || whole.reasoning != cuts.reasoning || whole.stopped != cuts.stopped ||
      whole.stop != cuts.stop) {
    std::abort();
  }
  return 0;
}
