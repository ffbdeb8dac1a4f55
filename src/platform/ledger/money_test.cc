// Oracle: decimal arithmetic by hand, and Python's decimal module (values in comments).
#include "platform/ledger/money.h"

#include <gtest/gtest.h>

namespace tidepool::platform {
namespace {

TEST(Money, ParsesAndPrintsExactly) {
  for (const auto& [text, shown] :
       std::vector<std::pair<std::string, std::string>>{{"0", "0.00"},
                                                        {"12", "12.00"},
                                                        {"1.5", "1.50"},
                                                        {"0.000000001", "0.000000001"},
                                                        {"-3.25", "-3.25"},
                                                        {"9999999999.999999999", "9999999999.999999999"},
                                                        {"007", "7.00"}}) {
    const auto money = Money::Parse(text);
    ASSERT_TRUE(money) << text;
    EXPECT_EQ(money->ToString(), shown);
    EXPECT_EQ(Money::Parse(shown)->nanos, money->nanos);
  }
}

TEST(Money, RefusesWhatIsNoAmount) {
  for (const char* text : {"", "-", ".", ".5", "5.", "1e3", "1,5", "+1", "--1", "1.0000000001", "10000000000",
                           "99999999999999999999999999999999999999999", " 1", "1 ", "0x1", "NaN"}) {
    const auto money = Money::Parse(text);
    ASSERT_FALSE(money) << text;
    EXPECT_EQ(money.error().kind, ErrorKind::kInvalid);
  }
}

TEST(Money, RoundsHalvesToEven) {
  EXPECT_EQ(static_cast<int64_t>(MulDivHalfEven(5, 1, 10)), 0);     // 0.5
  EXPECT_EQ(static_cast<int64_t>(MulDivHalfEven(15, 1, 10)), 2);    // 1.5
  EXPECT_EQ(static_cast<int64_t>(MulDivHalfEven(25, 1, 10)), 2);    // 2.5
  EXPECT_EQ(static_cast<int64_t>(MulDivHalfEven(251, 1, 100)), 3);  // 2.51
  EXPECT_EQ(static_cast<int64_t>(MulDivHalfEven(24, 1, 10)), 2);
}

TEST(Money, SumsBeyondSixtyFourBits) {
  Money sum;
  for (int i = 0; i < 100; ++i) sum += Money{INT64_MAX};
  EXPECT_FALSE(sum.FitsRow());
  EXPECT_EQ(sum.ToString(), "922337203685.4775807");  // 9223372036.854775807 * 100
}

TEST(Factor, ParsesMillionths) {
  EXPECT_EQ(*ParseFactor("0.5"), 500'000);
  EXPECT_EQ(*ParseFactor("10"), 10'000'000);
  EXPECT_EQ(FactorText(500'000), "0.5");
  EXPECT_EQ(FactorText(1'000'000), "1");
  for (const char* text : {"10.000001", "-1", "0.0000001", "x", ""}) EXPECT_FALSE(ParseFactor(text)) << text;
}

}  // namespace
}  // namespace tidepool::platform
