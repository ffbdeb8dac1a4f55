// What an operator's call changed, as its handler saw it, for the audit log's row of that call.
//
// Threads: written by the handler before it answers, read when the exchange is over.
#pragma once

#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "gateway/http.h"

namespace tidepool::gateway {

class ActionNote {
 public:
  // Objects of the same names, or null: what there was, what there is.
  void Set(nlohmann::ordered_json before, nlohmann::ordered_json after) {
    const std::lock_guard lock(mutex_);
    before_ = std::move(before);
    after_ = std::move(after);
  }
  // Nothing was done: the answer is one of before (Idempotency-Key).
  void Replayed() {
    const std::lock_guard lock(mutex_);
    replayed_ = true;
  }
  bool replayed() const {
    const std::lock_guard lock(mutex_);
    return replayed_;
  }
  std::pair<nlohmann::ordered_json, nlohmann::ordered_json> Get() const {
    const std::lock_guard lock(mutex_);
    return {before_, after_};
  }

 private:
  mutable std::mutex mutex_;
  nlohmann::ordered_json before_, after_;
  bool replayed_ = false;
};

inline void NoteChange(const HttpRequest& request, nlohmann::ordered_json before,
                       nlohmann::ordered_json after) {
  if (request.note != nullptr) request.note->Set(std::move(before), std::move(after));
}

}  // namespace tidepool::gateway
