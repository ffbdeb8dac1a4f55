// Test doubles of what stands below the gateway: an Inference whose answers a test scripts, a Catalog and a
// Authenticator in memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "platform/accounts/authenticator.h"
#include "platform/catalog/catalog.h"
#include "platform/inference/inference.h"
#include "platform/inference/requests_in_flight.h"

namespace tidepool::gateway {

inline constexpr std::string_view kTestKey = "tp-test-key";

// One scripted generation; a script runs on a thread of its own, as the engine's would.
class FakeRun {
 public:
  FakeRun(std::shared_ptr<platform::ChatSink> sink, int32_t count) : choices(count), sink_(std::move(sink)) {}
  void Token(std::string_view content, std::string_view reasoning = {}, int32_t choice = 0,
             std::vector<compute::TokenLogprob> logprobs = {});
  void PromptLogprobs(int32_t choice, std::vector<compute::TokenLogprob> logprobs);
  void Progress(const compute::ProgressEvent& event) { sink_->OnProgress(event); }
  void ToolCall(const platform::ToolCallDelta& delta, int32_t choice = 0) {
    sink_->OnToolCall(choice, delta);
  }
  void Finish(compute::FinishReason reason, int32_t choice = 0, Error error = {});
  void Bill(const platform::Billed& billed) { sink_->OnBilled(billed); }
  void Done(Result<compute::Usage> usage) { sink_->OnDone(usage); }
  // All choices say `text` as one token each and stop; usage 7 prompt tokens, 3 cached.
  void Say(std::string_view text);

  bool cancelled() const { return cancelled_; }
  bool paused() const { return paused_; }
  // False if it did not happen within `seconds`.
  bool WaitCancelled(double seconds);
  bool WaitPaused(bool paused, double seconds);

  const int32_t choices;

 private:
  friend class FakeInference;
  friend class FakeGeneration;
  std::shared_ptr<platform::ChatSink> sink_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> paused_{false};
};

class FakeInference final : public platform::Inference {
 public:
  using Script = std::function<void(FakeRun&)>;

  FakeInference();
  ~FakeInference() override;
  void SetScript(Script script);
  // What the last call was given.
  platform::ChatRequest last_chat();
  platform::CompletionRequest last_completion();
  int running() const { return running_; }
  int cancelled() const { return cancelled_; }
  bool WaitRunning(int count, double seconds) const;

  // The next Chat/Complete/Embed fails with this.
  void FailNext(Error error);
  // While set, what Embed and Load would call is kept for CallHeld: a platform that ends things late.
  std::atomic<bool> holds{false};
  int CallHeld();

  Status AddScripted(chips::SimulatedDevice&, std::string, int32_t) override { return {}; }
  Result<std::shared_ptr<platform::Generation>> Chat(platform::ChatRequest request,
                                                     std::shared_ptr<platform::ChatSink> sink) override;
  Status CheckChat(const platform::ChatRequest&) override { return {}; }
  Result<std::shared_ptr<platform::Generation>> Complete(platform::CompletionRequest request,
                                                         std::shared_ptr<platform::ChatSink> sink) override;
  Result<std::shared_ptr<platform::Generation>> Embed(
      platform::EmbeddingRequest request,
      std::function<void(Result<platform::EmbeddingReply>)> done) override;
  Result<std::shared_ptr<platform::Generation>> Rerank(
      platform::RerankRequest request, std::function<void(Result<platform::RerankReply>)> done) override;
  platform::RerankRequest last_rerank();
  void Load(const std::string& model, std::function<void(Status)> done) override;
  Status Unload(const std::string& model, bool force) override;
  std::vector<platform::DeploymentStatus> List() const override;
  Result<platform::DeploymentStatus> Find(std::string_view model) const override;
  Status Remove(const std::string& model) override;
  // Of models that there are; nothing pins, and the pool has `pool_bytes`.
  Result<platform::DeploymentFit> CheckDeployment(const platform::DeploymentSpec& spec) const override;
  std::atomic<uint64_t> pool_bytes{1u << 30};
  Result<std::vector<int32_t>> Tokenize(const std::string& model, std::string_view text, bool add_special,
                                        bool parse_special) override;
  Result<std::vector<int32_t>> TokenizeChat(const platform::ChatRequest& request) override;
  Result<std::string> Detokenize(const std::string& model, std::span<const int32_t> tokens) override;
  Result<platform::ModelDescription> Describe(const std::string& model) override;
  TokenTexts FindTokenTexts(const std::string& model) const override;
  platform::PoolControl* pool() override { return pool_control; }
  platform::PoolControl* pool_control = nullptr;
  // What tests say runs.
  platform::RequestsInFlight* in_flight() override { return &requests_in_flight; }
  SteadyClock clock;
  platform::RequestsInFlight requests_in_flight{clock};
  mutable std::atomic<int> token_text_lookups{0};
  std::string chat_template = "{{ messages }}";  // of every model

 private:
  friend class FakeGeneration;
  Result<std::shared_ptr<platform::Generation>> Start(const std::string& model, int32_t choices,
                                                      std::shared_ptr<platform::ChatSink> sink);
  mutable std::mutex mutex_;
  Script script_;
  std::optional<Error> fail_next_;
  platform::ChatRequest last_chat_;
  platform::CompletionRequest last_completion_;
  platform::RerankRequest last_rerank_;
  std::atomic<int> running_{0};
  std::atomic<int> cancelled_{0};
  std::list<std::thread> threads_;
  std::vector<std::function<void()>> held_;
};

class FakeCatalog final : public platform::Catalog {
 public:
  FakeCatalog();
  const std::vector<platform::CatalogueEntry>& catalogue() const override { return catalogue_; }
  std::vector<platform::StoredModel> List() const override { return {}; }
  Result<platform::StoredModel> Find(std::string_view id) const override;
  Result<std::filesystem::path> Materialise(const platform::StoredModel&) const override {
    return "/nowhere";
  }
  Status Remove(std::string_view) override { return {}; }
  Result<platform::PullStatus> StartPull(std::string_view source, std::string_view name_override,
                                         const platform::PullCaller& caller) override;
  std::vector<platform::PullStatus> ListPulls() const override;
  Result<platform::PullStatus> FindPull(std::string_view id) const override;
  Status PausePull(std::string_view id) override { return Set(id, platform::PullState::kPaused); }
  Status ResumePull(std::string_view id) override { return Set(id, platform::PullState::kRunning); }
  Status CancelPull(std::string_view id) override { return Set(id, platform::PullState::kCancelled); }

  // What the pull's job has come to; a failed one says that the disk is full.
  void Report(std::string_view id, platform::PullState state, std::string phase, uint64_t done,
              uint64_t total);
  bool WaitPulls(size_t count, double seconds) const;

  std::atomic<bool> last_caller_owned_machine{false};

 private:
  Status Set(std::string_view id, platform::PullState state);
  mutable std::mutex mutex_;
  std::vector<platform::CatalogueEntry> catalogue_;
  std::vector<platform::PullStatus> pulls_;
};

class FakeKeys final : public platform::Authenticator {
 public:
  Result<platform::Principal> Authenticate(const platform::Credentials& credentials) const override;
};

}  // namespace tidepool::gateway
