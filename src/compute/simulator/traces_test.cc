#include "compute/simulator/traces.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace tidepool::compute {
namespace {

std::string FileText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

const std::filesystem::path kWorkloads = TIDEPOOL_SOURCE_DIR "/bench/workloads";

TEST(Traces, AegaeonRows) {
  const auto trace = ReadTrace(
      "Request Time,Model Name,Input Length,Output Length\r\n00:00:01.500,synth_model_03,7,101\r\n"
      "01:02:03.004,synth_model_01,0,5\r\n",
      "dir/synth-5-0.25-1.0-1.0.csv");
  ASSERT_TRUE(trace) << trace.error().message;
  ASSERT_EQ(trace->requests.size(), 2U);
  EXPECT_EQ(trace->requests[0].arrival, 1'500'000'000);
  EXPECT_EQ(trace->requests[0].model, 3);
  EXPECT_EQ(trace->requests[0].prompt, 7);
  EXPECT_EQ(trace->requests[0].output, 101);
  EXPECT_EQ(trace->requests[1].arrival, 3'723'004'000'000);
  EXPECT_EQ(trace->requests[1].model, 1);
  EXPECT_EQ(trace->requests[1].prompt, 1);  // nothing is computed of nothing
  EXPECT_EQ(trace->models.size(), 4U);
  EXPECT_EQ(trace->nominal_models, 5);
  EXPECT_DOUBLE_EQ(trace->nominal_rate, 0.25);
}

TEST(Traces, AzureRowsCountFromTheEarliest) {
  const auto trace = ReadTrace(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-17 00:00:01.5000000,10,2\n"
      "2023-11-16 23:59:59.0000000,20,3\n",
      "");
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_TRUE(trace->models.empty());
  EXPECT_EQ(trace->requests[0].arrival, 0);
  EXPECT_EQ(trace->requests[0].prompt, 20);
  EXPECT_NEAR(static_cast<double>(trace->requests[1].arrival), 2.5e9, 1e3);
}

TEST(Traces, RecordedLines) {
  const auto trace = ReadTrace(
      R"({"arrival_s": 2, "model": "b", "prompt_tokens": 3, "output_tokens": 4, "account": "x", "class": "batch"})"
      "\n\n"
      R"({"arrival_s": 1.5, "model": "a", "prompt_tokens": 5, "output_tokens": 0, "more": [1]})",
      "pool.jsonl");
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->models, (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(trace->requests[0].model, 1);
  EXPECT_EQ(trace->requests[0].output, 1);
  EXPECT_EQ(trace->requests[0].account, 0);
  EXPECT_EQ(trace->requests[1].account, 1);
  EXPECT_EQ(trace->requests[1].job_class, JobClass::kBatch);
}

TEST(Traces, ErrorsNameTheLine) {
  const std::string head = "Request Time,Model Name,Input Length,Output Length\n";
  const std::pair<std::string, std::string> cases[] = {
      {head, "holds no request"},
      {"", "holds no request"},
      {"hello\n", "first line"},
      {head + "00:00:01,m,1\n", "line 2: should have 4 columns"},
      {head + "00:00:01,m,1,2,3\n", "line 2: has too many columns"},
      {head + "00:61:01,m,1,2\n", "is no time"},
      {head + "-1:00:01,m,1,2\n", "is no time"},
      {head + "00:00:nan,m,1,2\n", "is no time"},
      {head + "999999999:00:00,m,1,2\n", "too late"},
      {head + "00:00:01,m,one,2\n", "is no number of tokens"},
      {head + "00:00:01,m,1,-2\n", "outside 0 to"},
      {head + "00:00:01,m,99999999999,2\n", "outside 0 to"},
      {head + "00:00:01,,1,2\n", "names no model"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:17:03.97,1,1\n", "is no time"},
      {R"({"arrival_s": 1})", "has no model"},
      {R"({"arrival_s": "1", "model": "a", "prompt_tokens": 1, "output_tokens": 1})", "wrong type"},
      {R"({"arrival_s": -1, "model": "a", "prompt_tokens": 1, "output_tokens": 1})", "before the start"},
      {R"({"arrival_s": 1, "model": "a", "prompt_tokens": 18446744073709551615, "output_tokens": 1})",
       "outside 0 to"},
      {R"({"arrival_s": 1, "model": "a", "prompt_tokens": 1, "output_tokens": 1, "class": "vip"})", "class"},
      {"{not json", "is no JSON object"},
  };
  for (const auto& [text, wanted] : cases) {
    const auto trace = ReadTrace(text, "f");
    ASSERT_FALSE(trace) << text;
    EXPECT_NE(trace.error().message.find(wanted), std::string::npos) << trace.error().message;
  }
}

TEST(Traces, LimitsHold) {
  const std::string text = "input,output\n1,2\n3,4\n5,6\n";
  EXPECT_EQ(ReadTrace(text, "f", {.max_requests = 2}).error().kind, ErrorKind::kTooLarge);
  EXPECT_EQ(ReadTrace(text, "f", {.max_bytes = 8}).error().kind, ErrorKind::kTooLarge);
  EXPECT_FALSE(ReadTrace(text, "f")->timed);
}

TEST(Traces, ShippedFilesAreReadWhole) {
  size_t requests = 0, files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kWorkloads / "aegaeon")) {
    const auto trace = ReadTrace(FileText(entry.path()), entry.path().string());
    ASSERT_TRUE(trace) << trace.error().message;
    EXPECT_GT(trace->nominal_rate, 0) << entry.path();
    EXPECT_LE(std::ssize(trace->models), trace->nominal_models) << entry.path();
    requests += trace->requests.size();
    ++files;
  }
  EXPECT_EQ(files, 32U);
  EXPECT_EQ(requests, 23'205U);  // as the data's own description counts them
  for (const auto& [name, count] : {std::pair{"code", 8'819U}, {"conv", 19'366U}}) {
    const auto path = kWorkloads / "azure-2023" / (std::string("AzureLLMInferenceTrace_") + name + ".csv");
    const auto trace = ReadTrace(FileText(path), path.string());
    ASSERT_TRUE(trace) << trace.error().message;
    EXPECT_EQ(trace->requests.size(), count);
    EXPECT_NEAR(trace->span_s(), 3500, 120);
  }
  // Input mean 697, output mean 295: of the same 32 files.
  const Lengths& lengths = ShippedLengths();
  ASSERT_EQ(lengths.size(), 23'205U);
  double input = 0, output = 0;
  for (const auto& [a, b] : lengths) input += a, output += b;
  EXPECT_NEAR(input / 23'205, 697, 1);
  EXPECT_NEAR(output / 23'205, 295, 1);
}

}  // namespace
}  // namespace tidepool::compute
