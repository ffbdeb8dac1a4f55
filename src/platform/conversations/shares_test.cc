// Links to conversations in both stores. Oracle: what the header promises.
#include "platform/conversations/shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "platform/accounts/testing/accounts_fixture.h"
#include "platform/conversations/conversation_rows.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::platform {
namespace {

using store::Backend;
using ::testing::HasSubstr;
using ::testing::Not;

class SharesTest : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    std::string postgresql;
    if (GetParam() == Backend::kPostgresql) {
      static auto server = store::PostgresqlServer::Start();
      ASSERT_TRUE(server) << server.error().message;
      const auto made = (*server)->MakeDatabase();
      ASSERT_TRUE(made) << made.error().message;
      postgresql = *made;
    }
    world_ = std::make_unique<AccountsWorld>(postgresql);
    world_->other_floors = {Conversations::Migrations()};
    const Status opened = world_->Open();
    ASSERT_TRUE(opened) << opened.error().message;
    ann_.member = "usr-ann";
    bob_.member = "usr-bob";
    options_.may_share = [this](const std::string& workspace, const std::string& member) {
      return allowed_ && workspace == "default" && !gone_.contains(member);
    };
    options_.audit = world_->audit.get();
    Open();
    conversation_.id = "conv-1";
    conversation_.title = "Tides";
    conversation_.system = "SECRET system";
    ASSERT_TRUE(world_->database->Write([&](store::Session& session) -> Status {
      TP_TRY(InsertConversation(session, ConversationOwner::Of(ann_), conversation_));
      TP_TRY(InsertTurn(session, "conv-1", MakeTurn("t1", "", true, "Why are there tides?")));
      TP_TRY(InsertTurn(session, "conv-1", MakeTurn("t2", "t1", false, "The moon.")));
      return InsertTurn(session, "conv-1", MakeTurn("t3", "t1", false, "ANOTHER branch"));
    }));
  }
  void Open() {
    shares_ = std::make_unique<ConversationShares>(*world_->database, world_->clock, world_->wall_clock,
                                                   world_->metrics, options_);
  }
  static Turn MakeTurn(const std::string& id, const std::string& parent, bool user, const std::string& text) {
    Turn turn;
    turn.id = id;
    turn.parent = parent;
    turn.user = user;
    turn.content = text;
    if (user) {
      turn.files = {{"notes.txt", "SECRET notes"}};
    } else {
      turn.reasoning = "Gravity.";
      turn.model = "scripted";
    }
    return turn;
  }
  Result<CreatedShare> Share(const std::string& leaf = "t2", double days = 1) {
    return shares_->Create(ann_, actor_, "conv-1", leaf, days);
  }
  std::string Refused(const std::string& token, const std::string& address = "10.0.0.1") {
    const auto read = shares_->Read(token, address);
    return read ? std::string() : read.error().code;
  }

  std::unique_ptr<AccountsWorld> world_;
  std::unique_ptr<ConversationShares> shares_;
  ConversationSharesOptions options_;
  bool allowed_ = true;
  std::set<std::string> gone_;
  Principal ann_, bob_;
  Conversation conversation_;
  const AuditActor actor_ = MachineActor();
};

TEST_P(SharesTest, ALinkShowsTheBranchAsItWasAndNothingElse) {
  const auto made = Share();
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->share.turns, 2);
  ASSERT_TRUE(world_->database->Write([&](store::Session& session) -> Status {
    Turn later = MakeTurn("t2", "t1", false, "changed since");
    TP_TRY(UpdateTurn(session, later));
    return InsertTurn(session, "conv-1", MakeTurn("t4", "t2", true, "and later"));
  }));
  const auto shown = shares_->Read(made->token, "10.0.0.1");
  ASSERT_TRUE(shown) << shown.error().message;
  EXPECT_EQ(shown->title, "Tides");
  ASSERT_EQ(shown->turns.size(), 2u);
  EXPECT_TRUE(shown->turns[0].user);
  EXPECT_EQ(shown->turns[0].content, "Why are there tides?");
  EXPECT_EQ(shown->turns[0].files, std::vector<std::string>{"notes.txt"});
  EXPECT_EQ(shown->turns[1].content, "The moon.");
  EXPECT_EQ(shown->turns[1].reasoning, "Gravity.");
  EXPECT_EQ(shown->turns[1].model, "scripted");
  EXPECT_EQ(shown->expires_ms, shown->created_ms + 86'400'000);
  // Neither the token nor what is secret is in the store's row.
  ASSERT_TRUE(world_->database->Read([&](store::Session& session) -> Status {
    TP_ASSIGN(const store::Rows rows,
              session.Query("SELECT content, title, id, hash FROM conversation_shares"));
    EXPECT_THAT(rows.at(0).Text(0), Not(HasSubstr("SECRET")));
    EXPECT_THAT(rows.at(0).Text(0), Not(HasSubstr("ANOTHER")));
    for (size_t i = 0; i < 3; ++i) EXPECT_THAT(rows.at(0).Text(i), Not(HasSubstr(made->token)));
    EXPECT_THAT(rows.at(0).Bytes(3), Not(HasSubstr(made->token)));
    return {};
  }));
  // Bytes of links count as the member's.
  const auto use = world_->database->Get<OwnerUse>(
      [&](store::Session& session) { return ReadOwnerUse(session, ConversationOwner::Of(ann_)); });
  options_.max_member_bytes = static_cast<uint64_t>(use->bytes) + 10;
  Open();
  EXPECT_EQ(Share().error().code, "member_storage_full");
}

TEST_P(SharesTest, EndedRevokedForbiddenAndUnknownLinksLookTheSame) {
  const std::string token = Share()->token;
  const auto second = Share();
  EXPECT_EQ(Refused(token), "");
  EXPECT_EQ(Refused("tps-nothing"), "share_not_found");
  EXPECT_EQ(Refused(std::string(300, 'x')), "share_not_found");
  allowed_ = false;  // the workspace's switch
  EXPECT_EQ(Refused(token), "share_not_found");
  allowed_ = true;
  gone_.insert("usr-ann");  // no member any more
  EXPECT_EQ(Refused(token), "share_not_found");
  gone_.clear();
  ASSERT_TRUE(shares_->Revoke(ann_, actor_, "conv-1", second->share.id));
  EXPECT_EQ(Refused(second->token), "share_not_found");
  EXPECT_EQ(shares_->Revoke(ann_, actor_, "conv-1", second->share.id).error().code, "share_not_found");
  EXPECT_EQ(Refused(token), "");
  world_->wall_clock.Advance(86'400'000);
  EXPECT_EQ(Refused(token), "share_not_found");
  EXPECT_TRUE(shares_->List(ann_, "conv-1")->empty());
  const std::string third = Share()->token;
  EXPECT_EQ(Refused(third), "");
  ASSERT_TRUE(world_->database->Write(
      [&](store::Session& session) { return DeleteConversation(session, "conv-1"); }));
  EXPECT_EQ(Refused(third), "share_not_found") << "its conversation is deleted";
}

TEST_P(SharesTest, OnlyTheOwnerMakesListsAndTakesBackLinks) {
  const auto made = Share();
  EXPECT_EQ(shares_->Create(bob_, actor_, "conv-1", "", 1).error().code, "unknown_conversation");
  EXPECT_EQ(shares_->List(bob_, "conv-1").error().code, "unknown_conversation");
  EXPECT_EQ(shares_->Revoke(bob_, actor_, "conv-1", made->share.id).error().code, "unknown_conversation");
  ASSERT_TRUE(world_->database->Write([&](store::Session& session) -> Status {
    Conversation bobs;
    bobs.id = "conv-2";
    return InsertConversation(session, ConversationOwner::Of(bob_), bobs);
  }));
  EXPECT_EQ(shares_->Revoke(bob_, actor_, "conv-2", made->share.id).error().code, "share_not_found");
  EXPECT_EQ(shares_->Create(bob_, actor_, "conv-2", "", 1).error().code, "nothing_to_share");
  const auto listed = shares_->List(ann_, "conv-1");
  ASSERT_EQ(listed->size(), 1u);
  EXPECT_EQ((*listed)[0].id, made->share.id);
  ASSERT_TRUE(shares_->Revoke(ann_, actor_, "conv-1", made->share.id));
  std::vector<std::string> actions;
  const auto rows = world_->audit->List("", 0, 10);
  ASSERT_TRUE(rows);
  for (const AuditRow& row : *rows) {
    if (row.object != made->share.id) continue;
    actions.push_back(row.action);
    EXPECT_THAT(row.before + row.after, Not(HasSubstr(made->token)));
    EXPECT_THAT(row.before + row.after, Not(HasSubstr("tides")));
  }
  EXPECT_EQ(actions, (std::vector<std::string>{"conversation.unshared", "conversation.shared"}));
}

TEST_P(SharesTest, WhatCannotBeShared) {
  allowed_ = false;
  EXPECT_EQ(Share().error().code, "sharing_off");
  allowed_ = true;
  EXPECT_EQ(Share("t9").error().code, "unknown_turn");
  for (const double days : {0.0, -1.0, 90.5, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_EQ(Share("t2", days).error().param, "days") << days;
  ASSERT_TRUE(world_->database->Write([&](store::Session& session) -> Status {
    Turn running = MakeTurn("t5", "t1", false, "half an ans");
    running.state = TurnState::kRunning;
    return InsertTurn(session, "conv-1", running);
  }));
  EXPECT_EQ(Share("t5").error().code, "still_running");
  options_.max_shares = 2;
  Open();
  ASSERT_TRUE(Share());
  ASSERT_TRUE(Share());
  EXPECT_EQ(Share().error().code, "too_many_shares");
  world_->wall_clock.Advance(86'400'000);
  EXPECT_TRUE(Share()) << "those that ended do not count";
  options_.max_share_bytes = 10;
  Open();
  EXPECT_EQ(Share().error().code, "share_too_large");
  options_.may_share = nullptr;
  Open();
  EXPECT_EQ(Share().error().code, "sharing_off");
}

TEST_P(SharesTest, AnAddressReadsSoManyAMinute) {
  options_.reads_per_minute = 3;
  Open();
  const std::string token = Share()->token;
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(Refused(i == 1 ? "tps-guess" : token), i == 1 ? "share_not_found" : "");
  EXPECT_EQ(Refused(token), "too_many_reads");
  EXPECT_EQ(Refused(token, "10.0.0.2"), "");
  for (const char* address : {"2001:db8::1", "2001:db8::2", "2001:db8:0:0:1::1"})
    EXPECT_EQ(Refused(token, address), "");
  EXPECT_EQ(Refused(token, "2001:db8::4"), "too_many_reads") << "one network";
  EXPECT_EQ(Refused(token, "2001:db8:0:1::4"), "");
  world_->clock.Advance(20 * kSecond);
  EXPECT_EQ(Refused(token), "");
  EXPECT_EQ(Refused(token), "too_many_reads");
}

INSTANTIATE_TEST_SUITE_P(Stores, SharesTest, ::testing::Values(Backend::kSqlite, Backend::kPostgresql),
                         [](const auto& backend) {
                           return backend.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

}  // namespace
}  // namespace tidepool::platform
