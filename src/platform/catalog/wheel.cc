#include "platform/catalog/wheel.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <zip.h>

#include <set>

#include "platform/catalog/names.h"

namespace tidepool::platform {

struct Wheel::Archive {
  zip_t* zip = nullptr;
  ~Archive() {
    if (zip != nullptr) zip_discard(zip);
  }
};

namespace {

constexpr size_t kReadBytes = 256 << 10;

tl::unexpected<Error> BadWheel(const std::string& wheel, std::string_view what) {
  return Fail(ErrorKind::kCorrupt, "bad_wheel",
              fmt::format("{}: {}; the package is damaged or hostile and is not used", wheel, what),
              "source");
}

// Unix permissions in the upper half of the external attributes: links and devices have no place in a wheel.
bool IsPlainMember(zip_t* zip, zip_uint64_t index) {
  zip_uint8_t system = 0;
  zip_uint32_t attributes = 0;
  if (zip_file_get_external_attributes(zip, index, 0, &system, &attributes) != 0) return false;
  if (system != ZIP_OPSYS_UNIX) return true;
  const mode_t type = (attributes >> 16) & S_IFMT;
  return type == 0 || type == S_IFREG;
}

}  // namespace

Wheel::Wheel(std::unique_ptr<Archive> archive, std::string name)
    : archive_(std::move(archive)), name_(std::move(name)) {}
Wheel::Wheel(Wheel&&) noexcept = default;
Wheel& Wheel::operator=(Wheel&&) noexcept = default;
Wheel::~Wheel() = default;

Result<Wheel> Wheel::Open(const std::filesystem::path& path, const WheelLimits& limits) {
  int code = 0;
  auto archive = std::make_unique<Archive>();
  archive->zip = zip_open(path.c_str(), ZIP_RDONLY, &code);
  if (archive->zip == nullptr) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string words = zip_error_strerror(&error);
    zip_error_fini(&error);
    return BadWheel(path.filename().string(), words);
  }
  Wheel wheel(std::move(archive), path.filename().string());
  TP_TRY(wheel.ReadDirectory(limits));
  return wheel;
}

Result<Wheel> Wheel::FromBytes(std::span<const std::byte> bytes, const WheelLimits& limits) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
  auto archive = std::make_unique<Archive>();
  if (source != nullptr) archive->zip = zip_open_from_source(source, ZIP_RDONLY, &error);
  const std::string words = zip_error_strerror(&error);
  zip_error_fini(&error);
  if (archive->zip == nullptr) {
    if (source != nullptr) zip_source_free(source);
    return BadWheel("(bytes)", words);
  }
  Wheel wheel(std::move(archive), "(bytes)");
  TP_TRY(wheel.ReadDirectory(limits));
  return wheel;
}

Status Wheel::ReadDirectory(const WheelLimits& limits) {
  zip_t* zip = archive_->zip;
  const zip_int64_t count = zip_get_num_entries(zip, 0);
  if (count < 0 || static_cast<uint64_t>(count) > limits.max_members) {
    return BadWheel(name_, fmt::format("{} members, at most {} are read", count, limits.max_members));
  }
  std::set<std::string> names;
  for (zip_uint64_t i = 0; i < static_cast<zip_uint64_t>(count); ++i) {
    zip_stat_t info;
    zip_stat_init(&info);
    constexpr zip_uint64_t kNeeded =
        ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    if (zip_stat_index(zip, i, ZIP_FL_ENC_RAW, &info) != 0 || (info.valid & kNeeded) != kNeeded) {
      return BadWheel(name_, fmt::format("member {} cannot be read", i));
    }
    const std::string name = info.name;
    if (name.ends_with('/')) continue;  // a folder
    const std::string shown = name.substr(0, 128);
    if (!IsSafeFileName(name)) return BadWheel(name_, fmt::format("member \"{}\" has an unsafe name", shown));
    if (!names.insert(name).second)
      return BadWheel(name_, fmt::format("member \"{}\" is there twice", shown));
    if ((info.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && info.encryption_method != ZIP_EM_NONE) {
      return BadWheel(name_, fmt::format("member \"{}\" is encrypted", shown));
    }
    if (info.comp_method != ZIP_CM_STORE && info.comp_method != ZIP_CM_DEFLATE) {
      return BadWheel(name_,
                      fmt::format("member \"{}\" uses compression method {}", shown, info.comp_method));
    }
    if (!IsPlainMember(zip, i))
      return BadWheel(name_, fmt::format("member \"{}\" is not a plain file", shown));
    if (info.size > limits.max_member_bytes || info.size / limits.max_ratio > info.comp_size) {
      return BadWheel(name_,
                      fmt::format("member \"{}\" claims {} bytes from {}", shown, info.size, info.comp_size));
    }
    members_.push_back({name, info.size, i});
  }
  return {};
}

Status Wheel::Read(const WheelMember& member,
                   const std::function<Status(std::span<const std::byte>)>& sink) const {
  zip_file_t* file = zip_fopen_index(archive_->zip, member.index, 0);
  if (file == nullptr) {
    return BadWheel(name_, fmt::format("member \"{}\": {}", member.name, zip_strerror(archive_->zip)));
  }
  struct Closer {
    zip_file_t* file;
    ~Closer() { zip_fclose(file); }
  } closer{file};
  std::vector<std::byte> buffer(kReadBytes);
  for (uint64_t done = 0;;) {
    const zip_int64_t n = zip_fread(file, buffer.data(), buffer.size());
    if (n < 0) return BadWheel(name_, fmt::format("member \"{}\": {}", member.name, zip_file_strerror(file)));
    if (n == 0) {
      if (done == member.bytes) return {};
      return BadWheel(
          name_, fmt::format("member \"{}\" holds {} bytes instead of {}", member.name, done, member.bytes));
    }
    done += static_cast<uint64_t>(n);
    if (done > member.bytes)
      return BadWheel(name_, fmt::format("member \"{}\" is longer than it says", member.name));
    TP_TRY(sink({buffer.data(), static_cast<size_t>(n)}));
  }
}

}  // namespace tidepool::platform
