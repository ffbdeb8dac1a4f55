// Oracle: counts and balances worked out by hand under clocks that move only when told to.
#include "platform/ledger/limiter.h"

#include <gtest/gtest.h>

#include <thread>

namespace tidepool::platform {
namespace {

constexpr int64_t kNow = 1'795'824'000'000;  // 2026-11-28T00:00:00Z

class LimiterTest : public ::testing::Test {
 protected:
  LimiterTest() { Make({.tokens = 0}); }
  void Make(const QuotaDefaults& quota) {
    limiter_ = std::make_unique<Limiter>(clock_, wall_, books_, quota);
  }
  void Prices() {
    auto book = ParsePriceBook(nlohmann::ordered_json::parse(
        R"({"currency":"EUR","models":[{"model":"*","tiers":[{"input":"1000","output":"1000"}]}]})"));
    ASSERT_TRUE(book);
    book->version = 1;
    books_.Add(*book);
  }
  static AdmissionRequest Request(int64_t prompt = 10, int64_t output = 90) {
    AdmissionRequest request;
    request.payer = {.organisation = "o", .workspace = "w", .key = "k", .member = ""};
    request.model = "m";
    request.model_version = "sha-1";
    request.prompt_tokens = prompt;
    request.max_output_tokens = output;
    return request;
  }
  static Scope Key(const std::string& id = "k") { return {ScopeKind::kKey, id}; }
  std::string Code(const AdmissionRequest& request) {
    auto reserved = limiter_->Reserve(request);
    if (!reserved) return reserved.error().code;
    last_ = *reserved;
    return "admitted";
  }

  ManualClock clock_;
  ManualWallClock wall_{kNow};
  PriceBooks books_;
  std::unique_ptr<Limiter> limiter_;
  Reservation last_;
};

TEST_F(LimiterTest, WithoutRulesEverythingIsAdmitted) {
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(Code(Request()), "admitted");
  EXPECT_FALSE(last_.rates.requests);
}

TEST_F(LimiterTest, RequestsAMinuteAreABucketWithBurst) {
  Limit limit{.scope = Key(), .organisation = "o", .requests_per_minute = 60};
  limit.burst_s = 10;  // ten at once, then one a second
  limiter_->SetLimit(limit, 0);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Code(Request()), "admitted");
  auto refused = limiter_->Reserve(Request());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "rate_limit_exceeded");
  EXPECT_EQ(refused.error().kind, ErrorKind::kOverloaded);
  EXPECT_DOUBLE_EQ(refused.error().retry_after_s, 1);
  EXPECT_NE(refused.error().message.find("ask an owner or admin"), std::string::npos);
  clock_.Advance(3 * kSecond);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Code(Request()), "admitted");
  EXPECT_EQ(Code(Request()), "rate_limit_exceeded");
  clock_.Advance(3600 * kSecond);  // never more than the burst
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Code(Request()), "admitted");
  EXPECT_EQ(Code(Request()), "rate_limit_exceeded");
}

TEST_F(LimiterTest, TokensAreReservedWholeAndSettled) {
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .tokens_per_minute = 1000}, 0);
  EXPECT_EQ(Code(Request(100, 800)), "admitted");
  EXPECT_EQ(last_.rates.tokens->remaining, 100);
  const Reservation first = last_;
  EXPECT_EQ(Code(Request(10, 91)), "rate_limit_exceeded");
  limiter_->Settle(first, UsageStatus::kDone, {.prompt = 100, .output = 50});  // 750 come back
  EXPECT_EQ(Code(Request(10, 840)), "admitted");
  EXPECT_EQ(last_.rates.tokens->remaining, 0);
}

TEST_F(LimiterTest, WhatCanNeverFitIsToldApart) {
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .tokens_per_minute = 1000}, 0);
  auto refused = limiter_->Reserve(Request(10, 991));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "request_exceeds_limit");
  EXPECT_EQ(refused.error().kind, ErrorKind::kTooLarge);
  // A client that named no maximum gets what can fit.
  AdmissionRequest open = Request(10, 100'000);
  open.may_lower_output = true;
  EXPECT_EQ(Code(open), "admitted");
  EXPECT_EQ(last_.max_output_tokens, 990);
}

TEST_F(LimiterTest, ContextAndOutputLimits) {
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .context_length = 200, .max_output_tokens = 100},
                     0);
  EXPECT_EQ(Code(Request(10, 100)), "admitted");
  EXPECT_EQ(Code(Request(10, 101)), "max_output_limit_exceeded");
  EXPECT_EQ(Code(Request(101, 100)), "context_limit_exceeded");
  AdmissionRequest open = Request(150, 4000);
  open.may_lower_output = true;
  EXPECT_EQ(Code(open), "admitted");
  EXPECT_EQ(last_.max_output_tokens, 50);
}

TEST_F(LimiterTest, AllScopesOrNone) {
  limiter_->SetLimit(
      {.scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o", .requests_per_minute = 100}, 0);
  limiter_->SetLimit({.scope = {ScopeKind::kWorkspace, "w"}, .organisation = "o", .concurrent_requests = 1},
                     0);
  EXPECT_EQ(Code(Request()), "admitted");
  const Reservation first = last_;
  for (int i = 0; i < 500; ++i) EXPECT_EQ(Code(Request()), "rate_limit_exceeded");
  limiter_->Settle(first, UsageStatus::kDone, {});
  // The refused ones took nothing from the organisation.
  EXPECT_EQ(Code(Request()), "admitted");
  EXPECT_EQ(last_.rates.requests->remaining, 98);
}

TEST_F(LimiterTest, ALimitOfOneModelLeavesOthersAlone) {
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .model = "m", .requests_per_minute = 1}, 0);
  EXPECT_EQ(Code(Request()), "admitted");
  EXPECT_EQ(Code(Request()), "rate_limit_exceeded");
  AdmissionRequest other = Request();
  other.model = "n";
  EXPECT_EQ(Code(other), "admitted");
}

TEST_F(LimiterTest, ZeroForbids) {
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .requests_per_minute = 0}, 0);
  EXPECT_EQ(Code(Request()), "rate_limit_exceeded");
  clock_.Advance(3600 * kSecond);
  EXPECT_EQ(Code(Request()), "rate_limit_exceeded");
}

// Section 3 of the ledger's contract: 200 at once against a quota for 10.
TEST_F(LimiterTest, TwoHundredAtOnceAgainstAQuotaForTen) {
  Make({.tokens = 1000, .stop_when_exhausted = true});
  std::atomic<int> admitted{0}, exhausted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        const auto reserved = limiter_->Reserve(Request(10, 90));
        if (reserved) {
          ++admitted;
        } else if (reserved.error().code == "quota_exhausted") {
          ++exhausted;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(admitted, 10);
  EXPECT_EQ(exhausted, 190);
  const auto refusals = limiter_->TakeRefusals(true);
  ASSERT_EQ(refusals.size(), 1u);  // counted, not stored one by one
  EXPECT_EQ(refusals[0].count, 190);
  EXPECT_EQ(refusals[0].code, "quota_exhausted");
}

TEST_F(LimiterTest, TheFreeQuotaIsOneForAllNamesOfAModel) {
  Make({.tokens = 1000, .stop_when_exhausted = true});
  EXPECT_EQ(Code(Request(10, 890)), "admitted");
  AdmissionRequest alias = Request(10, 190);
  alias.model = "another-name";
  alias.payer.workspace = "w2";
  alias.payer.key = "k2";
  EXPECT_EQ(Code(alias), "quota_exhausted");
  alias.payer.organisation = "o2";
  EXPECT_EQ(Code(alias), "admitted");
  alias.payer.organisation = "o";
  alias.model_version = "sha-2";
  EXPECT_EQ(Code(alias), "admitted");
}

TEST_F(LimiterTest, TheFreeQuotaPaysFirstThenThePriceList) {
  Prices();
  Make({.tokens = 150});
  EXPECT_EQ(Code(Request(100, 100)), "admitted");
  const Settlement first = limiter_->Settle(last_, UsageStatus::kDone, {.prompt = 100, .output = 20});
  EXPECT_EQ(first.free_tokens, 120);
  EXPECT_EQ(first.priced.billing, Billing::kFree);
  EXPECT_EQ(Code(Request(100, 100)), "admitted");
  const Settlement second = limiter_->Settle(last_, UsageStatus::kDone, {.prompt = 100, .output = 20});
  EXPECT_EQ(second.free_tokens, 30);
  EXPECT_EQ(second.priced.billing, Billing::kMixed);
  EXPECT_EQ(second.priced.amount.ToString(), "0.09");  // 90 tokens at 1000 a million
  const auto quota = limiter_->FindQuota("o", "sha-1");
  ASSERT_TRUE(quota);
  EXPECT_EQ(quota->used, 150);
  const auto notices = limiter_->TakeNotices();
  ASSERT_EQ(notices.size(), 2u);
  EXPECT_EQ(notices[0].threshold, 20);
  EXPECT_EQ(notices[1].threshold, 0);
  EXPECT_EQ(limiter_->TakeNewQuotas().size(), 1u);
}

TEST_F(LimiterTest, TheFreeQuotaExpires) {
  Make({.tokens = 1000, .validity_days = 90, .stop_when_exhausted = true});
  EXPECT_EQ(Code(Request()), "admitted");
  limiter_->Settle(last_, UsageStatus::kDone, {.prompt = 10, .output = 10});
  wall_.Advance(int64_t{90} * 86'400'000);
  EXPECT_EQ(Code(Request()), "quota_exhausted");
  FreeQuota quota = *limiter_->FindQuota("o", "sha-1");
  quota.stop_when_exhausted = false;  // an admin can turn it both ways
  limiter_->SetQuota(quota);
  EXPECT_EQ(Code(Request()), "admitted");
  EXPECT_EQ(limiter_->Settle(last_, UsageStatus::kDone, {.prompt = 10}).free_tokens, 0);
}

TEST_F(LimiterTest, ABudgetCountsForItsScopeOnlyWhereverItMoves) {
  Prices();
  Budget budget{.id = "b", .scope = {ScopeKind::kKey, "k2"}, .organisation = "o"};
  budget.amount = {};
  limiter_->SetBudget(budget, {});
  EXPECT_TRUE(limiter_->Reserve(Request(10, 10))) << "another key's budget";
  budget.scope = {ScopeKind::kWorkspace, "w"};
  limiter_->SetBudget(budget, {});
  EXPECT_EQ(limiter_->Reserve(Request(10, 10)).error().code, "budget_exhausted");
  budget.scope = {ScopeKind::kKey, "k2"};
  limiter_->SetBudget(budget, {});
  EXPECT_TRUE(limiter_->Reserve(Request(10, 10)));
  EXPECT_EQ(limiter_->budgets("o").size(), 1u);
  budget.organisation = "another";
  limiter_->SetBudget(budget, {});
  EXPECT_EQ(limiter_->budgets("o").size(), 0u);
  EXPECT_EQ(limiter_->budgets("another").size(), 1u);
  ASSERT_TRUE(limiter_->RemoveBudget("b"));
  EXPECT_FALSE(limiter_->FindBudget("b"));
  EXPECT_EQ(limiter_->rules().second, 0u);
  EXPECT_EQ(limiter_->budgets("another").size(), 0u);
}

TEST_F(LimiterTest, RulesAreListedByOrganisation) {
  for (const char* organisation : {"o", "another"}) {
    for (const char* model : {"*", "m"})
      limiter_->SetLimit({.scope = Key(organisation), .organisation = organisation, .model = model}, 0);
    limiter_->SetQuota({.organisation = organisation, .model_version = "sha", .model = "m"});
  }
  EXPECT_EQ(limiter_->limits().size(), 4u);
  ASSERT_TRUE(limiter_->RemoveLimit(Key("o"), "m"));
  ASSERT_EQ(limiter_->limits("o").size(), 1u);
  EXPECT_EQ(limiter_->limits("o")[0].model, "*");
  EXPECT_EQ(limiter_->limits("another").size(), 2u);
  EXPECT_EQ(limiter_->limits("nobody").size(), 0u);
  EXPECT_EQ(limiter_->quotas("o").size(), 1u);
  EXPECT_EQ(limiter_->quotas("p").size(), 0u);
  EXPECT_EQ(limiter_->quotas("").size(), 2u);
  // By pages, in the order of the whole.
  EXPECT_EQ(limiter_->limits("", {}, 2).size(), 2u);
  EXPECT_EQ(limiter_->limits("", Limiter::LimitKey{Key("another"), "*"})[0].model, "m");
  EXPECT_EQ(limiter_->limits("another", Limiter::LimitKey{Key("another"), "m"}).size(), 0u);
  EXPECT_EQ(limiter_->quotas("o", "sha").size(), 0u);
  EXPECT_FALSE(limiter_->RemoveLimit(Key("o"), "m"));
}

TEST_F(LimiterTest, ABudgetOfAnotherCurrencyCountsNothingAndBlocksNothing) {
  Prices();
  const std::string ours = books_.At(wall_.unix_ms())->currency;
  Budget budget{.id = "ours", .scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o"};
  budget.amount = *Money::Parse("1");
  budget.thresholds = {10};
  budget.currency = ours;
  limiter_->SetBudget(budget, {{ours, *Money::Parse("0.05")}, {"XAU", *Money::Parse("7")}});
  budget.id = "theirs";
  budget.currency = "XAU";
  budget.amount = *Money::Parse("0.01");
  limiter_->SetBudget(budget, {{ours, *Money::Parse("0.05")}});
  EXPECT_EQ(Code(Request(100, 0)), "admitted");  // costs 0.10
  limiter_->Settle(last_, UsageStatus::kDone, {.prompt = 100});
  const auto state = [&](const char* id) { return *limiter_->FindBudget(id); };
  EXPECT_EQ(state("ours").spent.ToString(), "0.15");
  EXPECT_EQ(state("ours").not_counted, (Amounts{{"XAU", *Money::Parse("7")}}));
  EXPECT_EQ(state("theirs").spent, Money{});
  EXPECT_EQ(state("theirs").reserved, Money{});
  EXPECT_EQ(state("theirs").not_counted, (Amounts{{ours, *Money::Parse("0.15")}}));
  const auto notices = limiter_->TakeNotices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_EQ(notices[0].subject, "ours");
  EXPECT_EQ(notices[0].currency, ours);
}

TEST_F(LimiterTest, BudgetsReserveTellAndBlock) {
  Prices();
  Budget budget{.id = "b", .scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o"};
  budget.amount = *Money::Parse("1");
  budget.thresholds = {50, 100};
  limiter_->SetBudget(budget, {});
  EXPECT_EQ(Code(Request(500, 400)), "admitted");  // may cost 0.90
  const Reservation first = last_;
  EXPECT_EQ(Code(Request(50, 51)), "budget_exhausted");
  EXPECT_EQ(
      limiter_->Settle(first, UsageStatus::kDone, {.prompt = 500, .output = 100}).priced.amount.ToString(),
      "0.60");
  auto notices = limiter_->TakeNotices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_EQ(notices[0].threshold, 50);
  EXPECT_EQ(notices[0].used, "0.60");
  EXPECT_EQ(Code(Request(300, 101)), "budget_exhausted");
  EXPECT_EQ(Code(Request(300, 100)), "admitted");
  limiter_->Settle(last_, UsageStatus::kDone, {.prompt = 300, .output = 100});
  notices = limiter_->TakeNotices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_EQ(notices[0].threshold, 100);
  auto refused = limiter_->Reserve(Request(1, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "budget_exhausted");
  EXPECT_NE(refused.error().message.find("ask the operator"), std::string::npos);
  wall_.Advance(int64_t{3} * 86'400'000);  // 1 December
  EXPECT_EQ(Code(Request(300, 100)), "admitted");
}

TEST_F(LimiterTest, TokensADaySurviveAClockThatJumps) {
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .tokens_per_day = 1000}, /*used_today=*/900);
  EXPECT_EQ(Code(Request(10, 91)), "quota_exhausted");
  EXPECT_EQ(Code(Request(10, 90)), "admitted");
  wall_.Advance(int64_t{400} * 86'400'000);
  EXPECT_EQ(Code(Request(10, 90)), "admitted");  // another day
  wall_.Set(kNow);                               // and back: the count is still there
  EXPECT_EQ(Code(Request(1, 1)), "quota_exhausted");
  wall_.Set(kNow - 1);  // the day before, just
  EXPECT_EQ(Code(Request(10, 90)), "admitted");
}

TEST_F(LimiterTest, AReleasedRequestGivesEverythingBack) {
  limiter_->SetLimit({.scope = Key(),
                      .organisation = "o",
                      .requests_per_minute = 1,
                      .tokens_per_minute = 100,
                      .tokens_per_day = 100,
                      .concurrent_requests = 1},
                     0);
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(Code(Request(10, 90)), "admitted");
    limiter_->Release(last_);
  }
}

TEST_F(LimiterTest, ChangingALimitKeepsWhatIsUsed) {
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .tokens_per_minute = 1000}, 0);
  EXPECT_EQ(Code(Request(10, 890)), "admitted");
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .tokens_per_minute = 1200}, 0);
  EXPECT_EQ(Code(Request(10, 291)), "rate_limit_exceeded");
  EXPECT_EQ(Code(Request(10, 290)), "admitted");
  limiter_->SetLimit({.scope = Key(), .organisation = "o", .tokens_per_minute = 100}, 0);
  EXPECT_EQ(Code(Request(1, 1)), "rate_limit_exceeded");
  EXPECT_TRUE(limiter_->RemoveLimit(Key(), "*"));
  EXPECT_EQ(Code(Request(10, 100'000)), "admitted");
}

TEST_F(LimiterTest, BadRulesAreRefusedByField) {
  EXPECT_EQ(CheckLimit({.scope = Key(), .organisation = "o", .requests_per_minute = -1}).error().param,
            "requests_per_minute");
  EXPECT_EQ(CheckLimit({.scope = Key(), .organisation = "o", .tokens_per_day = INT64_MAX}).error().param,
            "tokens_per_day");
  Limit burst{.scope = Key()};
  burst.burst_s = 0;
  EXPECT_EQ(CheckLimit(burst).error().param, "burst_s");
  Budget budget;
  budget.amount = Money{-1};
  EXPECT_EQ(CheckBudget(budget).error().param, "amount");
  budget.amount = Money{Int128{INT64_MAX} + 1};
  EXPECT_EQ(CheckBudget(budget).error().param, "amount");
  budget.amount = {};
  budget.thresholds = {80, 50};
  EXPECT_EQ(CheckBudget(budget).error().param, "thresholds");
  for (const char* text : {"", "key", "key:", "user:x", "key:x'; DROP TABLE usage_rows; --"}) {
    const auto scope = ParseScope(text);
    EXPECT_EQ(scope.has_value(), std::string_view(text).starts_with("key:x")) << text;
  }
}

TEST(Period, MonthsAndDaysAreUtc) {
  const int64_t day = 86'400'000;
  EXPECT_EQ(PeriodBounds(Period::kDay, kNow + 5), std::pair(kNow, kNow + day));
  const auto [from, to] = PeriodBounds(Period::kMonth, kNow);
  EXPECT_EQ(TimeText(from), "2026-11-01T00:00:00Z");
  EXPECT_EQ(TimeText(to), "2026-12-01T00:00:00Z");
  EXPECT_EQ(TimeText(PeriodBounds(Period::kMonth, *ParseTimeMs("2026-12-31", "t")).second),
            "2027-01-01T00:00:00Z");
}

}  // namespace
}  // namespace tidepool::platform
