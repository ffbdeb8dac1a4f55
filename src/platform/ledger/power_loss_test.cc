// The whole of what is owed, over disks that lose what was not synced: the journal of meters, SQLite's store
// with accounts, prices and usage, the head of the audit log outside it. The power fails at any moment, also
// in the first start and in what a start mends, again and again on what is left.
//
// Oracle: what somebody was told is done. It is there once and as it was told; nothing is there that never
// was.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "base/ids.h"
#include "platform/accounts/testing/accounts_fixture.h"
#include "platform/ledger/accounting.h"
#include "platform/store/testing/lossy_file_system.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using store::LossyFileSystem;

// What was told, and what was begun, over all lives of one disk.
struct Told {
  std::map<std::string, BillableTokens> rows;  // by id, done
  std::set<std::string> audited;               // objects of rows of the audit log
  int64_t books = 0;
};

class PowerLoss {
 public:
  explicit PowerLoss(uint32_t seed)
      : random_(seed), folder_(std::filesystem::temp_directory_path() / RandomId("power-loss-", 8)) {}
  ~PowerLoss() { std::filesystem::remove_all(folder_); }

  // Starts on what is left, holds it against what was told, works on, loses power.
  void Live(int life) {
    SCOPED_TRACE(fmt::format("life {}", life));
    const std::filesystem::path home = folder_ / fmt::format("life-{}", life),
                                next = folder_ / fmt::format("life-{}", life + 1);
    std::filesystem::create_directories(home);
    LossyFileSystem disk(home, static_cast<uint32_t>(random_()));
    Told told_at_failure = told_;
    // A first start is some 500 changes, another one 50; all the work 2,000 to 3,000.
    disk.FailAt(1 + static_cast<int64_t>(random_() % (random_() % 3 == 0 ? 600 : 2200)), [&] {
      std::lock_guard lock(mutex_);
      told_at_failure = told_;
    });
    {
      AccountsWorld world("", home);
      world.other_floors = {LedgerMigrations()};
      const Status opened = world.Open();
      ASSERT_TRUE(opened) << opened.error().message;
      MetricsRegistry metrics;
      AccountingOptions options;
      options.folder = home / "usage";
      options.ledger.post_after_ms = 1;
      options.ledger.journal.segment_bytes = 16 << 10;
      options.ledger.journal_every_ms = 4;
      options.audit = [&](store::Session& session, const AuditActor& actor, std::string_view action,
                          std::string_view object, const Json& before, const Json& after) {
        return world.audit->Append(session, actor, action, object, before, after);
      };
      auto accounting =
          Accounting::Open(*world.database, clock_, world.wall_clock, metrics, std::move(options));
      ASSERT_TRUE(accounting) << accounting.error().message;
      ASSERT_NO_FATAL_FAILURE(Check(world, **accounting));
      Work(world, **accounting, disk);
    }
    disk.Restore(next);
    told_ = std::move(told_at_failure);
  }

  // What a restart finds.
  void Check(AccountsWorld& world, Accounting& accounting) {
    std::map<std::string, std::pair<int, BillableTokens>> rows;
    std::map<std::string, int64_t> audited;  // object -> number
    const Status read = world.database->Read([&](store::Session& session) -> Status {
      TP_TRY(session.Each("SELECT id, prompt_tokens, output_tokens, status FROM usage_rows", {},
                          [&](const store::Row& row) {
                            auto& [count, tokens] = rows[row.Text(0)];
                            ++count;
                            tokens = {.prompt = row.Integer(1), .output = row.Integer(2)};
                            return true;
                          }));
      return session.Each("SELECT object, number FROM audit WHERE action = 'tested'", {},
                          [&](const store::Row& row) {
                            audited[row.Text(0)] = row.Integer(1);
                            return true;
                          });
    });
    ASSERT_TRUE(read) << read.error().message;
    for (const auto& [id, tokens] : told_.rows) {
      ASSERT_TRUE(rows.contains(id)) << "a finished row is lost: " << id;
      EXPECT_EQ(rows[id].first, 1);
      EXPECT_EQ(rows[id].second, tokens) << id;
    }
    for (const auto& [id, found] : rows) {
      ASSERT_TRUE(begun_.contains(id)) << "made up: " << id;
      EXPECT_LE(found.second.output, begun_[id].output) << id;
      told_.rows.try_emplace(id, found.second);  // from now on it stays what it is
    }
    EXPECT_GE(std::ssize(accounting.books().After(0, SIZE_MAX)), told_.books);

    const auto verdict = world.audit->Verify();
    ASSERT_TRUE(verdict) << verdict.error().message;
    EXPECT_TRUE(verdict->good) << verdict->problem;
    for (const std::string& object : told_.audited) {
      ASSERT_TRUE(audited.contains(object)) << "a row of the audit log is lost: " << object;
      EXPECT_LE(audited[object], verdict->rows - verdict->after_head)
          << object << " was told before its head was kept";
    }
    // The next row names all before it.
    if (verdict->after_head > 0) {
      ++heads_behind_;
      ASSERT_TRUE(world.audit->Record({}, "after the crash", "x", nullptr, nullptr));
      EXPECT_EQ(world.audit->Verify()->after_head, 0);
    }
    ++checks_;
  }

  void Work(AccountsWorld& world, Accounting& accounting, LossyFileSystem& disk) {
    std::vector<std::shared_ptr<Meter>> open;
    std::atomic<int> waiting{0};
    for (int step = 0; step < 400 && !disk.failed(); ++step) {
      switch (random_() % 8) {
        case 0: {
          const std::string object = fmt::format("object {}", ++number_);
          if (!world.audit->Record({}, "tested", object, nullptr, Json(number_))) break;
          std::lock_guard lock(mutex_);
          told_.audited.insert(object);
          break;
        }
        case 1: {
          if (random_() % 4 != 0) break;
          PriceBook book;
          book.currency = random_() % 2 == 0 ? "EUR" : "USD";
          if (!accounting.AddPrices({}, book, "me")) break;
          std::lock_guard lock(mutex_);
          ++told_.books;
          break;
        }
        case 2:
          for (const auto& meter : open) Count(*meter);
          break;
        case 3: std::this_thread::sleep_for(std::chrono::milliseconds(random_() % 3)); break;
        default: {
          AdmissionRequest request;
          request.payer = {"default", "default", "key", ""};
          request.model = request.model_version = "m";
          request.prompt_tokens = 7;
          request.max_output_tokens = 1000;
          auto meter = accounting.ledger().Admit(request, RandomId("req-"), "completions");
          if (!meter) break;  // the journal is behind: tried again
          {
            std::lock_guard lock(mutex_);
            begun_[(*meter)->row_id()] = {};
          }
          Count(**meter);
          open.push_back(std::move(*meter));
        }
      }
      if (open.size() > 6 || (random_() % 3 == 0 && !open.empty())) {
        const size_t at = random_() % open.size();
        const std::shared_ptr<Meter> meter = open[at];
        open.erase(open.begin() + static_cast<ptrdiff_t>(at));
        const BillableTokens tokens = meter->counted();
        ++waiting;
        meter->Close(UsageStatus::kDone, "", {},
                     [this, &waiting, id = meter->row_id(), tokens](const Status& status) {
                       if (status) {
                         std::lock_guard lock(mutex_);
                         told_.rows[id] = tokens;
                       }
                       --waiting;
                     });
      }
    }
    for (const auto& meter : open) {
      ++waiting;
      meter->Close(UsageStatus::kCancelled, "", {}, [&](const Status&) { --waiting; });
    }
    while (waiting > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  int checks_ = 0, heads_behind_ = 0;

 private:
  void Count(Meter& meter) {
    const auto output = static_cast<int64_t>(random_() % 65);
    {
      std::lock_guard lock(mutex_);
      begun_[meter.row_id()].output += output;
    }
    meter.Count({.prompt = meter.counted().prompt == 0 ? 7 : 0, .output = output}, 10);
  }

  std::mt19937 random_;
  const std::filesystem::path folder_;
  SteadyClock clock_;
  std::mutex mutex_;
  Told told_;
  std::map<std::string, BillableTokens> begun_;  // by row, at most what it has
  int number_ = 0;
};

TEST(PowerLossTest, WhatWasToldIsThereOnceWhateverTheDiskKept) {
  const char* more = std::getenv("TIDEPOOL_POWER_LOSS_SEEDS");
  const uint32_t seeds = more == nullptr ? 12 : static_cast<uint32_t>(std::atoi(more));
  int checks = 0, heads_behind = 0;
  for (uint32_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    PowerLoss disks(seed);
    for (int life = 0; life < 5; ++life) {
      disks.Live(life);
      if (::testing::Test::HasFailure()) return;
    }
    checks += disks.checks_;
    heads_behind += disks.heads_behind_;
  }
  EXPECT_EQ(checks, 5 * static_cast<int>(seeds));
  fmt::print("{} starts, {} with the head of the audit log behind it\n", checks, heads_behind);
}

}  // namespace
}  // namespace tidepool::platform
