// For tools/template_oracle.py: reads one JSON object a line {"template", "variables", "now"}, writes one a
// line
// {"text"} or {"error"}.
#include <iostream>
#include <memory>
#include <string>

#include "models/templates/chat_template.h"

int main() {
  using tidepool::templates::ChatTemplate;
  std::string line;
  std::string last_source;
  std::unique_ptr<ChatTemplate> last;
  std::ios::sync_with_stdio(false);
  while (std::getline(std::cin, line)) {
    const auto request = nlohmann::ordered_json::parse(line);
    nlohmann::ordered_json reply;
    const auto source = request.at("template").get<std::string>();
    if (!last || source != last_source) {
      last.reset();
      auto parsed = ChatTemplate::Parse(source);
      if (!parsed) {
        reply["error"] = parsed.error().message;
      } else {
        last = std::make_unique<ChatTemplate>(std::move(*parsed));
        last_source = source;
      }
    }
    if (last) {
      const auto text = last->Render(request.at("variables"), request.value("now", int64_t{0}));
      if (text) {
        reply["text"] = *text;
      } else {
        reply["error"] = text.error().message;
      }
    }
    std::cout << reply.dump() << "\n";
  }
  return 0;
}
