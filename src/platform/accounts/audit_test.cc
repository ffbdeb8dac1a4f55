// The chain finds every kind of tampering. Oracle: the rows as they were written.
#include "platform/accounts/audit.h"

#include <gmock/gmock.h>

#include "platform/accounts/private_file.h"
#include "platform/accounts/testing/accounts_fixture.h"

namespace tidepool::platform {
namespace {

class AuditTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(world_.Open());
    for (int i = 0; i < 10; ++i) {
      wall_ms_ += 1000;
      world_.wall_clock.Set(wall_ms_);
      AuditActor actor = world_.FromAddress("192.0.2.7");
      actor.organisation = i % 2 == 0 ? "default" : "org-other";
      ASSERT_TRUE(world_.audit->Record(actor, "thing.changed", "thing-" + std::to_string(i), {{"size", i}},
                                       {{"size", i + 1}}));
    }
  }
  AuditVerdict Verify() {
    const auto verdict = world_.audit->Verify();
    EXPECT_TRUE(verdict) << verdict.error().message;
    return verdict.value_or(AuditVerdict{});
  }
  void Tamper(const std::string& sql) {
    const Status done =
        world_.database->Write([&](store::Session& s) { return s.Execute(sql).map([](int64_t) {}); });
    ASSERT_TRUE(done) << done.error().message;
  }
  static constexpr int64_t kRows = 12;  // the two of the first start before them
  AccountsWorld world_;
  int64_t wall_ms_ = kTestTime_ms;
};

TEST_F(AuditTest, AnUntouchedLogIsGood) {
  const AuditVerdict verdict = Verify();
  EXPECT_TRUE(verdict.good) << verdict.problem;
  EXPECT_EQ(verdict.rows, kRows);
  EXPECT_EQ(verdict.after_head, 0);
  const auto rows = world_.audit->List("org-other", 0, 100);
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 5u);
  EXPECT_EQ(rows->front().object, "thing-9") << "newest first";
  EXPECT_EQ(rows->front().before, R"({"size":9})");
  EXPECT_EQ(rows->front().actor.address, "192.0.2.7");
  EXPECT_EQ(world_.audit->List("", 3, 100)->size(), 2u);
}

TEST_F(AuditTest, EveryChangedColumnIsFound) {
  for (const char* change :
       {"time_ms = time_ms + 1", "organisation = 'x'", "workspace = 'x'", "member = 'x'", "key_id = 'x'",
        "address = 'x'", "request_id = 'x'", "action = 'x'", "object = 'x'", "before_value = 'null'",
        "after_value = 'null'", "organisation = '', workspace = organisation"}) {
    Tamper("CREATE TABLE kept AS SELECT * FROM audit");
    Tamper(std::string("UPDATE audit SET ") + change + " WHERE number = 7");
    const AuditVerdict verdict = Verify();
    EXPECT_FALSE(verdict.good) << change;
    EXPECT_EQ(verdict.number, 7) << change;
    Tamper("DELETE FROM audit");
    Tamper("INSERT INTO audit SELECT * FROM kept");
    Tamper("DROP TABLE kept");
    ASSERT_TRUE(Verify().good);
  }
}

TEST_F(AuditTest, ARemovedRowIsFound) {
  Tamper("DELETE FROM audit WHERE number = 5");
  EXPECT_EQ(Verify().number, 5);
  // Closing the gap does not help.
  Tamper("UPDATE audit SET number = number - 1 WHERE number > 5");
  const AuditVerdict verdict = Verify();
  EXPECT_FALSE(verdict.good);
  EXPECT_EQ(verdict.number, 5);
}

TEST_F(AuditTest, SwappedRowsAreFound) {
  Tamper("UPDATE audit SET number = -1 WHERE number = 4");
  Tamper("UPDATE audit SET number = 4 WHERE number = 5");
  Tamper("UPDATE audit SET number = 5 WHERE number = -1");
  EXPECT_EQ(Verify().number, 4);
}

TEST_F(AuditTest, ACutTailIsFound) {
  Tamper("DELETE FROM audit WHERE number > 9");
  const AuditVerdict verdict = Verify();
  EXPECT_FALSE(verdict.good);
  EXPECT_EQ(verdict.number, 10);
  EXPECT_THAT(verdict.problem, ::testing::HasSubstr("cut off"));
}

TEST_F(AuditTest, ACutTailThatWasWrittenAnewIsFound) {
  // With the key file one could go on from row 9; audit.head still names another row 12.
  Tamper("DELETE FROM audit WHERE number > 11");
  const auto head = ReadPrivateFile(world_.home() / "audit.head");
  ASSERT_TRUE(head && *head);
  ASSERT_TRUE(world_.audit->Record({}, "thing.forged", "x", nullptr, nullptr));
  ASSERT_TRUE(WritePrivateFile(world_.home() / "audit.head", **head));
  const AuditVerdict verdict = Verify();
  EXPECT_FALSE(verdict.good);
  EXPECT_EQ(verdict.number, 12);
}

TEST_F(AuditTest, ARestartAfterACutDoesNotHideIt) {
  Tamper("DELETE FROM audit WHERE number > 9");
  ASSERT_TRUE(world_.Open());
  // Rows 10 to 15, each with a good MAC.
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(world_.audit->Record({}, "after", "x", nullptr, nullptr));
  EXPECT_FALSE(Verify().good);
  EXPECT_EQ(Verify().number, 12) << "audit.head names another row 12";
  ASSERT_TRUE(world_.audit->ResetHead());
  EXPECT_TRUE(Verify().good);
}

TEST_F(AuditTest, AMissingHeadIsFoundAndNewerRowsAreCounted) {
  const auto head = ReadPrivateFile(world_.home() / "audit.head");
  ASSERT_TRUE(head && *head);
  ASSERT_TRUE(world_.audit->Record({}, "after", "x", nullptr, nullptr));
  ASSERT_TRUE(WritePrivateFile(world_.home() / "audit.head", **head));  // as after a crash
  EXPECT_TRUE(Verify().good);
  EXPECT_EQ(Verify().after_head, 1);
  std::filesystem::remove(world_.home() / "audit.head");
  EXPECT_FALSE(Verify().good);
  ASSERT_TRUE(world_.audit->ResetHead());
  EXPECT_TRUE(Verify().good);
}

TEST_F(AuditTest, AChangeThatFailsLeavesNoRow) {
  const Status status = world_.database->Write([&](store::Session& session) -> Status {
    TP_TRY(world_.audit->Append(session, {}, "never", "x", nullptr, nullptr));
    return Fail(ErrorKind::kConflict, "no", "no");
  });
  EXPECT_FALSE(status);
  EXPECT_EQ(Verify().rows, kRows);
  EXPECT_TRUE(Verify().good);
}

TEST_F(AuditTest, WhateverAClientSendsCanBeWritten) {
  const std::string hostile("\xff\xfe\0' ; DROP TABLE audit; --", 28);
  AuditActor actor = world_.FromAddress(hostile);
  ASSERT_TRUE(world_.audit->Record(actor, hostile, hostile, hostile, {{"long", std::string(100'000, 'x')}}));
  EXPECT_TRUE(Verify().good);
  EXPECT_EQ(Verify().rows, kRows + 1);
}

TEST_F(AuditTest, TheChainGoesOnAfterARestart) {
  ASSERT_TRUE(world_.Open());
  ASSERT_TRUE(world_.audit->Record({}, "after", "x", nullptr, nullptr));
  EXPECT_TRUE(Verify().good);
  EXPECT_EQ(Verify().rows, kRows + 1);
}

}  // namespace
}  // namespace tidepool::platform
