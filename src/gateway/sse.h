// Server-sent events (text/event-stream).
#pragma once

#include <string>
#include <string_view>

namespace tidepool::gateway {

inline constexpr std::string_view kEventStream = "text/event-stream; charset=utf-8";

// Appends "data: DATA\n\n". `data` holds no line break (JSON without indentation does not).
inline void AppendEvent(std::string& out, std::string_view data) {
  out.append("data: ").append(data).append("\n\n");
}
inline void AppendNamedEvent(std::string& out, std::string_view name, std::string_view data) {
  out.append("event: ").append(name).append("\ndata: ").append(data).append("\n\n");
}
// A comment: clients skip it, proxies see a living connection.
inline void AppendComment(std::string& out, std::string_view text) {
  out.append(": ").append(text).append("\n\n");
}

}  // namespace tidepool::gateway
