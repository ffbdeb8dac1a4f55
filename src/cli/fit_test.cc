#include "cli/fit.h"

#include <gtest/gtest.h>

namespace tidepool::cli {
namespace {

TEST(Fit, FindsTheCoefficientsThatMadeTheValues) {
  std::vector<std::vector<double>> rows;
  std::vector<double> values;
  for (const double batch : {1.0, 4.0, 16.0}) {
    for (const double context : {20.0, 4000.0}) {
      rows.push_back({1, context * batch, batch});
      values.push_back(8.25e-3 + 0.08e-6 * context * batch + 103e-6 * batch);
    }
  }
  const auto fitted = FitNonNegative(rows, values);
  EXPECT_NEAR(fitted[0], 8.25e-3, 1e-9);
  EXPECT_NEAR(fitted[1], 0.08e-6, 1e-13);
  EXPECT_NEAR(fitted[2], 103e-6, 1e-10);
  EXPECT_NEAR(FitError(rows, values, fitted), 0, 1e-9);
}

TEST(Fit, NothingIsNegative) {
  // 2 - 0.1 x: the best line that does not fall is a constant between the values.
  const std::vector<std::vector<double>> rows = {{1, 1}, {1, 5}, {1, 10}};
  const auto fitted = FitNonNegative(rows, {1.9, 1.5, 1.0});
  EXPECT_EQ(fitted[1], 0);
  EXPECT_GT(fitted[0], 1.0);
  EXPECT_LT(fitted[0], 1.9);
  EXPECT_GT(FitError(rows, {1.9, 1.5, 1.0}, fitted), 0.05);
}

TEST(Fit, DependentAndEmptyColumnsGetNothing) {
  const auto fitted = FitNonNegative({{1, 0, 2}, {2, 0, 4}}, {3, 6});
  EXPECT_EQ(fitted[1], 0);
  EXPECT_NEAR(fitted[0] + 2 * fitted[2], 3, 1e-9);
  EXPECT_TRUE(FitNonNegative({}, {}).empty());
}

}  // namespace
}  // namespace tidepool::cli
