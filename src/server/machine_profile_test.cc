// The file of measurements: what is written is read, and nothing else is believed.
#include "server/machine_profile.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace tidepool::server {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class MachineProfileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tidepool-profile-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    file_ = folder_ / "machine.json";
  }
  void TearDown() override { fs::remove_all(folder_); }
  static MachineProfile Profile() {
    MachineProfile profile;
    profile.key = {"A processor (2 threads)", "avx2", 2, 7, "1.0 abc"};
    profile.roofline = {3.4e10, 1.29e12, 4.4e11, 8.6e11};
    profile.tuning = {512 * 1024, 4, 65537, 8193};
    profile.tried = profile.tuned = true;
    return profile;
  }
  std::string Text() const {
    std::ifstream in(file_);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Write(const std::string& text) const { std::ofstream(file_) << text; }

  fs::path folder_, file_;
};

TEST_F(MachineProfileTest, IsReadAsItWasWritten) {
  const MachineProfile profile = Profile();
  EXPECT_EQ(ReadMachineProfile(file_, profile.key).error().kind, ErrorKind::kNotFound);
  ASSERT_TRUE(WriteMachineProfile(file_, profile));
  const auto read = ReadMachineProfile(file_, profile.key);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->roofline.memory_bytes_per_s, 3.4e10);
  EXPECT_EQ(read->roofline.int8_ops_per_s, 1.29e12);
  EXPECT_EQ(read->roofline.f32_flops_per_s, 4.4e11);
  EXPECT_EQ(read->roofline.bf16_flops_per_s, 8.6e11);
  EXPECT_EQ(read->tuning, profile.tuning);
  EXPECT_TRUE(read->tried && read->tuned);
  struct stat status{};
  ASSERT_EQ(stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "no half file is left";
}

TEST_F(MachineProfileTest, AnotherMachineOrBuildIsNotBelieved) {
  ASSERT_TRUE(WriteMachineProfile(file_, Profile()));
  const auto expect_foreign = [&](auto&& change) {
    MachineKey key = Profile().key;
    change(key);
    const auto read = ReadMachineProfile(file_, key);
    ASSERT_FALSE(read.has_value());
    EXPECT_EQ(read.error().code, "machine_profile_unusable");
    EXPECT_THAT(read.error().message, HasSubstr("another machine"));
  };
  expect_foreign([](MachineKey& key) { key.processor += "!"; });
  expect_foreign([](MachineKey& key) { key.instruction_set = "avx512"; });
  expect_foreign([](MachineKey& key) { ++key.threads; });
  expect_foreign([](MachineKey& key) { ++key.packing_version; });
  expect_foreign([](MachineKey& key) { key.build += "0"; });
}

TEST_F(MachineProfileTest, DamageIsNotBelieved) {
  ASSERT_TRUE(WriteMachineProfile(file_, Profile()));
  const std::string sound = Text();
  const auto expect_unusable = [&](const std::string& text) {
    Write(text);
    const auto read = ReadMachineProfile(file_, Profile().key);
    ASSERT_FALSE(read.has_value()) << text;
    EXPECT_EQ(read.error().code, "machine_profile_unusable") << text;
  };
  for (size_t size = 0; size + 2 < sound.size(); ++size) expect_unusable(sound.substr(0, size));
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = sound;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  expect_unusable("null");
  expect_unusable("[1, 2]");
  expect_unusable(replaced("\"format\": 3", "\"format\": 4"));
  expect_unusable(replaced("65537", "-1"));
  expect_unusable(replaced("65537", "1e300"));
  expect_unusable(replaced("65537", "9223372036854775807"));
  expect_unusable(replaced("65537", "\"many\""));
  expect_unusable(replaced("34000000000.0", "0"));
  expect_unusable(replaced("34000000000.0", "1e400"));
  expect_unusable(replaced("34000000000.0", "-3"));
  expect_unusable(std::string(100'000, ' ') + sound);
  fs::remove(file_);
  fs::create_directory(file_);
  EXPECT_EQ(ReadMachineProfile(file_, Profile().key).error().code, "machine_profile_unusable");
  fs::remove(file_);
  ASSERT_EQ(mkfifo(file_.c_str(), 0600), 0);
  EXPECT_EQ(ReadMachineProfile(file_, Profile().key).error().code, "machine_profile_unusable");
}

TEST_F(MachineProfileTest, TheBestRatesStayAndTuningIsTriedOnce) {
  chips::DeviceOptions options;
  options.threads = 1;  // with one thread there is nothing to tune: it takes no time
  const auto device = chips::MakeCpuDevice(options).value();
  MachineProfile profile;
  profile.roofline = {1e15, 1, 1e15};
  ASSERT_TRUE(MeasureMachine(*device, options, /*calibrate=*/false, false, profile));
  EXPECT_EQ(profile.roofline.memory_bytes_per_s, 1e15);
  EXPECT_GT(profile.roofline.int8_ops_per_s, 1e6);
  EXPECT_FALSE(profile.tried || profile.tuned);
  ASSERT_TRUE(MeasureMachine(*device, options, true, false, profile));
  EXPECT_TRUE(profile.tried && profile.tuned);
  profile.tuning.inline_products = 4096;
  ASSERT_TRUE(MeasureMachine(*device, options, true, false, profile));
  EXPECT_EQ(profile.tuning.inline_products, 4096) << "tried before";
  ASSERT_TRUE(MeasureMachine(*device, options, true, /*again=*/true, profile));
  EXPECT_EQ(profile.tuning, chips::cpu::KernelTuning());
}

TEST_F(MachineProfileTest, AFolderThatIsGoneIsAnError) {
  const auto written = WriteMachineProfile(folder_ / "none" / "machine.json", Profile());
  ASSERT_FALSE(written.has_value());
  EXPECT_EQ(written.error().code, "file_unwritable");
}

}  // namespace
}  // namespace tidepool::server
