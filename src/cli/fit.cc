#include "cli/fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tidepool::cli {
namespace {

// Solves the square system by elimination with pivots; columns that depend on others get 0.
std::vector<double> SolveSystem(std::vector<std::vector<double>> matrix, std::vector<double> right) {
  const size_t n = right.size();
  std::vector<double> out(n, 0);
  std::vector<size_t> pivot_row(n, n);
  size_t row = 0;
  for (size_t column = 0; column < n && row < n; ++column) {
    size_t best = row;
    for (size_t i = row; i < n; ++i) {
      if (std::abs(matrix[i][column]) > std::abs(matrix[best][column])) best = i;
    }
    if (std::abs(matrix[best][column]) < 1e-12) continue;
    std::swap(matrix[best], matrix[row]);
    std::swap(right[best], right[row]);
    for (size_t i = 0; i < n; ++i) {
      if (i == row) continue;
      const double factor = matrix[i][column] / matrix[row][column];
      for (size_t j = column; j < n; ++j) matrix[i][j] -= factor * matrix[row][j];
      right[i] -= factor * right[row];
    }
    pivot_row[column] = row++;
  }
  for (size_t column = 0; column < n; ++column) {
    if (pivot_row[column] < n) out[column] = right[pivot_row[column]] / matrix[pivot_row[column]][column];
  }
  return out;
}

}  // namespace

std::vector<double> FitNonNegative(const std::vector<std::vector<double>>& rows,
                                   const std::vector<double>& values) {
  const size_t columns = rows.empty() ? 0 : rows.front().size();
  std::vector<double> out(columns, 0), scale(columns, 0);
  std::vector<size_t> kept(columns);
  std::iota(kept.begin(), kept.end(), 0);
  // Columns of very different size are brought to one, or the smallest would pass for dependent.
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < columns; ++c) scale[c] = std::max(scale[c], std::abs(rows[r][c] / values[r]));
  }
  std::erase_if(kept, [&](size_t c) { return scale[c] == 0; });
  while (!kept.empty()) {
    const size_t n = kept.size();
    std::vector<std::vector<double>> matrix(n, std::vector<double>(n, 0));
    std::vector<double> right(n, 0);
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t i = 0; i < n; ++i) {
        const double a = rows[r][kept[i]] / values[r] / scale[kept[i]];
        right[i] += a;
        for (size_t j = 0; j < n; ++j) matrix[i][j] += a * rows[r][kept[j]] / values[r] / scale[kept[j]];
      }
    }
    const std::vector<double> solved = SolveSystem(std::move(matrix), std::move(right));
    const auto least = std::min_element(solved.begin(), solved.end());
    if (*least >= 0) {
      for (size_t i = 0; i < n; ++i) out[kept[i]] = solved[i] / scale[kept[i]];
      break;
    }
    kept.erase(kept.begin() + (least - solved.begin()));
  }
  return out;
}

double FitError(const std::vector<std::vector<double>>& rows, const std::vector<double>& values,
                const std::vector<double>& coefficients) {
  double sum = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const double fitted = std::inner_product(rows[r].begin(), rows[r].end(), coefficients.begin(), 0.0);
    sum += std::abs(fitted - values[r]) / values[r];
  }
  return rows.empty() ? 0 : sum / static_cast<double>(rows.size());
}

}  // namespace tidepool::cli
