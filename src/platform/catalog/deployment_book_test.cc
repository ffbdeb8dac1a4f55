// Deployments in both stores. Oracle: what the header promises; for durability a second book over the store.
#include "platform/catalog/deployment_book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "platform/accounts/testing/accounts_fixture.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::platform {
namespace {

using store::Backend;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

DeploymentSpec Spec(const std::string& name, const std::string& base = "smollm2:135m") {
  DeploymentSpec spec;
  spec.name = name;
  spec.base = base;
  return spec;
}

class DeploymentBookTest : public ::testing::TestWithParam<Backend> {
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
    world_->other_floors = {DeploymentBook::Migrations()};
    const Status opened = world_->Open();
    ASSERT_TRUE(opened) << opened.error().message;
    Open();
  }
  void TearDown() override { book_.reset(); }
  void Open(int64_t most = 1000) {
    book_.reset();
    auto book = DeploymentBook::Open(*world_->database, world_->audit.get(), world_->wall_clock,
                                     world_->metrics, most);
    ASSERT_TRUE(book) << book.error().message;
    book_ = std::move(*book);
  }
  std::vector<std::string> Actions() {
    std::vector<std::string> out;
    const auto rows = world_->audit->List("", 0, 100);
    EXPECT_TRUE(rows);
    for (const AuditRow& row : *rows) {
      if (row.action.starts_with("deployment.")) out.push_back(row.action + " " + row.object);
    }
    return out;
  }

  std::unique_ptr<AccountsWorld> world_;
  std::unique_ptr<DeploymentBook> book_;
  const AuditActor actor_ = MachineActor();
};

TEST_P(DeploymentBookTest, WhatWasMadeIsThereAfterARestart) {
  DeploymentSpec spec = Spec("support");
  spec.description = "für Kunden";
  spec.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}";
  spec.system_prompt = "Be brief.";
  spec.defaults = {.temperature = 0.2,
                   .top_p = 0.9,
                   .min_p = 0.05,
                   .repetition_penalty = 1.1,
                   .presence_penalty = -1,
                   .frequency_penalty = 1,
                   .top_k = 40,
                   .max_tokens = 100,
                   .reasoning_budget = 50,
                   .stop = {"END", "\n\n"},
                   .thinking = false,
                   .priority = compute::JobClass::kBatch};
  spec.max_context_tokens = 1000;
  spec.max_output_tokens = 200;
  spec.pinned = true;
  spec.idle_ttl_s = -1;
  spec.min_resident_s = 5;
  spec.ttft_s = 1;
  spec.tpot_s = 0.1;
  spec.weight = 3;
  int changes = 0;
  book_->OnChange([&] { ++changes; });
  const auto made = book_->Create(actor_, spec);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(changes, 1);
  EXPECT_EQ(made->created_ms, world_->wall_clock.unix_ms());
  Open();
  const auto found = book_->Find("support");
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(DeploymentSpecJson(*found), DeploymentSpecJson(*made));
  EXPECT_EQ(found->defaults.stop, spec.defaults.stop);
  EXPECT_EQ(found->defaults.thinking, false);
  EXPECT_EQ(found->defaults.priority, compute::JobClass::kBatch);
  EXPECT_EQ(found->idle_ttl_s, -1);
  EXPECT_EQ(found->created_ms, made->created_ms);
  EXPECT_EQ(book_->Find("Support"), nullptr);
  EXPECT_THAT(book_->NamesOf("smollm2:135m"), ElementsAre("support"));
}

TEST_P(DeploymentBookTest, ChangesAndTheEndHaveRowsInTheAuditLog) {
  ASSERT_TRUE(book_->Create(actor_, Spec("b")));
  ASSERT_TRUE(book_->Create(actor_, Spec("a")));
  EXPECT_EQ(book_->Create(actor_, Spec("a")).error().code, "exists");
  const auto held = book_->Find("a");
  world_->wall_clock.Advance(5000);
  const auto changed = book_->Change(actor_, "a", [](DeploymentSpec& spec) -> Status {
    spec.name = "another";  // stays
    spec.defaults.temperature = 0.5;
    return {};
  });
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_EQ(changed->name, "a");
  EXPECT_EQ(changed->updated_ms, changed->created_ms + 5000);
  EXPECT_EQ(book_->Find("a")->defaults.temperature, 0.5);
  EXPECT_FALSE(held->defaults.temperature) << "what a request holds does not change under it";
  EXPECT_EQ(book_
                ->Change(actor_, "a",
                         [](DeploymentSpec& spec) -> Status {
                           spec.defaults.temperature = 7;
                           return {};
                         })
                .error()
                .param,
            "temperature");
  EXPECT_EQ(book_->Find("a")->defaults.temperature, 0.5);
  ASSERT_TRUE(book_->Delete(actor_, "b"));
  EXPECT_EQ(book_->Find("b"), nullptr);
  EXPECT_EQ(book_->Delete(actor_, "b").error().code, "deployment_not_found");
  EXPECT_THAT(Actions(), ElementsAre("deployment.deleted b", "deployment.changed a", "deployment.created a",
                                     "deployment.created b"));
}

TEST_P(DeploymentBookTest, ListsArePagesByNameAndBounded) {
  Open(3);
  for (const char* name : {"c", "a", "b"}) ASSERT_TRUE(book_->Create(actor_, Spec(name)));
  EXPECT_EQ(book_->Create(actor_, Spec("d")).error().code, "too_many_deployments");
  const auto first = book_->List("", 2);
  ASSERT_EQ(first.deployments.size(), 2u);
  EXPECT_EQ(first.deployments[0]->name, "a");
  EXPECT_EQ(first.next, "b");
  const auto second = book_->List(first.next, 2);
  ASSERT_EQ(second.deployments.size(), 1u);
  EXPECT_EQ(second.deployments[0]->name, "c");
  EXPECT_EQ(second.next, "");
}

TEST_P(DeploymentBookTest, WhoCalledIsKeptNewestFirstAndBounded) {
  ASSERT_TRUE(book_->Create(actor_, Spec("a")));
  EXPECT_TRUE(book_->CallersOf("a").empty());
  for (size_t i = 0; i < kMaxDeploymentCallers + 4; ++i) {
    world_->wall_clock.Advance(1000);
    book_->NoteUse("a", {"org", "ws", "", "key-" + std::to_string(i), 0, 0});
  }
  world_->wall_clock.Advance(1000);
  book_->NoteUse("a", {"org", "ws", "", "key-10", 0, 0});
  book_->NoteUse("nothing", {"org", "ws", "", "key-1", 0, 0});
  Open();  // written down at the end
  const auto callers = book_->CallersOf("a");
  ASSERT_EQ(callers.size(), kMaxDeploymentCallers);
  EXPECT_EQ(callers[0].key, "key-10");
  EXPECT_EQ(callers[0].requests, 2);
  EXPECT_EQ(callers[0].last_ms, world_->wall_clock.unix_ms());
  EXPECT_EQ(callers[1].key, "key-19");
  EXPECT_EQ(callers.back().key, "key-4");
  ASSERT_TRUE(book_->Delete(actor_, "a"));
  EXPECT_TRUE(book_->CallersOf("a").empty());
  ASSERT_TRUE(book_->Create(actor_, Spec("a")));
  EXPECT_TRUE(book_->CallersOf("a").empty()) << "those of an earlier one";
}

TEST_P(DeploymentBookTest, AnotherServersChangesAreSeenWhereTheStoreIsShared) {
  auto other = DeploymentBook::Open(*world_->database, nullptr, world_->wall_clock, world_->metrics, 1000);
  ASSERT_TRUE(other);
  ASSERT_TRUE((*other)->Create(actor_, Spec("a")));
  book_->Refresh();
  EXPECT_EQ(book_->Find("a") != nullptr, GetParam() == Backend::kPostgresql);
}

INSTANTIATE_TEST_SUITE_P(Stores, DeploymentBookTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgresql), [](const auto& backend) {
                           return backend.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

TEST(DeploymentSpecTest, NamesAndValuesThatAreNone) {
  for (const char* name : {"gpt-4o-mini", "openai/gpt-4.1", "claude-3-5-sonnet:latest", "A", "0x"})
    EXPECT_TRUE(CheckDeploymentName(name)) << name;
  for (const std::string& name : {std::string(), std::string("-a"), std::string("a b"), std::string("é"),
                                  std::string("a//b"), std::string("a/"), std::string("../a"),
                                  std::string(129, 'a'), std::string("a\0b", 3), std::string("a?b")})
    EXPECT_EQ(CheckDeploymentName(name).error().param, "name") << name;
  const auto refused = [](const std::function<void(DeploymentSpec&)>& change) {
    DeploymentSpec spec = Spec("a");
    change(spec);
    const Status checked = CheckDeploymentSpec(spec);
    return checked ? std::string() : checked.error().param;
  };
  EXPECT_EQ(refused([](auto& s) { s.defaults.temperature = 2; }), "");
  EXPECT_EQ(refused([](auto& s) { s.defaults.temperature = 2.1; }), "temperature");
  EXPECT_EQ(refused([](auto& s) { s.defaults.top_p = 0; }), "top_p");
  EXPECT_EQ(refused([](auto& s) { s.defaults.max_tokens = 0; }), "max_tokens");
  EXPECT_EQ(refused([](auto& s) { s.defaults.stop = {""}; }), "stop");
  EXPECT_EQ(refused([](auto& s) { s.defaults.stop = std::vector<std::string>(17, "x"); }), "stop");
  EXPECT_EQ(refused([](auto& s) { s.idle_ttl_s = -2; }), "idle_ttl_s");
  EXPECT_EQ(refused([](auto& s) { s.weight = 0; }), "weight");
  EXPECT_EQ(refused([](auto& s) { s.max_context_tokens = -1; }), "max_context_tokens");
  EXPECT_EQ(refused([](auto& s) { s.system_prompt = std::string("a\0b", 3); }), "system_prompt");
  EXPECT_EQ(refused([](auto& s) { s.chat_template = "{% for %}"; }), "chat_template");
}

}  // namespace
}  // namespace tidepool::platform
