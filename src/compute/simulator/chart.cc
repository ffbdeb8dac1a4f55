#include "compute/simulator/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace tidepool::compute {
namespace {

constexpr double kWidth = 780, kHeight = 440;
constexpr double kLeft = 56, kRight = 172, kTop = 76, kBottom = 54;
constexpr double kLabelGap = 16;

// One strong colour for what the picture is about, quiet ones that differ in lightness too for the rest.
constexpr std::array<const char*, 6> kColours = {"#0b6e78", "#b4532a", "#7a6aa8",
                                                 "#8a8f3c", "#5b7fa6", "#9a9a9a"};

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20) out += c;
    }
  }
  return out;
}

std::string Head(double width, double height, std::string_view title, std::string_view subtitle) {
  return fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" role="img">
<title>{2}</title>
<style>text{{font:13px system-ui,-apple-system,"Segoe UI","Helvetica Neue","DejaVu Sans",sans-serif;fill:#1c2326;font-variant-numeric:tabular-nums}}.q{{fill:#66737a;font-size:12px}}.t{{font-size:17px;font-weight:600}}.h{{stroke:#dde2e4;stroke-width:1}}.g{{stroke:#9aa6ab;stroke-width:1;stroke-dasharray:2 3}}</style>
<rect width="{0:g}" height="{1:g}" fill="#ffffff"/>
<text class="t" x="20" y="32">{2}</text>
<text class="q" x="20" y="52">{3}</text>
)",
      width, height, Escaped(title), Escaped(subtitle));
}

// About `count` round steps from low to high.
std::vector<double> Ticks(double low, double high, double count) {
  const double raw = std::max(high - low, 1e-9) / count;
  const double unit = std::pow(10, std::floor(std::log10(raw)));
  const double step = unit * (raw / unit < 1.5 ? 1 : raw / unit < 3.5 ? 2 : raw / unit < 7.5 ? 5 : 10);
  std::vector<double> out;
  for (double tick = std::ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6 && out.size() < 64;
       tick += step) {
    out.push_back(std::abs(tick) < step * 1e-6 ? 0 : tick);
  }
  return out;
}

struct EndLabel {
  double y = 0;
  size_t line = 0;
};

// Apart by kLabelGap, within the plot, in the order of the lines' ends.
void Spread(std::vector<EndLabel>& labels, double low, double high) {
  std::stable_sort(labels.begin(), labels.end(), [](const auto& a, const auto& b) { return a.y < b.y; });
  for (size_t i = 0; i < labels.size(); ++i) {
    labels[i].y = std::max(labels[i].y, i == 0 ? low : labels[i - 1].y + kLabelGap);
  }
  for (size_t i = labels.size(); i-- > 0;) {
    labels[i].y = std::min(labels[i].y, i + 1 == labels.size() ? high : labels[i + 1].y - kLabelGap);
  }
}

}  // namespace

std::string LineChartSvg(const LineChart& chart) {
  double low = INFINITY, high = -INFINITY;
  for (const ChartLine& line : chart.lines) {
    for (const auto& [x, y] : line.points) {
      low = std::min(low, x);
      high = std::max(high, x);
    }
  }
  if (!(low <= high)) low = 0, high = 1;
  if (low == high) low -= 1, high += 1;
  const double right = kWidth - kRight, bottom = kHeight - kBottom;
  const auto x_at = [&](double x) { return kLeft + (x - low) / (high - low) * (right - kLeft); };
  const auto y_at = [&](double y) { return bottom - std::clamp(y, 0.0, 1.0) * (bottom - kTop); };

  std::string out = Head(kWidth, kHeight, chart.title, chart.subtitle);
  for (int tick = 0; tick <= 5; ++tick) {
    const double y = y_at(tick * 0.2);
    out += fmt::format("<line class=\"h\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft,
                       right, y, y);
    out += fmt::format("<text class=\"q\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}%</text>\n",
                       kLeft - 8, y + 4, tick * 20);
  }
  if (chart.goal > 0) {
    const double y = y_at(chart.goal);
    out += fmt::format("<line class=\"g\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft,
                       right, y, y);
    out += fmt::format("<text class=\"q\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}%</text>\n",
                       kLeft - 8, y + 4, chart.goal * 100);
  }
  for (const double tick : Ticks(low, high, 8)) {
    out += fmt::format("<line class=\"h\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>\n",
                       x_at(tick), bottom, bottom + 5);
    out += fmt::format("<text class=\"q\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:g}</text>\n",
                       x_at(tick), bottom + 20, tick);
  }
  out += fmt::format("<text class=\"q\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", right,
                     bottom + 40, Escaped(chart.x_label));

  std::vector<EndLabel> labels;
  // The first line is drawn last, over the others.
  for (size_t i = chart.lines.size(); i-- > 0;) {
    const ChartLine& line = chart.lines[i];
    if (line.points.empty()) continue;
    const char* colour = kColours[std::min(i, kColours.size() - 1)];
    std::string path;
    for (const auto& [x, y] : line.points) {
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", x_at(x), y_at(y));
    }
    out += fmt::format(
        "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\" "
        "points=\"{}\"/>\n",
        colour, i == 0 ? "2.5" : "1.5", path);
    for (const auto& [x, y] : line.points) {
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\"/>\n", x_at(x), y_at(y),
                         i == 0 ? "3" : "2", colour);
    }
    labels.push_back({y_at(line.points.back().second), i});
  }
  std::vector<EndLabel> spread = labels;
  Spread(spread, kTop, bottom);
  for (const EndLabel& label : spread) {
    const ChartLine& line = chart.lines[label.line];
    const char* colour = kColours[std::min(label.line, kColours.size() - 1)];
    const double x = x_at(line.points.back().first), y = y_at(line.points.back().second);
    out += fmt::format(
        "<line stroke=\"{}\" stroke-width=\"0.75\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" "
        "y2=\"{:.1f}\"/>\n",
        colour, x + 4, y, right + 12, label.y);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" style=\"fill:{};font-weight:{}\">{} {:.1f}%</text>\n",
                       right + 16, label.y + 4.5, colour, label.line == 0 ? 600 : 400, Escaped(line.name),
                       line.points.back().second * 100);
  }
  return out + "</svg>\n";
}

std::string BarChartSvg(const BarChart& chart) {
  constexpr double kRow = 34, kName = 150, kBarRight = 330, kTopBars = 78;
  const double height = kTopBars + kRow * static_cast<double>(chart.bars.size()) + 20;
  double most = 1;
  for (const auto& bar : chart.bars) most = std::max(most, bar.value);
  std::string out = Head(kWidth, height, chart.title, chart.subtitle);
  double y = kTopBars;
  for (const auto& bar : chart.bars) {
    const double length = bar.value / most * (kWidth - kName - kBarRight);
    const char* colour = bar.strong ? kColours[0] : "#b8c2c6";
    out += fmt::format("<text x=\"20\" y=\"{:.1f}\"{}>{}</text>\n", y + 15,
                       bar.strong ? " style=\"font-weight:600\"" : "", Escaped(bar.name));
    out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"20\" fill=\"{}\"/>\n",
                       kName, y, std::max(length, 1.0), colour);
    out += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\"><tspan style=\"font-weight:600\">{:g}</tspan> {}"
        "<tspan class=\"q\" dx=\"10\">{}</tspan></text>\n",
        kName + std::max(length, 1.0) + 8, y + 15, bar.value, Escaped(chart.unit), Escaped(bar.note));
    y += kRow;
  }
  return out + "</svg>\n";
}

}  // namespace tidepool::compute
