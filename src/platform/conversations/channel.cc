#include "platform/conversations/channel.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::platform {
namespace {

size_t BytesOf(const ConversationEvent& event) {
  size_t bytes = 256 + event.content.size() + event.reasoning.size();
  if (event.turn) {
    bytes += event.turn->content.size() + event.turn->reasoning.size();
    for (const AttachedFile& file : event.turn->files) bytes += file.text.size();
  }
  if (event.conversation) bytes += event.conversation->system.size();
  return bytes;
}

}  // namespace

uint64_t ConversationChannel::Snapshot(std::map<std::string, Turn>& running) const {
  const std::lock_guard lock(mutex_);
  running = running_;
  return sequence_;
}

void ConversationChannel::Publish(ConversationEvent event) {
  event.sequence = ++sequence_;
  for (const auto& listener : listeners_) listener->OnEvent(event);
  recent_bytes_ += BytesOf(event);
  recent_.push_back(std::move(event));
  while (recent_bytes_ > max_recent_bytes_ && !recent_.empty()) {
    recent_bytes_ -= BytesOf(recent_.front());
    oldest_ = recent_.front().sequence;
    recent_.pop_front();
  }
}

void ConversationChannel::PublishTurn(const Turn& turn) {
  ConversationEvent event;
  event.kind = ConversationEvent::Kind::kTurn;
  event.turn = turn;
  Publish(std::move(event));
}

void ConversationChannel::Begin(const Turn& turn) {
  const std::lock_guard lock(mutex_);
  running_[turn.id] = turn;
  PublishTurn(turn);
}

void ConversationChannel::Grow(const std::string& turn, std::string_view content,
                               std::string_view reasoning) {
  if (content.empty() && reasoning.empty()) return;
  const std::lock_guard lock(mutex_);
  const auto found = running_.find(turn);
  if (found == running_.end()) return;
  found->second.content.append(content);
  found->second.reasoning.append(reasoning);
  ConversationEvent event;
  event.kind = ConversationEvent::Kind::kDelta;
  event.turn_id = turn;
  event.content = content;
  event.reasoning = reasoning;
  Publish(std::move(event));
}

void ConversationChannel::Progress(const std::string& turn, const compute::ProgressEvent& progress) {
  const std::lock_guard lock(mutex_);
  if (!running_.contains(turn)) return;
  ConversationEvent event;
  event.kind = ConversationEvent::Kind::kProgress;
  event.turn_id = turn;
  event.progress = progress;
  Publish(std::move(event));
}

std::optional<Turn> ConversationChannel::Running(const std::string& turn) const {
  const std::lock_guard lock(mutex_);
  const auto found = running_.find(turn);
  return found == running_.end() ? std::nullopt : std::optional<Turn>(found->second);
}

void ConversationChannel::End(const Turn& turn) {
  const std::lock_guard lock(mutex_);
  running_.erase(turn.id);
  PublishTurn(turn);
}

void ConversationChannel::Show(const Turn& turn) {
  const std::lock_guard lock(mutex_);
  PublishTurn(turn);
}

void ConversationChannel::Changed(const Conversation& conversation) {
  const std::lock_guard lock(mutex_);
  ConversationEvent event;
  event.kind = ConversationEvent::Kind::kConversation;
  event.conversation = conversation;
  event.conversation->running = !running_.empty();
  Publish(std::move(event));
}

Status ConversationChannel::Listen(uint64_t sequence, std::shared_ptr<ConversationListener> listener) {
  const std::lock_guard lock(mutex_);
  if (listeners_.size() >= static_cast<size_t>(max_listeners_)) {
    return Fail(Error{ErrorKind::kOverloaded, "too_many_listeners",
                      fmt::format("{} pages follow this conversation already; close one.", max_listeners_),
                      "", 10});
  }
  if (sequence < oldest_ || sequence > sequence_) {
    ConversationEvent event;
    event.sequence = sequence_;
    listener->OnEvent(event);
  } else {
    for (const ConversationEvent& event : recent_) {
      if (event.sequence > sequence) listener->OnEvent(event);
    }
  }
  listeners_.push_back(std::move(listener));
  return {};
}

void ConversationChannel::Remove(const std::shared_ptr<ConversationListener>& listener) {
  const std::lock_guard lock(mutex_);
  std::erase(listeners_, listener);
}

void ConversationChannel::EndAll() {
  const std::lock_guard lock(mutex_);
  for (const auto& listener : listeners_) listener->OnEnd();
  listeners_.clear();
}

bool ConversationChannel::idle() const {
  const std::lock_guard lock(mutex_);
  return listeners_.empty() && running_.empty();
}

size_t ConversationChannel::running() const {
  const std::lock_guard lock(mutex_);
  return running_.size();
}

}  // namespace tidepool::platform
