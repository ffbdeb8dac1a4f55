#include "server/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <mutex>
#include <random>
#include <thread>

namespace tidepool::server {
namespace {

using Json = nlohmann::ordered_json;

// Notes when the first token came and when the answer ended.
class TimingSink final : public compute::GenerateSink {
 public:
  explicit TimingSink(const Clock& clock) : clock_(clock) {}
  void OnToken(const compute::TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    if (first_token_ == 0) first_token_ = clock_.now();
    last_token_ = clock_.now();
    tokens_ += static_cast<int64_t>(event.tokens.size());
  }
  void OnFinish(const compute::FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    if (event.reason == compute::FinishReason::kError) error_ = event.error;
    done_ = true;
    changed_.notify_all();
  }
  Status Wait() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::minutes(10), [&] { return done_; })) {
      return Fail(ErrorKind::kTimeout, "bench_timeout",
                  "the bench took more than ten minutes; use fewer tokens");
    }
    if (!error_.message.empty()) return Fail(error_);
    return {};
  }
  Nanoseconds first_token() const { return first_token_; }
  Nanoseconds last_token() const { return last_token_; }
  int64_t tokens() const { return tokens_; }

 private:
  const Clock& clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  Nanoseconds first_token_ = 0, last_token_ = 0;
  int64_t tokens_ = 0;
  Error error_;
};

struct Shape {
  int32_t prompt_tokens = 512, generate_tokens = 64, repeat = 3;
  std::vector<int32_t> batches{1, 4, 16};
};

Result<int32_t> ReadInt(const Json& request, const char* name, int32_t fallback, int32_t low, int32_t high) {
  if (!request.contains(name)) return fallback;
  const Json& value = request[name];
  if (!value.is_number_integer() || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("{} must be a whole number from {} to {}", name, low, high), name);
  }
  return value.get<int32_t>();
}

Result<Shape> ReadShape(const Json& request) {
  Shape shape;
  TP_ASSIGN(shape.prompt_tokens, ReadInt(request, "prompt_tokens", 512, 1, 1 << 20));
  TP_ASSIGN(shape.generate_tokens, ReadInt(request, "generate_tokens", 64, 2, 1 << 16));
  TP_ASSIGN(shape.repeat, ReadInt(request, "repeat", 3, 1, 100));
  if (request.contains("batch")) {
    const Json& batches = request["batch"];
    if (!batches.is_array() || batches.empty() || batches.size() > 16) {
      return Fail(ErrorKind::kInvalid, "invalid_value", "batch must be a list of 1 to 16 whole numbers",
                  "batch");
    }
    shape.batches.clear();
    for (const Json& item : batches) {
      if (!item.is_number_integer() || item.get<int64_t>() < 1 || item.get<int64_t>() > 1024) {
        return Fail(ErrorKind::kInvalid, "invalid_value", "batch sizes must be whole numbers from 1 to 1024",
                    "batch");
      }
      shape.batches.push_back(item.get<int32_t>());
    }
  }
  return shape;
}

class Bench {
 public:
  Bench(compute::Engine& engine, const Clock& clock, compute::ModelHandle model, int32_t vocab_size)
      : engine_(engine), clock_(clock), model_(model), vocab_size_(vocab_size) {}

  // Tokens per second of one prompt of `tokens` tokens.
  Result<double> Prefill(int32_t tokens) {
    const Nanoseconds start = clock_.now();
    TP_ASSIGN(const auto sink, Submit(tokens, 1));
    TP_TRY(sink->Wait());
    return static_cast<double>(tokens) * kSecond / static_cast<double>(sink->first_token() - start);
  }

  // Tokens per second of `batch` answers together, from the moment all of them decode.
  Result<double> Decode(int32_t batch, int32_t tokens) {
    std::vector<std::shared_ptr<TimingSink>> sinks;
    for (int32_t i = 0; i < batch; ++i) {
      TP_ASSIGN(auto sink, Submit(8, tokens));
      sinks.push_back(std::move(sink));
    }
    Nanoseconds first = 0, last = 0;
    int64_t made = 0;
    for (const auto& sink : sinks) {
      TP_TRY(sink->Wait());
      first = std::max(first, sink->first_token());
      last = std::max(last, sink->last_token());
      made += sink->tokens() - 1;  // the first token belongs to the prefill
    }
    return static_cast<double>(made) * kSecond / static_cast<double>(std::max<Nanoseconds>(last - first, 1));
  }

 private:
  Result<std::shared_ptr<TimingSink>> Submit(int32_t prompt_tokens, int32_t generate_tokens) {
    compute::GenerateRequest request;
    request.request_id = "bench";
    request.model = model_;
    // Random prompts in a workspace of their own: no prefix hit flatters the figure.
    request.workspace = fmt::format("bench-{}", random_());
    std::uniform_int_distribution<int32_t> token(0, vocab_size_ - 1);
    for (int32_t i = 0; i < prompt_tokens; ++i) request.prompt.push_back(token(random_));
    request.sampling.temperature = 0;
    request.sampling.max_tokens = generate_tokens;
    request.sampling.ignore_eos = true;
    auto sink = std::make_shared<TimingSink>(clock_);
    request.sink = sink;
    TP_TRY(engine_.Submit(std::move(request)));
    return sink;
  }

  compute::Engine& engine_;
  const Clock& clock_;
  compute::ModelHandle model_;
  int32_t vocab_size_;
  std::mt19937_64 random_{std::random_device{}()};
};

template <typename Measure>
Result<double> Median(int32_t repeat, const Measure& measure) {
  std::vector<double> rates;
  TP_TRY(measure());  // warm-up
  for (int32_t i = 0; i < repeat; ++i) {
    TP_ASSIGN(const double rate, measure());
    rates.push_back(rate);
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

Json Row(const char* test, int32_t batch, int32_t tokens, double rate, double limit) {
  return {{"id", fmt::format("{}-{}", test, batch)},
          {"test", test},
          {"batch", batch},
          {"tokens", tokens},
          {"seconds", tokens * batch / rate},
          {"tokens_per_s", rate},
          {"limit", limit},
          {"share_of_limit", limit > 0 ? rate / limit : 0}};
}

Status WaitForLoad(platform::Inference& inference, const std::string& model) {
  auto loaded = std::make_shared<std::promise<Status>>();
  std::future<Status> result = loaded->get_future();
  inference.Load(model, [loaded](Status status) { loaded->set_value(std::move(status)); });
  if (result.wait_for(std::chrono::minutes(10)) != std::future_status::ready) {
    return Fail(ErrorKind::kTimeout, "load_timeout",
                fmt::format("model {} did not load in ten minutes", model), "model");
  }
  return result.get();
}

// Those who waited for a load are told one after another before the model is shown as ready: a moment later
// it is.
Result<platform::DeploymentStatus> FindReady(platform::Inference& inference, const std::string& model) {
  for (int attempt = 0; attempt < 5000; ++attempt) {
    TP_ASSIGN(platform::DeploymentStatus deployment, inference.Find(model));
    if (deployment.engine) return deployment;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return Fail(ErrorKind::kUnavailable, "model_not_ready",
              fmt::format("model {} was loaded but is gone again; try once more", model), "model");
}

}  // namespace

Result<Json> RunBench(const Json& request, platform::Inference& inference, compute::Engine& engine,
                      const Clock& clock, const chips::Roofline& roofline) {
  if (!request.is_object() || !request.contains("model") || !request["model"].is_string()) {
    return Fail(ErrorKind::kInvalid, "missing_required_parameter", "model is missing: name a stored model",
                "model");
  }
  const std::string name = request["model"].get<std::string>();
  TP_ASSIGN(const Shape shape, ReadShape(request));
  TP_TRY(WaitForLoad(inference, name));
  TP_ASSIGN(const platform::DeploymentStatus deployment, FindReady(inference, name));
  if (!deployment.engine->info.generates) {
    return Fail(ErrorKind::kInvalid, "model_not_supported",
                fmt::format("{} makes embeddings, not text", name), "model");
  }
  const architectures::ModelInfo& info = deployment.engine->info;
  if (shape.prompt_tokens + 1 > info.context_length || shape.generate_tokens + 8 > info.context_length) {
    return Fail(ErrorKind::kInvalid, "context_length_exceeded",
                fmt::format("{} has a context of {} tokens; use fewer", name, info.context_length),
                "prompt_tokens");
  }
  Bench bench(engine, clock, deployment.engine->handle, info.vocab_size);
  const double arithmetic =
      info.parameters > 0 ? roofline.int8_ops_per_s / (2.0 * static_cast<double>(info.parameters)) : 0;
  const double streaming =
      info.weight_bytes > 0 ? roofline.memory_bytes_per_s / static_cast<double>(info.weight_bytes) : 0;

  Json rows = Json::array();
  TP_ASSIGN(const double prefill, Median(shape.repeat, [&] { return bench.Prefill(shape.prompt_tokens); }));
  rows.push_back(Row("prefill", 1, shape.prompt_tokens, prefill, arithmetic));
  for (const int32_t batch : shape.batches) {
    TP_ASSIGN(const double decode,
              Median(shape.repeat, [&] { return bench.Decode(batch, shape.generate_tokens); }));
    rows.push_back(
        Row("decode", batch, shape.generate_tokens, decode, std::min(arithmetic, batch * streaming)));
  }
  return Json{{"model", name}, {"data", rows}};
}

}  // namespace tidepool::server
