#include "gateway/ollama/pull_feed.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/ollama/reply.h"

namespace tidepool::gateway::ollama {
namespace {

constexpr auto kPeriod = std::chrono::milliseconds(250);
constexpr size_t kMaxWatchers = 256;

bool IsOver(platform::PullState state) {
  using enum platform::PullState;
  return state == kDone || state == kFailed || state == kCancelled;
}

Error Cancelled() { return {ErrorKind::kCancelled, "cancelled", "The pull was cancelled.", "", 0}; }

}  // namespace

std::string ProgressLine(const platform::PullStatus& pull) {
  using enum platform::PullState;
  if (pull.state == kFailed) return ErrorReply(pull.error).body;
  if (pull.state == kCancelled) return ErrorReply(Cancelled()).body;
  const bool fetching = pull.phase == "downloading" && pull.bytes_total > 0;
  std::string status = "pulling manifest";  // what Ollama calls finding out which files there are
  if (pull.state == kDone) {
    status = "success";
  } else if (pull.state == kPaused) {
    status = "paused";
  } else if (fetching) {
    status = "pulling " + pull.model;
  } else if (pull.phase == "verifying") {
    status = "verifying sha256 digest";
  } else if (pull.phase == "storing") {
    status = "writing manifest";
  }
  std::string out = R"({"status":)";
  AppendJsonString(out, status);
  if (fetching && pull.state != kDone) {
    out.append(R"(,"digest":)");
    AppendJsonString(out, pull.id);
    fmt::format_to(std::back_inserter(out), R"(,"total":{},"completed":{})", pull.bytes_total,
                   pull.bytes_done);
  }
  out.push_back('}');
  return out;
}

struct PullFeed::Watcher final : ExchangeListener {
  Watcher(std::shared_ptr<Exchange> to, std::string id, bool lines)
      : exchange(std::move(to)), pull(std::move(id)), stream(lines) {}
  void OnClosed() override { closed = true; }
  void OnPressure(bool high) override { slow = high; }

  const std::shared_ptr<Exchange> exchange;
  const std::string pull;
  const bool stream;
  std::atomic<bool> closed{false}, slow{false};
  std::string last;  // line
};

void PullFeed::Add(std::shared_ptr<Exchange> exchange, std::string pull, bool stream) {
  const auto watcher = std::make_shared<Watcher>(exchange, std::move(pull), stream);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || draining_) {
      return exchange->Send(ErrorReply(
          Error{ErrorKind::kUnavailable, "draining", "The server is stopping; try again later.", "", 5}));
    }
    if (watchers_.size() >= kMaxWatchers) {
      return exchange->Send(ErrorReply(
          Error{ErrorKind::kOverloaded, "too_many_watchers",
                fmt::format("{} clients watch pulls already; this one goes on: GET /api/v1/pulls/{}.",
                            kMaxWatchers, watcher->pull),
                "", 10}));
    }
    if (stream) exchange->Begin(200, kLines, {{"Cache-Control", "no-store"}});
    watchers_.push_back(watcher);
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  exchange->Listen(watcher);
  wake_.notify_one();
}

void PullFeed::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void PullFeed::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !draining_) {
    if (watchers_.empty()) {
      wake_.wait(lock, [this] { return stopping_ || !watchers_.empty(); });
      continue;
    }
    std::erase_if(watchers_, [](const auto& watcher) { return watcher->closed.load(); });
    const auto watchers = watchers_;
    lock.unlock();
    std::vector<std::shared_ptr<Watcher>> done;
    for (const auto& watcher : watchers) {
      const auto pull = catalog_.FindPull(watcher->pull);
      const bool over = !pull || IsOver(pull->state);
      if (watcher->slow && !over) continue;
      std::string line = pull ? ProgressLine(*pull) : ErrorReply(pull.error()).body;
      if (watcher->stream && line != watcher->last) watcher->exchange->Write(line + "\n");
      watcher->last = std::move(line);
      if (!over) continue;
      done.push_back(watcher);
      if (watcher->stream) {
        watcher->exchange->End();
      } else if (pull && pull->state == platform::PullState::kDone) {
        HttpResponse response;
        response.body = watcher->last;
        watcher->exchange->Send(std::move(response));
      } else {
        watcher->exchange->Send(ErrorReply(!pull                                         ? pull.error()
                                           : pull->state == platform::PullState::kFailed ? pull->error
                                                                                         : Cancelled()));
      }
    }
    lock.lock();
    std::erase_if(watchers_, [&](const auto& watcher) {
      return std::find(done.begin(), done.end(), watcher) != done.end();
    });
    wake_.wait_for(lock, kPeriod, [this] { return stopping_; });
  }
  const Error stopping{ErrorKind::kUnavailable, "draining", "The server is stopping; the pull goes on later.",
                       "", 5};
  for (const auto& watcher : watchers_) {
    if (watcher->stream) {
      watcher->exchange->Write(ErrorReply(stopping).body + "\n");
      watcher->exchange->End();
    } else {
      watcher->exchange->Send(ErrorReply(stopping));
    }
  }
  watchers_.clear();
}

}  // namespace tidepool::gateway::ollama
