// Oracle: a model in memory of what was committed, against what a new process reads after the disk lost
// power.
#include "platform/ledger/journal.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "base/ids.h"
#include "platform/ledger/testing/lossy_files.h"

namespace tidepool::platform {
namespace {

UsageRow MakeRow(const std::string& id, int64_t output = 0) {
  UsageRow row;
  row.id = id;
  row.request_id = "req-" + id;
  row.payer = {"org", "ws", "key", "usr"};
  row.model = "scripted";
  row.model_version = "sha";
  row.endpoint = "chat.completions";
  row.tokens.prompt = 7;
  row.tokens.output = output;
  row.amount_nanos = -3;
  return row;
}

std::unique_ptr<Journal> MustOpen(std::unique_ptr<JournalFiles> files, const JournalOptions& options,
                                  JournalRemains& remains) {
  auto journal = Journal::Open(std::move(files), options, remains);
  EXPECT_TRUE(journal) << (journal ? "" : journal.error().message);
  return std::move(*journal);
}

std::set<std::string> Ids(const std::vector<UsageRow>& rows) {
  std::set<std::string> ids;
  for (const UsageRow& row : rows) EXPECT_TRUE(ids.insert(row.id).second) << "twice: " << row.id;
  return ids;
}

TEST(UsageRowCode, ReadsWhatItWrites) {
  UsageRow row = MakeRow("use-1", 123);
  row.started_ms = 1;
  row.finished_ms = INT64_MAX;
  row.batch = true;
  row.status = UsageStatus::kCancelled;
  row.billing = Billing::kMixed;
  row.free_tokens = 99;
  std::string bytes;
  EncodeUsageRow(row, bytes);
  EXPECT_EQ(*DecodeUsageRow(bytes), row);
  for (size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_FALSE(DecodeUsageRow(bytes.substr(0, cut)));
  EXPECT_FALSE(DecodeUsageRow(bytes + "x"));
}

TEST(Journal, WhatWasCommittedIsThereAfterALossOfPower) {
  LossyDisk disk;
  JournalRemains none;
  auto journal = MustOpen(disk.Mount(), {}, none);
  const uint64_t a = journal->NextMeter(), b = journal->NextMeter(), c = journal->NextMeter();
  journal->Open(a, MakeRow("a"));
  journal->Open(b, MakeRow("b"));
  ASSERT_TRUE(journal->Commit());
  journal->Progress({{.meter = b, .tokens = {7, 3, 64, 2}, .device_us = 5}});
  journal->Close(a, MakeRow("a", 10));
  ASSERT_TRUE(journal->Commit());
  journal->Open(c, MakeRow("c"));  // never committed
  journal.reset();
  disk.LosePower();
  JournalRemains remains;
  journal = MustOpen(disk.Mount(), {}, remains);
  ASSERT_EQ(remains.closed.size(), 1u);
  EXPECT_EQ(remains.closed[0], MakeRow("a", 10));
  ASSERT_EQ(remains.open.size(), 1u);
  EXPECT_EQ(remains.open[0].id, "b");
  EXPECT_EQ(remains.open[0].tokens, (BillableTokens{7, 3, 64, 2}));
  EXPECT_EQ(remains.open[0].status, UsageStatus::kInterrupted);
  // Nothing goes before it was posted, whatever happens in between.
  JournalRemains again;
  journal = MustOpen(disk.Mount(), {}, again);
  EXPECT_EQ(again.closed.size(), 1u);
  EXPECT_EQ(again.open.size(), 1u);
  journal->RemainsPosted();
  ASSERT_TRUE(journal->RemoveAll());
  EXPECT_EQ(disk.files(), 0u);
}

TEST(Journal, ATornTailEndsASegmentAndNoMore) {
  LossyDisk disk;
  JournalRemains remains;
  auto journal = MustOpen(disk.Mount(), {}, remains);
  std::string bytes;
  const uint64_t a = journal->NextMeter();
  journal->Open(a, MakeRow("a"));
  journal->Close(a, MakeRow("a", 1));
  ASSERT_TRUE(journal->Commit());
  const auto names = *disk.Mount()->List();
  bytes = *disk.Mount()->Read(names[0], 1 << 30);
  bool torn = true;
  EXPECT_EQ(ParseSegment(1, bytes, &torn).size(), 2u);
  EXPECT_FALSE(torn);
  EXPECT_EQ(ParseSegment(2, bytes).size(), 0u);  // another segment's bytes
  for (const size_t at : {size_t{0}, size_t{5}, size_t{20}}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    EXPECT_EQ(ParseSegment(1, damaged, &torn).size(), 0u);
    EXPECT_TRUE(torn);
  }
}

// Random work with small segments, a loss of power at a random moment, again and again on the same disk.
TEST(Journal, NoCommittedRowIsEverLostOrMadeUp) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    LossyDisk disk(seed);
    std::mt19937 random(seed);
    const JournalOptions options{.segment_bytes = 8192, .max_bytes = 1 << 20};
    std::map<std::string, UsageRow> must_have;  // closed and committed, not posted
    std::set<std::string> posted, closed_ever;
    std::map<std::string, std::pair<int64_t, int64_t>> open_bounds;  // committed, told
    int number = 0;
    for (int life = 0; life < 4; ++life) {
      JournalRemains remains;
      auto journal = MustOpen(disk.Mount(), options, remains);
      const auto closed = Ids(remains.closed);
      for (const auto& [id, row] : must_have) {
        ASSERT_TRUE(closed.contains(id)) << "seed " << seed << " lost " << id;
        for (const UsageRow& got : remains.closed) {
          if (got.id == id) {
            ASSERT_EQ(got, row);
          }
        }
      }
      for (const std::string& id : closed) ASSERT_TRUE(closed_ever.contains(id)) << "made up " << id;
      const auto open = Ids(remains.open);
      for (const auto& [id, bounds] : open_bounds) {
        if (bounds.first < 0) continue;     // its opening was never committed
        if (closed.contains(id)) continue;  // its end was written, if not committed
        ASSERT_TRUE(open.contains(id)) << "seed " << seed << " lost the open " << id;
      }
      for (const UsageRow& row : remains.open) {
        ASSERT_TRUE(open_bounds.contains(row.id)) << row.id;
        EXPECT_GE(row.tokens.output, std::max<int64_t>(0, open_bounds[row.id].first));
        EXPECT_LE(row.tokens.output, open_bounds[row.id].second);
      }
      journal->RemainsPosted();
      must_have.clear();
      open_bounds.clear();

      struct Live {
        std::string id;
        uint64_t meter;
        int64_t output;
      };
      std::vector<Live> live;
      std::map<std::string, uint64_t> waiting_meters;
      std::vector<std::pair<std::string, UsageRow>> closing;
      const int steps = 20 + static_cast<int>(random() % 200);
      for (int step = 0; step < steps; ++step) {
        switch (random() % 6) {
          case 0:
          case 1: {
            const std::string id = fmt::format("{}-{}", life, number++);
            const uint64_t meter = journal->NextMeter();
            journal->Open(meter, MakeRow(id));
            live.push_back({id, meter, 0});
            open_bounds[id] = {-1, 0};
            break;
          }
          case 2:
            for (Live& one : live) {
              one.output += static_cast<int64_t>(random() % 65);
              open_bounds[one.id].second = one.output;
              journal->Progress({{.meter = one.meter, .tokens = {7, 0, one.output, 0}, .device_us = 0}});
            }
            break;
          case 3: {
            if (live.empty()) break;
            const size_t i = random() % live.size();
            const Live one = live[i];
            live.erase(live.begin() + static_cast<ptrdiff_t>(i));
            const UsageRow row = MakeRow(one.id, one.output);
            journal->Close(one.meter, row);
            closed_ever.insert(one.id);
            waiting_meters[one.id] = one.meter;
            closing.emplace_back(one.id, row);
            break;
          }
          case 4: {
            if (random() % 8 == 0) disk.SetFull(true);
            const bool committed = journal->Commit().has_value();
            disk.SetFull(false);
            if (!committed) break;
            for (const auto& [id, row] : closing) {
              must_have[id] = row;
              open_bounds.erase(id);
            }
            closing.clear();
            for (const Live& one : live) open_bounds[one.id].first = one.output;
            break;
          }
          case 5:
            if (!must_have.empty()) {
              const std::string id = must_have.begin()->first;
              journal->Posted({waiting_meters.at(id)});
              must_have.erase(id);
              posted.insert(id);
            }
            break;
        }
      }
      journal.reset();
      disk.LosePower();
      ASSERT_LE(disk.files(), 128u);
    }
  }
}

TEST(Journal, SegmentsGoWhenTheirRowsArePosted) {
  LossyDisk disk;
  JournalRemains remains;
  auto journal = MustOpen(disk.Mount(), {.segment_bytes = 4096, .max_bytes = 64 << 10}, remains);
  const uint64_t long_one = journal->NextMeter();
  journal->Open(long_one, MakeRow("long"));
  for (int i = 0; i < 500; ++i) {
    const uint64_t meter = journal->NextMeter();
    journal->Open(meter, MakeRow(fmt::format("m{}", i)));
    journal->Progress({{.meter = long_one, .tokens = {7, 0, i + 1, 0}, .device_us = 0}});
    journal->Close(meter, MakeRow(fmt::format("m{}", i), 3));
    ASSERT_TRUE(journal->Commit());
    ASSERT_TRUE(journal->Ready());
    journal->Posted({meter});
    ASSERT_LE(disk.files(), 3u);
  }
  journal.reset();
  disk.LosePower();
  JournalRemains after;
  journal = MustOpen(disk.Mount(), {.segment_bytes = 4096, .max_bytes = 64 << 10}, after);
  ASSERT_EQ(after.open.size(), 1u);  // it lived through every rotation
  EXPECT_EQ(after.open[0].tokens.output, 500);
}

TEST(Journal, BeyondItsBoundNothingNewMayBegin) {
  LossyDisk disk;
  JournalRemains remains;
  auto journal = MustOpen(disk.Mount(), {.segment_bytes = 4096, .max_bytes = 32 << 10}, remains);
  Status ready;
  std::vector<uint64_t> meters;
  for (int i = 0; i < 1000 && ready; ++i) {
    const uint64_t meter = journal->NextMeter();
    meters.push_back(meter);
    journal->Open(meter, MakeRow(fmt::format("m{}", i)));
    journal->Close(meter, MakeRow(fmt::format("m{}", i), 3));
    ASSERT_TRUE(journal->Commit());
    ready = journal->Ready();
  }
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, "usage_store_behind");
  journal->Posted(meters);
  EXPECT_TRUE(journal->Ready());
}

TEST(Journal, AFullDiskIsSeenBeforeWhatRunsNeedsTheRoom) {
  LossyDisk disk;
  JournalRemains remains;
  auto journal = MustOpen(disk.Mount(), {.segment_bytes = 4096, .max_bytes = 1 << 20}, remains);
  disk.SetFull(true);
  std::vector<uint64_t> running;
  Status ready;
  while (running.size() < 1000 && ready) {
    const uint64_t meter = journal->NextMeter();
    journal->Open(meter, MakeRow(fmt::format("m{}", running.size())));
    ASSERT_TRUE(journal->Commit());
    running.push_back(meter);
    ready = journal->Ready();
  }
  ASSERT_FALSE(ready);
  const size_t room = running.size();
  // What runs still ends durably.
  for (size_t i = 0; i < room; ++i) journal->Close(running[i], MakeRow(fmt::format("m{}", i), 9));
  ASSERT_TRUE(journal->Commit());
  disk.SetFull(false);
  EXPECT_TRUE(journal->Ready());  // without a restart
}

TEST(JournalFolder, KeepsFilesOnARealDisk) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / RandomId("journal-test-");
  {
    JournalRemains remains;
    auto files = OpenJournalFolder(folder);
    ASSERT_TRUE(files) << files.error().message;
    auto journal = MustOpen(std::move(*files), {.segment_bytes = 8192}, remains);
    const uint64_t meter = journal->NextMeter();
    journal->Open(meter, MakeRow("a"));
    journal->Close(meter, MakeRow("a", 5));
    ASSERT_TRUE(journal->Commit());
    EXPECT_FALSE(journal->idle());
  }
  JournalRemains remains;
  auto journal = MustOpen(*OpenJournalFolder(folder), {.segment_bytes = 8192}, remains);
  ASSERT_EQ(remains.closed.size(), 1u);
  EXPECT_EQ(remains.closed[0].tokens.output, 5);
  journal->RemainsPosted();
  ASSERT_TRUE(journal->RemoveAll());
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tidepool::platform
