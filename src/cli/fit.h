// Least squares for step profiles. Pure.
#pragma once

#include <cstddef>
#include <vector>

namespace tidepool::cli {

// Coefficients, none negative, of the columns that come closest to the values, in relative terms: rows are
// weighted by 1 / value, so that short steps count as much as long ones. A column whose coefficient would be
// negative gets 0, the most negative first. At most 8 columns.
std::vector<double> FitNonNegative(const std::vector<std::vector<double>>& rows,
                                   const std::vector<double>& values);

// Mean of |fitted - value| / value.
double FitError(const std::vector<std::vector<double>>& rows, const std::vector<double>& values,
                const std::vector<double>& coefficients);

}  // namespace tidepool::cli
