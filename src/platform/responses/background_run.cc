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
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  for (const auto& listener : listeners_) listener->OnEvent(type, data);
  bytes_ += type.size() + data.size();
  events_.push_back({std::string(type), std::move(data)});
  while (bytes_ > max_event_bytes_ && events_.size() > 1) {
    bytes_ -= events_.front().type.size() + events_.front().data.size();
    events_.pop_front();
    ++first_;
  }
}

void BackgroundRun::End() {
  const std::lock_guard lock(mutex_);
  EndAll();
  ended_ = true;
}

void BackgroundRun::EndListening() {
  const std::lock_guard lock(mutex_);
  EndAll();
  closed_ = true;
}

void BackgroundRun::EndAll() {
  for (const auto& listener : listeners_) listener->OnEnd();
  listeners_.clear();
}

bool BackgroundRun::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

size_t BackgroundRun::event_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

Status BackgroundRun::CheckListening(int64_t after) const {
  if (after + 1 < first_) {
    return Fail(ErrorKind::kInvalid, "events_gone",
                fmt::format("The events up to {} of this response are not kept any more; get it without "
                            "stream, or start after {}.",
                            first_ - 1, first_ - 1),
                "starting_after");
  }
  if (closed_) {
    return Fail(
        Error{ErrorKind::kUnavailable, "draining", "The server is stopping; try again later.", "", 5});
  }
  if (listeners_.size() >= static_cast<size_t>(max_listeners_)) {
    return Fail(Error{ErrorKind::kOverloaded, "too_many_listeners",
                      fmt::format("{} clients follow this response already.", max_listeners_), "", 5});
  }
  return {};
}

Status BackgroundRun::CanListen(int64_t after) const {
  const std::lock_guard lock(mutex_);
  return CheckListening(after);
}

void BackgroundRun::Release() {
  std::shared_ptr<Generation> released;  // let go of outside the mutex
  const std::lock_guard lock(mutex_);
  released.swap(generation_);
}

Status BackgroundRun::Listen(int64_t after, std::shared_ptr<ResponseListener> listener) {
  const std::lock_guard lock(mutex_);
  TP_TRY(CheckListening(after));
  // (A number beyond the last: nothing of what was.)
  for (auto i = static_cast<size_t>(after + 1 - first_); i < events_.size(); ++i)
    listener->OnEvent(events_[i].type, events_[i].data);
  if (ended_) {
    listener->OnEnd();
  } else {
    listeners_.push_back(std::move(listener));
  }
  return {};
}

void BackgroundRun::Remove(const std::shared_ptr<ResponseListener>& listener) {
  const std::lock_guard lock(mutex_);
  std::erase(listeners_, listener);
}

}  // namespace tidepool::platform
