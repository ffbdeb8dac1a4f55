// Reads server-sent events from a stream of bytes cut anywhere.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace tidepool::cli {

struct SseEvent {
  std::string name = "message";
  std::string data;  // several data lines joined by \n
};

// Not thread-safe. An event larger than `max_event_bytes` ends the stream (Feed returns false).
class SseParser {
 public:
  explicit SseParser(std::function<void(const SseEvent&)> on_event, size_t max_event_bytes = 64u << 20)
      : on_event_(std::move(on_event)), max_event_bytes_(max_event_bytes) {}
  bool Feed(std::string_view bytes);

 private:
  void Line(std::string_view line);

  std::function<void(const SseEvent&)> on_event_;
  size_t max_event_bytes_;
  std::string line_;
  bool after_return_ = false;  // a \n after \r belongs to it
  SseEvent event_;
  bool has_data_ = false;
};

}  // namespace tidepool::cli
