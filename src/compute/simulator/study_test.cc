#include "compute/simulator/study.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compute/simulator/chart.h"
#include "compute/simulator/planner.h"
#include "compute/simulator/report.h"

namespace tidepool::compute {
namespace {

using Json = nlohmann::ordered_json;

SimConfig SmallPool(int devices) {
  const Hardware hardware = Hardware::Shipped();
  SimConfig config;
  PlaceDevices({{"H800", devices}}, SimHost{}, config);
  config.kinds[0] = {"H800", 40'000'000'000, 25e9};  // two or three models at once
  for (const char* name : {"qwen2.5-7b", "qwen2.5-7b", "yi1.5-9b", "llama2-13b", "qwen2.5-7b", "yi1.5-9b"}) {
    config.models.push_back(*hardware.Resolve(name, {"H800"}));
  }
  return config;
}

TEST(Simulator, RequestsAndTokensAreConserved) {
  for (const std::string& policy : SimPolicies()) {
    SimConfig config = SmallPool(2);
    config.policy = policy;
    auto requests = *GenerateRequests(
        {.rates = std::vector<double>(6, 0.6), .cv = 3, .duration_s = 120, .seed = 5}, ShippedLengths());
    requests[3].cancel_at = requests[3].arrival + kSecond;
    const auto result = Simulate(config, requests);
    ASSERT_TRUE(result) << policy << ": " << result.error().message;
    ASSERT_EQ(result->details.size(), requests.size());
    int64_t finished = 0, refused = 0, unfinished = 0, tokens = 0, on_time = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      const SimRequestResult& detail = result->details[i];
      EXPECT_LE(detail.produced, requests[i].output);
      EXPECT_LE(detail.on_time, detail.produced);
      if (detail.rejected) {
        EXPECT_EQ(detail.produced, 0) << policy;
      }
      if (detail.first_token >= 0) {
        EXPECT_GT(detail.first_token, requests[i].arrival);
      }
      refused += detail.rejected;
      finished += detail.produced == requests[i].output;
      unfinished += !detail.rejected && detail.produced < requests[i].output;
      tokens += requests[i].output;
      on_time += detail.on_time;
    }
    EXPECT_EQ(refused + finished + unfinished, result->requests) << policy;
    EXPECT_EQ(refused, result->rejected);
    EXPECT_LE(unfinished, 1) << policy;  // the one that was cancelled
    EXPECT_EQ(tokens, result->tokens);
    EXPECT_NEAR(result->tokens_on_time, static_cast<double>(on_time) / static_cast<double>(tokens), 1e-12);
    EXPECT_LE(result->utilisation, 1 + 1e-9) << policy;
  }
}

// One request alone on a warm device: the load, then the prefill, then decodes, all by arithmetic.
TEST(Simulator, OneRequestTakesWhatTheProfileSays) {
  SimConfig config = SmallPool(1);
  config.models.resize(1);
  const std::vector<SimRequest> requests = {{.arrival = kSecond, .prompt = 1000, .output = 11}};
  const auto result = Simulate(config, requests);
  ASSERT_TRUE(result);
  const SimRequestResult& detail = result->details[0];
  const double copy = 15.2e9 / 25e9;
  const double prefill = 5.7e-3 + 22.4e-6 * 1000;
  const double ttft = static_cast<double>(detail.first_token - kSecond) * 1e-9;
  // Loading and computing may overlap, layer by layer, and the model may have been loaded before it was
  // asked.
  EXPECT_GE(ttft, prefill - 1e-6);
  EXPECT_LE(ttft, copy + prefill + 0.1);
  double decode = 0;
  for (int i = 0; i < 10; ++i) decode += 8.25e-3 + 0.08e-6 * (1000 + i) + 103e-6;
  EXPECT_NEAR(static_cast<double>(detail.last_token - detail.first_token) * 1e-9, decode, 1e-5);
  EXPECT_EQ(detail.on_time, 11);
}

// The time to the first token of a model that is in host memory: the longer of copy and prefill and one
// layer, not their sum.
TEST(Simulator, AStepBeginsOnLandingLayers) {
  for (const double copy_gbps : {10.0, 25.0, 100.0, 300.0, 1000.0}) {
    for (const int32_t prompt : {16, 500, 2000}) {
      SimConfig config = SmallPool(1);
      config.models.resize(1);
      config.kinds[0].copy_bytes_per_s = copy_gbps * 1e9;
      const std::vector<SimRequest> requests = {{.arrival = kSecond, .prompt = prompt, .output = 3}};
      const auto result = Simulate(config, requests);
      ASSERT_TRUE(result);
      const double copy = 15.2e9 / (copy_gbps * 1e9), prefill = 5.7e-3 + 22.4e-6 * prompt;
      const double layers = config.models[0].layers;
      const double ttft = static_cast<double>(result->details[0].first_token - kSecond) * 1e-9;
      EXPECT_GE(ttft, std::max(copy, prefill) - 1e-6);
      EXPECT_LE(ttft, std::max(copy, prefill) + std::max(copy, prefill) / layers + 1e-4)
          << copy_gbps << " GB/s, " << prompt << " tokens: copy " << copy << " s, prefill " << prefill
          << " s";
    }
  }
}

// With other work at hand the device does not stand still for a model that lands.
TEST(Simulator, LandingDoesNotHoldUpOthers) {
  SimConfig config = SmallPool(1);
  config.models.resize(2);
  const std::vector<SimRequest> requests = {
      {.arrival = kSecond, .model = 0, .prompt = 100, .output = 400},
      {.arrival = 3 * kSecond, .model = 1, .prompt = 1000, .output = 50}};
  const auto result = Simulate(config, requests);
  ASSERT_TRUE(result);
  const double copy = 15.2e9 / 25e9, prefill = 5.7e-3 + 22.4e-6 * 1000;
  EXPECT_LE(static_cast<double>(result->details[1].first_token - 3 * kSecond) * 1e-9,
            copy + prefill / 28 + 0.02);
  EXPECT_LE(static_cast<double>(result->details[0].largest_gap) * 1e-9, prefill + 50 * 0.012 + 0.02);
}

TEST(Simulator, SoftMeasureIsTheArtifactsOwn) {
  // Steps of 0.2 s from a first token at 1 s: strict 0.302, the artifact's measure 0.995.
  SimConfig config;
  PlaceDevices({{"D", 1}}, SimHost{}, config);
  config.kinds[0] = {"D", 1'000'000'000, 1e15};
  config.models.push_back({.name = "m",
                           .weight_bytes = 1000,
                           .layers = 1,
                           .kv_token_bytes = 16,
                           .profiles = {{.prefill_base_s = 1, .decode_base_s = 0.2}}});
  config.ttft_s = 1 + 30.2;  // the first 302 of 1,000 tokens make it: 1 + 0.2 i <= 31.2 + 0.1 i
  config.options.admission_load = 0;
  const std::vector<SimRequest> requests = {{.arrival = 0, .prompt = 1, .output = 1000}};
  const auto result = Simulate(config, requests);
  ASSERT_TRUE(result);
  EXPECT_NEAR(result->tokens_on_time, 0.303, 0.002);
  EXPECT_GT(result->qos_sosp25, 0.9);
}

TEST(Study, RowsHaveTheFieldsInOrder) {
  const auto reply = SimulateStudy(
      Json::parse(R"({"workload": "poisson:0.1x4", "devices": "1xH800", "duration_s": 60, "seeds": [1, 2]})"),
      {}, nullptr);
  ASSERT_TRUE(reply) << reply.error().message;
  const Json& row = (*reply)["data"][0];
  std::vector<std::string> names;
  for (const auto& [key, value] : row.items()) names.push_back(key);
  names.resize(14);
  EXPECT_EQ(names, (std::vector<std::string>{"policy", "models", "devices", "requests", "tokens_on_time",
                                             "requests_on_time", "ttft_p50_s", "ttft_p99_s",
                                             "max_stall_p50_s", "max_stall_p99_s", "utilisation", "switches",
                                             "bytes_moved", "wall_s"}));
  EXPECT_TRUE(row.contains("refused_share"));
  EXPECT_TRUE(row.contains("qos_sosp25"));
  ASSERT_EQ(row["seeds"].size(), 2U);
  EXPECT_EQ(row["tokens_on_time"], std::min(row["seeds"][0]["tokens_on_time"].get<double>(),
                                            row["seeds"][1]["tokens_on_time"].get<double>()));
  EXPECT_EQ(row["ttft_p99_s"], std::max(row["seeds"][0]["ttft_p99_s"].get<double>(),
                                        row["seeds"][1]["ttft_p99_s"].get<double>()));
}

TEST(Study, ThreadsAndOrderDoNotMatter) {
  Json request = Json::parse(R"({"workload": "gamma:0.2,2", "devices": "2xH800", "duration_s": 100,
                                 "seeds": [1, 2, 3], "sweep": {"of": "models", "values": [4, 12]}})");
  auto one = *SimulateStudy(request, {.threads = 1}, nullptr);
  auto three = *SimulateStudy(request, {.threads = 3}, nullptr);
  for (Json* reply : {&one, &three}) {
    for (Json& row : (*reply)["data"]) {
      row.erase("wall_s");
      for (Json& seed : row["seeds"]) seed.erase("wall_s");
    }
  }
  EXPECT_EQ(one, three);
  EXPECT_EQ(one["data"][1]["models"], 12);
}

TEST(Study, WrongFieldsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([])", "body"},
      {R"({})", "workload"},
      {R"({"workload": "poisson:0.1"})", "workload"},
      {R"({"workload": "poisson:0.1x4", "nonsense": 1})", "nonsense"},
      {R"({"workload": "poisson:0.1x4", "policies": ["best"]})", "policies"},
      {R"({"workload": "poisson:0.1x4", "devices": "16xTPU"})", "devices"},
      {R"({"workload": "poisson:0.1x4", "devices": "0xH800"})", "devices"},
      {R"({"workload": "poisson:0.1x10", "devices": "A10"})", "models"},
      {R"({"workload": "poisson:0.1x4", "models": "gpt-9"})", "models"},
      {R"({"workload": "poisson:0.1x4", "ttft_s": -1})", "ttft_s"},
      {R"({"workload": "poisson:0.1x4", "ttft_s": "10"})", "ttft_s"},
      {R"({"workload": "poisson:0.1x4", "seeds": []})", "seeds"},
      {R"({"workload": "poisson:0.1x4", "split": "6:9"})", "split"},
      {R"({"workload": "poisson:0.1x4", "sweep": {"of": "moons", "values": [1]}})", "sweep.of"},
      {R"({"workload": "poisson:0.1x4", "sweep": {"of": "models", "values": [1.5]}})", "sweep.values"},
      {R"({"workload": "poisson:0.1x4", "trace": {"text": "x"}})", "workload"},
      {R"({"trace": {"text": "input,output\n1,1\n"}})", "trace"},
      {R"({"models": [{"name": "a"}]})", "workload"},
      {R"({"models": [{"name": "a", "rate": 1}]})", "models"},
      {R"({"workload": "poisson:0.1x4", "lengths": {"text": "nope"}})", "workload"},
      {R"({"workload": "poisson:100000x4"})", "workload"},
  };
  for (const auto& [text, param] : cases) {
    const auto reply = SimulateStudy(Json::parse(text), {}, nullptr);
    ASSERT_FALSE(reply) << text;
    EXPECT_EQ(reply.error().param, param) << text << ": " << reply.error().message;
    EXPECT_FALSE(reply.error().message.empty());
  }
}

TEST(Study, LimitsAndStops) {
  const Json request = Json::parse(R"({"workload": "poisson:1x10", "duration_s": 3000})");
  EXPECT_EQ(SimulateStudy(request, {.max_requests = 100}, nullptr).error().kind, ErrorKind::kTooLarge);
  EXPECT_EQ(SimulateStudy(request, {.max_models = 4}, nullptr).error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(SimulateStudy(request, {.max_devices = 8}, nullptr).error().param, "devices");
  EXPECT_EQ(SimulateStudy(request, {.max_seconds = 0}, nullptr).error().kind, ErrorKind::kTimeout);
  EXPECT_EQ(SimulateStudy(request, {}, [](double, const std::string&) { return false; }).error().kind,
            ErrorKind::kCancelled);
}

TEST(Study, RepeatUsesTheNominalRate) {
  const Json request = Json::parse(R"({"trace": {"name": "synth-8-0.5-1.0-1.0.csv",
    "text": "Request Time,Model Name,Input Length,Output Length\n00:00:01.000,synth_model_00,10,5\n"},
    "repeat_until_s": 1000, "devices": "2xH800"})");
  const auto study = DecodeStudy(request, {}, {});
  ASSERT_TRUE(study) << study.error().message;
  EXPECT_EQ(study->config.models.size(), 8U);
  const auto requests = *study->Requests(1);
  EXPECT_NEAR(static_cast<double>(requests.size()), 4000, 4 * std::sqrt(4000));  // Poisson: 4 deviations
  for (const auto& r : requests) EXPECT_EQ(r.prompt, 10);
}

TEST(Study, ModelsOfAListAreMatchedByName) {
  const Json request =
      Json::parse(R"({"models": [{"name": "x", "like": "yi1.5-9b"}, {"name": "y", "like": "llama2-13b"}],
    "devices": "2xH800",
    "trace": {"text": "{\"arrival_s\":0,\"model\":\"y\",\"prompt_tokens\":5,\"output_tokens\":5}"}})");
  const auto study = DecodeStudy(request, {}, {});
  ASSERT_TRUE(study) << study.error().message;
  EXPECT_EQ((*study->Requests(1))[0].model, 1);
  EXPECT_EQ(study->config.models[1].weight_bytes, 26'000'000'000U);
}

TEST(Hardware, FitsAreThoseOfTheirSource) {
  const Hardware hardware = Hardware::Shipped();
  const StepProfile p = (*hardware.Device("h800"))->models.at("qwen2.5-7b");
  EXPECT_NEAR(p.StepSeconds(1000, 1e6, 0, 0), 5.7e-3 + 22.4e-3, 1e-9);
  EXPECT_NEAR(p.StepSeconds(0, 0, 10'000, 8), 8.25e-3 + 0.8e-3 + 0.824e-3, 1e-9);
  EXPECT_NEAR((*hardware.Device("A10"))->models.at("qwen2.5-7b").prefill_per_token2_s, 8.7e-9, 1e-15);
  EXPECT_EQ((*hardware.Model("Llama2-13B"))->kv_token_bytes, 819'200U);
  EXPECT_EQ(ParseModelMix("mix:sosp25")->size(), 10U);
  EXPECT_EQ((*ParseModelMix("mix:sosp25"))[7], "yi1.5-9b");
}

// A model whose steps take 50 ms whatever the batch, 20 ms more for each sequence: at 0.1 s a token a device
// holds 2.5 answers at once. Answers of 400 tokens, one every 10 s: 40 s each at pace, so 4 at once: two
// devices of its own at least. Four such models, each silent most of the time, need less when pooled.
TEST(Planner, FindsTheSizesOfAKnownCase) {
  const Json request = Json::parse(R"({
    "models": [{"name": "m", "count": 1, "rate": 0.1, "weight_bytes": 1000000000, "layers": 4, "kv_token_bytes": 1000,
      "profiles": {"H800": {"prefill": {"base_ms": 1, "per_token_us": 1}, "decode": {"base_ms": 50, "per_sequence_us": 20000}}}},
      {"name": "quiet", "like": "qwen2.5-7b", "count": 3, "rate": 0.002}],
    "lengths": {"text": "input,output\n100,400\n"}, "duration_s": 2000, "devices": "H800", "share": 0.95,
    "ttft_s": 10, "tpot_s": 0.1, "prices": {"H800": 2}, "chart": true})");
  const auto plan = PlanStudy(request, {}, nullptr);
  ASSERT_TRUE(plan) << plan.error().message;
  const Json& row = (*plan)["data"][0];
  const int dedicated = row["dedicated"]["devices"], pooled = row["pooled"]["devices"];
  EXPECT_GE(dedicated, 2 + 3);
  EXPECT_LE(dedicated, 4 + 3);
  EXPECT_GE(pooled, 2);
  EXPECT_LT(pooled, dedicated);
  EXPECT_GE(row["pooled"]["tokens_on_time"].get<double>(), 0.95);
  EXPECT_GE(row["dedicated"]["tokens_on_time"].get<double>(), 0.95);
  EXPECT_NEAR(row["saving"].get<double>(), 1 - static_cast<double>(pooled) / dedicated, 1e-9);
  EXPECT_DOUBLE_EQ(row["pooled"]["per_hour"].get<double>(), 2.0 * pooled);
  EXPECT_NEAR(row["pooled"]["per_million_tokens"].get<double>(),
              2.0 * pooled / ((*plan)["tokens_per_s"].get<double>() * 3600 / 1e6), 1e-6);
  EXPECT_LT(row["pooled"]["at_risk"]["tokens_on_time"].get<double>(),
            row["pooled"]["tokens_on_time"].get<double>());
  ASSERT_EQ(row["placement"].size(), static_cast<size_t>(pooled));
  EXPECT_EQ(row["placement"][0]["models"][0]["model"], "m");
  EXPECT_NE((*plan)["svg"].get<std::string>().find("H800 pooled"), std::string::npos);
}

TEST(Planner, SaysWhenNoNumberWouldDo) {
  const auto plan =
      PlanStudy(Json::parse(R"({"workload": "poisson:5x1", "models": "llama2-13b", "devices": "A100",
                                              "max_count": 1, "duration_s": 100})"),
                {}, nullptr);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_TRUE((*plan)["data"][0]["pooled"]["devices"].is_null());
  EXPECT_FALSE((*plan)["data"][0].contains("saving"));
}

TEST(Chart, NamesAreEscapedAndLabelsApart) {
  LineChart chart{.title = "a<b", .subtitle = "", .x_label = "models", .lines = {}};
  chart.lines.push_back({"p&q", {{10, 1}, {20, 0.5}}});
  chart.lines.push_back({"second", {{10, 1}, {20, 0.501}}});
  const std::string svg = LineChartSvg(chart);
  EXPECT_NE(svg.find("a&lt;b"), std::string::npos);
  EXPECT_NE(svg.find("p&amp;q 50.0%"), std::string::npos);
  EXPECT_EQ(svg.find("<b"), std::string::npos);
  std::vector<double> heights;
  for (const char* name : {">p&amp;q 50.0%", ">second 50.1%"}) {
    const size_t label = svg.find(name);
    const size_t y = svg.rfind("y=\"", label);
    heights.push_back(std::stod(svg.substr(y + 3)));
  }
  EXPECT_GE(std::abs(heights[0] - heights[1]), 15.9);
}

}  // namespace
}  // namespace tidepool::compute
