#include "server/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <iterator>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace tidepool::server {
namespace {

using Json = nlohmann::ordered_json;

// Notes when each token came.
class TimingSink final : public compute::GenerateSink {
 public:
  explicit TimingSink(const Clock& clock) : clock_(clock) {}
  void OnToken(const compute::TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    times_.insert(times_.end(), event.tokens.size(), clock_.now());
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
    if (times_.empty()) {
      return Fail(ErrorKind::kInternal, "no_tokens", "a measured request ended without a token; try again");
    }
    return {};
  }
  // Ascending, one a token; at least one. Read after Wait.
  const std::vector<Nanoseconds>& times() const { return times_; }

 private:
  const Clock& clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::vector<Nanoseconds> times_;
  Error error_;
};

// Tokens per second of answers that run together, over the time in which all of them decode. Streams begin
// apart when their prompts take several steps. A step hands out its tokens in one order, so from one token of
// the stream that began last to another of its tokens every stream makes the same number: no step counts in
// part.
double RateOfAllTogether(std::span<const std::shared_ptr<TimingSink>> sinks) {
  const auto begins_later = [](const auto& a, const auto& b) { return a->times()[0] < b->times()[0]; };
  const std::vector<Nanoseconds>& last_to_begin =
      (*std::max_element(sinks.begin(), sinks.end(), begins_later))->times();
  Nanoseconds first_end = last_to_begin.back();
  for (const auto& sink : sinks) first_end = std::min(first_end, sink->times().back());
  const Nanoseconds begin = last_to_begin[0];
  const auto after = [](const std::vector<Nanoseconds>& times, Nanoseconds at) {
    return std::upper_bound(times.begin(), times.end(), at);
  };
  const Nanoseconds end = *std::prev(after(last_to_begin, std::max(begin, first_end)));
  int64_t made = 0;
  for (const auto& sink : sinks) made += after(sink->times(), end) - after(sink->times(), begin);
  return static_cast<double>(made) * kSecond / static_cast<double>(std::max<Nanoseconds>(end - begin, 1));
}

struct Shape {
  int32_t prompt_tokens = 512, generate_tokens = 64, depth = 8, repeat = 3;
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
  TP_ASSIGN(shape.prompt_tokens, ReadInt(request, "prompt_tokens", 512, 0, 1 << 20));
  TP_ASSIGN(shape.generate_tokens, ReadInt(request, "generate_tokens", 64, 1, 1 << 16));
  TP_ASSIGN(shape.depth, ReadInt(request, "depth", 8, 1, 1 << 20));
  TP_ASSIGN(shape.repeat, ReadInt(request, "repeat", 3, 1, 100));
  if (request.contains("batch")) {
    const Json& batches = request["batch"];
    if (!batches.is_array() || batches.size() > 16) {
      return Fail(ErrorKind::kInvalid, "invalid_value", "batch must be a list of at most 16 whole numbers",
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
    Prompt prompt = NewPrompt(tokens);
    const Nanoseconds start = clock_.now();
    TP_ASSIGN(const auto sink, Submit(std::move(prompt), 1, false));
    TP_TRY(sink->Wait());
    return static_cast<double>(tokens) * kSecond / static_cast<double>(sink->times()[0] - start);
  }

  struct Prompt {
    std::string workspace;
    std::vector<int32_t> tokens;
  };
  // Random, in a workspace of its own: no prefix hit flatters the figure.
  Prompt NewPrompt(int32_t tokens) {
    Prompt prompt{fmt::format("bench-{}", random_()), {}};
    std::uniform_int_distribution<int32_t> token(0, vocab_size_ - 1);
    for (int32_t i = 0; i < tokens; ++i) prompt.tokens.push_back(token(random_));
    return prompt;
  }

  // Tokens per second of answers to these prompts together, each of `tokens` tokens after its first.
  Result<double> Decode(std::span<const Prompt> prompts, int32_t tokens) {
    std::vector<std::shared_ptr<TimingSink>> sinks;
    for (const Prompt& prompt : prompts) {
      TP_ASSIGN(auto sink, Submit(prompt, tokens + 1, true));
      sinks.push_back(std::move(sink));
    }
    for (const auto& sink : sinks) TP_TRY(sink->Wait());
    return RateOfAllTogether(sinks);
  }

 private:
  // `again`: the prompt comes again. Others shall not take the place of what users' prompts began with.
  Result<std::shared_ptr<TimingSink>> Submit(Prompt prompt, int32_t generate_tokens, bool again) {
    compute::GenerateRequest request;
    request.request_id = "bench";
    request.model = model_;
    request.workspace = std::move(prompt.workspace);
    request.prompt = std::move(prompt.tokens);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = generate_tokens;
    request.sampling.ignore_eos = true;
    request.keep_prefix = again;
    request.speculate = false;  // random tokens repeat themselves as no text does
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

Json Row(const char* test, int32_t batch, int32_t tokens, int32_t depth, double rate, double limit) {
  return {{"id", fmt::format("{}-{}", test, batch)},
          {"test", test},
          {"batch", batch},
          {"tokens", tokens},
          {"depth", depth},
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
  if (shape.prompt_tokens + 1 > info.context_length ||
      (!shape.batches.empty() && shape.depth + shape.generate_tokens + 1 > info.context_length)) {
    return Fail(ErrorKind::kInvalid, "context_length_exceeded",
                fmt::format("{} has a context of {} tokens; use fewer", name, info.context_length),
                shape.prompt_tokens + 1 > info.context_length ? "prompt_tokens" : "generate_tokens");
  }
  Bench bench(engine, clock, deployment.engine->handle, info.vocab_size);
  const double arithmetic =
      info.parameters > 0 ? roofline.int8_ops_per_s / (2.0 * static_cast<double>(info.parameters)) : 0;
  const double streaming =
      info.weight_bytes > 0 ? roofline.memory_bytes_per_s / static_cast<double>(info.weight_bytes) : 0;

  Json rows = Json::array();
  if (shape.prompt_tokens > 0) {
    TP_ASSIGN(const double prefill, Median(shape.repeat, [&] { return bench.Prefill(shape.prompt_tokens); }));
    rows.push_back(Row("prefill", 1, shape.prompt_tokens, 0, prefill, arithmetic));
  }
  for (const int32_t batch : shape.batches) {
    std::vector<Bench::Prompt> prompts;
    for (int32_t i = 0; i < batch; ++i) prompts.push_back(bench.NewPrompt(shape.depth));
    TP_ASSIGN(const double decode,
              Median(shape.repeat, [&] { return bench.Decode(prompts, shape.generate_tokens); }));
    rows.push_back(Row("decode", batch, shape.generate_tokens, shape.depth, decode,
                       std::min(arithmetic, batch * streaming)));
  }
  return Json{
      {"model", name}, {"weight_bytes", info.weight_bytes}, {"parameters", info.parameters}, {"data", rows}};
}

}  // namespace tidepool::server
