#include "gateway/testing/fake_platform.h"

#include <chrono>

namespace tidepool::gateway {

using platform::DeploymentStatus;

// The model "scripted" runs the test's script; "stored" is known but not loaded.
class FakeGeneration final : public platform::Generation {
 public:
  FakeGeneration(FakeInference& inference, std::shared_ptr<FakeRun> run)
      : inference_(inference), run_(std::move(run)) {}
  ~FakeGeneration() override { Cancel(); }
  void Cancel() override {
    if (run_->cancelled_.exchange(true)) return;
    ++inference_.cancelled_;
    std::lock_guard lock(run_->mutex_);
    run_->changed_.notify_all();
  }
  void SetPaused(bool paused) override {
    std::lock_guard lock(run_->mutex_);
    run_->paused_ = paused;
    run_->changed_.notify_all();
  }

 private:
  FakeInference& inference_;
  std::shared_ptr<FakeRun> run_;
};

void FakeRun::Token(std::string_view content, std::string_view reasoning, int32_t choice,
                    std::vector<compute::TokenLogprob> logprobs) {
  const int32_t token = 1;
  compute::TokenEvent event;
  event.tokens = {&token, 1};
  event.content = content;
  event.reasoning = reasoning;
  event.logprobs = logprobs;
  sink_->OnToken(choice, event);
}

void FakeRun::PromptLogprobs(int32_t choice, std::vector<compute::TokenLogprob> logprobs) {
  sink_->OnPromptLogprobs(choice, logprobs);
}

void FakeRun::Finish(compute::FinishReason reason, int32_t choice, Error error) {
  compute::FinishEvent event;
  event.reason = reason;
  event.error = std::move(error);
  sink_->OnFinish(choice, event);
}

void FakeRun::Say(std::string_view text) {
  for (int32_t choice = 0; choice < choices; ++choice) {
    Token(text, {}, choice);
    Finish(compute::FinishReason::kStop, choice);
  }
  Done(compute::Usage{7, 3, choices, 0});
}

bool FakeRun::WaitCancelled(double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                           [this] { return cancelled_.load(); });
}

bool FakeRun::WaitPaused(bool paused, double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return paused_ == paused; });
}

FakeInference::FakeInference() : script_([](FakeRun& run) { run.Say("hello"); }) {}

FakeInference::~FakeInference() {
  for (std::thread& thread : threads_) thread.join();
}

void FakeInference::SetScript(Script script) {
  std::lock_guard lock(mutex_);
  script_ = std::move(script);
}

platform::ChatRequest FakeInference::last_chat() {
  std::lock_guard lock(mutex_);
  return last_chat_;
}

platform::CompletionRequest FakeInference::last_completion() {
  std::lock_guard lock(mutex_);
  return last_completion_;
}

int FakeInference::CallHeld() {
  std::vector<std::function<void()>> held;
  {
    std::lock_guard lock(mutex_);
    held.swap(held_);
  }
  for (const auto& call : held) call();
  return static_cast<int>(held.size());
}

bool FakeInference::WaitRunning(int count, double seconds) const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < deadline) {
    if (running_ == count) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return running_ == count;
}

void FakeInference::FailNext(Error error) {
  std::lock_guard lock(mutex_);
  fail_next_ = std::move(error);
}

Result<std::shared_ptr<platform::Generation>> FakeInference::Start(const std::string& model, int32_t choices,
                                                                   std::shared_ptr<platform::ChatSink> sink) {
  if (fail_next_) {
    Error error = std::move(*fail_next_);
    fail_next_.reset();
    return Fail(std::move(error));
  }
  if (model != "scripted") {
    return Fail(ErrorKind::kNotFound, "model_not_found", "There is no model \"" + model + "\".", "model");
  }
  auto run = std::make_shared<FakeRun>(sink, choices);
  ++running_;
  threads_.emplace_back([this, run, script = script_] {
    run->sink_->OnStart("scripted", run->choices);
    run->sink_->OnPrompt(7);
    script(*run);
    run->sink_.reset();
    --running_;
  });
  return std::make_shared<FakeGeneration>(*this, run);
}

Result<std::shared_ptr<platform::Generation>> FakeInference::Chat(platform::ChatRequest request,
                                                                  std::shared_ptr<platform::ChatSink> sink) {
  std::lock_guard lock(mutex_);
  last_chat_ = request;
  return Start(request.model, request.sampling.n, std::move(sink));
}

Result<std::shared_ptr<platform::Generation>> FakeInference::Complete(
    platform::CompletionRequest request, std::shared_ptr<platform::ChatSink> sink) {
  std::lock_guard lock(mutex_);
  last_completion_ = request;
  return Start(request.model, request.sampling.n * static_cast<int32_t>(request.prompts.size()),
               std::move(sink));
}

// Three numbers a text: its length, 2, -2.
Result<std::shared_ptr<platform::Generation>> FakeInference::Embed(
    platform::EmbeddingRequest request, std::function<void(Result<platform::EmbeddingReply>)> done) {
  std::lock_guard lock(mutex_);
  if (fail_next_) {
    Error error = std::move(*fail_next_);
    fail_next_.reset();
    return Fail(std::move(error));
  }
  platform::EmbeddingReply reply;
  reply.model = request.model;
  for (const platform::Prompt& input : request.inputs) {
    const size_t length = input.is_tokens ? input.tokens.size() : input.text.size();
    reply.vectors.push_back({static_cast<float>(length), 2.0f, -2.0f});
    reply.prompt_tokens += static_cast<int32_t>(length);
  }
  if (holds) {
    held_.push_back([done = std::move(done), reply = std::move(reply)] { done(reply); });
  } else {
    done(std::move(reply));
  }
  return std::make_shared<FakeGeneration>(*this, std::make_shared<FakeRun>(nullptr, 0));
}

// The longer a document, the better: length / 10.
Result<std::shared_ptr<platform::Generation>> FakeInference::Rerank(
    platform::RerankRequest request, std::function<void(Result<platform::RerankReply>)> done) {
  std::lock_guard lock(mutex_);
  last_rerank_ = request;
  if (request.model != "scripted") {
    return Fail(ErrorKind::kInvalid, "rerank_unsupported", "It does not rank.", "model");
  }
  platform::RerankReply reply;
  reply.model = request.model;
  for (const std::string& document : request.documents) {
    reply.scores.push_back(static_cast<float>(document.size()) / 10);
    reply.prompt_tokens += static_cast<int32_t>(request.query.size() + document.size());
  }
  done(std::move(reply));
  return std::make_shared<FakeGeneration>(*this, std::make_shared<FakeRun>(nullptr, 0));
}

platform::RerankRequest FakeInference::last_rerank() {
  std::lock_guard lock(mutex_);
  return last_rerank_;
}

void FakeInference::Load(const std::string& model, std::function<void(Status)> done) {
  if (holds) {
    std::lock_guard lock(mutex_);
    held_.push_back([done = std::move(done)] { done({}); });
    return;
  }
  if (model == "broken") return done(Fail(ErrorKind::kUnavailable, "out_of_pool_memory", "It does not fit."));
  done({});
}

Status FakeInference::Unload(const std::string& /*model*/, bool force) {
  if (force) return {};
  return Fail(ErrorKind::kConflict, "model_in_use", "The model is in use.");
}

std::vector<DeploymentStatus> FakeInference::List() const {
  DeploymentStatus ready;
  ready.id = "scripted";
  ready.state = platform::DeploymentState::kReady;
  ready.model.id = "scripted";
  ready.model.context_length = 4096;
  ready.context_length = 2048;
  compute::ModelEntry entry;
  entry.running = running_;
  entry.info.context_length = 4096;
  ready.engine = entry;
  DeploymentStatus stored;
  stored.id = "org/repo:Q4_K_M";
  stored.model.id = stored.id;
  stored.model.bytes = 1000;
  stored.model.licence = "apache-2.0";
  stored.context_length = 1024;
  DeploymentStatus embedder;
  embedder.id = "embedder";
  embedder.model.generates = false;
  embedder.context_length = 512;
  DeploymentStatus ranker = embedder;
  ranker.id = "ranker";
  ranker.model.ranks = true;
  return {ready, stored, embedder, ranker};
}

Result<DeploymentStatus> FakeInference::Find(std::string_view model) const {
  for (DeploymentStatus& status : List()) {
    if (status.id == model) return std::move(status);
  }
  return Fail(ErrorKind::kNotFound, "model_not_found", "There is no model \"" + std::string(model) + "\".",
              "model");
}

Result<platform::DeploymentFit> FakeInference::CheckDeployment(const platform::DeploymentSpec& spec) const {
  TP_ASSIGN(const DeploymentStatus base, Find(spec.base));
  platform::DeploymentFit fit;
  fit.base = base.id;
  fit.needed_bytes = 1u << 20;
  fit.pool_bytes = pool_bytes;
  fit.fits = fit.needed_bytes <= fit.pool_bytes;
  return fit;
}

Status FakeInference::Remove(const std::string& model) {
  if (model == "scripted") return Fail(ErrorKind::kConflict, "model_in_use", "The model is in use.");
  return {};
}

Result<std::vector<int32_t>> FakeInference::Tokenize(const std::string& /*model*/, std::string_view text,
                                                     bool add_special, bool /*parse_special*/) {
  std::vector<int32_t> tokens;
  if (add_special) tokens.push_back(256);
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

Result<std::vector<int32_t>> FakeInference::TokenizeChat(const platform::ChatRequest& request) {
  return std::vector<int32_t>(request.messages.size(), 7);
}

Result<std::string> FakeInference::Detokenize(const std::string& /*model*/, std::span<const int32_t> tokens) {
  std::string text;
  for (const int32_t token : tokens) text.push_back(static_cast<char>(token));
  return text;
}

Result<platform::ModelDescription> FakeInference::Describe(const std::string& /*model*/) {
  platform::ModelDescription out;
  out.chat_template = chat_template;
  out.tools = true;
  out.reasons = true;
  out.sampling.temperature = 0.5;
  return out;
}

FakeInference::TokenTexts FakeInference::FindTokenTexts(const std::string& /*model*/) const {
  ++token_text_lookups;
  return [](int32_t token) { return std::string(1, static_cast<char>(token)); };
}

FakeCatalog::FakeCatalog() {
  platform::CatalogueEntry entry;
  entry.id = "smollm2:135m";
  entry.sources = {"org/smollm2"};
  entry.licence = "apache-2.0";
  catalogue_.push_back(std::move(entry));
}

Result<platform::StoredModel> FakeCatalog::Find(std::string_view /*id*/) const {
  return Fail(ErrorKind::kNotFound, "model_not_found", "There is no such model.");
}

Result<platform::PullStatus> FakeCatalog::StartPull(std::string_view source,
                                                    std::string_view /*name_override*/,
                                                    const platform::PullCaller& caller) {
  std::lock_guard lock(mutex_);
  last_caller_owned_machine = caller.owns_machine;
  if (source.starts_with('/') && !caller.owns_machine) {
    return Fail(ErrorKind::kForbidden, "path_not_allowed", "Paths are for the machine's owner.", "source");
  }
  platform::PullStatus pull;
  pull.id = "pull-" + std::to_string(pulls_.size() + 1);
  pull.model = std::string(source);
  pull.state = platform::PullState::kRunning;
  pull.phase = "downloading";
  pulls_.push_back(pull);
  return pull;
}

std::vector<platform::PullStatus> FakeCatalog::ListPulls() const {
  std::lock_guard lock(mutex_);
  return pulls_;
}

Result<platform::PullStatus> FakeCatalog::FindPull(std::string_view id) const {
  std::lock_guard lock(mutex_);
  for (const auto& pull : pulls_) {
    if (pull.id == id) return pull;
  }
  return Fail(ErrorKind::kNotFound, "pull_not_found", "There is no such pull.");
}

void FakeCatalog::Report(std::string_view id, platform::PullState state, std::string phase, uint64_t done,
                         uint64_t total) {
  std::lock_guard lock(mutex_);
  for (auto& pull : pulls_) {
    if (pull.id != id) continue;
    pull.state = state;
    pull.phase = phase;
    pull.bytes_done = done;
    pull.bytes_total = total;
    pull.error = Error{ErrorKind::kUnavailable, "disk_full", "The disk is full.", "", 0};
  }
}

bool FakeCatalog::WaitPulls(size_t count, double seconds) const {
  for (int i = 0; i < static_cast<int>(seconds * 200) && ListPulls().size() < count; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return ListPulls().size() >= count;
}

Status FakeCatalog::Set(std::string_view id, platform::PullState state) {
  std::lock_guard lock(mutex_);
  for (auto& pull : pulls_) {
    if (pull.id == id) {
      pull.state = state;
      return {};
    }
  }
  return Fail(ErrorKind::kNotFound, "pull_not_found", "There is no such pull.");
}

Result<platform::Principal> FakeKeys::Authenticate(const platform::Credentials& credentials) const {
  const std::string_view key = credentials.key;
  platform::Principal principal;
  principal.key = principal.key_id = "tp-test";
  principal.role = platform::Role::kDeveloper;
  if (key == kTestKey) {
    principal.is_operator = true;
    principal.role = platform::Role::kOperator;
    return principal;
  }
  if (key == "tp-user-key") return principal;
  return Fail(ErrorKind::kUnauthenticated, "invalid_api_key", "The key is wrong.");
}

}  // namespace tidepool::gateway
