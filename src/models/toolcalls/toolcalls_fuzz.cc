// Parsers of tool calls: whatever the text and the cuts, the parts are the same, whole calls are well-formed,
// and without whole calls nothing is swallowed. Input: one byte of format, one of cut size, the answer.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "models/toolcalls/parser.h"

namespace {

using namespace tidepool::toolcalls;

struct Total {
  std::string text, calls;
  int whole = 0;
};

Total Run(Format format, std::string_view answer, size_t cut) {
  const auto parser = MakeParser(format, {{"f", {{"properties", {{"a", {{"type", "integer"}}}}}}}});
  std::vector<Part> parts;
  for (size_t at = 0; at < answer.size(); at += cut) parser->Push(answer.substr(at, cut), parts);
  parser->Finish(parts);
  Total total;
  std::string arguments;
  for (const Part& part : parts) {
    switch (part.kind) {
      case Part::Kind::kText: total.text += part.text; break;
      case Part::Kind::kCall:
        total.calls += "\n" + part.text + "\n";
        arguments.clear();
        break;
      case Part::Kind::kArguments:
        total.calls += part.text;
        arguments += part.text;
        break;
      case Part::Kind::kEnd:
        ++total.whole;
        for (char& c : arguments) c = static_cast<unsigned char>(c) < 0x80 ? c : 'x';  // cut characters stay
        if (!nlohmann::json::parse(arguments, nullptr, false).is_object()) std::abort();
        break;
      case Part::Kind::kBroken: total.calls += "\nbroken"; break;
    }
  }
  return total;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const Format format = Formats()[data[0] % Formats().size()];
  const std::string_view answer(reinterpret_cast<const char*>(data) + 2, size - 2);
  const Total whole = Run(format, answer, answer.size() + 1);
  const Total cuts = Run(format, answer, 1 + data[1] % 7);
  if (whole.text != cuts.text || whole.calls != cuts.calls) std::abort();
  if (whole.whole == 0 && whole.text != answer) std::abort();
  return 0;
}
