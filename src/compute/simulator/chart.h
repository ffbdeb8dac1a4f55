// Pictures of studies, as SVG: hairlines, tabular figures, labels at the ends of lines. Pure functions.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tidepool::compute {

struct ChartLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending; y a share, 0 to 1
};

struct LineChart {
  std::string title, subtitle, x_label;
  std::vector<ChartLine> lines;  // the first one is what the picture is about
  double goal = 0.9;             // a hairline across; 0: none
};
std::string LineChartSvg(const LineChart& chart);

struct BarChart {
  struct Bar {
    std::string name, note;  // "H20 pooled", "$12.3 an hour · ..."
    double value = 0;
    bool strong = false;
  };
  std::string title, subtitle, unit;
  std::vector<Bar> bars;
};
std::string BarChartSvg(const BarChart& chart);

}  // namespace tidepool::compute
