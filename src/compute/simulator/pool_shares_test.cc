// Saturated, accounts receive by their weights, on every level of their paths: the oracle is arithmetic. All
// send the same mix of requests, each more than the whole pool can serve, until everything is cancelled at
// the same moment; what each has received by then is to its weight as that of the others, within a tenth.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "compute/simulator/simulator.h"

namespace tidepool::compute {
namespace {

constexpr double kSeconds = 200;

struct Sender {
  std::string path;
  std::vector<double> weights;
  double expected = 1;  // share of what all receive
  double times = 1;     // the rate of the others
};

struct PoolShape {
  int32_t devices = 1, models = 1;
  double admission = 0;
  double requests_per_s = 30;  // of each sender
  int32_t max_sequences = 64;
};

SimConfig Config(const PoolShape& shape, const std::vector<Sender>& senders) {
  SimConfig config;
  const StepProfile h800{5.7e-3, 22.4e-6, 0, 8.25e-3, 0.08e-6, 103e-6};
  for (int32_t i = 0; i < shape.models; ++i)
    config.models.push_back({"m", 15'200'000'000, 28, 57344, {h800}});
  config.kinds = {{"H800", 70'000'000'000, 25e9}};
  config.hosts.resize(1);
  for (int32_t i = 0; i < shape.devices; ++i) config.devices.push_back({0, 0});
  config.max_sequences = shape.max_sequences;
  config.options.admission_load = shape.admission;
  for (const Sender& sender : senders) config.accounts.push_back({sender.path, sender.weights});
  return config;
}

// Tokens (prompt and answer, by what a full batch pays for them) that each sender received: by name.
std::vector<double> Received(const PoolShape& shape, const std::vector<Sender>& senders) {
  const SimConfig config = Config(shape, senders);
  std::vector<SimRequest> requests;
  for (size_t s = 0; s < senders.size(); ++s) {
    std::mt19937_64 random(s + 1);
    const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
    double at = 0;
    while ((at += -std::log(uniform()) / (shape.requests_per_s * senders[s].times)) < kSeconds) {
      SimRequest request;
      request.arrival = std::llround(at * 1e9);
      request.model = static_cast<int32_t>(random() % config.models.size());
      request.prompt = 100 + static_cast<int32_t>(random() % 400);
      request.output = 50 + static_cast<int32_t>(random() % 200);
      request.account = static_cast<int32_t>(s) + 1;
      request.cancel_at = std::llround(kSeconds * 1e9);
      requests.push_back(request);
    }
  }
  std::stable_sort(requests.begin(), requests.end(),
                   [](const SimRequest& a, const SimRequest& b) { return a.arrival < b.arrival; });
  const auto result = Simulate(config, requests);
  EXPECT_TRUE(result);
  std::vector<double> received(senders.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    received[static_cast<size_t>(requests[i].account) - 1] += result->details[i].produced;
  }
  return received;
}

void ExpectShares(const char* name, const PoolShape& shape, const std::vector<Sender>& senders) {
  SCOPED_TRACE(name);
  const std::vector<double> received = Received(shape, senders);
  double all = 0;
  for (const double r : received) all += r;
  ASSERT_GT(all, 50 * kSeconds);
  std::map<std::string, std::pair<double, double>> organisations;
  for (size_t s = 0; s < senders.size(); ++s) {
    auto& organisation = organisations[senders[s].path.substr(0, senders[s].path.find('/'))];
    organisation.first += received[s] / all;
    organisation.second += senders[s].expected;
    if (senders.size() <= 8) {
      std::printf("%-28s %-12s %.3f, expected %.3f\n", name, senders[s].path.c_str(), received[s] / all,
                  senders[s].expected);
      EXPECT_NEAR(received[s] / all, senders[s].expected, 0.1 * senders[s].expected) << senders[s].path;
    }
  }
  for (const auto& [path, shares] : organisations) {
    std::printf("%-28s %-12s %.3f, expected %.3f\n", name, path.c_str(), shares.first, shares.second);
    EXPECT_NEAR(shares.first, shares.second, 0.1 * shares.second) << path;
  }
}

const std::vector<Sender> kOneToThree = {{"a", {1}, 0.25}, {"b", {3}, 0.75}};

TEST(PoolSharesTest, WeightsOneToThreeOneModel) { ExpectShares("one model", {}, kOneToThree); }
TEST(PoolSharesTest, WeightsOneToThreeManyModelsThatSwitch) {
  ExpectShares("six models", {.models = 6}, kOneToThree);
}
TEST(PoolSharesTest, WeightsOneToThreeSeveralDevices) {
  ExpectShares("20 models, four devices", {.devices = 4, .models = 20, .requests_per_s = 80}, kOneToThree);
}
TEST(PoolSharesTest, WeightsOneToThreeWithAdmission) {
  ExpectShares("one model, admission", {.admission = 1}, kOneToThree);
}
TEST(PoolSharesTest, WeightsOneToThreeWithAdmissionAndSwitches) {
  ExpectShares("six models, admission", {.models = 6, .admission = 1}, kOneToThree);
}
TEST(PoolSharesTest, FiftyKeysOfOneWorkspaceGainNothingOverOne) {
  std::vector<Sender> senders = {{"a/w/k", {}, 0.5, 50}};
  for (int32_t key = 0; key < 50; ++key) senders.push_back({"b/w/k" + std::to_string(key), {}, 0.01});
  ExpectShares("50 keys against one", {.requests_per_s = 1}, senders);
}
TEST(PoolSharesTest, EveryLevelByItsOwnWeights) {
  ExpectShares("levels", {.requests_per_s = 20},
               {{"a/w/k", {1, 1, 1}, 0.25},
                {"b/v/k", {3, 1, 1}, 0.25},     // 3/4 x 1/3
                {"b/w/k", {3, 2, 1}, 0.125},    // 3/4 x 2/3 x 1/4
                {"b/w/l", {3, 2, 3}, 0.375}});  // 3/4 x 2/3 x 3/4
}

}  // namespace
}  // namespace tidepool::compute
