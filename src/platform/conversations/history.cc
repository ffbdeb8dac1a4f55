#include "platform/conversations/history.h"

#include <algorithm>

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

// A fence longer than any run of backticks inside, so that a file cannot end it.
std::string FenceFor(std::string_view text) {
  size_t longest = 2, run = 0;
  for (const char c : text) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  return std::string(longest + 1, '`');
}

std::string Said(const Turn& turn) {
  std::string out;
  for (const AttachedFile& file : turn.files) {
    const std::string fence = FenceFor(file.text);
    out.append("File ").append(file.name).append(":\n").append(fence).append("\n").append(file.text);
    if (!file.text.ends_with('\n')) out.push_back('\n');
    out.append(fence).append("\n\n");
  }
  return out + turn.content;
}

}  // namespace

Json MessagesOf(std::string_view system, const std::vector<const Turn*>& path) {
  Json messages = Json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  for (const Turn* turn : path) {
    std::string text = turn->user ? Said(*turn) : turn->content;
    if (text.empty()) continue;
    const std::string_view role = turn->user ? "user" : "assistant";
    // After an answer that failed the person speaks twice; many templates want roles to take turns.
    if (!messages.empty() && messages.back()["role"] == role) {
      messages.back()["content"] = messages.back()["content"].get<std::string>() + "\n\n" + text;
    } else {
      messages.push_back({{"role", role}, {"content", std::move(text)}});
    }
  }
  return messages;
}

Result<int32_t> TurnsToDrop(const std::vector<const Turn*>& path, int64_t room,
                            const std::function<Result<int64_t>(int32_t)>& count) {
  // Where the rest may begin: at turns of the person.
  std::vector<int32_t> starts;
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i]->user) starts.push_back(static_cast<int32_t>(i));
  }
  if (starts.empty() || starts.front() != 0) starts.insert(starts.begin(), 0);
  // The first start that fits, by halving: a tokenizer is not asked for every turn.
  size_t low = 0, high = starts.size() - 1;
  TP_ASSIGN(const int64_t all, count(0));
  if (all <= room) return 0;
  low = std::min<size_t>(1, high);
  while (low < high) {
    const size_t middle = (low + high) / 2;
    TP_ASSIGN(const int64_t tokens, count(starts[middle]));
    if (tokens <= room) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return starts[low];
}

std::string TitleFrom(std::string_view content) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return "";
  content.remove_prefix(first);
  content = content.substr(0, content.find_first_of("\r\n"));
  constexpr size_t kMost = 60;
  size_t end = 0, characters = 0;
  while (end < content.size() && characters < kMost) {
    ++end;
    // Whole characters: bytes 10xxxxxx go on.
    while (end < content.size() && (static_cast<unsigned char>(content[end]) & 0xc0) == 0x80) ++end;
    ++characters;
  }
  std::string title(content.substr(0, end));
  if (end < content.size()) title += "…";
  return title;
}

}  // namespace tidepool::platform
