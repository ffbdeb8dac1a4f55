// The meter over a store in memory and a disk that can fail. Oracle: what the test itself counted.
#include "platform/ledger/usage_ledger.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <future>
#include <map>
#include <random>
#include <thread>

#include "platform/ledger/testing/lossy_files.h"

namespace tidepool::platform {
namespace {

class FakeStore final : public UsageSink {
 public:
  Status Post(std::span<const UsageRow> rows) override {
    std::lock_guard lock(mutex_);
    ++calls;
    if (away) return Fail(ErrorKind::kUnavailable, "store_unavailable", "the database is away");
    for (const UsageRow& row : rows) {
      if (row.model == "poison")
        return Fail(ErrorKind::kInternal, "store_error", "it does not like this row");
    }
    for (const UsageRow& row : rows) rows_.emplace(row.id, row);  // ON CONFLICT DO NOTHING
    return {};
  }
  Status PostRefusals(std::span<const Refusal> refusals) override {
    std::lock_guard lock(mutex_);
    for (const Refusal& r : refusals) refused += r.count;
    return {};
  }
  Status PostQuotas(std::span<const FreeQuota>) override { return {}; }
  Status PostNotices(std::span<const Notice>) override { return {}; }

  std::map<std::string, UsageRow> rows() {
    std::lock_guard lock(mutex_);
    return rows_;
  }
  std::map<std::string, UsageRow> by_request() {
    std::map<std::string, UsageRow> out;
    for (const auto& [id, row] : rows()) EXPECT_TRUE(out.emplace(row.request_id, row).second) << "two rows";
    return out;
  }
  std::atomic<bool> away{false};
  std::atomic<int> calls{0};
  int64_t refused = 0;

 private:
  std::mutex mutex_;
  std::map<std::string, UsageRow> rows_;
};

class UsageLedgerTest : public ::testing::Test {
 protected:
  UsageLedgerTest() { options_.post_after_ms = 5; }
  ~UsageLedgerTest() override { ledger_.reset(); }

  void Start() {
    JournalRemains remains;
    auto journal = Journal::Open(disk_.Mount(), options_.journal, remains);
    ASSERT_TRUE(journal) << journal.error().message;
    limiter_ = std::make_unique<Limiter>(clock_, wall_, books_, QuotaDefaults{.tokens = 0});
    ASSERT_TRUE(store_.Post(remains.closed));
    ASSERT_TRUE(UsageLedger::Recover(
        remains, store_, *limiter_, books_, wall_.unix_ms(),
        [&](const std::string& id) -> Result<bool> { return store_.rows().contains(id); }));
    (*journal)->RemainsPosted();
    ledger_ = std::make_unique<UsageLedger>(UsageLedger::Parts{.journal = std::move(*journal),
                                                               .sink = &store_,
                                                               .clock = &clock_,
                                                               .wall = &wall_,
                                                               .books = &books_,
                                                               .limiter = limiter_.get(),
                                                               .metrics = &metrics_},
                                            options_);
  }
  // As kill -9: nothing more reaches the disk or the store.
  void Crash(bool power, const std::function<void()>& drop_meters = [] {}) {
    disk_.SetBroken(true);
    store_.away = true;
    drop_meters();
    ledger_->Stop(0.01);
    ledger_.reset();
    disk_.SetBroken(false);
    store_.away = false;
    if (power) disk_.LosePower();
    Start();
  }
  static AdmissionRequest Request(const std::string& key = "k") {
    AdmissionRequest request;
    request.payer = {"o", "w", key, ""};
    request.model = "m";
    request.model_version = "v";
    request.prompt_tokens = 10;
    request.max_output_tokens = 1000;
    return request;
  }
  std::shared_ptr<Meter> Admit(const std::string& id) {
    auto meter = ledger_->Admit(Request(), id, "chat.completions");
    EXPECT_TRUE(meter) << (meter ? "" : meter.error().message);
    return meter ? *meter : nullptr;
  }
  static Status CloseAndWait(Meter& meter, UsageStatus status = UsageStatus::kDone) {
    std::promise<Status> durable;
    meter.Close(status, "", {.queue_s = 0.5, .load_s = 0.25, .prefill_s = 1, .decode_s = 2, .stall_s = 0.125},
                [&](const Status& s) { durable.set_value(s); });
    return durable.get_future().get();
  }
  bool WaitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  SteadyClock clock_;
  ManualWallClock wall_{1'795'824'000'000};
  MetricsRegistry metrics_;
  PriceBooks books_;
  LossyDisk disk_;
  FakeStore store_;
  UsageLedgerOptions options_;
  std::unique_ptr<Limiter> limiter_;
  std::unique_ptr<UsageLedger> ledger_;
};

TEST_F(UsageLedgerTest, ARequestBecomesOneRow) {
  Start();
  auto meter = Admit("r1");
  meter->Count({.prompt = 10, .cached = 4}, 1500);
  for (int i = 0; i < 100; ++i) meter->Count({.output = 1, .reasoning = i < 30}, 10);
  EXPECT_TRUE(CloseAndWait(*meter));
  ASSERT_TRUE(ledger_->Flush(5));
  const auto rows = store_.by_request();
  ASSERT_EQ(rows.size(), 1u);
  const UsageRow& row = rows.at("r1");
  EXPECT_EQ(row.tokens, (BillableTokens{10, 4, 100, 30}));
  EXPECT_EQ(row.device_us, 2500);
  EXPECT_EQ(row.queue_ms, 500);
  EXPECT_EQ(row.load_ms, 250);
  EXPECT_EQ(row.prefill_ms, 1000);
  EXPECT_EQ(row.decode_ms, 2000);
  EXPECT_EQ(row.stall_ms, 125);
  EXPECT_EQ(row.status, UsageStatus::kDone);
  EXPECT_EQ(row.billing, Billing::kUnpriced);
  EXPECT_EQ(row.endpoint, "chat.completions");
}

// When `durable` is called the row must survive: here the disk loses power at that very moment.
TEST_F(UsageLedgerTest, ADurableRowSurvivesALossOfPower) {
  Start();
  store_.away = true;
  for (int i = 0; i < 20; ++i) {
    auto meter = Admit(fmt::format("r{}", i));
    meter->Count({.prompt = 10}, 0);
    meter->Count({.output = i + 1}, 0);
    ASSERT_TRUE(CloseAndWait(*meter));
  }
  Crash(/*power=*/true);
  ASSERT_TRUE(ledger_->Flush(5));
  const auto rows = store_.by_request();
  ASSERT_EQ(rows.size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(rows.at(fmt::format("r{}", i)).tokens.output, i + 1);
}

TEST_F(UsageLedgerTest, AnOpenRequestIsRecordedWithinOneInterval) {
  options_.journal_every_ms = 3'600'000;  // the interval of tokens alone
  Start();
  auto meter = Admit("open");
  meter->Count({.prompt = 10}, 0);
  int64_t counted = 0;
  for (int i = 0; i < 300; ++i) {
    meter->Count({.output = 1}, 0);
    ++counted;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  Crash(true, [&] { meter.reset(); });
  const auto rows = store_.by_request();
  ASSERT_EQ(rows.size(), 1u);
  const UsageRow& row = rows.at("open");
  EXPECT_EQ(row.status, UsageStatus::kInterrupted);
  EXPECT_EQ(row.error_code, "server_interrupted");
  EXPECT_EQ(row.tokens.prompt, 10);
  EXPECT_LE(row.tokens.output, counted);
  EXPECT_GE(row.tokens.output, counted - 64);
}

TEST_F(UsageLedgerTest, TheClockAloneJournalsASlowRequest) {
  options_.journal_every_ms = 20;
  Start();
  auto meter = Admit("slow");
  meter->Count({.prompt = 10, .output = 3}, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  Crash(true, [&] { meter.reset(); });
  EXPECT_EQ(store_.by_request().at("slow").tokens.output, 3);
}

TEST_F(UsageLedgerTest, WhatNeverBeganLeavesNoRow) {
  Start();
  Admit("dropped").reset();
  ASSERT_TRUE(ledger_->Flush(5));
  EXPECT_TRUE(store_.rows().empty());
  Crash(false);
  EXPECT_TRUE(store_.rows().empty());
}

TEST_F(UsageLedgerTest, FinishesShareACommit) {
  Start();
  const uint64_t before = disk_.syncs();
  std::vector<std::shared_ptr<Meter>> meters;
  for (int i = 0; i < 500; ++i) meters.push_back(Admit(fmt::format("r{}", i)));
  std::atomic<int> durable{0};
  for (const auto& meter : meters) {
    meter->Count({.prompt = 10, .output = 5}, 0);
    meter->Close(UsageStatus::kDone, "", {}, [&](const Status& status) { durable += status ? 1 : 0; });
  }
  ASSERT_TRUE(WaitFor([&] { return durable == 500; }));
  EXPECT_LT(disk_.syncs() - before, 400u);
  ASSERT_TRUE(ledger_->Flush(5));
  EXPECT_EQ(store_.by_request().size(), 500u);
}

TEST_F(UsageLedgerTest, AStoreThatIsAwayIsBufferedThenRefusesNewWork) {
  options_.max_unposted_rows = 10;
  options_.journal_every_ms = 10;
  Start();
  store_.away = true;
  Status refused;
  int done = 0;
  for (; done < 1000 && refused; ++done) {
    auto meter = ledger_->Admit(Request(), fmt::format("r{}", done), "completions");
    if (!meter) {
      refused = Fail(meter.error());
      break;
    }
    (*meter)->Count({.prompt = 10, .output = 2}, 0);
    ASSERT_TRUE(CloseAndWait(**meter));  // still durable: on disk
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(refused.error().code, "usage_store_behind");
  EXPECT_FALSE(ledger_->Check(Request()));
  store_.away = false;  // back: no restart is needed
  ASSERT_TRUE(WaitFor([&] { return ledger_->Check(Request()).has_value(); }));
  ASSERT_TRUE(ledger_->Flush(10));
  EXPECT_EQ(store_.by_request().size(), static_cast<size_t>(done));
}

TEST_F(UsageLedgerTest, ABrokenDiskRefusesNewWorkAndLosesNothing) {
  options_.journal_every_ms = 10;
  options_.finish_hold_s = 60;
  Start();
  auto meter = Admit("r1");
  meter->Count({.prompt = 10, .output = 7}, 0);
  ASSERT_TRUE(WaitFor([&] { return ledger_->Check(Request()).has_value(); }));
  disk_.SetBroken(true);
  std::atomic<int> answered{0};
  meter->Close(UsageStatus::kDone, "", {}, [&](const Status& status) { answered = status ? 1 : 2; });
  Status check;
  ASSERT_TRUE(WaitFor([&] {
    check = ledger_->Check(Request());
    return !check;
  }));
  EXPECT_EQ(check.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(answered, 0);  // the last byte waits
  disk_.SetBroken(false);
  ASSERT_TRUE(WaitFor([&] { return answered == 1; }));
  ASSERT_TRUE(WaitFor([&] { return ledger_->Check(Request()).has_value(); }));
  ASSERT_TRUE(ledger_->Flush(5));
  EXPECT_EQ(store_.by_request().at("r1").tokens.output, 7);
}

TEST_F(UsageLedgerTest, AnAnswerDoesNotWaitForADiskForEver) {
  options_.journal_every_ms = 10;
  options_.finish_hold_s = 0.05;
  Start();
  auto meter = Admit("r1");
  meter->Count({.prompt = 10, .output = 7}, 0);
  disk_.SetBroken(true);
  const Status status = CloseAndWait(*meter);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::kUnavailable);
  disk_.SetBroken(false);
  ASSERT_TRUE(ledger_->Flush(5));
  EXPECT_EQ(store_.by_request().at("r1").tokens.output, 7);  // recorded all the same
}

TEST_F(UsageLedgerTest, ARowThatTheStoreRefusesHoldsUpNoOther) {
  Start();
  AdmissionRequest poison = Request();
  poison.model = "poison";
  auto bad = *ledger_->Admit(poison, "bad", "completions");
  auto good = Admit("good");
  bad->Close(UsageStatus::kDone, "", {}, nullptr);
  ASSERT_TRUE(CloseAndWait(*good));
  ASSERT_TRUE(ledger_->Flush(5));
  EXPECT_EQ(store_.by_request().size(), 1u);
}

TEST_F(UsageLedgerTest, AStopLeavesNoFiles) {
  Start();
  auto meter = Admit("r1");
  ASSERT_TRUE(CloseAndWait(*meter));
  meter.reset();
  ledger_->Stop();
  EXPECT_EQ(disk_.files(), 0u);
  EXPECT_EQ(store_.rows().size(), 1u);
}

// Many threads, random ends and crashes: every row that was durable is there once, with the test's own
// counts.
TEST_F(UsageLedgerTest, RandomWorkWithCrashesIsBilledToTheToken) {
  options_.journal.segment_bytes = 64 << 10;
  options_.journal_every_ms = 10;
  std::map<std::string, int64_t> durable_output;  // truth of what ended
  int number = 0;
  for (int life = 0; life < 6; ++life) {
    if (life == 0) Start();
    std::mutex mutex;
    std::map<std::string, int64_t> open_output;
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    std::atomic<int> next{number};
    std::vector<std::shared_ptr<Meter>> abandoned;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(static_cast<uint32_t>(life * 10 + t));
        while (!stop) {
          const std::string id = fmt::format("r{}", next.fetch_add(1));
          auto meter = ledger_->Admit(Request(), id, "completions");
          if (!meter) continue;
          (*meter)->Count({.prompt = 10}, 0);
          int64_t output = 0;
          const int tokens = static_cast<int>(random() % 200);
          for (int i = 0; i < tokens && !stop; ++i) {
            (*meter)->Count({.output = 1}, 1);
            ++output;
            if (i % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
          }
          if (stop) {
            std::lock_guard lock(mutex);
            open_output[id] = output;
            abandoned.push_back(*meter);
            return;
          }
          std::promise<bool> ended;
          (*meter)->Close(random() % 3 == 0 ? UsageStatus::kCancelled : UsageStatus::kDone, "", {},
                          [&](const Status& status) { ended.set_value(status.has_value()); });
          const bool durable = ended.get_future().get();
          std::lock_guard lock(mutex);
          (durable ? durable_output : open_output)[id] = output;
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    stop = true;
    for (auto& thread : threads) thread.join();
    number = next;
    Crash(life % 2 == 0, [&] { abandoned.clear(); });
    const auto rows = store_.by_request();
    for (const auto& [id, output] : durable_output) {
      ASSERT_TRUE(rows.contains(id)) << "lost " << id << " in life " << life;
      EXPECT_EQ(rows.at(id).tokens.output, output);
      EXPECT_NE(rows.at(id).status, UsageStatus::kInterrupted);
    }
    for (const auto& [id, output] : open_output) {
      if (rows.contains(id)) {
        EXPECT_LE(rows.at(id).tokens.output, output);
      }
    }
  }
  EXPECT_GT(durable_output.size(), 20u);
}

}  // namespace
}  // namespace tidepool::platform
