// Requests under the names of deployments. Oracle: the same request to the base model with everything said.
#include "platform/inference/named_deployments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <future>
#include <sstream>
#include <thread>

#include "platform/inference/metering.h"
#include "platform/inference/metering_rig.h"
#include "platform/inference/pool_control.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

class NamedSink final : public ChatSink {
 public:
  void OnStart(const std::string& model, int32_t) override { started_model = model; }
  void OnToken(int32_t, const compute::TokenEvent& event) override { content += event.content; }
  void OnFinish(int32_t, const compute::FinishEvent& event) override { finish = event; }
  void OnDone(const Result<compute::Usage>& usage) override {
    const std::lock_guard lock(mutex_);
    result = usage;
    changed_.notify_all();
  }
  bool Wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return result.has_value(); });
  }
  std::string started_model, content;
  compute::FinishEvent finish;
  std::optional<Result<compute::Usage>> result;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

class NamedDeploymentsTest : public ::testing::Test {
 protected:
  void SetUp() override { rig_ = std::make_unique<MeteringRig>(MeteringRig::Options{}); }
  DeploymentSpec Deploy(const std::string& name, const std::function<void(DeploymentSpec&)>& change = {}) {
    DeploymentSpec spec;
    spec.name = name;
    spec.base = "scripted";
    if (change) change(spec);
    const auto made = rig_->deployments->Create(MachineActor(), spec);
    EXPECT_TRUE(made) << (made ? "" : made.error().message);
    return made.value_or(DeploymentSpec{});
  }
  static ChatRequest Ask(const std::string& model, const std::string& text) {
    static int number = 0;
    ChatRequest request;
    request.request_id = "n" + std::to_string(++number);
    request.model = model;
    request.messages = Json::array({{{"role", "user"}, {"content", text}}});
    request.principal.organisation = "org";
    request.principal.workspace = "ws";
    request.principal.key = "key-1";
    return request;
  }
  std::shared_ptr<NamedSink> Run(ChatRequest request) {
    auto sink = std::make_shared<NamedSink>();
    auto generation = rig_->inference->Chat(std::move(request), sink);
    EXPECT_TRUE(generation) << (generation ? "" : generation.error().message);
    if (generation) {
      EXPECT_TRUE(sink->Wait());
    }
    return sink;
  }
  std::string TextOf(const ChatRequest& request) {
    const auto tokens = rig_->inference->TokenizeChat(request);
    EXPECT_TRUE(tokens) << (tokens ? "" : tokens.error().message);
    return tokens ? rig_->inference->Detokenize("scripted", *tokens).value_or("") : "";
  }
  PoolModelState PoolStateOf(const std::string& model) {
    for (PoolModelState& state : rig_->inference->pool()->State().models) {
      if (state.id == model) return state;
    }
    return {};
  }
  std::unique_ptr<MeteringRig> rig_;
};

TEST_F(NamedDeploymentsTest, ARequestTakesTheDefaultsWhereItIsSilentAndIsBilledAsItsBase) {
  Deploy("support", [](auto& s) { s.defaults.max_tokens = 5; });
  Deploy("other/name:1");
  auto sink = Run(Ask("support", "[[tokens:40]]"));
  ASSERT_TRUE(*sink->result);
  EXPECT_EQ(sink->started_model, "support");
  EXPECT_EQ((**sink->result).completion_tokens, 5);
  EXPECT_EQ(sink->finish.reason, compute::FinishReason::kLength);
  ChatRequest said = Ask("support", "[[tokens:40]]");
  said.sampling.max_tokens = 7;
  EXPECT_EQ((**Run(said)->result).completion_tokens, 7);
  ChatRequest other = Ask("other/name:1", "[[say:hello]]");
  const std::string other_id = other.request_id;
  EXPECT_EQ(Run(other)->content, "hello");
  CompletionRequest completion;
  completion.request_id = "completion";
  completion.model = "support";
  completion.prompts = {{"[[tokens:40]]", {}, false}};
  completion.principal = said.principal;
  auto completed = std::make_shared<NamedSink>();
  const auto generation = rig_->inference->Complete(completion, completed);
  ASSERT_TRUE(generation) << generation.error().message;
  ASSERT_TRUE(completed->Wait());
  EXPECT_EQ((**completed->result).completion_tokens, 5);

  ASSERT_TRUE(rig_->accounting->ledger().Flush(10));
  for (const std::string& id : {said.request_id, other_id, std::string("completion")}) {
    const auto row = rig_->accounting->reports().FindRequest({}, id);
    ASSERT_TRUE(row) << id;
    EXPECT_EQ(row->model, "scripted");
    EXPECT_EQ(row->model_version, "builtin:scripted");
  }
  // Another name is no other model: one free quota.
  EXPECT_EQ(rig_->accounting->limiter().quotas("org").size(), 1u);
  const auto callers = rig_->deployments->CallersOf("support");
  ASSERT_EQ(callers.size(), 1u);
  EXPECT_EQ(callers[0].key, "key-1");
  EXPECT_EQ(callers[0].requests, 3);
}

// Said, or the deployment's: what the scheduler is told, and what the row is priced as.
TEST_F(NamedDeploymentsTest, PriorityReachesTheSchedulerAndTheBill) {
  using compute::JobClass;
  Deploy("nightly", [](auto& s) { s.defaults.priority = JobClass::kBatch; });
  ChatRequest silent = Ask("nightly", "hi"), said = Ask("nightly", "hi"), plain = Ask("scripted", "hi");
  said.sampling.priority = JobClass::kInteractive;
  CompletionRequest completion;
  completion.request_id = "flex";
  completion.model = "scripted";
  completion.prompts = {{"hi", {}, false}};
  completion.sampling.priority = JobClass::kBatch;
  completion.principal = said.principal;
  for (const ChatRequest& request : {silent, said, plain}) ASSERT_TRUE(*Run(request)->result);
  auto completed = std::make_shared<NamedSink>();
  ASSERT_TRUE(rig_->inference->Complete(completion, completed));
  ASSERT_TRUE(completed->Wait());
  EmbeddingRequest embedding;
  embedding.request_id = "pooled";
  embedding.model = "nightly";
  embedding.inputs.push_back({"hi", {}, false});
  embedding.principal = said.principal;
  std::promise<Result<EmbeddingReply>> pooled;
  const auto embedded = rig_->inference->Embed(
      embedding, [&](Result<EmbeddingReply> reply) { pooled.set_value(std::move(reply)); });
  ASSERT_TRUE(embedded) << embedded.error().message;
  ASSERT_TRUE(pooled.get_future().get());

  const auto trace = rig_->inference->pool()->Trace(/*requests=*/true);
  ASSERT_TRUE(trace) << trace.error().message;
  std::vector<std::string> classes;
  std::istringstream lines(*trace);
  for (std::string line; std::getline(lines, line);) classes.push_back(Json::parse(line).value("class", ""));
  EXPECT_THAT(classes, ::testing::ElementsAre("batch", "interactive", "normal", "batch", "batch"));

  ASSERT_TRUE(rig_->accounting->ledger().Flush(10));
  const auto is_batch = [&](const std::string& id) {
    const auto row = rig_->accounting->reports().FindRequest({}, id);
    EXPECT_TRUE(row) << id;
    return row && row->batch;
  };
  EXPECT_TRUE(is_batch(silent.request_id));
  EXPECT_FALSE(is_batch(said.request_id));
  EXPECT_FALSE(is_batch(plain.request_id));
  EXPECT_TRUE(is_batch("flex"));
  EXPECT_TRUE(is_batch("pooled")) << "embeddings take the deployment's";
  const auto quotas = rig_->accounting->limiter().quotas("org");
  ASSERT_EQ(quotas.size(), 1u);
  const auto used = [&](const std::string& id) {
    const auto row = rig_->accounting->reports().FindRequest({}, id);
    return row->tokens.prompt + row->tokens.output;
  };
  EXPECT_EQ(quotas[0].used, used(said.request_id) + used(plain.request_id))
      << "batch work has no free tokens";
}

TEST_F(NamedDeploymentsTest, TheThinkingBudgetIsADefaultToo) {
  Deploy("brief", [](auto& s) { s.defaults.reasoning_budget = 10; });
  const std::string text = "[[think:" + std::string(200, 'm') + "]][[say:done]]";
  const auto reasoning = [&](ChatRequest request) {
    const auto sink = Run(std::move(request));
    return *sink->result ? (**sink->result).reasoning_tokens : -1;
  };
  EXPECT_GT(reasoning(Ask("scripted", text)), 100);
  const int32_t brief = reasoning(Ask("brief", text));
  EXPECT_GE(brief, 10);
  EXPECT_LT(brief, 15);
  ChatRequest said = Ask("brief", text);
  said.sampling.reasoning_budget = 50;
  EXPECT_GT(reasoning(said), 45);
}

TEST_F(NamedDeploymentsTest, LimitsCutAnswersAndRefusePrompts) {
  Deploy("short", [](auto& s) { s.max_output_tokens = 3; });
  Deploy("narrow", [](auto& s) {
    s.max_context_tokens = 64;
    s.defaults.max_tokens = 1000;  // cut, as nobody asked for it
  });
  ChatRequest request = Ask("short", "[[tokens:40]]");
  request.sampling.max_tokens = 20;
  EXPECT_EQ((**Run(request)->result).completion_tokens, 3);
  const auto sink = Run(Ask("narrow", "[[tokens:90]]"));
  ASSERT_TRUE(*sink->result);
  EXPECT_EQ((**sink->result).prompt_tokens + (**sink->result).completion_tokens, 64);
  EXPECT_EQ(sink->finish.reason, compute::FinishReason::kLength);
  const auto refused = [&](ChatRequest one) {
    const auto generation = rig_->inference->Chat(std::move(one), std::make_shared<NamedSink>());
    return generation ? std::string() : generation.error().code + " " + generation.error().param;
  };
  ChatRequest named = Ask("narrow", "hi");
  named.sampling.max_tokens = 60;
  EXPECT_EQ(refused(named), "context_length_exceeded max_tokens");
  EXPECT_THAT(refused(Ask("narrow", std::string(64, 'x'))), HasSubstr("context_length_exceeded"));
  const auto status = rig_->inference->Find("narrow");
  ASSERT_TRUE(status);
  EXPECT_EQ(status->id, "scripted");
  EXPECT_EQ(status->name(), "narrow");
  EXPECT_EQ(status->model.context_length, 64);
  EXPECT_EQ(status->engine->info.context_length, 64);
}

TEST_F(NamedDeploymentsTest, SystemPromptThinkingAndTemplateAreAsIfSaid) {
  Deploy("polite", [](auto& s) { s.system_prompt = "Be polite."; });
  Deploy("shout", [](auto& s) {
    s.chat_template = "{{ 'T:' if enable_thinking else 'N:' }}{{ messages[-1].content | upper }}";
    s.defaults.thinking = true;
  });
  ChatRequest with_system = Ask("scripted", "hi");
  with_system.messages.insert(with_system.messages.begin(),
                              Json{{"role", "system"}, {"content", "Be polite."}});
  EXPECT_EQ(TextOf(Ask("polite", "hi")), TextOf(with_system));
  EXPECT_NE(TextOf(Ask("scripted", "hi")), TextOf(with_system));
  for (const char* role : {"system", "developer"}) {
    ChatRequest own = with_system;
    own.messages[0] = Json{{"role", role}, {"content", "Be rude."}};
    ChatRequest named = own;
    named.model = "polite";
    EXPECT_EQ(TextOf(named), TextOf(own)) << role;
  }
  EXPECT_EQ(TextOf(Ask("shout", "hi")), "T:HI");
  ChatRequest silent = Ask("shout", "hi");
  silent.template_variables["enable_thinking"] = false;
  EXPECT_EQ(TextOf(silent), "N:HI");
  EXPECT_EQ(rig_->inference->Describe("shout")->chat_template.substr(0, 5), "{{ 'T");
  // What is written in the template reaches the model.
  Deploy("script", [](auto& s) { s.chat_template = "[[say:from the template]]"; });
  EXPECT_EQ(Run(Ask("script", "hi"))->content, "from the template");
  // And another one takes its place at once.
  ASSERT_TRUE(rig_->deployments->Change(MachineActor(), "script", [](DeploymentSpec& spec) -> Status {
    spec.chat_template = "[[say:another]]";
    return {};
  }));
  EXPECT_EQ(Run(Ask("script", "hi"))->content, "another");
}

TEST_F(NamedDeploymentsTest, PinsAndPromisesReachThePool) {
  EXPECT_EQ(PoolStateOf("scripted").pin, PinSource::kNone);
  Deploy("a", [](auto& s) {
    s.pinned = true;
    s.idle_ttl_s = 60;
    s.weight = 2;
    s.ttft_s = 3;
  });
  Deploy("b", [](auto& s) {
    s.idle_ttl_s = -1;
    s.weight = 5;
    s.ttft_s = 1;
  });
  PoolModelState state = PoolStateOf("scripted");
  EXPECT_EQ(state.pin, PinSource::kDeployment);
  EXPECT_TRUE(state.policy.pinned);
  EXPECT_EQ(state.policy.idle_ttl_s, -1);
  EXPECT_EQ(state.policy.weight, 5);
  EXPECT_EQ(state.policy.ttft_s, 1);
  // The operator's later word counts, until a deployment says something new.
  PoolControl& pool = *rig_->inference->pool();
  ASSERT_TRUE(pool.SetPolicy("a", {.pinned = false, .weight = 7}));
  state = PoolStateOf("scripted");
  EXPECT_EQ(state.pin, PinSource::kNone);
  EXPECT_EQ(state.policy.weight, 7);
  ASSERT_TRUE(rig_->deployments->Change(MachineActor(), "b", [](DeploymentSpec& spec) -> Status {
    spec.weight = 9;
    return {};
  }));
  EXPECT_EQ(PoolStateOf("scripted").policy.weight, 9);
  EXPECT_EQ(PoolStateOf("scripted").pin, PinSource::kNone) << "of pins nothing new was said";
  ASSERT_TRUE(rig_->deployments->Delete(MachineActor(), "a"));
  ASSERT_TRUE(rig_->deployments->Delete(MachineActor(), "b"));
  Deploy("c", [](auto& s) { s.pinned = true; });
  EXPECT_EQ(PoolStateOf("scripted").pin, PinSource::kDeployment);
}

TEST_F(NamedDeploymentsTest, AModelStaysWhileItIsDeployedAndNamesAreTheModelsOrTheDeployments) {
  Deploy("a");
  EXPECT_EQ(rig_->inference->Remove("a").error().code, "is_deployment");
  EXPECT_EQ(rig_->inference->Remove("scripted").error().code, "model_deployed");
  std::vector<std::string> names;
  for (const auto& status : rig_->inference->ListCallable()) names.push_back(status.name());
  EXPECT_EQ(names, (std::vector<std::string>{"a", "scripted"}));
  EXPECT_EQ(rig_->inference->List().size(), 1u);
  const auto check = [&](const std::string& name, const std::string& base) {
    DeploymentSpec spec;
    spec.name = name;
    spec.base = base;
    return rig_->inference->CheckDeployment(spec);
  };
  EXPECT_EQ(check("b", "nothing").error().code, "model_not_found");
  EXPECT_EQ(check("b", "a").error().code, "model_not_found") << "of a model, not of a deployment";
  EXPECT_EQ(check("scripted", "scripted").error().code, "exists");
  const auto fit = check("b", "scripted");
  ASSERT_TRUE(fit) << fit.error().message;
  EXPECT_TRUE(fit->fits);
  EXPECT_EQ(fit->base, "scripted");
  EXPECT_EQ(fit->pool_bytes, uint64_t{256} << 20);
  EXPECT_EQ(fit->needed_bytes, uint64_t{64} << 20) << "it has no weights";
  ASSERT_TRUE(rig_->inference->pool()->Resize({.memory = 32 << 20}));
  EXPECT_FALSE(check("b", "scripted")->fits);
  ASSERT_TRUE(rig_->deployments->Delete(MachineActor(), "a"));
  EXPECT_EQ(rig_->inference->Chat(Ask("a", "hi"), std::make_shared<NamedSink>()).error().code,
            "model_not_found");
}

TEST_F(NamedDeploymentsTest, AKeyForADeploymentIsNotForItsModel) {
  Deploy("a");
  Principal who;
  who.models = {"a"};
  EXPECT_TRUE(MayUse(who, *rig_->inference->Find("a")));
  EXPECT_FALSE(MayUse(who, *rig_->inference->Find("scripted")));
  who.models = {"scripted"};
  EXPECT_TRUE(MayUse(who, *rig_->inference->Find("a")));
}

TEST(DeploymentPoliciesTest, OfSeveralTheOneThatAsksForMoreCounts) {
  const auto spec = [](const std::string& base, bool pinned, std::optional<double> ttl) {
    auto out = std::make_shared<DeploymentSpec>();
    out->base = base;
    out->pinned = pinned;
    out->idle_ttl_s = ttl;
    return out;
  };
  const auto policies = PolicyOfDeployments(
      {spec("m", false, 10), spec("m", true, {}), spec("m", false, 30), spec("n", false, {})});
  ASSERT_EQ(policies.size(), 2u);
  EXPECT_EQ(policies.at("m").pinned, true);
  EXPECT_EQ(policies.at("m").idle_ttl_s, 30);
  EXPECT_FALSE(policies.at("n").pinned);
  EXPECT_FALSE(policies.at("n").idle_ttl_s);
}

}  // namespace
}  // namespace tidepool::platform
