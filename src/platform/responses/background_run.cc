#include "platform/responses/background_run.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::platform {

void BackgroundRun::SetGeneration(std::shared_ptr<Generation> generation) {
  {
    const std::lock_guard lock(mutex_);
    if (!ended_) generation_ = generation;
  }
  if (halted_) generation->Cancel();
}

void BackgroundRun::Cancel() {
  cancelled_ = true;
  Halt();
}

void BackgroundRun::Stop() { Halt(); }

void BackgroundRun::Halt() {
  halted_ = true;
  std::shared_ptr<Generation> generation;
  {
    const std::lock_guard lock(mutex_);
    generation = generation_;
  }
  if (generation) generation->Cancel();
}

void BackgroundRun::Publish(std::string_view type, std::string data) {
  std::vector<std::shared_ptr<ResponseListener>> listeners;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    bytes_ += type.size() + data.size();
    events_.push_back({std::string(type), std::move(data)});
    while (bytes_ > max_event_bytes_ && events_.size() > 1) {
      bytes_ -= events_.front().type.size() + events_.front().data.size();
      events_.pop_front();
      ++first_;
    }
    listeners = listeners_;
  }
  for (const auto& listener : listeners) listener->OnMore();
}

void BackgroundRun::End() {
  std::vector<std::shared_ptr<ResponseListener>> listeners;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    listeners.swap(listeners_);
  }
  for (const auto& listener : listeners) listener->OnMore();
}

void BackgroundRun::EndListening() {
  std::vector<std::shared_ptr<ResponseListener>> listeners;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    listeners.swap(listeners_);
  }
  for (const auto& listener : listeners) listener->OnMore();
}

bool BackgroundRun::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

size_t BackgroundRun::event_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

void BackgroundRun::Release() {
  std::shared_ptr<Generation> released;  // let go of outside the mutex
  const std::lock_guard lock(mutex_);
  released.swap(generation_);
}

Result<BackgroundRun::Piece> BackgroundRun::Read(int64_t after, size_t max_bytes) const {
  const std::lock_guard lock(mutex_);
  if (after + 1 < first_) {
    return Fail(ErrorKind::kInvalid, "events_gone",
                fmt::format("The events up to {} of this response are not kept any more; get it without "
                            "stream, or start after {}.",
                            first_ - 1, first_ - 1),
                "starting_after");
  }
  Piece piece;
  size_t bytes = 0;
  auto i = static_cast<size_t>(after + 1 - first_);
  for (; i < events_.size() && bytes < max_bytes; ++i) {
    bytes += events_[i].type.size() + events_[i].data.size();
    piece.events.push_back(events_[i]);
  }
  piece.over = closed_ || (ended_ && i >= events_.size());
  return piece;
}

Status BackgroundRun::Listen(std::shared_ptr<ResponseListener> listener) {
  const std::lock_guard lock(mutex_);
  if (closed_) {
    return Fail(
        Error{ErrorKind::kUnavailable, "draining", "The server is stopping; try again later.", "", 5});
  }
  if (listeners_.size() >= static_cast<size_t>(max_listeners_)) {
    return Fail(Error{ErrorKind::kOverloaded, "too_many_listeners",
                      fmt::format("{} clients follow this response already.", max_listeners_), "", 5});
  }
  if (!ended_) listeners_.push_back(std::move(listener));
  return {};
}

void BackgroundRun::Remove(const std::shared_ptr<ResponseListener>& listener) {
  const std::lock_guard lock(mutex_);
  std::erase(listeners_, listener);
}

}  // namespace tidepool::platform
