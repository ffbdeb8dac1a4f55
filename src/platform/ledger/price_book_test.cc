// Oracle: amounts worked out by hand from the formula of price_book.h.
#include "platform/ledger/price_book.h"

#include <gtest/gtest.h>

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

Json Book() {
  return Json::parse(R"({
    "currency": "EUR", "valid_from": "2026-01-01T00:00:00Z",
    "models": [
      {"model": "a", "tiers": [{"up_to": 1000, "input": "2", "cached_input": "0.4", "output": "8",
                                "reasoning_output": "10"}, {"input": "4", "output": "16"}],
       "batch_factor": "0.5", "minimum_charge": "0.0001"},
      {"model": "e", "embedding": "0.5"}],
    "discounts": [{"organisation": "friends", "factor": "0.8"}]})");
}

PriceBook Parsed(const Json& json = Book()) {
  auto book = ParsePriceBook(json);
  EXPECT_TRUE(book) << (book ? "" : book.error().message);
  return *book;
}

std::string Amount(const PriceRequest& request) { return PriceOf(Parsed(), request).amount.ToString(); }

TEST(PriceBook, PricesEveryKindOfToken) {
  // (2*(900-100) + 0.4*100 + 8*(50-20) + 10*20) / 1e6 = (1600 + 40 + 240 + 200) / 1e6 = 0.00208
  EXPECT_EQ(Amount({.organisation = "o", .model = "a", .tokens = {900, 100, 50, 20}}), "0.00208");
}

TEST(PriceBook, TheTierOfThePromptAppliesToAllTokens) {
  EXPECT_EQ(Amount({.organisation = "o", .model = "a", .tokens = {1000, 0, 100, 0}}), "0.0028");
  // One token more: (4*1001 + 16*100) / 1e6; cached and reasoning cost what input and output do.
  EXPECT_EQ(Amount({.organisation = "o", .model = "a", .tokens = {1001, 0, 100, 0}}), "0.005604");
  EXPECT_EQ(Amount({.organisation = "o", .model = "a", .tokens = {1001, 1001, 100, 100}}), "0.005604");
}

TEST(PriceBook, FactorsDiscountsAndMinimum) {
  EXPECT_EQ(Amount({.organisation = "friends", .model = "a", .batch = true, .tokens = {1000, 0, 100, 0}}),
            "0.00112");  // 0.0028 * 0.5 * 0.8
  EXPECT_EQ(Amount({.organisation = "o", .model = "a", .tokens = {1, 0, 0, 0}}), "0.0001");
  EXPECT_EQ(Amount({.organisation = "o", .model = "a", .tokens = {0, 0, 0, 0}}), "0.00");  // nothing ran
  EXPECT_EQ(Amount({.organisation = "o", .model = "e", .embeds = true, .tokens = {3000, 0, 0, 0}}), "0.0015");
}

TEST(PriceBook, TheFreeQuotaCoversThePromptFirst) {
  const PriceBook book = Parsed();
  PriceRequest request{.organisation = "o", .model = "a", .tokens = {900, 100, 50, 20}, .free_tokens = 900};
  EXPECT_EQ(PriceOf(book, request).amount.ToString(), "0.00044");  // (8*30 + 10*20) / 1e6
  EXPECT_EQ(PriceOf(book, request).billing, Billing::kMixed);
  request.free_tokens = 950;
  EXPECT_EQ(PriceOf(book, request).amount.ToString(), "0.00");
  EXPECT_EQ(PriceOf(book, request).billing, Billing::kFree);
}

TEST(PriceBook, FailuresAreWaivedUnlessTheBookSaysOtherwise) {
  PriceRequest request{
      .organisation = "o", .model = "a", .status = UsageStatus::kError, .tokens = {900, 0, 50, 0}};
  EXPECT_EQ(PriceOf(Parsed(), request).billing, Billing::kWaived);
  EXPECT_EQ(PriceOf(Parsed(), request).amount, Money{});
  Json strict = Book();
  strict["charge_failed"] = true;
  EXPECT_EQ(PriceOf(Parsed(strict), request).billing, Billing::kPaid);
  request.status = UsageStatus::kCancelled;  // what was computed for a client that left is paid
  EXPECT_EQ(PriceOf(Parsed(), request).amount.ToString(), "0.0022");
}

TEST(PriceBook, TheBuiltInBookHasNoPrices) {
  PriceBooks books;
  const auto book = books.At(1'764'000'000'000);
  EXPECT_EQ(book->version, 0);
  const auto priced = PriceOf(*book, {.organisation = "o", .model = "a", .tokens = {900, 0, 50, 0}});
  EXPECT_EQ(priced.billing, Billing::kUnpriced);
  EXPECT_EQ(priced.amount, Money{});
}

TEST(PriceBook, TheNewestValidVersionCounts) {
  PriceBooks books;
  PriceBook first = Parsed(), second = Parsed(), third = Parsed();
  first.version = 1;
  first.valid_from_ms = 0;
  second.version = 2;
  second.valid_from_ms = 1000;
  second.valid_to_ms = 2000;
  third.version = 3;
  third.valid_from_ms = 5000;
  for (const PriceBook& book : {third, first, second}) books.Add(book);
  EXPECT_EQ(books.At(999)->version, 1);
  EXPECT_EQ(books.At(1000)->version, 2);
  EXPECT_EQ(books.At(2000)->version, 1);
  EXPECT_EQ(books.At(5000)->version, 3);
  EXPECT_EQ(books.Version(2)->valid_to_ms, 2000);
}

TEST(PriceBook, ReadsWhatItWrites) {
  const PriceBook book = Parsed();
  const Json json = PriceBookJson(book);
  EXPECT_EQ(PriceBookJson(Parsed(json)).dump(), json.dump());
}

// The largest request at the largest prices fits into a row: the bound of price_book.h.
TEST(PriceBook, NothingOverflows) {
  Json json = Book();
  json["models"][0]["tiers"] = Json::parse(
      R"([{"input":"100000","cached_input":"100000","output":"100000","reasoning_output":"100000"}])");
  json["models"][0]["batch_factor"] = "10";
  const PriceBook book = Parsed(json);
  const auto priced = PriceOf(book, {.organisation = "o",
                                     .model = "a",
                                     .batch = true,
                                     .tokens = {INT64_MAX / 2, INT64_MAX / 4, INT64_MAX, 5}});
  EXPECT_TRUE(priced.amount.FitsRow());
  EXPECT_GT(priced.amount, Money{});
}

TEST(PriceBook, RefusesBadBooksByField) {
  const auto field = [](const char* pointer, Json value) {
    Json json = Book();
    json[Json::json_pointer(pointer)] = std::move(value);
    const auto book = ParsePriceBook(json);
    EXPECT_FALSE(book) << pointer;
    return book ? "accepted" : book.error().param;
  };
  EXPECT_EQ(field("/currency", "euro"), "currency");
  EXPECT_EQ(field("/valid_to", "2025-01-01"), "valid_to");
  EXPECT_EQ(field("/surprise", 1), "surprise");
  EXPECT_EQ(field("/models/0/tiers/0/input", 2.5), "models[0].tiers[0].input");
  EXPECT_EQ(field("/models/0/tiers/0/input", "-1"), "models[0].tiers[0].input");
  EXPECT_EQ(field("/models/0/tiers/0/input", "100000.000000001"), "models[0].tiers[0].input");
  EXPECT_EQ(field("/models/0/tiers/0/input", "999999999999999999999"), "models[0].tiers[0].input");
  EXPECT_EQ(field("/models/0/tiers/0/up_to", -5), "models[0].tiers[0].up_to");
  EXPECT_EQ(field("/models/0/tiers/1/up_to", 5000), "models[0].tiers[1].up_to");
  EXPECT_EQ(field("/models/0/tiers", Json::array()), "models[0].tiers");
  EXPECT_EQ(field("/models/1/model", "a"), "models[1].model");
  EXPECT_EQ(field("/discounts/0/factor", "1.5"), "discounts[0].factor");
  EXPECT_EQ(field("/models", 7), "models");
}

TEST(Time, ParsesAndPrints) {
  EXPECT_EQ(*ParseTimeMs("1970-01-02", "from"), 86'400'000);
  EXPECT_EQ(*ParseTimeMs("2026-11-28T07:19:39Z", "from"), 1'795'850'379'000);  // date -d
  EXPECT_EQ(TimeText(1'795'850'379'000), "2026-11-28T07:19:39Z");
  EXPECT_EQ(TimeText(*ParseTimeMs("2026-11-28T07:19:39.250Z", "from")), "2026-11-28T07:19:39.250Z");
  EXPECT_EQ(*ParseTimeMs("1795850379", "from"), 1'795'850'379'000);
  for (const char* text :
       {"", "2026-13-01", "2026-02-30", "2026-11-28T25:00:00Z", "yesterday", "2026-11-28T07:19:39",
        "2026-11-28T07:19:39+01:00", "-5", "999999999999999999", "2026-1"}) {
    const auto time = ParseTimeMs(text, "from");
    ASSERT_FALSE(time) << text;
    EXPECT_EQ(time.error().param, "from");
  }
}

}  // namespace
}  // namespace tidepool::platform
