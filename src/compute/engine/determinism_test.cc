// The same request gives the same tokens and the same logprobs, bit for bit: alone or in a batch, with or
// without a prefix hit, with its prompt in one chunk or in many. On tiny random models of every family
// (fixtures of models/architectures), on every instruction set this machine has.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <future>

#include "compute/engine/engine_fixture.h"
#include "compute/scheduler/trace.h"
#include "models/formats/checkpoint.h"
#include "models/grammar/regex.h"

namespace tidepool::compute {
namespace {

std::filesystem::path TinyFolder() {
  return std::filesystem::path(TIDEPOOL_SOURCE_DIR) / "src/models/architectures/testdata/tiny";
}

std::vector<std::string> TinyModels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(TinyFolder())) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;
  int32_t cached = 0;
};

// A model of its own in an engine of its own.
class Rig {
 public:
  Rig(const std::string& tiny, const std::string& file, const std::string& instruction_set,
      EngineOptions options) {
    device_ = chips::MakeCpuDevice({.threads = 2, .instruction_set = instruction_set, .deterministic = true})
                  .value();
    options.deterministic = true;
    options.kv_slab_bytes = 64 << 10;
    engine_ = Engine::Start(*device_, ledger_, clock_, metrics_, options);
    const auto checkpoint = formats::Checkpoint::Open(TinyFolder() / tiny / file);
    EXPECT_TRUE(checkpoint) << checkpoint.error().message;
    auto model = architectures::LoadModel(**checkpoint, *device_, {});
    EXPECT_TRUE(model) << model.error().message;
    info_ = (*model)->info();
    model_ = engine_->AddModel(tiny, std::move(*model), text::Tokenizer::Bytes(), 0, Charge()).value();
  }
  const architectures::ModelInfo& info() const { return info_; }
  Engine& engine() { return *engine_; }
  // A counter of the model's.
  double Count(const std::string& name) const {
    const std::string text = metrics_.Serialize();
    const size_t line = text.find("\n" + name + "{");
    return line == std::string::npos ? 0 : std::stod(text.substr(text.find(' ', line + 1)));
  }
  ModelHandle model() const { return model_; }

  std::shared_ptr<RecordingSink> Submit(const std::vector<int32_t>& prompt, int32_t max_tokens, uint64_t seed,
                                        std::shared_ptr<grammar::CompiledGrammar> grammar = nullptr) {
    auto sink = std::make_shared<RecordingSink>();
    GenerateRequest request;
    request.model = model_;
    request.prompt = prompt;
    request.sampling.max_tokens = max_tokens;
    request.sampling.ignore_eos = true;
    request.sampling.temperature = seed % 2 == 0 ? 0.0f : 0.9f;
    request.sampling.top_p = 0.95f;
    request.sampling.seed = seed;
    request.sampling.top_logprobs = 5;
    request.workspace = "w";
    request.account = std::to_string(seed % 3);
    request.constraint.grammar = std::move(grammar);
    request.sink = sink;
    const auto handle = engine_->Submit(std::move(request));
    EXPECT_TRUE(handle) << (handle ? "" : handle.error().message);
    if (!handle) {
      FinishEvent refused;
      refused.reason = FinishReason::kError;
      refused.error = handle.error();
      sink->OnFinish(refused);
    }
    return sink;
  }
  static Answer Take(RecordingSink& sink) {
    const FinishEvent& finish = sink.Wait();
    EXPECT_EQ(finish.reason, FinishReason::kLength) << finish.error.message;
    return {sink.tokens, sink.logprobs, finish.usage.cached_tokens};
  }

 private:
  SteadyClock clock_;
  MetricsRegistry metrics_;
  Ledger ledger_{uint64_t{512} << 20};
  std::unique_ptr<chips::Device> device_;
  architectures::ModelInfo info_;
  ModelHandle model_ = 0;
  std::unique_ptr<Engine> engine_;
};

void ExpectSame(const Answer& a, const Answer& b) {
  ASSERT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << "token " << i;
    EXPECT_EQ(a.logprobs[i].top, b.logprobs[i].top) << "token " << i;
  }
}

class Determinism : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Families, Determinism, ::testing::ValuesIn(TinyModels()),
                         [](const auto& parameter) { return parameter.param; });

// Three tokens that end at `from` or later, but for the last ones, stood together before.
bool RepeatsThree(const std::vector<int32_t>& tokens, size_t from) {
  for (size_t end = from; end + 1 < tokens.size(); ++end) {
    const auto last = tokens.begin() + static_cast<ptrdiff_t>(end) - 2;
    if (std::search(tokens.begin(), last + 2, last, last + 3) != last + 2) return true;
  }
  return false;
}

// Drafts are checked by the rows they would have come from: greedy and sampled answers, and their logprobs,
// are the same bit for bit.
TEST_P(Determinism, SpeculationChangesNothingButTheSteps) {
  for (const std::string& instruction_set : chips::CpuInstructionSets()) {
    SCOPED_TRACE(instruction_set);
    EngineOptions with, without;
    with.trace_records = without.trace_records = 100'000;
    without.speculation = false;
    Rig plain(GetParam(), "model.gguf", instruction_set, without);
    if (!plain.info().generates) GTEST_SKIP() << "an encoder";
    Rig drafting(GetParam(), "model.gguf", instruction_set, with);
    constexpr int32_t kNew = 40;
    bool repeats = false;
    for (uint64_t seed = 0; seed < 6; ++seed) {
      std::vector<int32_t> prompt;
      for (uint64_t t = 0; t < 60; ++t) {
        prompt.push_back(static_cast<int32_t>(FakeModel::Mix(seed * 1000 + t % 15) %
                                              static_cast<uint64_t>(plain.info().vocab_size)));
      }
      SCOPED_TRACE(seed);
      const Answer answer = Rig::Take(*plain.Submit(prompt, kNew, seed));
      ExpectSame(Rig::Take(*drafting.Submit(prompt, kNew, seed)), answer);
      prompt.insert(prompt.end(), answer.tokens.begin(), answer.tokens.end());
      repeats = repeats || RepeatsThree(prompt, prompt.size() - kNew);
    }
    for (Rig* rig : {&plain, &drafting}) {
      std::istringstream record(rig->engine().DecisionTrace(/*requests=*/false));
      const auto trace = ReadTrace(record);
      ASSERT_TRUE(trace) << trace.error().message;
      for (const TraceArrival& arrival : ArrivalsOf(*trace))
        EXPECT_EQ(arrival.produced, kNew) << "the scheduler knows of every token, the last step's too";
    }
    // (Now that the record was made by the engine's thread, the last step is counted too.)
    if (repeats) {  // (nothing that a window model says does)
      EXPECT_GT(drafting.Count("tidepool_drafted_tokens_total"), 0);
    }
    EXPECT_EQ(plain.Count("tidepool_drafted_tokens_total"), 0);
    EXPECT_EQ(plain.Count("tidepool_steps_total") - drafting.Count("tidepool_steps_total"),
              drafting.Count("tidepool_accepted_tokens_total"))
        << "every accepted token is a step less";
    EXPECT_EQ(plain.engine().pool()->tokens.computed, drafting.engine().pool()->tokens.computed);
  }
}

// What a grammar leaves no choice in is computed with the token before it, in a batch too.
TEST_P(Determinism, ForcedTokensOfABatchChangeNothingButTheSteps) {
  EngineOptions with, without;
  with.trace_records = without.trace_records = 100'000;
  without.speculation = false;
  Rig plain(GetParam(), "model.gguf", "", without), drafting(GetParam(), "model.gguf", "", with);
  if (!plain.info().generates) GTEST_SKIP() << "an encoder";
  if (plain.info().vocab_size < 128) GTEST_SKIP() << "no letters";
  grammar::Expressions expressions;
  const auto root = grammar::ParseRegex("(temperature [0-9]{2}, )+", grammar::RegexUse::kText, expressions);
  ASSERT_TRUE(root);
  auto program = grammar::Compile(expressions, *root);
  ASSERT_TRUE(program);
  const auto trie = grammar::TokenTrie::Build(*text::Tokenizer::Bytes(), {});
  const auto grammar = grammar::CompiledGrammar::Make(std::move(*program), trie).value();
  constexpr int32_t kNew = 50;
  std::vector<std::shared_ptr<RecordingSink>> in_batch;
  const auto prompt = [&](uint64_t seed) {
    std::vector<int32_t> made;
    for (uint64_t t = 0; t < 20 + seed; ++t)
      made.push_back(static_cast<int32_t>(FakeModel::Mix(seed * 100 + t) % 128));
    return made;
  };
  for (uint64_t seed = 0; seed < 6; ++seed)
    in_batch.push_back(drafting.Submit(prompt(seed), kNew, seed, grammar));
  for (uint64_t seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    ExpectSame(Rig::Take(*in_batch[seed]), Rig::Take(*plain.Submit(prompt(seed), kNew, seed, grammar)));
  }
  // 12 of 16 characters are forced, and the first of them only is not computed with the one before.
  EXPECT_GT(drafting.Count("tidepool_accepted_tokens_total"), 20);
  std::istringstream record(drafting.engine().DecisionTrace(/*requests=*/false));
  const auto trace = ReadTrace(record);
  ASSERT_TRUE(trace) << trace.error().message;
  for (const TraceArrival& arrival : ArrivalsOf(*trace)) EXPECT_EQ(arrival.produced, kNew);
  auto fresh = MakeTidepoolScheduler(with.pool);
  const auto replayed = Replay(*trace, *fresh);
  ASSERT_TRUE(replayed) << replayed.error().message;
  EXPECT_TRUE(replayed->equal) << replayed->difference;
}

// Guesses too, of several accounts, whose steps are decided one by one.
TEST_P(Determinism, GuessesOfABatchChangeNothingButTheSteps) {
  EngineOptions with, without;
  with.trace_records = without.trace_records = 100'000;
  without.speculation = false;
  Rig plain(GetParam(), "model.gguf", "", without), drafting(GetParam(), "model.gguf", "", with);
  if (!plain.info().generates) GTEST_SKIP() << "an encoder";
  constexpr int32_t kNew = 60;
  const auto prompt = [&](uint64_t seed) {
    std::vector<int32_t> made;
    for (uint64_t t = 0; t < 60; ++t) {
      made.push_back(static_cast<int32_t>(FakeModel::Mix(seed * 1000 + t % 15) %
                                          static_cast<uint64_t>(plain.info().vocab_size)));
    }
    return made;
  };
  constexpr uint64_t kStreams = 4;
  std::vector<std::shared_ptr<RecordingSink>> in_batch;
  for (uint64_t seed = 0; seed < kStreams; ++seed)
    in_batch.push_back(drafting.Submit(prompt(seed), kNew + static_cast<int32_t>(seed), seed));
  uint64_t repeating = 0;
  for (uint64_t seed = 0; seed < kStreams; ++seed) {
    SCOPED_TRACE(seed);
    const auto new_tokens = kNew + static_cast<int32_t>(seed);
    const Answer answer = Rig::Take(*plain.Submit(prompt(seed), new_tokens, seed));
    ExpectSame(Rig::Take(*in_batch[seed]), answer);
    auto tokens = prompt(seed);
    tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
    repeating += RepeatsThree(tokens, tokens.size() - static_cast<size_t>(kNew)) ? 1 : 0;
  }
  if (repeating == kStreams) {  // (a window model says little twice)
    EXPECT_GT(drafting.Count("tidepool_drafted_tokens_total"), 0);
  }
  std::istringstream record(drafting.engine().DecisionTrace(/*requests=*/false));
  const auto trace = ReadTrace(record);
  ASSERT_TRUE(trace) << trace.error().message;
  for (const TraceArrival& arrival : ArrivalsOf(*trace)) {
    EXPECT_GE(arrival.produced, kNew) << "the scheduler knows of every token, the last step's too";
    EXPECT_LT(arrival.produced, kNew + static_cast<int32_t>(kStreams));
  }
  auto fresh = MakeTidepoolScheduler(with.pool);
  const auto replayed = Replay(*trace, *fresh);
  ASSERT_TRUE(replayed) << replayed.error().message;
  EXPECT_TRUE(replayed->equal) << replayed->difference;
}

TEST_P(Determinism, AloneBatchedChunkedAndAfterAPrefixHit) {
  for (const char* file : {"model.gguf", "quantised.gguf"}) {
    for (const std::string& instruction_set : chips::CpuInstructionSets()) {
      SCOPED_TRACE(instruction_set + " " + file);
      if (!std::filesystem::exists(TinyFolder() / GetParam() / file)) continue;
      Rig whole(GetParam(), file, instruction_set, {.max_batch_tokens = 256, .prefix_cache = false});
      if (!whole.info().generates) GTEST_SKIP() << "an encoder";
      Rig chunked(GetParam(), file, instruction_set,
                  {.max_batch_tokens = 23, .max_sequences = 7, .prefix_cache = true});
      const int32_t room = std::min(whole.info().context_length, 160);
      std::vector<std::vector<int32_t>> prompts;
      std::vector<Answer> alone;
      constexpr int32_t kNew = 12;
      for (uint64_t i = 0; i < 8; ++i) {
        std::vector<int32_t> prompt;
        const int32_t length = std::max<int32_t>(1, (room - kNew) * static_cast<int32_t>(i + 1) / 8);
        for (int32_t t = 0; t < length; ++t) {
          const uint64_t family = t < 40 ? i % 2 : i;  // pairs share their beginning
          prompt.push_back(static_cast<int32_t>(FakeModel::Mix(family * 1000 + static_cast<uint64_t>(t)) %
                                                static_cast<uint64_t>(whole.info().vocab_size)));
        }
        prompts.push_back(prompt);
        alone.push_back(Rig::Take(*whole.Submit(prompt, kNew, i)));
      }
      for (int round = 0; round < 2; ++round) {  // the second finds the prefixes of the first
        std::vector<std::shared_ptr<RecordingSink>> sinks;
        for (size_t i = 0; i < prompts.size(); ++i) sinks.push_back(chunked.Submit(prompts[i], kNew, i));
        int32_t cached = 0;
        for (size_t i = 0; i < prompts.size(); ++i) {
          SCOPED_TRACE(::testing::Message() << "round " << round << " prompt " << i);
          const Answer answer = Rig::Take(*sinks[i]);
          ExpectSame(answer, alone[i]);
          cached += answer.cached;
        }
        if (round == 1 && room > 64) {
          EXPECT_GT(cached, 0);
        }
      }
    }
  }
}

TEST_P(Determinism, EmbeddingsAloneAndBatched) {
  for (const std::string& instruction_set : chips::CpuInstructionSets()) {
    SCOPED_TRACE(instruction_set);
    Rig rig(GetParam(), "model.safetensors", instruction_set, {.max_batch_tokens = 64});
    if (rig.info().pooling == architectures::Pooling::kNone) GTEST_SKIP() << "has no pooling";
    std::vector<std::vector<int32_t>> inputs;
    for (int32_t i = 0; i < 12; ++i) {
      std::vector<int32_t> input;
      for (int32_t t = 0; t < 1 + 3 * i; ++t) input.push_back((t * 7 + i) % rig.info().vocab_size);
      inputs.push_back(input);
    }
    auto embed = [&](std::vector<std::vector<int32_t>> some) {
      std::promise<std::vector<std::vector<float>>> done;
      EmbedRequest request = EmbedOf(rig.model(), std::move(some));
      request.done = [&](Result<std::vector<std::vector<float>>> result) {
        EXPECT_TRUE(result) << (result ? "" : result.error().message);
        done.set_value(result.value_or(std::vector<std::vector<float>>{}));
      };
      EXPECT_TRUE(rig.engine().Embed(std::move(request)));
      return done.get_future().get();
    };
    const auto together = embed(inputs);
    for (size_t i = 0; i < inputs.size(); ++i) EXPECT_EQ(embed({inputs[i]}).at(0), together.at(i)) << i;
  }
}

}  // namespace
}  // namespace tidepool::compute
