#include "base/metrics.h"

#include <gtest/gtest.h>

namespace tidepool {
namespace {

TEST(Metrics, SerializesInPrometheusTextFormat) {
  MetricsRegistry registry;
  Counter tokens = registry.counter("tidepool_tokens_total", "Tokens.", {{"model", "a"}});
  tokens.Increment(3);
  registry.gauge("tidepool_kv_blocks_used", "Blocks.").Set(7);
  registry.histogram("tidepool_ttft_seconds", "TTFT.", {0.1, 1}).Observe(0.5);
  const std::string text = registry.Serialize();
  EXPECT_NE(text.find("tidepool_tokens_total{model=\"a\"} 3"), std::string::npos) << text;
  EXPECT_NE(text.find("tidepool_kv_blocks_used 7"), std::string::npos) << text;
  EXPECT_NE(text.find("tidepool_ttft_seconds_bucket{le=\"1\"} 1"), std::string::npos) << text;
}

TEST(Metrics, SameNameAndLabelsIsTheSameSeries) {
  MetricsRegistry registry;
  registry.counter("x_total", "X.", {{"m", "a"}}).Increment();
  Counter again = registry.counter("x_total", "X.", {{"m", "a"}});
  again.Increment();
  EXPECT_EQ(again.value(), 2);
}

TEST(Metrics, EmptyHandleIsHarmless) {
  Counter none;
  none.Increment();
  EXPECT_EQ(none.value(), 0);
}

}  // namespace
}  // namespace tidepool
