#include "compute/engine/drafter.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace tidepool::compute {
namespace {

std::vector<int32_t> Proposed(Drafter& drafter, const std::vector<int32_t>& tokens, int32_t most = 16) {
  std::vector<int32_t> out;
  drafter.Add(tokens);
  drafter.Propose(tokens, {}, most, out);
  return out;
}

TEST(Drafter, ProposesWhatFollowedBefore) {
  Drafter drafter;
  drafter.Reserve(100);
  EXPECT_EQ(Proposed(drafter, {1, 2, 3, 4, 5, 6, 7}), std::vector<int32_t>{});
  EXPECT_EQ(Proposed(drafter, {1, 2, 3, 4, 5, 6, 7, 1, 2, 3}), (std::vector<int32_t>{4, 5}));
  EXPECT_EQ(Proposed(drafter, {1, 2, 3, 4, 5, 6, 7, 1, 2, 3}, 1), std::vector<int32_t>{4});
  // The last place counts; a repetition is followed into itself.
  EXPECT_EQ(Proposed(drafter, {1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 9, 1, 2, 3}), (std::vector<int32_t>{9, 1}));
  Drafter same;
  same.Reserve(100);
  EXPECT_EQ(Proposed(same, {8, 8, 8, 8}), std::vector<int32_t>{8});
}

TEST(Drafter, ProposesBehindWhatIsCertain) {
  Drafter drafter;
  drafter.Reserve(100);
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 1};
  drafter.Add(tokens);
  std::vector<int32_t> out;
  drafter.Propose(tokens, std::vector<int32_t>{2, 3}, 16, out);
  EXPECT_EQ(out, (std::vector<int32_t>{4, 5}));
  out.clear();
  drafter.Propose(tokens, std::vector<int32_t>{9, 9, 3, 4, 5}, 1, out);
  EXPECT_EQ(out, std::vector<int32_t>{6});
}

TEST(Drafter, ProposesMoreWhileItIsRight) {
  std::vector<int32_t> text(200);
  std::iota(text.begin(), text.end(), 0);
  std::vector<int32_t> tokens = text;
  Drafter drafter;
  drafter.Reserve(1000);
  tokens.insert(tokens.end(), {0, 1, 2});
  size_t steps = 0;
  while (tokens.size() < 370) {
    const std::vector<int32_t> draft = Proposed(drafter, tokens);
    for (const int32_t token : draft) {
      ASSERT_EQ(token, text[tokens.size() - 200]);
      tokens.push_back(token);
    }
    tokens.push_back(text[tokens.size() - 200]);
    drafter.pace().Learn(static_cast<int32_t>(draft.size()), static_cast<int32_t>(draft.size()), 0.2);
    ++steps;
  }
  EXPECT_LT(steps, 18u);
}

TEST(Drafter, RestsWhereItIsWrong) {
  std::mt19937 random(1);
  std::vector<int32_t> tokens;
  Drafter drafter;
  drafter.Reserve(10000);
  int32_t rows = 0;
  for (int i = 0; i < 5000; ++i) {
    tokens.push_back(static_cast<int32_t>(random() % 4));  // every gram was there before, and says nothing
    const auto draft = Proposed(drafter, tokens);
    rows += static_cast<int32_t>(draft.size());
    drafter.pace().Learn(static_cast<int32_t>(draft.size()), 0, 0.2);
  }
  EXPECT_GT(rows, 0);
  EXPECT_LT(rows, 150) << "less than 1% of the steps' rows are drafts";
}

TEST(DraftPace, RestsLaterWithCredit) {
  DraftPace strict(16), patient(16, 3);
  strict.Learn(8, 1, 0.3);
  patient.Learn(8, 1, 0.3);
  EXPECT_EQ(strict.Length(), 0) << "one token gained, 2.4 paid";
  EXPECT_EQ(patient.Length(), 3) << "one more than was right, and the row's own";
  for (int i = 0; i < 4; ++i) patient.Learn(8, 1, 0.3);
  EXPECT_EQ(patient.Length(), 0);
}

}  // namespace
}  // namespace tidepool::compute
