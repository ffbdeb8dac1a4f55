#include "compute/kv/kv_mover.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <limits>
#include <mutex>
#include <thread>

#include "base/check.h"

namespace tidepool::compute {
namespace {

constexpr double kRecentBytes = 64.0 * (1 << 20);

uint64_t TotalBytes(const std::vector<KvCopy>& copies) {
  uint64_t bytes = 0;
  for (const KvCopy& copy : copies) bytes += copy.bytes;
  return bytes;
}

tl::unexpected<Error> MoverFull(int32_t jobs) {
  Error error{.kind = ErrorKind::kOverloaded,
              .code = "kv_mover_full",
              .message = fmt::format("{} KV moves wait already", jobs),
              .param = {},
              .retry_after_s = 0};
  return Fail(std::move(error));
}

void CopyInHostMemory(const KvCopy& chunk, KvDirection) {
  std::memcpy(chunk.destination, chunk.source, chunk.bytes);
}

// Speed over the last bytes: both sums fade alike.
struct RecentSpeed {
  double bytes = 0, seconds = 0;
  void Add(double more_bytes, double more_seconds) {
    const double keep = std::max(0.0, 1 - more_bytes / kRecentBytes);
    bytes = bytes * keep + more_bytes;
    seconds = seconds * keep + more_seconds;
  }
  double bytes_per_s() const { return seconds > 0 ? bytes / seconds : 0; }
};

struct QueuedMove {
  uint64_t id = 0;
  KvMoverJob job;
  uint64_t left = 0;
  size_t copy = 0;    // the next byte to copy is in this one
  size_t offset = 0;  // of this byte in it
  bool cancelled = false;
  Nanoseconds ready_at = 0;  // simulated: submitted then
  double left_simulated = 0;
};
using MoveQueue = std::deque<std::unique_ptr<QueuedMove>>;

size_t IndexOfDirection(KvDirection direction) { return direction == KvDirection::kToHost ? 0 : 1; }

// ---- the real one ------------------------------------------------------------------------------------

class ThreadKvMover final : public KvMover {
 public:
  explicit ThreadKvMover(KvMoverOptions options) : options_(std::move(options)) {
    CHECK(options_.chunk_bytes > 0 && options_.max_jobs > 0);
    if (!options_.copy) options_.copy = CopyInHostMemory;
    thread_ = std::thread([this] { Run(); });
  }

  ~ThreadKvMover() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  Result<uint64_t> Submit(KvMoverJob job) override {
    auto move = std::make_unique<QueuedMove>();
    move->left = TotalBytes(job.copies);
    move->job = std::move(job);
    std::lock_guard lock(mutex_);
    if (stopping_) {
      return Fail(ErrorKind::kUnavailable, "kv_mover_stopping", "KV is not moved any more: shutting down");
    }
    if (waiting_ >= options_.max_jobs) return MoverFull(waiting_);
    move->id = next_id_++;
    const uint64_t id = move->id;
    const size_t direction = IndexOfDirection(move->job.direction);
    ++waiting_;
    totals_[direction].queued_bytes += move->left;
    queues_[direction].push_back(std::move(move));
    wake_.notify_one();
    return id;
  }

  void Cancel(uint64_t job) override {
    std::lock_guard lock(mutex_);
    for (MoveQueue& queue : queues_) {
      for (auto move = queue.begin(); move != queue.end(); ++move) {
        if ((*move)->id != job) continue;
        (*move)->cancelled = true;
        if (move->get() != running_) {  // answered before anything else is copied
          cancelled_.push_back(std::move(*move));
          queue.erase(move);
        }
        wake_.notify_one();
        return;
      }
    }
  }

  KvMoverStats stats() const override {
    std::lock_guard lock(mutex_);
    KvMoverStats stats{totals_[0], totals_[1]};
    stats.to_host.queued = static_cast<int32_t>(queues_[0].size());
    stats.to_device.queued = static_cast<int32_t>(queues_[1].size());
    stats.to_host.recent_bytes_per_s = recent_[0].bytes_per_s();
    stats.to_device.recent_bytes_per_s = recent_[1].bytes_per_s();
    return stats;
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stopping_ || waiting_ > 0; });
      if (stopping_) {
        for (MoveQueue& queue : queues_) {
          for (auto& move : queue) cancelled_.push_back(std::move(move));
          queue.clear();
        }
      }
      if (!cancelled_.empty()) {
        auto move = std::move(cancelled_.front());
        cancelled_.pop_front();
        Answer(lock, std::move(move), KvMoveOutcome::kCancelled);
        continue;
      }
      if (stopping_) return;
      size_t direction = 1 - last_direction_;
      if (queues_[direction].empty()) direction = last_direction_;
      last_direction_ = direction;
      Step(lock, direction);
    }
  }

  // One chunk of the first job.
  void Step(std::unique_lock<std::mutex>& lock, size_t direction) {
    MoveQueue& queue = queues_[direction];
    QueuedMove& move = *queue.front();
    running_ = &move;
    lock.unlock();
    const Nanoseconds begin = clock_.now();
    const uint64_t copied = CopyChunk(move);
    const double seconds = static_cast<double>(clock_.now() - begin) * 1e-9;
    lock.lock();
    running_ = nullptr;
    move.left -= copied;
    totals_[direction].queued_bytes -= copied;
    totals_[direction].moved_bytes += copied;
    totals_[direction].busy_s += seconds;
    if (copied > 0) recent_[direction].Add(static_cast<double>(copied), seconds);
    if (move.left > 0 && !move.cancelled) return;
    auto finished = std::move(queue.front());
    queue.pop_front();
    const bool done = finished->left == 0;  // a cancel that came too late changes nothing
    if (done) ++totals_[direction].jobs_done;
    Answer(lock, std::move(finished), done ? KvMoveOutcome::kDone : KvMoveOutcome::kCancelled);
  }

  uint64_t CopyChunk(QueuedMove& move) {
    uint64_t copied = 0;
    while (copied < options_.chunk_bytes && move.copy < move.job.copies.size()) {
      const KvCopy& whole = move.job.copies[move.copy];
      const size_t bytes = std::min<uint64_t>(whole.bytes - move.offset, options_.chunk_bytes - copied);
      if (bytes > 0) {
        options_.copy({whole.source + move.offset, whole.destination + move.offset, bytes},
                      move.job.direction);
      }
      copied += bytes;
      move.offset += bytes;
      if (move.offset == whole.bytes) {
        ++move.copy;
        move.offset = 0;
      }
    }
    return copied;
  }

  void Answer(std::unique_lock<std::mutex>& lock, std::unique_ptr<QueuedMove> move, KvMoveOutcome outcome) {
    --waiting_;
    totals_[IndexOfDirection(move->job.direction)].queued_bytes -= move->left;
    lock.unlock();
    if (move->job.done) move->job.done(outcome);
    move.reset();
    lock.lock();
  }

  KvMoverOptions options_;
  const SteadyClock clock_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::array<MoveQueue, 2> queues_;
  MoveQueue cancelled_;
  int32_t waiting_ = 0;                  // in queues_ and cancelled_
  const QueuedMove* running_ = nullptr;  // a chunk of it is being copied
  size_t last_direction_ = 0;
  uint64_t next_id_ = 1;
  bool stopping_ = false;
  std::array<KvMoverStats::Direction, 2> totals_;
  std::array<RecentSpeed, 2> recent_;
  std::thread thread_;
};

// ---- the simulated one -------------------------------------------------------------------------------

class SimulatedKvMoverImpl final : public SimulatedKvMover {
 public:
  SimulatedKvMoverImpl(const Clock& clock, SimulatedKvMoverOptions options)
      : clock_(clock), options_(options), now_(clock.now()) {
    CHECK(options.to_host_bytes_per_s > 0 && options.to_device_bytes_per_s > 0);
    CHECK(options.shared_speed > 0 && options.shared_speed <= 1 && options.max_jobs > 0);
  }

  ~SimulatedKvMoverImpl() override {
    stopping_ = true;
    for (MoveQueue& queue : queues_) {
      for (auto& move : queue) cancelled_.push_back(std::move(move));
      queue.clear();
    }
    AnswerCancelled();
  }

  Result<uint64_t> Submit(KvMoverJob job) override {
    if (stopping_) {
      return Fail(ErrorKind::kUnavailable, "kv_mover_stopping", "KV is not moved any more: shutting down");
    }
    const size_t waiting = queues_[0].size() + queues_[1].size() + cancelled_.size();
    if (waiting >= static_cast<size_t>(options_.max_jobs)) return MoverFull(static_cast<int32_t>(waiting));
    auto move = std::make_unique<QueuedMove>();
    move->id = next_id_++;
    move->left = TotalBytes(job.copies);
    move->left_simulated = static_cast<double>(move->left);
    // From `done` it is the simulated moment, which the clock may have passed.
    move->ready_at = advancing_ ? now_ : clock_.now();
    const size_t direction = IndexOfDirection(job.direction);
    move->job = std::move(job);
    totals_[direction].queued_bytes += move->left;
    const uint64_t id = move->id;
    queues_[direction].push_back(std::move(move));
    return id;
  }

  void Cancel(uint64_t job) override {
    for (MoveQueue& queue : queues_) {
      for (auto move = queue.begin(); move != queue.end(); ++move) {
        if ((*move)->id != job) continue;
        cancelled_.push_back(std::move(*move));
        queue.erase(move);
        return;
      }
    }
  }

  void Advance() override {
    if (advancing_) return;
    advancing_ = true;
    const Nanoseconds target = clock_.now();
    for (;;) {
      AnswerCancelled();
      const Lines lines = CurrentLines();
      if (const auto ended = Ended(lines, now_)) {
        Finish(*ended);
        continue;
      }
      if (now_ >= target) break;
      const Nanoseconds next = std::min(NextEvent(lines, now_), target);
      Move(lines, next);
      now_ = next;
    }
    advancing_ = false;
  }

  std::optional<Nanoseconds> next_completion() const override {
    if (!cancelled_.empty()) return now_;
    Lines lines = CurrentLines();
    if (!lines[0].present && !lines[1].present) return std::nullopt;
    Nanoseconds at = now_;
    while (!Ended(lines, at)) {
      const Nanoseconds next = NextEvent(lines, at);
      for (size_t d : {0, 1}) lines[d].left -= MovedUntil(lines, d, at, next);
      at = next;
    }
    return at;
  }

  KvMoverStats stats() const override {
    KvMoverStats stats{totals_[0], totals_[1]};
    stats.to_host.queued = static_cast<int32_t>(queues_[0].size());
    stats.to_device.queued = static_cast<int32_t>(queues_[1].size());
    stats.to_host.recent_bytes_per_s = recent_[0].bytes_per_s();
    stats.to_device.recent_bytes_per_s = recent_[1].bytes_per_s();
    return stats;
  }

 private:
  static constexpr double kNothing = 1e-3;  // bytes, below rounding errors of a job of terabytes
  // The first job of each direction. `left` is only read while the job is ready.
  struct Line {
    bool present = false;
    Nanoseconds ready_at = 0;
    double left = 0;
    bool Moves(Nanoseconds at) const { return present && ready_at <= at; }
  };
  using Lines = std::array<Line, 2>;

  Lines CurrentLines() const {
    Lines lines;
    for (size_t d : {0, 1}) {
      if (queues_[d].empty()) continue;
      lines[d] = {true, queues_[d].front()->ready_at, queues_[d].front()->left_simulated};
    }
    return lines;
  }

  double BytesPerS(const Lines& lines, size_t d, Nanoseconds at) const {
    const double alone = d == 0 ? options_.to_host_bytes_per_s : options_.to_device_bytes_per_s;
    return lines[1 - d].Moves(at) ? alone * options_.shared_speed : alone;
  }

  std::optional<size_t> Ended(const Lines& lines, Nanoseconds at) const {
    for (size_t d : {0, 1}) {
      if (lines[d].Moves(at) && lines[d].left < kNothing) return d;
    }
    return std::nullopt;
  }

  // Speeds do not change before it.
  Nanoseconds NextEvent(const Lines& lines, Nanoseconds at) const {
    Nanoseconds next = std::numeric_limits<Nanoseconds>::max();
    for (size_t d : {0, 1}) {
      if (!lines[d].present) continue;
      const double seconds = lines[d].left / BytesPerS(lines, d, at);
      next = std::min(next, lines[d].Moves(at) ? at + static_cast<Nanoseconds>(std::ceil(seconds * 1e9))
                                               : lines[d].ready_at);
    }
    return next;
  }

  double MovedUntil(const Lines& lines, size_t d, Nanoseconds from, Nanoseconds until) const {
    if (!lines[d].Moves(from)) return 0;
    return std::min(lines[d].left, BytesPerS(lines, d, from) * static_cast<double>(until - from) * 1e-9);
  }

  void Move(const Lines& lines, Nanoseconds until) {
    const double seconds = static_cast<double>(until - now_) * 1e-9;
    for (size_t d : {0, 1}) {
      if (!lines[d].Moves(now_)) continue;
      const double moved = MovedUntil(lines, d, now_, until);
      queues_[d].front()->left_simulated -= moved;
      totals_[d].busy_s += seconds;
      recent_[d].Add(moved, seconds);
    }
  }

  void Finish(size_t direction) {
    auto move = std::move(queues_[direction].front());
    queues_[direction].pop_front();
    // The job behind it could not start before.
    if (!queues_[direction].empty()) {
      Nanoseconds& ready_at = queues_[direction].front()->ready_at;
      ready_at = std::max(ready_at, now_);
    }
    for (const KvCopy& copy : move->job.copies) CopyInHostMemory(copy, move->job.direction);
    totals_[direction].queued_bytes -= move->left;
    totals_[direction].moved_bytes += move->left;
    ++totals_[direction].jobs_done;
    if (move->job.done) move->job.done(KvMoveOutcome::kDone);
  }

  void AnswerCancelled() {
    while (!cancelled_.empty()) {
      auto move = std::move(cancelled_.front());
      cancelled_.pop_front();
      totals_[IndexOfDirection(move->job.direction)].queued_bytes -= move->left;
      if (move->job.done) move->job.done(KvMoveOutcome::kCancelled);
    }
  }

  const Clock& clock_;
  const SimulatedKvMoverOptions options_;
  Nanoseconds now_;
  std::array<MoveQueue, 2> queues_;
  MoveQueue cancelled_;
  uint64_t next_id_ = 1;
  bool advancing_ = false;
  bool stopping_ = false;
  std::array<KvMoverStats::Direction, 2> totals_;
  std::array<RecentSpeed, 2> recent_;
};

}  // namespace

std::unique_ptr<KvMover> MakeKvMover(KvMoverOptions options) {
  return std::make_unique<ThreadKvMover>(std::move(options));
}

std::unique_ptr<SimulatedKvMover> MakeSimulatedKvMover(const Clock& clock, SimulatedKvMoverOptions options) {
  return std::make_unique<SimulatedKvMoverImpl>(clock, options);
}

}  // namespace tidepool::compute
