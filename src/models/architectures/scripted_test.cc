// The scripted model: directives, and that it remembers through KV blocks alone.
#include <cstring>

#include "models/architectures/script.h"
#include "models/architectures/test_runner.h"

namespace tidepool::architectures::testing {
namespace {

std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

void Append(std::vector<int32_t>& ids, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) {
    if (part == "<|im_start|>") {
      ids.push_back(kTurnBegin);
    } else if (part == "<|im_end|>") {
      ids.push_back(kTurnEnd);
    } else {
      for (const int32_t id : Bytes(part)) ids.push_back(id);
    }
  }
}

std::vector<int32_t> Chat(std::string_view user) {
  std::vector<int32_t> ids;
  Append(ids, {"<|im_start|>", "system\nBe brief.", "<|im_end|>", "\n", "<|im_start|>", "user\n", user,
               "<|im_end|>", "\n", "<|im_start|>", "assistant\n"});
  return ids;
}

class ScriptedModel : public ::testing::Test {
 protected:
  ScriptedModel()
      : device_(chips::MakeSimulatedDevice({})),
        model_(Must(MakeScriptedModel(*device_, 4096))),
        workspace_(Must(device_->Allocate(model_->WorkspaceBytes(limits_)))) {}

  struct Answer {
    std::vector<int32_t> tokens;
    bool failed = false;
    std::string text() const {
      std::string text;
      for (const int32_t id : tokens)
        text += id < 256 ? std::string(1, static_cast<char>(id)) : "<" + std::to_string(id) + ">";
      return text;
    }
  };

  // One step of the next `count` pending tokens; the last row's likeliest token.
  int32_t Step1(TestSequence& s, int32_t count, bool* failed) {
    std::vector<int32_t> positions;
    for (int32_t i = 0; i < count; ++i) positions.push_back(s.context + i);
    const int32_t row = count - 1;
    const chips::SequenceSlice slice{0, count, s.context, s.blocks(), s.block_count()};
    const Step step{std::span(s.pending).first(static_cast<size_t>(count)),
                    positions,
                    std::span(&slice, 1),
                    std::span(&row, 1),
                    {}};
    const StepOutput out = model_->Forward(step, limits_, workspace_.data());
    *failed = !out.failed_rows.empty() && out.failed_rows[0] != 0;
    s.pending.erase(s.pending.begin(), s.pending.begin() + count);
    s.context += count;
    return static_cast<int32_t>(std::max_element(out.logits, out.logits + kScriptVocab) - out.logits);
  }

  Answer Ask(std::vector<int32_t> prompt, int32_t chunk = 64, int32_t most = 400) {
    TestSequence s(*device_, model_->kv_layout(), static_cast<int32_t>(prompt.size()) + most);
    s.pending = std::move(prompt);
    return GoOn(s, chunk, most);
  }

  Answer GoOn(TestSequence& s, int32_t chunk, int32_t most) {
    Answer answer;
    while (static_cast<int32_t>(answer.tokens.size()) < most) {
      int32_t next = 0;
      while (!s.pending.empty()) {
        next = Step1(s, std::min<int32_t>(chunk, static_cast<int32_t>(s.pending.size())), &answer.failed);
      }
      if (answer.failed || next == kTurnEnd) break;
      answer.tokens.push_back(next);
      s.pending.push_back(next);
    }
    return answer;
  }

  StepLimits limits_{.max_tokens = 256, .max_logit_rows = 16};
  std::unique_ptr<chips::SimulatedDevice> device_;
  std::unique_ptr<Model> model_;
  chips::DeviceBuffer workspace_;
};

TEST_F(ScriptedModel, SaysWhatTheLastUserTurnAsks) {
  EXPECT_EQ(Ask(Chat("[[say:Hello, Wörld!]]")).text(), "Hello, Wörld!");
  EXPECT_EQ(Ask(Chat("please [[say:a]] and [[say:b]]")).text(), "ab");
  EXPECT_EQ(Ask(Chat("[[repeat:3:ab]]")).text(), "ababab");
  EXPECT_EQ(Ask(Chat("[[tokens:50]]")).tokens.size(), 50u);
  EXPECT_EQ(Ask(Chat("[[think:hm]][[say:yes]]")).text(), "<258>hm<259>yes");
  EXPECT_EQ(Ask(Chat("[[think:hm]]why?")).text(), "<258>hm<259>You said: why?");
  EXPECT_EQ(Ask(Chat("Tell [[stall_ms:0]]me")).text(), "You said: Tell me");
}

TEST_F(ScriptedModel, BrokenDirectivesAreText) {
  for (const char* text :
       {"[[say:", "[[tokens:x]]", "[[repeat:3]]", "[[unknown:1]]", "[[tokens:99999999999]]", "]] [[", ""}) {
    EXPECT_EQ(Ask(Chat(text)).text(), std::string("You said: ") + text);
  }
}

TEST_F(ScriptedModel, AnswersTheLastOfSeveralTurns) {
  std::vector<int32_t> ids = Chat("[[say:first]]");
  Append(ids, {"first", "<|im_end|>", "\n", "<|im_start|>", "user\n[[say:second]]", "<|im_end|>", "\n",
               "<|im_start|>", "assistant\n"});
  EXPECT_EQ(Ask(ids).text(), "second");
}

TEST_F(ScriptedModel, PlainPromptsAreMarkedAtTheBorder) {
  EXPECT_EQ(Ask(Bytes("[[say:hello]]")).text(), "<256>hello");
  EXPECT_EQ(Ask(Bytes("Once upon")).text(), "<256>You said: Once upon");
}

TEST_F(ScriptedModel, FailsWhenAsked) {
  const Answer answer = Ask(Chat("[[say:abcdef]][[fail_after:3]]"));
  EXPECT_TRUE(answer.failed);
  EXPECT_EQ(answer.text(), "abc");
}

TEST_F(ScriptedModel, ChunksDoNotMatter) {
  const auto prompt =
      Chat("[[think:some thought that crosses blocks]][[say:and an answer that does so as well]]");
  const std::string whole = Ask(prompt, 64).text();
  for (const int32_t chunk : {1, 2, 15, 16, 17, 63}) EXPECT_EQ(Ask(prompt, chunk).text(), whole) << chunk;
}

// The honest part: what is not in the blocks is not remembered.
TEST_F(ScriptedModel, AForeignBlockFailsTheRow) {
  const auto prompt = Chat("[[say:a long enough text to fill some blocks]]");
  TestSequence s(*device_, model_->kv_layout(), 400);
  s.pending = prompt;
  bool failed = false;
  Step1(s, 40, &failed);
  EXPECT_FALSE(failed);
  const size_t bytes = model_->kv_layout().block_bytes();
  std::memset(s.blocks()[1], 0, bytes);  // a lost block
  Step1(s, 1, &failed);
  EXPECT_TRUE(failed);
  std::memcpy(s.blocks()[1], s.blocks()[0], bytes);  // another position's block
  Step1(s, 1, &failed);
  EXPECT_TRUE(failed);
}

TEST_F(ScriptedModel, AnotherSequencesBlockChangesTheAnswer) {
  TestSequence a(*device_, model_->kv_layout(), 400), b(*device_, model_->kv_layout(), 400);
  a.pending = Chat("[[say:the answer of the first]]");
  b.pending = Chat("[[say:THE ANSWER OF THE OTHER]]");
  bool failed = false;
  Step1(a, static_cast<int32_t>(a.pending.size()), &failed);
  Step1(b, static_cast<int32_t>(b.pending.size()) - 1, &failed);
  for (int32_t i = 0; i < 4; ++i)
    std::memcpy(b.blocks()[i], a.blocks()[i], model_->kv_layout().block_bytes());
  EXPECT_EQ(GoOn(b, 64, 100).text(), "the answer of the first");
}

TEST_F(ScriptedModel, LogitsLeaveLittleToChance) {
  TestSequence s(*device_, model_->kv_layout(), 400);
  s.pending = Chat("[[say:x]]");
  const auto count = static_cast<int32_t>(s.pending.size());
  ModelInfo info = model_->info();
  EXPECT_EQ(info.vocab_size, kScriptVocab);
  std::vector<int32_t> positions;
  for (int32_t i = 0; i < count; ++i) positions.push_back(i);
  const int32_t row = count - 1;
  const chips::SequenceSlice slice{0, count, 0, s.blocks(), s.block_count()};
  const StepOutput out =
      model_->Forward({s.pending, positions, std::span(&slice, 1), std::span(&row, 1), std::span(&row, 1)},
                      limits_, workspace_.data());
  for (int32_t id = 0; id < kScriptVocab; ++id) EXPECT_EQ(out.logits[id], id == 'x' ? 0.0f : -40.0f);
  ASSERT_NE(out.hidden, nullptr);
  EXPECT_TRUE(std::any_of(out.hidden, out.hidden + info.hidden_size, [](float v) { return v != 0; }));
}

// Says no from one segment on, and remembers what it was asked.
class OpenUpTo final : public LayerGate {
 public:
  explicit OpenUpTo(int32_t segments) : segments_(segments) {}
  bool Wait(int32_t segment) override {
    asked.push_back(segment);
    return segment < segments_;
  }
  std::vector<int32_t> asked;

 private:
  const int32_t segments_;
};

TEST_F(ScriptedModel, PretendedWeightsWaitAtTheGate) {
  EXPECT_TRUE(model_->segments().empty());
  const auto model = Must(MakeScriptedModel(*device_, 4096, {.layers = 3, .layer_bytes = 1000}));
  EXPECT_EQ(model->info().weight_bytes, 3000u);
  ASSERT_EQ(model->segments().size(), 3u);
  EXPECT_EQ(model->segments()[2].offset, 2000u);
  EXPECT_EQ(model->segments()[2].bytes, 1000u);

  TestSequence s(*device_, model->kv_layout(), 400);
  const std::vector<int32_t> tokens = Chat("[[say:x]]");
  const auto count = static_cast<int32_t>(tokens.size());
  std::vector<int32_t> positions;
  for (int32_t i = 0; i < count; ++i) positions.push_back(i);
  const int32_t row = count - 1;
  const chips::SequenceSlice slice{0, count, 0, s.blocks(), s.block_count()};
  Step step{tokens, positions, std::span(&slice, 1), std::span(&row, 1), {}};
  OpenUpTo closed(1), open(3);
  step.gate = &closed;
  StepOutput out = model->Forward(step, limits_, workspace_.data());
  EXPECT_TRUE(out.aborted);
  EXPECT_EQ(out.logits, nullptr);
  EXPECT_EQ(closed.asked, (std::vector<int32_t>{0, 1}));
  step.gate = &open;
  out = model->Forward(step, limits_, workspace_.data());
  EXPECT_FALSE(out.aborted);
  EXPECT_EQ(open.asked, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(out.logits['x'], 0.0f);
}

TEST(ScriptedModelLimits, RefusesAbsurdWeights) {
  const auto device = chips::MakeSimulatedDevice({});
  for (const ScriptedWeights weights : {ScriptedWeights{-1, 1}, {1 << 20, 1}, {1, UINT64_MAX}}) {
    const auto model = MakeScriptedModel(*device, 4096, weights);
    ASSERT_FALSE(model.has_value());
    EXPECT_EQ(model.error().param, "weights");
  }
}

TEST(ScriptedModelLimits, RefusesAbsurdContexts) {
  const auto device = chips::MakeSimulatedDevice({});
  for (const int32_t context : {-1, 0, 15, 1 << 24}) {
    const auto model = MakeScriptedModel(*device, context);
    ASSERT_FALSE(model.has_value());
    EXPECT_EQ(model.error().param, "context_length");
  }
}

}  // namespace
}  // namespace tidepool::architectures::testing
