// Packed files: the same answers as weights in memory, no weight read on opening, and no belief in anything
// that is not exactly what was written.
#include "models/architectures/packed_model.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <set>

#include "models/architectures/test_runner.h"

namespace tidepool::architectures::testing {
namespace {

namespace fs = std::filesystem;

class PackedModelTest : public ::testing::Test {
 protected:
  PackedModelTest() {
    std::string name = (fs::temp_directory_path() / "tidepool-packed-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    path_ = folder_ / "model.weights";
  }
  ~PackedModelTest() override { fs::remove_all(folder_); }

  static fs::path Tiny(const std::string& name) { return TestdataFolder() / "tiny" / name; }
  static PackedKey KeyOf(const fs::path& source, const chips::Device& device,
                         const LoadOptions& options = {}) {
    return MakePackedKey(source.string(), device, options);
  }
  Result<PackReport> Write(const fs::path& source, chips::Device& device, const PackOptions& options = {}) {
    const auto checkpoint = Must(formats::Checkpoint::Open(source));
    return WritePackedModel(*checkpoint, device, options, path_, KeyOf(source, device, options.load));
  }
  Result<std::unique_ptr<Model>> Open(const fs::path& source, chips::Device& device,
                                      const LoadOptions& options = {}) {
    const auto checkpoint = Must(formats::Checkpoint::Open(source));
    TP_ASSIGN(auto file, PackedFile::Open(path_, KeyOf(source, device, options)));
    return OpenPackedModel(*checkpoint, device, options, std::move(file));
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names.push_back(entry.path().filename().string());
    return names;
  }
  std::string Bytes() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Replace(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  fs::path folder_, path_;
};

const std::vector<int32_t> kTokens = {3, 17, 5, 9, 2, 11, 30, 4, 8, 1};

const char* const kModels[] = {"llama",  "llama3_rope", "llama_tied_mha_bias", "qwen2", "qwen2_tied", "qwen3",
                               "gemma3", "bert",        "llama_yarn"};

TEST_F(PackedModelTest, AnswersAsWeightsInMemoryBitForBit) {
  for (const std::string& set : chips::CpuInstructionSets()) {
    for (const char* name : kModels) {
      for (const char* file : {"", "quantised.gguf"}) {
        SCOPED_TRACE(set + " " + name + " " + file);
        const fs::path source = *file == '\0' ? Tiny(name) : Tiny(name) / file;
        ModelRunner loaded(CpuDevice(set), source, {});
        ModelRunner mapped(CpuDevice(set), [&](chips::Device& device) {
          const PackReport report = Must(Write(source, device));
          EXPECT_EQ(report.packed_bytes, fs::file_size(path_));
          EXPECT_GT(report.source_bytes, 0u);
          return Must(Open(source, device));
        });
        EXPECT_EQ(mapped.model().info().weight_bytes, loaded.model().info().weight_bytes);
        EXPECT_EQ(mapped.model().info().parameters, loaded.model().info().parameters);
        EXPECT_EQ(mapped.model().info().quantisation, loaded.model().info().quantisation);
        EXPECT_EQ(mapped.Run(kTokens, 4), loaded.Run(kTokens, 4));
      }
    }
  }
  EXPECT_EQ(Files(), std::vector<std::string>{"model.weights"});
}

TEST_F(PackedModelTest, SegmentsAreTheEmbeddingTheLayersAndTheHead) {
  const auto device = CpuDevice("reference");
  const fs::path source = Tiny("qwen3");
  ASSERT_TRUE(Write(source, *device));
  const auto model = Must(Open(source, *device));
  const auto segments = model->segments();
  ASSERT_EQ(std::ssize(segments), model->info().layers + 2);
  uint64_t end = 0;
  for (const WeightSegment& segment : segments) {
    EXPECT_EQ(segment.offset, end);
    EXPECT_EQ(segment.offset % 4096, 0u);
    EXPECT_GT(segment.bytes, 0u);
    end += segment.bytes;
  }
  EXPECT_EQ(end, model->info().weight_bytes);

  const auto file = Must(PackedFile::Open(path_, KeyOf(source, *device)));
  for (const PackedItem& item : file->table().items) {
    size_t segment = 0;
    while (segment + 1 < segments.size() && segments[segment + 1].offset <= item.offset) ++segment;
    EXPECT_LE(item.offset + item.bytes, segments[segment].offset + segments[segment].bytes);
    const size_t at = item.name.find("layers.");
    if (at != std::string::npos) {
      EXPECT_EQ(segment, 1 + std::stoul(item.name.substr(at + 7))) << item.name;
    } else if (item.name == "model.embed_tokens.weight" || item.name == "computed table") {
      EXPECT_EQ(segment, 0u) << item.name;
    } else {
      EXPECT_EQ(segment + 1, segments.size()) << item.name;
    }
  }
}

// Counts the gate's calls and says no at one of them.
class CountingGate final : public LayerGate {
 public:
  explicit CountingGate(int32_t refuse_at = -1) : refuse_at_(refuse_at) {}
  bool Wait(int32_t segment) override {
    asked.push_back(segment);
    return segment != refuse_at_;
  }
  std::vector<int32_t> asked;

 private:
  const int32_t refuse_at_;
};

TEST_F(PackedModelTest, StepsWaitForEverySegmentInOrderAndEndWhenRefused) {
  for (const char* name : {"llama", "gemma3", "bert"}) {
    SCOPED_TRACE(name);
    ModelRunner runner(CpuDevice("reference"), Tiny(name), {});
    const auto segments = static_cast<int32_t>(runner.model().segments().size());
    const std::vector<float> expected = runner.Run(kTokens, 64);
    CountingGate open;
    runner.gate = &open;
    EXPECT_EQ(runner.Run(kTokens, 64), expected);
    EXPECT_FALSE(runner.aborted);
    ASSERT_EQ(std::ssize(open.asked), segments);
    for (int32_t i = 0; i < segments; ++i) EXPECT_EQ(open.asked[static_cast<size_t>(i)], i);

    for (int32_t refused = 0; refused < segments; ++refused) {
      CountingGate gate(refused);
      runner.gate = &gate;
      EXPECT_TRUE(runner.Run(kTokens, 64).empty());
      EXPECT_TRUE(runner.aborted);
      EXPECT_EQ(gate.asked.back(), refused);
      runner.aborted = false;
    }
    runner.gate = nullptr;
    EXPECT_EQ(runner.Run(kTokens, 64), expected) << "the same step runs again";
  }
}

// ---- opening -----------------------------------------------------------------------------------------

TEST_F(PackedModelTest, OpeningReadsNoWeight) {
  const auto device = CpuDevice("reference");
  const fs::path source = Tiny("llama");
  ASSERT_TRUE(Write(source, *device, {.load = {}, .keep_in_memory_bytes = 0}));
  const auto model = Must(Open(source, *device));
  const auto file = Must(PackedFile::Open(path_, KeyOf(source, *device)));
  const size_t pages = (file->table().data_bytes + 4095) / 4096;
  std::vector<unsigned char> present(pages);
  ASSERT_EQ(mincore(const_cast<std::byte*>(file->data()), file->table().data_bytes, present.data()), 0);
  size_t in_memory = 0;
  for (const unsigned char page : present) in_memory += page & 1;
  EXPECT_EQ(in_memory, 0u);
}

TEST_F(PackedModelTest, AnyChangedByteOfHeaderOrTableIsFound) {
  const auto device = CpuDevice("reference", 1);
  const fs::path source = Tiny("qwen2");
  ASSERT_TRUE(Write(source, *device));
  const std::string good = Bytes();
  const uint64_t head = Must(PackedTableBytes(std::as_bytes(std::span(good)), good.size(), "good"));
  ASSERT_TRUE(ParsePackedTable(std::as_bytes(std::span(good)), good.size(), "good"));
  for (uint64_t at = 0; at < head; ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    const auto table = ParsePackedTable(std::as_bytes(std::span(bad)), bad.size(), "bad");
    ASSERT_FALSE(table.has_value()) << "byte " << at;
    EXPECT_EQ(table.error().kind, ErrorKind::kCorrupt);
    EXPECT_NE(table.error().message.find("bad"), std::string::npos);
  }
  for (const size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{200}, good.size() - 1}) {
    Replace(good.substr(0, size));
    const auto model = Open(source, *device);
    ASSERT_FALSE(model.has_value()) << size;
    EXPECT_EQ(model.error().kind, ErrorKind::kCorrupt) << model.error().message;
  }
  Replace(good + "x");
  EXPECT_EQ(Open(source, *device).error().code, "packed_file_damaged");
  Replace(good);
  EXPECT_TRUE(Open(source, *device));
}

// What a builder of hostile files would do: change the table and mend its checksum.
PackedTable TableIn(const std::string& bytes) {
  return Must(ParsePackedTable(std::as_bytes(std::span(bytes)), bytes.size(), "table"));
}
void Put(std::string& bytes, PackedTable table) {
  const std::vector<std::byte> head = SerialisePackedTable(table);
  std::memcpy(bytes.data(), head.data(), head.size());
}

TEST_F(PackedModelTest, MendedTablesAreHeldAgainstTheModel) {
  const auto device = CpuDevice("reference", 1);
  const fs::path source = Tiny("llama");
  ASSERT_TRUE(Write(source, *device));
  const std::string good = Bytes();
  using Change = void (*)(PackedTable&);
  const std::pair<const char*, Change> changes[] = {
      {"name", [](PackedTable& t) { t.items[3].name[0] ^= 1; }},
      {"type", [](PackedTable& t) { t.items[0].spec.type = chips::DataType::kQ8_0; }},
      {"rows", [](PackedTable& t) { ++t.items[0].spec.rows; }},
      {"columns", [](PackedTable& t) { t.items[0].spec.columns *= 2; }},
      {"layout", [](PackedTable& t) { t.items[0].layout += 1; }},
      {"offset", [](PackedTable& t) { t.items[2].offset += 64; }},
      {"offset outside", [](PackedTable& t) { t.items[2].offset = t.data_bytes + 64; }},
      {"offset near 2^64", [](PackedTable& t) { t.items[2].offset = UINT64_MAX - 63; }},
      {"odd offset", [](PackedTable& t) { t.items[2].offset += 1; }},
      {"bytes", [](PackedTable& t) { t.items[2].bytes -= 4; }},
      {"bytes near 2^64", [](PackedTable& t) { t.items[2].bytes = UINT64_MAX; }},
      {"kind", [](PackedTable& t) { t.items[0].is_matrix = false; }},
      {"no rows", [](PackedTable& t) { t.items[0].spec.rows = -1; }},
      {"one item less", [](PackedTable& t) { t.items.pop_back(); }},
      {"order", [](PackedTable& t) { std::swap(t.items[1], t.items[2]); }},
      {"segments",
       [](PackedTable& t) {
         t.segments[0].bytes += t.segments[1].bytes;
         t.segments.erase(t.segments.begin() + 1);
       }},
      {"a segment outside", [](PackedTable& t) { t.segments[1].bytes = UINT64_MAX - 4095; }},
      {"a gap", [](PackedTable& t) { t.segments[1].offset += 4096; }},
      {"content", [](PackedTable& t) { t.key.content.back() ^= 1; }},
      {"instruction set", [](PackedTable& t) { t.key.instruction_set.back() ^= 1; }},
      {"device", [](PackedTable& t) { t.key.device[0] ^= 1; }},
      {"packing version", [](PackedTable& t) { ++t.key.packing_version; }},
      {"precision", [](PackedTable& t) { t.key.precision = chips::WeightPrecision::kFloat32; }},
  };
  for (const auto& [name, change] : changes) {
    SCOPED_TRACE(name);
    std::string bad = good;
    PackedTable table = TableIn(good);
    change(table);
    Put(bad, table);
    Replace(bad);
    const auto model = Open(source, *device);
    ASSERT_FALSE(model.has_value());
    EXPECT_EQ(model.error().kind, ErrorKind::kCorrupt) << model.error().message;
    EXPECT_NE(model.error().message.find("model.weights"), std::string::npos) << model.error().message;
  }
}

TEST_F(PackedModelTest, AnotherModelsFileUnderTheSameKeyIsForeign) {
  const auto device = CpuDevice("reference", 1);
  const fs::path source = Tiny("llama"), other = Tiny("qwen3");
  const auto checkpoint = Must(formats::Checkpoint::Open(other));
  ASSERT_TRUE(WritePackedModel(*checkpoint, *device, {}, path_, KeyOf(source, *device)));
  const auto model = Open(source, *device);
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().code, "packed_file_foreign");
}

TEST_F(PackedModelTest, KeysDifferInEveryPart) {
  const auto device = CpuDevice("reference", 1);
  PackedKey key = MakePackedKey("content", *device, {});
  std::set<std::string> names = {key.FileName()};
  const auto also = [&](auto change) {
    PackedKey other = key;
    change(other);
    names.insert(other.FileName());
  };
  also([](PackedKey& k) { k.content = "another"; });
  also([](PackedKey& k) { k.device = "cuda"; });
  also([](PackedKey& k) { k.instruction_set = "avx2"; });
  also([](PackedKey& k) { ++k.packing_version; });
  also([](PackedKey& k) { k.precision = chips::WeightPrecision::kFloat32; });
  EXPECT_EQ(names.size(), 6u);
  for (const std::string& name : names) EXPECT_EQ(name.size(), 32 + std::string(".weights").size());
  EXPECT_EQ(MakePackedKey("content", *device, {.kv_type = chips::DataType::kF32}), key);

  const std::string many(64 * 500, 'a');  // the digests of 500 shards
  const PackedKey first = MakePackedKey(many + "1", *device, {}),
                  second = MakePackedKey(many + "2", *device, {});
  EXPECT_LT(first.content.size(), 100u);
  EXPECT_NE(first.FileName(), second.FileName());
  EXPECT_EQ(first, MakePackedKey(many + "1", *device, {}));
}

TEST_F(PackedModelTest, NoFileAndNoRegularFile) {
  const auto device = CpuDevice("reference", 1);
  EXPECT_EQ(Open(Tiny("llama"), *device).error().kind, ErrorKind::kNotFound);
  fs::create_directory(path_);
  EXPECT_FALSE(Open(Tiny("llama"), *device));
}

// ---- writing -------------------------------------------------------------------------------------------

TEST_F(PackedModelTest, CancelledAtAnyMomentLeavesNothing) {
  const auto device = CpuDevice("reference", 1);
  int calls = 0;
  PackOptions options;
  options.load.progress = [&](uint64_t done, uint64_t all) {
    EXPECT_LE(done, all);
    ++calls;
    return true;
  };
  ASSERT_TRUE(Write(Tiny("qwen3"), *device, options));
  fs::remove(path_);
  for (int stop = 0; stop < calls; stop += 3) {
    int left = stop;
    options.load.progress = [&](uint64_t, uint64_t) { return left-- > 0; };
    const auto report = Write(Tiny("qwen3"), *device, options);
    ASSERT_FALSE(report.has_value());
    EXPECT_EQ(report.error().kind, ErrorKind::kCancelled);
    EXPECT_TRUE(Files().empty());
  }
}

TEST_F(PackedModelTest, BadValuesLeaveNothing) {
  const fs::path source = folder_ / "bad.gguf";
  {
    std::ifstream in(Tiny("llama") / "model.gguf", std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), {}};
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(bytes.data() + bytes.size() - 64, &nan, sizeof nan);
    std::ofstream(source, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  const auto device = CpuDevice("reference", 1);
  const auto report = Write(source, *device);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, "bad_tensor_values");
  EXPECT_EQ(Files(), std::vector<std::string>{"bad.gguf"});
}

TEST_F(PackedModelTest, FullDiskIsAnErrorAndLeavesNothing) {
  if (mount("tidepool-test", folder_.c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "a small file system cannot be mounted here (needs root)";
  const auto device = CpuDevice("reference", 1);
  const auto report = Write(Tiny("qwen3"), *device);
  const std::vector<std::string> files = Files();
  umount(folder_.c_str());
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, "disk_full");
  EXPECT_EQ(report.error().kind, ErrorKind::kUnavailable);
  EXPECT_TRUE(files.empty());
}

TEST_F(PackedModelTest, UnwritableFolderIsAnError) {
  path_ = folder_ / "absent" / "model.weights";
  const auto device = CpuDevice("reference", 1);
  const auto report = Write(Tiny("qwen3"), *device);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, "file_unwritable");
}

TEST_F(PackedModelTest, FilesAreTheirOwnersOnly) {
  const auto device = CpuDevice("reference", 1);
  ASSERT_TRUE(Write(Tiny("qwen3"), *device));
  EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

}  // namespace
}  // namespace tidepool::architectures::testing
