// What happens in one conversation now: its running turns, and its events for those who listen and those who
// come back.
//
// One mutex orders everything: an event's number, the text it changes and the listeners' calls belong
// together, so that a reader who has a turn's text as of number n and the events after n has every piece
// once. Listeners must not block.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "platform/conversations/conversations.h"

namespace tidepool::platform {

class ConversationChannel {
 public:
  // Numbers go on from `first`: above every number of an earlier channel of this conversation, so that
  // whoever comes back with one of those is told to read it again.
  ConversationChannel(uint64_t first, size_t max_recent_bytes, int64_t max_listeners)
      : sequence_(first),
        oldest_(first),
        max_recent_bytes_(max_recent_bytes),
        max_listeners_(max_listeners) {}

  // The running turns as they are, and the number of the last event they hold.
  uint64_t Snapshot(std::map<std::string, Turn>& running) const;

  void Begin(const Turn& turn);  // kTurn; the turn runs from now on
  void Grow(const std::string& turn, std::string_view content, std::string_view reasoning);
  void Progress(const std::string& turn, const compute::ProgressEvent& progress);
  std::optional<Turn> Running(const std::string& turn) const;
  void End(const Turn& turn);   // kTurn; it runs no more
  void Show(const Turn& turn);  // kTurn of one that does not run
  void Changed(const Conversation& conversation);

  Status Listen(uint64_t sequence, std::shared_ptr<ConversationListener> listener);
  void Remove(const std::shared_ptr<ConversationListener>& listener);
  void EndAll();

  bool idle() const;  // nobody listens, nothing runs
  size_t running() const;

 private:
  // Under mutex_.
  void Publish(ConversationEvent event);
  void PublishTurn(const Turn& turn);

  mutable std::mutex mutex_;
  uint64_t sequence_;  // of the last event
  uint64_t oldest_;    // events after this number are in recent_
  const size_t max_recent_bytes_;
  const int64_t max_listeners_;
  size_t recent_bytes_ = 0;
  std::deque<ConversationEvent> recent_;
  std::map<std::string, Turn> running_;
  std::vector<std::shared_ptr<ConversationListener>> listeners_;
};

}  // namespace tidepool::platform
