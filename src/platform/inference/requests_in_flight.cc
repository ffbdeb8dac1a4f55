#include "platform/inference/requests_in_flight.h"

#include "base/ids.h"

namespace tidepool::platform {

struct RequestsInFlight::Registry {
  std::mutex mutex;
  uint64_t next = 1;
  std::map<uint64_t, std::weak_ptr<Entry>> entries;  // in the order they began
};

RequestsInFlight::Entry::Entry(std::shared_ptr<Registry> registry, RequestInFlight who,
                               std::function<void()> stop, Nanoseconds since)
    : registry_(std::move(registry)), who_(std::move(who)), stop_(std::move(stop)), since_(since) {}

void RequestsInFlight::Entry::OnProgress(const compute::ProgressEvent& event) {
  position_.store(event.queue_position, std::memory_order_relaxed);
  share_.store(event.share, std::memory_order_relaxed);
  phase_.store(event.phase, std::memory_order_relaxed);
}

void RequestsInFlight::Entry::End() {
  const std::lock_guard lock(registry_->mutex);
  registry_->entries.erase(number_);
}

RequestsInFlight::RequestsInFlight(const Clock& clock)
    : clock_(clock), registry_(std::make_shared<Registry>()) {}

std::shared_ptr<RequestsInFlight::Entry> RequestsInFlight::Begin(RequestInFlight who,
                                                                 std::function<void()> stop) {
  who.id = RandomId("run-");
  auto entry = std::make_shared<Entry>(registry_, std::move(who), std::move(stop), clock_.now());
  const std::lock_guard lock(registry_->mutex);
  entry->number_ = registry_->next++;
  registry_->entries.emplace(entry->number_, entry);
  return entry;
}

RequestInFlight RequestsInFlight::Shown(const Entry& entry) const {
  RequestInFlight shown = entry.who_;
  shown.age_s = static_cast<double>(clock_.now() - entry.since_) / 1e9;
  shown.phase = entry.phase_.load(std::memory_order_relaxed);
  shown.queue_position = entry.position_.load(std::memory_order_relaxed);
  shown.share = static_cast<double>(entry.share_.load(std::memory_order_relaxed));
  shown.prompt_tokens = entry.prompt_.load(std::memory_order_relaxed);
  shown.output_tokens = entry.output_.load(std::memory_order_relaxed);
  shown.stopped = entry.stopped();
  return shown;
}

std::vector<RequestInFlight> RequestsInFlight::List(const Wanted& wanted, size_t limit, size_t* all) const {
  // Let go of after the lock: the last holder of an entry takes it off the list.
  std::vector<std::shared_ptr<Entry>> held;
  {
    const std::lock_guard lock(registry_->mutex);
    held.reserve(registry_->entries.size());
    for (auto it = registry_->entries.rbegin(); it != registry_->entries.rend(); ++it) {
      if (auto entry = it->second.lock()) held.push_back(std::move(entry));
    }
  }
  std::vector<RequestInFlight> out;
  size_t found = 0;
  for (const auto& entry : held) {
    if (!wanted(entry->who_)) continue;
    ++found;
    if (out.size() < limit) out.push_back(Shown(*entry));
  }
  if (all != nullptr) *all = found;
  return out;
}

std::vector<RequestInFlight> RequestsInFlight::Stop(const Wanted& wanted) {
  std::vector<std::shared_ptr<Entry>> held;
  {
    const std::lock_guard lock(registry_->mutex);
    for (const auto& [number, entry] : registry_->entries) {
      if (auto alive = entry.lock(); alive && wanted(alive->who_)) held.push_back(std::move(alive));
    }
  }
  std::vector<RequestInFlight> out;
  for (const auto& entry : held) {
    entry->stopped_.store(true, std::memory_order_release);
    entry->stop_();
    out.push_back(Shown(*entry));
  }
  return out;
}

Error StoppedError() {
  return {ErrorKind::kCancelled, "request_stopped", "This request was stopped by who runs or administers it.",
          "", 0};
}

}  // namespace tidepool::platform
