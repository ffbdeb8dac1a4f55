// The store on disk, and the wheel reader.
#include "platform/catalog/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <random>

#include "base/ids.h"
#include "platform/catalog/manifest.h"
#include "platform/catalog/sha256.h"
#include "platform/catalog/test_server.h"
#include "platform/catalog/wheel.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() : root_(fs::temp_directory_path() / RandomId("tidepool-store-", 12)) { Reopen(); }
  ~StoreTest() override { fs::remove_all(root_); }

  void Reopen(uint64_t max_bytes = 0) {
    auto store = Store::Open(root_, max_bytes);
    ASSERT_TRUE(store) << store.error().message;
    store_ = std::move(*store);
  }
  StagedFile Stage(const std::string& name, const std::string& content) {
    const fs::path path = root_ / "partial" / RandomId("staged-", 8);
    std::ofstream(path, std::ios::binary) << content;
    return {{name, Sha256Hex(content), content.size()}, path};
  }
  Status Put(const std::string& id, const std::vector<StagedFile>& files,
             const std::string& format = "gguf") {
    StoredModel model;
    model.id = id;
    model.format = format;
    return store_->Commit(model, files);
  }
  std::vector<std::string> Ids() const {
    std::vector<std::string> ids;
    for (const StoredModel& model : store_->List()) ids.push_back(model.id);
    return ids;
  }
  size_t Blobs() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(root_ / "blobs"), fs::directory_iterator()));
  }

  const fs::path root_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, CommitListFindRemove) {
  ASSERT_TRUE(Put("org/repo:Q4_0", {Stage("m.gguf", "weights")}));
  ASSERT_TRUE(Put("small:latest", {Stage("s.gguf", "tiny")}));
  EXPECT_EQ(Ids(), (std::vector<std::string>{"org/repo:Q4_0", "small:latest"}));
  EXPECT_EQ((*store_->Find("small"))->id, "small:latest");
  EXPECT_EQ((*store_->Find("ORG/repo:q4_0"))->id, "org/repo:Q4_0");
  EXPECT_EQ((*store_->Find("org/repo"))->id, "org/repo:Q4_0");
  EXPECT_FALSE(store_->Find("none:x")->has_value());
  ASSERT_TRUE(store_->Remove("org/repo:Q4_0"));
  EXPECT_EQ(Ids(), std::vector<std::string>{"small:latest"});
  EXPECT_EQ(Blobs(), 1u);
  EXPECT_FALSE(store_->Remove("org/repo:Q4_0"));
}

TEST_F(StoreTest, SharedBlobsStayUntilTheLastModelGoes) {
  ASSERT_TRUE(Put("a:1", {Stage("m.gguf", "same")}));
  ASSERT_TRUE(Put("b:1", {Stage("m.gguf", "same")}));
  EXPECT_EQ(Blobs(), 1u);
  ASSERT_TRUE(store_->Remove("a:1"));
  EXPECT_EQ(Ids(), std::vector<std::string>{"b:1"});
  EXPECT_EQ(Blobs(), 1u);
  ASSERT_TRUE(store_->Remove("b:1"));
  EXPECT_EQ(Blobs(), 0u);
}

TEST_F(StoreTest, SeveralTagsNeedOneToBeNamed) {
  ASSERT_TRUE(Put("m:1b", {Stage("m.gguf", "1")}));
  ASSERT_TRUE(Put("m:3b", {Stage("m.gguf", "3")}));
  const auto found = store_->Find("m");
  ASSERT_FALSE(found);
  EXPECT_NE(found.error().message.find("m:1b, m:3b"), std::string::npos);
  ASSERT_TRUE(Put("m:latest", {Stage("m.gguf", "l")}));
  EXPECT_EQ((*store_->Find("m"))->id, "m:latest");
}

TEST_F(StoreTest, AnotherSpellingReplacesTheSameModel) {
  ASSERT_TRUE(Put("org/Repo:Q4_0", {Stage("m.gguf", "old")}));
  ASSERT_TRUE(Put("Org/repo:q4_0", {Stage("m.gguf", "new")}));
  EXPECT_EQ(Ids(), std::vector<std::string>{"org/Repo:Q4_0"});
  EXPECT_EQ(Blobs(), 1u);  // the old weights are gone
}

TEST_F(StoreTest, ACountedOnBlobThatIsGoneIsAConflict) {
  const Status status = Put("a:1", {{{"m.gguf", Sha256Hex("x"), 1}, {}}});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, "blob_gone");
  EXPECT_TRUE(Ids().empty());
}

TEST_F(StoreTest, WhatACrashLeavesIsNotListedAndSweptAway) {
  ASSERT_TRUE(Put("good:1", {Stage("m.gguf", "good")}));
  // A blob without manifest, a manifest without blob, a half-written manifest, a file cut short.
  std::ofstream(root_ / "blobs" / ("sha256-" + std::string(64, 'a'))) << "orphan";
  StoredModel lost;
  lost.id = "lost:1";
  lost.files = {{"m.gguf", std::string(64, 'b'), 4}};
  fs::create_directories(root_ / "manifests/lost");
  std::ofstream(root_ / "manifests/lost/1.json") << WriteManifest(lost);
  Reopen();
  EXPECT_EQ(Ids(), std::vector<std::string>{"good:1"});
  EXPECT_EQ(Blobs(), 1u);
  std::ofstream(root_ / "manifests/lost/1.json") << "{\"vers";
  std::ofstream(root_ / "blobs" / ("sha256-" + std::string(64, 'a'))) << "orphan";
  Reopen();
  EXPECT_EQ(Ids(), std::vector<std::string>{"good:1"});
  // A manifest that cannot be read may name any blob: nothing is swept.
  EXPECT_EQ(Blobs(), 2u);
  fs::resize_file(store_->BlobPath(Sha256Hex("good")), 2);
  EXPECT_TRUE(Ids().empty());
}

TEST_F(StoreTest, ManifestsUnderAnotherNameAreNotListed) {
  ASSERT_TRUE(Put("good:1", {Stage("m.gguf", "good")}));
  fs::create_directories(root_ / "manifests/evil");
  fs::copy_file(root_ / "manifests/good/1.json", root_ / "manifests/evil/2.json");
  EXPECT_EQ(Ids(), std::vector<std::string>{"good:1"});
}

TEST_F(StoreTest, MaterialiseGivesNamesBack) {
  ASSERT_TRUE(Put("g:1", {Stage("x-00002-of-00002.gguf", "two"), Stage("x-00001-of-00002.gguf", "one")}));
  ASSERT_TRUE(
      Put("s:1", {Stage("config.json", "{}"), Stage("1_Pooling/config.json", "{\"a\":1}")}, "safetensors"));
  const auto gguf = store_->Materialise(**store_->Find("g:1"));
  ASSERT_TRUE(gguf) << gguf.error().message;
  EXPECT_EQ(gguf->filename(), "x-00001-of-00002.gguf");
  EXPECT_EQ(fs::file_size(*gguf), 3u);
  EXPECT_TRUE(fs::exists(gguf->parent_path() / "x-00002-of-00002.gguf"));
  const auto folder = store_->Materialise(**store_->Find("s:1"));
  ASSERT_TRUE(folder);
  EXPECT_EQ(fs::file_size(*folder / "1_Pooling/config.json"), 7u);
  EXPECT_EQ(*store_->Materialise(**store_->Find("s:1")), *folder);
  ASSERT_TRUE(store_->Remove("s:1"));
  EXPECT_FALSE(fs::exists(*folder));
}

TEST_F(StoreTest, TheLimitOfTheStoreIsKept) {
  ASSERT_TRUE(Put("a:1", {Stage("m.gguf", std::string(1000, 'x'))}));
  Reopen(1500);
  EXPECT_TRUE(store_->CheckSpace(500));
  const Status full = store_->CheckSpace(501);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, "disk_full");
  EXPECT_EQ(store_->CheckSpace(uint64_t{1} << 60).error().code, "disk_full");
}

TEST_F(StoreTest, TwoStoresOverOneFolderAgree) {
  auto other = Store::Open(root_, 0);
  ASSERT_TRUE(other);
  ASSERT_TRUE(Put("a:1", {Stage("m.gguf", "a")}));
  EXPECT_TRUE((*other)->Find("a:1")->has_value());
  ASSERT_TRUE((*other)->Remove("a:1"));
  EXPECT_TRUE(Ids().empty());
}

// ---- wheels -----------------------------------------------------------------------------------------

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}
std::string ReadMember(const Wheel& wheel, const WheelMember& member, Status* status = nullptr) {
  std::string out;
  const Status read = wheel.Read(member, [&](std::span<const std::byte> bytes) -> Status {
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  });
  if (status != nullptr) *status = read;
  return out;
}

TEST(WheelTest, ReadsMembers) {
  const std::string zip = MakeZip({{.name = "a/m.gguf", .content = "abc"}, {.name = "b.txt", .content = ""}});
  const auto wheel = Wheel::FromBytes(BytesOf(zip));
  ASSERT_TRUE(wheel) << wheel.error().message;
  ASSERT_EQ(wheel->members().size(), 2u);
  EXPECT_EQ(wheel->members()[0].name, "a/m.gguf");
  EXPECT_EQ(ReadMember(*wheel, wheel->members()[0]), "abc");
  EXPECT_EQ(ReadMember(*wheel, wheel->members()[1]), "");
}

TEST(WheelTest, NamesThatLeaveTheFolderAreRefused) {
  for (const char* name : {"../evil", "a/../../evil", "/etc/passwd", "a\\..\\evil", "a//b"}) {
    const std::string zip = MakeZip({{.name = "ok", .content = "1"}, {.name = name, .content = "2"}});
    const auto wheel = Wheel::FromBytes(BytesOf(zip));
    ASSERT_FALSE(wheel) << name;
    EXPECT_EQ(wheel.error().code, "bad_wheel");
  }
}

TEST(WheelTest, LinksDuplicatesAndLiesAreRefused) {
  const auto refused = [](const std::vector<ZipMember>& members, const WheelLimits& limits = {}) {
    const std::string zip = MakeZip(members);
    return !Wheel::FromBytes(BytesOf(zip), limits).has_value();
  };
  EXPECT_TRUE(refused({{.name = "link", .content = "/etc/passwd", .unix_mode = S_IFLNK | 0777}}));
  EXPECT_TRUE(refused({{.name = "a", .content = "1"}, {.name = "a", .content = "2"}}));
  EXPECT_TRUE(refused({{.name = "bomb", .content = "x", .claimed_size = 1u << 30}}));
  EXPECT_TRUE(refused({{.name = "a", .content = "12345"}}, {.max_member_bytes = 4}));
  EXPECT_TRUE(refused({{.name = "a", .content = "1"}, {.name = "b", .content = "1"}}, {.max_members = 1}));
  EXPECT_FALSE(refused({{.name = "plain", .content = "1", .unix_mode = S_IFREG | 0644}}));
}

TEST(WheelTest, DamageIsNoticedWhileReading) {
  const std::string wrong = MakeZip({{.name = "a", .content = "hello", .wrong_crc = true}});
  const auto wheel = Wheel::FromBytes(BytesOf(wrong));
  ASSERT_TRUE(wheel);
  Status status;
  ReadMember(*wheel, wheel->members()[0], &status);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, "bad_wheel");
}

// Property: whatever bytes are changed or cut, opening and reading ends in a result or an error.
TEST(WheelTest, DamagedArchivesNeverCrash) {
  const std::string zip =
      MakeZip({{.name = "a/m.gguf", .content = std::string(300, 'z')}, {.name = "b", .content = "b"}});
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = zip.substr(0, round % 3 == 0 ? random() % zip.size() : zip.size());
    for (int i = static_cast<int>(random() % 4); i >= 0 && !damaged.empty(); --i) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    const auto wheel = Wheel::FromBytes(BytesOf(damaged));
    if (!wheel) continue;
    for (const WheelMember& member : wheel->members()) {
      EXPECT_LE(ReadMember(*wheel, member).size(), damaged.size() * 1100 + 1);
    }
  }
}

}  // namespace
}  // namespace tidepool::platform
