#include "compute/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "compute/engine/engine_fixture.h"
#include "compute/engine/sampler.h"
#include "models/grammar/regex.h"

namespace tidepool::compute {
namespace {

using ::testing::HasSubstr;

text::TextStreamOptions StreamOptions(std::vector<std::string> stop, bool include_stop,
                                      text::ReasoningFormat reasoning = {}) {
  text::TextStreamOptions options;
  options.stop = std::move(stop);
  options.include_stop = include_stop;
  options.reasoning = std::move(reasoning);
  return options;
}

// What a text stream of its own makes of the tokens.
text::TextDelta TextOf(const std::vector<int32_t>& tokens, text::TextStreamOptions options = {}) {
  const auto tokenizer = text::Tokenizer::Bytes();
  text::TextStream stream(std::move(options));
  text::TextDelta delta;
  for (const int32_t token : tokens) {
    if (!delta.stopped) stream.Push(tokenizer->TokenBytes(token), delta);
  }
  if (!delta.stopped) stream.Finish(delta);
  return delta;
}

// A prompt whose greedy answer is at least `length` tokens long.
std::vector<int32_t> TalkativePrompt(int32_t length, int32_t prompt_length = 20) {
  for (int32_t salt = 0;; ++salt) {
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < prompt_length; ++i) prompt.push_back((i * 31 + salt * 7) % 200);
    if (static_cast<int32_t>(FakeModel::GreedyAnswer(prompt, length).size()) == length &&
        FakeModel::GreedyAnswer(prompt, length).back() != FakeModel::kEnd) {
      return prompt;
    }
  }
}

GenerateRequest Endless(GenerateRequest request) {
  request.sampling.ignore_eos = true;
  return request;
}

// ---- answers -----------------------------------------------------------------------------------------

TEST_F(EngineTest, GreedyAnswerIsTheModels) {
  StartEngine();
  const ModelHandle model = AddFake();
  for (int32_t salt = 0; salt < 10; ++salt) {
    const auto prompt = Prompt(20, salt);
    const auto sink = Generate(Request(model, prompt, 50, nullptr));
    const auto expected = FakeModel::GreedyAnswer(prompt, 50);
    EXPECT_EQ(sink->tokens, expected);
    EXPECT_EQ(sink->content, TextOf(expected).content);
    EXPECT_EQ(sink->finishes, 1);
    const FinishEvent& finish = sink->finish;
    EXPECT_EQ(finish.usage.prompt_tokens, 20);
    EXPECT_EQ(finish.usage.completion_tokens, static_cast<int32_t>(expected.size()));
    EXPECT_EQ(finish.usage.reasoning_tokens, 0);
    const bool ended = expected.back() == FakeModel::kEnd;
    EXPECT_EQ(finish.reason, ended ? FinishReason::kStop : FinishReason::kLength);
    EXPECT_EQ(finish.stop, ended ? "<|im_end|>" : "");
  }
}

TEST_F(EngineTest, ManyAtOnceGiveTheSameAnswersAsAlone) {
  StartEngine({.max_batch_tokens = 40, .max_sequences = 8});
  const ModelHandle model = AddFake();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<std::vector<int32_t>> prompts;
  for (int32_t i = 0; i < 40; ++i) {
    prompts.push_back(Prompt(1 + 7 * i, i % 5));  // some share prefixes
    sinks.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(engine->Submit(Request(model, prompts.back(), 30, sinks.back())));
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    sinks[i]->Wait();
    EXPECT_EQ(sinks[i]->tokens, FakeModel::GreedyAnswer(prompts[i], 30)) << i;
  }
  EXPECT_EQ(Entry(model).kv_blocks_used, 0);
  EXPECT_GT(Entry(model).kv_blocks_cached, 0);
}

TEST_F(EngineTest, SampledAnswersDependOnTheSeedOnly) {
  StartEngine({.max_batch_tokens = 40, .max_sequences = 8});
  const ModelHandle model = AddFake();
  auto request = [&](uint64_t seed) {
    GenerateRequest r = Request(model, Prompt(30), 25, nullptr);
    r.sampling.temperature = 1;
    r.sampling.top_p = 0.9f;
    r.sampling.seed = seed;
    r.sampling.ignore_eos = true;
    return r;
  };
  const auto alone = Generate(request(5));
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    auto sink = std::make_shared<RecordingSink>();
    GenerateRequest r = request(seed);
    r.sink = sink;
    ASSERT_TRUE(engine->Submit(std::move(r)));
    sinks.push_back(sink);
  }
  for (const auto& sink : sinks) sink->Wait();
  EXPECT_EQ(sinks[5]->tokens, alone->tokens);
  EXPECT_NE(sinks[6]->tokens, alone->tokens);
}

TEST_F(EngineTest, StopStringsEndTheAnswer) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = TalkativePrompt(60);
  const auto answer = FakeModel::GreedyAnswer(prompt, 60);
  const std::string whole = TextOf(answer).content;
  // Two neighbouring ASCII characters somewhere in the answer: they come from two tokens.
  std::string stop;
  for (size_t i = 5; i + 1 < whole.size() && stop.empty(); ++i) {
    if (whole[i] > 0 && whole[i + 1] > 0) stop = whole.substr(i, 2);
  }
  ASSERT_EQ(stop.size(), 2u);
  for (const bool include : {false, true}) {
    GenerateRequest request = Request(model, prompt, 60, nullptr);
    request.sampling.stop = {"never ever", stop};
    request.sampling.include_stop = include;
    const auto sink = Generate(std::move(request));
    EXPECT_EQ(sink->content, TextOf(answer, StreamOptions({stop}, include)).content);
    EXPECT_EQ(sink->finish.reason, FinishReason::kStop);
    EXPECT_EQ(sink->finish.stop, stop);
    EXPECT_LT(sink->finish.usage.completion_tokens, 60);
    EXPECT_EQ(sink->finish.usage.completion_tokens, static_cast<int32_t>(sink->tokens.size()));
  }
}

// vLLM's rule: a stop string counts if its last character came after the first min_tokens tokens.
TEST_F(EngineTest, MinTokensHoldsBackStopStrings) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = TalkativePrompt(60);
  const auto answer = FakeModel::GreedyAnswer(prompt, 60);
  // Tokens are bytes: two ASCII neighbours are a stop string that two tokens make.
  size_t at = 5;
  while (at + 1 < answer.size() && (answer[at] >= 128 || answer[at + 1] >= 128)) ++at;
  ASSERT_LT(at + 1, answer.size());
  const std::string stop{static_cast<char>(answer[at]), static_cast<char>(answer[at + 1])};
  for (at = 0; answer[at] != stop[0] || answer[at + 1] != stop[1];) ++at;  // its first place
  const auto complete = static_cast<int32_t>(at + 2);                      // tokens after which it is
  for (const int32_t min_tokens : {0, complete - 1, complete}) {
    GenerateRequest request = Request(model, prompt, 60, nullptr);
    request.sampling.stop = {stop};
    request.sampling.min_tokens = min_tokens;
    const auto sink = Generate(std::move(request));
    if (min_tokens < complete) {
      EXPECT_EQ(sink->finish.usage.completion_tokens, complete) << min_tokens;
      EXPECT_EQ(sink->finish.stop, stop);
      EXPECT_EQ(sink->content.find(stop), std::string::npos);
    } else {
      EXPECT_GT(sink->finish.usage.completion_tokens, complete);
      EXPECT_NE(sink->content.find(stop), std::string::npos) << "it is text";
    }
  }
}

TEST_F(EngineTest, StopTokensMinTokensAndIgnoreEos) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = TalkativePrompt(30);
  const auto answer = FakeModel::GreedyAnswer(prompt, 30);
  GenerateRequest request = Request(model, prompt, 30, nullptr);
  request.sampling.stop_token_ids = {answer[7]};
  const auto at = static_cast<size_t>(std::find(answer.begin(), answer.end(), answer[7]) - answer.begin());
  auto sink = Generate(std::move(request));
  EXPECT_EQ(sink->tokens,
            std::vector<int32_t>(answer.begin(), answer.begin() + static_cast<ptrdiff_t>(at) + 1));
  EXPECT_EQ(sink->finish.reason, FinishReason::kStop);

  request = Request(model, prompt, 30, nullptr);
  request.sampling.stop_token_ids = {answer[7]};
  request.sampling.min_tokens = 20;
  sink = Generate(std::move(request));
  ASSERT_GE(sink->tokens.size(), 20u);
  for (size_t i = 0; i < 20; ++i) EXPECT_NE(sink->tokens[i], answer[7]) << "masked until min_tokens";

  // A prompt whose answer ends early goes on with ignore_eos.
  std::vector<int32_t> brief;
  for (int32_t salt = 0; brief.empty(); ++salt) {
    if (FakeModel::GreedyAnswer(Prompt(9, salt), 10).back() == FakeModel::kEnd) brief = Prompt(9, salt);
  }
  request = Request(model, brief, 15, nullptr);
  request.sampling.ignore_eos = true;
  sink = Generate(std::move(request));
  EXPECT_EQ(sink->tokens, FakeModel::GreedyAnswer(brief, 15, true));
  EXPECT_EQ(sink->finish.reason, FinishReason::kLength);
}

TEST_F(EngineTest, ZeroMaxTokensFillsTheContext) {
  StartEngine();
  const ModelHandle model = AddFake("fake", {}, 64);
  GenerateRequest request = Request(model, Prompt(20), 0, nullptr);
  request.sampling.ignore_eos = true;
  const auto sink = Generate(std::move(request));
  EXPECT_EQ(sink->tokens.size(), 44u);
  EXPECT_EQ(sink->finish.reason, FinishReason::kLength);
}

TEST_F(EngineTest, LogprobsOfAnswerAndPrompt) {
  StartEngine({.max_batch_tokens = 64, .max_sequences = 16});
  const ModelHandle model = AddFake();
  const auto prompt = Prompt(50);
  Generate(Request(model, prompt, 5, nullptr));  // leaves a prefix that prompt logprobs must not use
  GenerateRequest request = Request(model, prompt, 10, nullptr);
  request.sampling.top_logprobs = 3;
  request.sampling.prompt_logprobs = true;
  const auto sink = Generate(std::move(request));
  ASSERT_EQ(sink->logprobs.size(), sink->tokens.size());
  ASSERT_EQ(sink->prompt_logprobs.size(), prompt.size());
  EXPECT_EQ(sink->finish.usage.cached_tokens, 0);
  Sampler oracle(260);
  std::vector<float> logits(260);
  std::vector<int32_t> history = {prompt[0]};
  EXPECT_EQ(sink->prompt_logprobs[0].token, prompt[0]);
  EXPECT_TRUE(sink->prompt_logprobs[0].top.empty());
  auto expect = [&](const TokenLogprob& got, int32_t token) {
    TokenLogprob want;
    FakeModel::LogitsAfter(history, logits);
    oracle.Logprobs({logits}, token, 3, want);
    EXPECT_EQ(got.token, token);
    EXPECT_EQ(got.logprob, want.logprob);
    EXPECT_EQ(got.top, want.top);
    history.push_back(token);
  };
  for (size_t i = 1; i < prompt.size(); ++i) expect(sink->prompt_logprobs[i], prompt[i]);
  for (size_t i = 0; i < sink->tokens.size(); ++i) expect(sink->logprobs[i], sink->tokens[i]);
}

// A vocabulary large enough for rows to be shared out among threads: every answer is what the engine of one
// thread (the simulated device's) gives the request alone.
TEST_F(EngineTest, RowsSampledOnManyThreadsGiveTheAnswersOfOne) {
  FakeModelOptions large;
  large.vocab_size = 20'000;
  const auto request = [&](ModelHandle model, int32_t i) {
    GenerateRequest one = Request(model, Prompt(20 + i, i), 12, nullptr);
    one.sampling.ignore_eos = true;
    one.sampling.seed = static_cast<uint64_t>(i);
    one.sampling.temperature = i % 5 == 0 ? 0.0f : 0.8f;
    one.sampling.top_k = i % 4 == 1 ? 40 : 0;
    one.sampling.top_p = i % 2 == 0 ? 0.9f : 1.0f;
    one.sampling.frequency_penalty = i % 3 == 0 ? 0.5f : 0.0f;
    one.sampling.top_logprobs = i % 3 == 1 ? 4 : -1;
    one.sampling.prompt_logprobs = i % 6 == 4;
    return one;
  };
  constexpr int32_t kRequests = 24;
  StartEngine({.max_batch_tokens = 64, .max_sequences = 24});
  const ModelHandle model = AddFake("fake", large);
  std::vector<std::shared_ptr<RecordingSink>> alone;
  for (int32_t i = 0; i < kRequests; ++i) alone.push_back(Generate(request(model, i)));
  engine.reset();

  chips::DeviceOptions three;
  three.threads = 3;
  const auto cpu = chips::MakeCpuDevice(three).value();
  engine = Engine::Start(*cpu, *ledger, clock, metrics, {.max_batch_tokens = 64, .max_sequences = 24});
  const ModelHandle shared = AddFake("fake", large);
  fake->hold = true;  // until all are there
  std::vector<std::shared_ptr<RecordingSink>> together;
  for (int32_t i = 0; i < kRequests; ++i) {
    together.push_back(std::make_shared<RecordingSink>());
    GenerateRequest one = request(shared, i);
    one.sink = together.back();
    ASSERT_TRUE(engine->Submit(std::move(one)));
  }
  fake->hold = false;
  for (size_t i = 0; i < together.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(together[i]->Wait().reason, FinishReason::kLength);
    EXPECT_EQ(together[i]->tokens, alone[i]->tokens);
    for (const auto entries : {&RecordingSink::logprobs, &RecordingSink::prompt_logprobs}) {
      const auto &got = (*together[i]).*entries, &want = (*alone[i]).*entries;
      ASSERT_EQ(got.size(), want.size());
      for (size_t t = 0; t < got.size(); ++t) {
        EXPECT_EQ(got[t].logprob, want[t].logprob);
        EXPECT_EQ(got[t].top, want[t].top);
      }
    }
  }
  engine.reset();  // before its device
  fake = nullptr;
}

// ---- reasoning ---------------------------------------------------------------------------------------

TEST_F(EngineTest, ReasoningIsSetApartAndCounted) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = TalkativePrompt(40);
  const auto answer = FakeModel::GreedyAnswer(prompt, 40);
  GenerateRequest request = Request(model, prompt, 40, nullptr);
  request.reasoning = {.open_tag = "<think>", .close_tag = "</think>", .starts_inside = true};
  const auto sink = Generate(std::move(request));
  EXPECT_EQ(sink->tokens, answer);
  EXPECT_EQ(sink->content, "");
  EXPECT_EQ(
      sink->reasoning,
      TextOf(answer, StreamOptions({}, false,
                                   {.open_tag = "<think>", .close_tag = "</think>", .starts_inside = true}))
          .reasoning);
  EXPECT_EQ(sink->finish.usage.reasoning_tokens, 40);
}

// Reasoning is no answer: what must be of a form would otherwise be nothing at all.
TEST_F(EngineTest, AConstrainedAnswerDoesNotEndWhileItReasons) {
  StartEngine();
  const ModelHandle model = AddFake();
  std::vector<int32_t> prompt;
  for (int32_t salt = 0; prompt.empty(); ++salt) {
    const auto answer = FakeModel::GreedyAnswer(Prompt(20, salt), 20);
    if (answer.size() < 20 && answer.back() == FakeModel::kEnd) prompt = Prompt(20, salt);
  }
  grammar::Expressions expressions;
  const auto root = grammar::ParseRegex("[0-9]{3}", grammar::RegexUse::kText, expressions);
  ASSERT_TRUE(root) << root.error().message;
  auto program = grammar::Compile(expressions, *root);
  ASSERT_TRUE(program) << program.error().message;
  auto compiled =
      grammar::CompiledGrammar::Make(std::move(*program), grammar::TokenTrie::Build(*tokenizer, {}));
  ASSERT_TRUE(compiled) << compiled.error().message;
  GenerateRequest request = Request(model, prompt, 60, nullptr);
  request.reasoning = {.open_tag = "<think>", .close_tag = "</think>", .starts_inside = true};
  request.sampling.reasoning_budget = 30;
  request.constraint.grammar = *compiled;
  const auto sink = Generate(std::move(request));
  EXPECT_EQ(sink->finish.reason, FinishReason::kStop);
  ASSERT_EQ(sink->content.size(), 3u) << "reasoned: " << sink->reasoning;
  for (const char c : sink->content) EXPECT_TRUE(c >= '0' && c <= '9') << sink->content;
}

TEST_F(EngineTest, ASpentReasoningBudgetClosesTheReasoning) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = TalkativePrompt(40);
  const auto answer = FakeModel::GreedyAnswer(prompt, 40);
  for (const int32_t budget : {0, 1, 12}) {
    GenerateRequest request = Request(model, prompt, 40, nullptr);
    request.reasoning = {.open_tag = "<think>", .close_tag = "</think>", .starts_inside = true};
    request.sampling.reasoning_budget = budget;
    request.sampling.ignore_eos = true;
    const auto sink = Generate(std::move(request));
    const auto cut = static_cast<size_t>(budget);
    ASSERT_EQ(sink->tokens.size(), 40u);
    for (size_t i = 0; i < cut; ++i) EXPECT_EQ(sink->tokens[i], answer[i]);
    EXPECT_EQ(sink->tokens[cut], 259) << "</think>";
    // The model goes on from what was said for it.
    std::vector<int32_t> history = prompt;
    history.insert(history.end(), sink->tokens.begin(),
                   sink->tokens.begin() + static_cast<ptrdiff_t>(cut) + 1);
    EXPECT_EQ(sink->tokens[cut + 1], FakeModel::Greedy(history));
    EXPECT_FALSE(sink->content.empty());
    EXPECT_EQ(sink->finish.usage.reasoning_tokens, budget + 1) << "the close tag is part of the reasoning";
    EXPECT_EQ(sink->finish.usage.completion_tokens, 40);
  }
}

// ---- prefix reuse ------------------------------------------------------------------------------------

TEST_F(EngineTest, CachedTokensAreCountedAndNotComputedAgain) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = Prompt(100);
  const auto first = Generate(Request(model, prompt, 10, nullptr));
  const uint64_t before = fake->tokens_computed;
  const auto second = Generate(Request(model, prompt, 10, nullptr));
  EXPECT_EQ(first->finish.usage.cached_tokens, 0);
  EXPECT_EQ(second->finish.usage.cached_tokens, 96);
  EXPECT_EQ(second->tokens, first->tokens);
  EXPECT_EQ(fake->tokens_computed - before, 4 + second->tokens.size() - 1);
  GenerateRequest other = Request(model, prompt, 10, nullptr);
  other.workspace = "another";
  EXPECT_EQ(Generate(std::move(other))->finish.usage.cached_tokens, 0);

  // A conversation goes on: the answer's blocks are there too.
  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), first->tokens.begin(), first->tokens.end());
  for (int32_t i = 0; i < 20; ++i) longer.push_back(i);
  const auto third = Generate(Request(model, longer, 5, nullptr));
  EXPECT_GE(third->finish.usage.cached_tokens, 96);
  EXPECT_EQ(third->tokens, FakeModel::GreedyAnswer(longer, 5));
}

TEST_F(EngineTest, PrefixCacheCanBeTurnedOff) {
  StartEngine({.prefix_cache = false});
  const ModelHandle model = AddFake();
  Generate(Request(model, Prompt(100), 3, nullptr));
  EXPECT_EQ(Generate(Request(model, Prompt(100), 3, nullptr))->finish.usage.cached_tokens, 0);
  EXPECT_EQ(Entry(model).kv_blocks_cached, 0);
}

TEST_F(EngineTest, WhatNobodyAsksAgainTakesNoPlaceInThePrefixCache) {
  StartEngine();
  const ModelHandle model = AddFake();
  Generate(Request(model, Prompt(100), 3, nullptr));
  const int32_t cached = Entry(model).kv_blocks_cached;
  EXPECT_GT(cached, 0);
  GenerateRequest once = Request(model, Prompt(400, 7), 40, nullptr);
  once.sampling.ignore_eos = true;
  once.keep_prefix = false;
  EXPECT_EQ(Generate(std::move(once))->finish.usage.completion_tokens, 40);
  EXPECT_EQ(Entry(model).kv_blocks_cached, cached);
  EXPECT_EQ(Generate(Request(model, Prompt(100), 3, nullptr))->finish.usage.cached_tokens, 96);
}

// ---- refusals ----------------------------------------------------------------------------------------

TEST_F(EngineTest, RefusesWhatCanNeverWorkWithTheNumbers) {
  StartEngine({}, 1'900'000);
  const ModelHandle model = AddFake("fake", {.context_length = 200'000});
  auto sink = std::make_shared<RecordingSink>();
  auto refused = [&](GenerateRequest request, const char* code, std::vector<const char*> parts) {
    const auto result = engine->Submit(std::move(request));
    ASSERT_FALSE(result) << code;
    EXPECT_EQ(result.error().code, code);
    for (const char* part : parts) EXPECT_THAT(result.error().message, HasSubstr(part));
  };
  refused(Request(model, {}, 5, sink), "empty_prompt", {});
  refused(Request(model, {1, 2, 260}, 5, sink), "invalid_token", {"260", "place 2"});
  refused(Request(model, {1, -1}, 5, sink), "invalid_token", {"-1"});
  refused(Request(model, Prompt(200'000), 5, sink), "context_length_exceeded", {"200000"});
  refused(Request(model, Prompt(10), 199'991, sink), "context_length_exceeded", {"199991", "10"});
  refused(Request(model, Prompt(10), INT32_MAX, sink), "context_length_exceeded", {"2147483647"});
  refused(Request(model, Prompt(100'000), 50'000, sink), "kv_too_small",
          {"150000", "9375 blocks", "1900000"});
  refused(Request(model + 100, Prompt(10), 5, sink), "model_not_found", {});
  GenerateRequest bad = Request(model, Prompt(10), 5, sink);
  bad.sampling.top_p = 0;
  refused(std::move(bad), "invalid_parameter", {"top_p"});
  EXPECT_EQ(engine->load().running + engine->load().waiting, 0);
  EXPECT_EQ(sink->finishes, 0);
}

TEST_F(EngineTest, ZeroMaxTokensTakesWhatTheMemoryHolds) {
  StartEngine({}, 2'200'000);
  const ModelHandle model = AddFake("fake", {.context_length = 100'000});
  GenerateRequest request = Request(model, Prompt(10), 0, nullptr);
  auto sink = std::make_shared<RecordingSink>();
  request.sink = sink;
  const auto handle = engine->Submit(std::move(request));
  ASSERT_TRUE(handle) << handle.error().message;
  sink->Wait();
  EXPECT_NE(sink->finish.reason, FinishReason::kError);
}

TEST_F(EngineTest, AFullQueueSaysWhenToComeBack) {
  StartEngine({.max_sequences = 1, .max_waiting = 3});
  const ModelHandle model = AddFake();
  fake->hold = true;
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  Result<RequestHandle> last = RequestHandle{0};
  for (int i = 0; i < 10 && last; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    last = engine->Submit(Endless(Request(model, Prompt(10, i), 100, sinks.back())));
  }
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().kind, ErrorKind::kOverloaded);
  EXPECT_EQ(last.error().code, "queue_full");
  EXPECT_GE(last.error().retry_after_s, 1);
  EXPECT_LE(sinks.size(), 5u) << "one runs, three wait, the next is refused";
}

// ---- cancel and pause --------------------------------------------------------------------------------

TEST_F(EngineTest, CancelFreesEverythingByTheNextStep) {
  StartEngine();
  const ModelHandle model = AddFake();
  auto sink = std::make_shared<RecordingSink>();
  sink->on_token = [&](size_t said) {
    if (said == 5) fake->hold = true;
  };
  const auto handle = engine->Submit(Endless(Request(model, Prompt(20), 1000, sink)));
  ASSERT_TRUE(handle);
  sink->WaitForTokens(5);
  WaitInStep();
  EXPECT_GT(Entry(model).kv_blocks_used, 0);
  const uint64_t before = engine->load().steps;
  engine->Cancel(*handle);
  fake->hold = false;
  sink->Wait();
  EXPECT_EQ(engine->load().steps, before + 1) << "the step that was running, and no other";
  EXPECT_EQ(sink->finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(sink->finish.usage.completion_tokens, static_cast<int32_t>(sink->tokens.size()));
  EXPECT_EQ(Entry(model).kv_blocks_used, 0);
  EXPECT_EQ(engine->load().running, 0);
  engine->Cancel(*handle);  // again, and unknown ones: nothing happens
  engine->Cancel(999'999);
  EXPECT_EQ(sink->finishes, 1);
}

TEST_F(EngineTest, CancelWhileWaiting) {
  StartEngine({.max_sequences = 1});
  const ModelHandle model = AddFake();
  auto running = std::make_shared<RecordingSink>();
  auto waiting = std::make_shared<RecordingSink>();
  fake->hold = true;
  const auto first = engine->Submit(Endless(Request(model, Prompt(20), 1000, running)));
  WaitInStep();
  const auto second = engine->Submit(Request(model, Prompt(10), 300, waiting));
  engine->Cancel(*second);
  engine->Cancel(*first);
  fake->hold = false;
  waiting->Wait();
  running->Wait();
  EXPECT_EQ(waiting->finish.reason, FinishReason::kCancelled);
  EXPECT_TRUE(waiting->tokens.empty());
  EXPECT_EQ(engine->load().waiting, 0);
}

TEST_F(EngineTest, APausedRequestKeepsItsKvAndGoesOnLater) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = TalkativePrompt(60);
  auto sink = std::make_shared<RecordingSink>();
  std::atomic<RequestHandle> handle{0};
  sink->on_token = [&](size_t said) {
    while (handle == 0) std::this_thread::yield();
    if (said == 3) engine->SetPaused(handle, true);
  };
  handle = engine->Submit(Request(model, prompt, 60, sink)).value();
  sink->WaitForTokens(3);
  Generate(Request(model, Prompt(6), 20, nullptr));  // another runs to its end meanwhile
  EXPECT_EQ(sink->token_count(), 3u);
  EXPECT_GT(Entry(model).kv_blocks_used, 0);
  engine->SetPaused(handle, false);
  sink->Wait();
  EXPECT_EQ(sink->tokens, FakeModel::GreedyAnswer(prompt, 60));
}

// ---- failures of one request -------------------------------------------------------------------------

TEST_F(EngineTest, AFailingRequestEndsAloneAndOthersGoOn) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto good_prompt = TalkativePrompt(40);
  std::vector<std::shared_ptr<RecordingSink>> good, nan, row;
  for (int i = 0; i < 5; ++i) {
    good.push_back(std::make_shared<RecordingSink>());
    nan.push_back(std::make_shared<RecordingSink>());
    row.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(engine->Submit(Request(model, good_prompt, 40, good.back())));
    ASSERT_TRUE(engine->Submit(Request(model, {1, 2, FakeModel::kPoisonNan, 3}, 40, nan.back())));
    ASSERT_TRUE(engine->Submit(Request(model, {1, 2, FakeModel::kPoisonRow, 3}, 40, row.back())));
  }
  for (int i = 0; i < 5; ++i) {
    const auto n = static_cast<size_t>(i);
    EXPECT_EQ(good[n]->Wait().reason, FinishReason::kLength);
    EXPECT_EQ(good[n]->tokens, FakeModel::GreedyAnswer(good_prompt, 40));
    EXPECT_EQ(nan[n]->Wait().reason, FinishReason::kError);
    EXPECT_EQ(nan[n]->finish.error.code, "logits_not_finite");
    EXPECT_EQ(row[n]->Wait().reason, FinishReason::kError);
    EXPECT_EQ(row[n]->finish.error.code, "model_failed");
  }
  EXPECT_EQ(Entry(model).kv_blocks_used, 0);
}

// ---- progress and metrics ----------------------------------------------------------------------------

TEST_F(EngineTest, ReportsProgress) {
  StartEngine({.max_batch_tokens = 32, .max_sequences = 1});
  const ModelHandle model = AddFake();
  auto first = std::make_shared<RecordingSink>();
  auto second = std::make_shared<RecordingSink>();
  fake->hold = true;
  ASSERT_TRUE(engine->Submit(Request(model, Prompt(320), 1, first)));
  WaitInStep();
  ASSERT_TRUE(engine->Submit(Request(model, Prompt(10), 1, second)));
  fake->hold = false;
  first->Wait();
  second->Wait();
  ASSERT_FALSE(first->progress.empty());
  float share = 0;
  for (const ProgressEvent& event : first->progress) {
    if (event.phase != ProgressEvent::Phase::kPrefill) continue;
    EXPECT_GT(event.share, share);
    share = event.share;
  }
  EXPECT_GT(share, 0);
  EXPECT_LE(first->progress.size(), 12u);
  EXPECT_EQ(first->progress.back().phase, ProgressEvent::Phase::kDecode);
  ASSERT_FALSE(second->progress.empty());
  EXPECT_EQ(second->progress.front().phase, ProgressEvent::Phase::kQueued);
  EXPECT_GT(second->finish.queue_s, 0);
  EXPECT_GT(first->finish.prefill_s, 0);
}

TEST_F(EngineTest, MetricsCountWhatWasReported) {
  StartEngine();
  const ModelHandle model = AddFake("fake-model");
  int32_t prompt = 0, cached = 0, completion = 0;
  for (int32_t i = 0; i < 6; ++i) {
    const auto sink = Generate(Request(model, Prompt(40, i / 2), 10, nullptr));
    prompt += sink->finish.usage.prompt_tokens;
    cached += sink->finish.usage.cached_tokens;
    completion += sink->finish.usage.completion_tokens;
  }
  EXPECT_EQ(cached, 3 * 32);
  const std::string text = metrics.Serialize();
  auto expect = [&](const std::string& name, int32_t value) {
    EXPECT_THAT(text, HasSubstr(name + "{model=\"fake-model\"} " + std::to_string(value) + "\n"));
  };
  expect("tidepool_prompt_tokens_total", prompt);
  expect("tidepool_cached_tokens_total", cached);
  expect("tidepool_completion_tokens_total", completion);
  expect("tidepool_ttft_seconds_count", 6);
  expect("tidepool_tpot_seconds_count", completion - 6);
  expect("tidepool_requests_running", 0);
  EXPECT_THAT(text, HasSubstr("tidepool_pool_bytes{kind=\"kv\",owner=\"fake-model\"}"));
  EXPECT_THAT(text, HasSubstr("tidepool_kv_blocks{model=\"fake-model\",state=\"used\"} 0"));
}

// ---- models ------------------------------------------------------------------------------------------

TEST_F(EngineTest, RemoveModelGivesItsBytesBack) {
  StartEngine();
  const uint64_t baseline = ledger->used();
  auto weights = ledger->Take("fake", ChargeKind::kWeights, 5000);
  auto model = std::make_unique<FakeModel>();
  const auto handle = engine->AddModel("fake", std::move(model), tokenizer, 0, std::move(*weights));
  ASSERT_TRUE(handle);
  Generate(Request(*handle, Prompt(100), 10, nullptr));
  EXPECT_EQ(Entry(*handle).weight_bytes, 5000u);
  EXPECT_GT(ledger->used_by(ChargeKind::kKv), 0u);
  ASSERT_TRUE(engine->RemoveModel(*handle, false));
  EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
  EXPECT_EQ(ledger->used_by(ChargeKind::kWeights), 0u);
  // The scratch of the device and the workspace that models share stay.
  for (const auto& [key, bytes] : ledger->Snapshot()) EXPECT_EQ(key.second, ChargeKind::kScratch) << bytes;
  EXPECT_GE(ledger->used(), baseline);
  EXPECT_TRUE(engine->ListModels().empty());
  EXPECT_EQ(engine->RemoveModel(*handle, false).error().code, "model_not_found");
}

TEST_F(EngineTest, RemoveModelInUseNeedsForce) {
  StartEngine();
  const ModelHandle model = AddFake();
  auto sink = std::make_shared<RecordingSink>();
  fake->hold = true;
  const auto handle = engine->Submit(Endless(Request(model, Prompt(20), 1000, sink)));
  engine->SetPaused(*handle, true);  // it stays for as long as the test needs it
  fake->hold = false;
  const Status refused = engine->RemoveModel(model, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kConflict);
  fake = nullptr;
  ASSERT_TRUE(engine->RemoveModel(model, true));
  EXPECT_EQ(sink->Wait().reason, FinishReason::kCancelled);
  EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
}

TEST_F(EngineTest, ALoadTakesTheMemoryOfPrefixCaches) {
  StartEngine({}, 3'000'000);
  const ModelHandle model = AddFake();
  for (int32_t i = 0; i < 200; ++i) Generate(Request(model, Prompt(900, 1000 + i), 1, nullptr));
  const uint64_t cache = ledger->used_by(ChargeKind::kKv);
  EXPECT_GT(cache, ledger->limit() / 4) << "the cache grows while there is room";
  const uint64_t wanted = ledger->free() + cache / 2;
  const auto weights = ledger->Take("new", ChargeKind::kWeights, wanted);
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_LE(ledger->used_by(ChargeKind::kKv), cache / 2);
}

TEST_F(EngineTest, AModelThatDoesNotFitIsRefused) {
  StartEngine({}, 50'000);
  const auto refused = engine->AddModel("fake", std::make_unique<FakeModel>(), tokenizer, 0, Charge());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "out_of_pool_memory");
  EXPECT_EQ(ledger->used(), 0u);
}

// ---- life cycle --------------------------------------------------------------------------------------

TEST_F(EngineTest, DrainRefusesNewWorkAndWaits) {
  StartEngine();
  const ModelHandle model = AddFake();
  const auto prompt = TalkativePrompt(50);
  auto sink = std::make_shared<RecordingSink>();
  fake->hold = true;
  ASSERT_TRUE(engine->Submit(Request(model, prompt, 50, sink)));
  EXPECT_FALSE(engine->Drain(clock.now()));
  fake->hold = false;
  EXPECT_TRUE(engine->Drain(clock.now() + 60 * kSecond));
  EXPECT_EQ(sink->Wait().reason, FinishReason::kLength);
  EXPECT_EQ(sink->tokens, FakeModel::GreedyAnswer(prompt, 50));
  const auto refused = engine->Submit(Request(model, prompt, 50, sink));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kUnavailable);
}

TEST_F(EngineTest, DestructionEndsEverythingOnce) {
  StartEngine({.max_sequences = 2});
  const ModelHandle model = AddFake("fake", {.step_time = std::chrono::milliseconds(1)});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 10; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(engine->Submit(Request(model, Prompt(10, i), 1000, sinks.back())));
  }
  engine.reset();
  for (const auto& sink : sinks) EXPECT_EQ(sink->finishes, 1);
  EXPECT_EQ(ledger->used(), 0u);
}

}  // namespace
}  // namespace tidepool::compute
