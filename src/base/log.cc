#include "base/log.h"

#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>

namespace tidepool {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};
std::atomic<bool> g_json{false};

std::shared_ptr<spdlog::logger>& Sink() {
  static std::shared_ptr<spdlog::logger> logger = [] {
    auto made = spdlog::stderr_color_mt("tidepool");
    made->set_pattern("%v");
    made->set_level(spdlog::level::trace);
    return made;
  }();
  return logger;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarn: return "warn";
    case LogLevel::kError: return "error";
  }
  return "info";
}

void AppendJsonString(fmt::memory_buffer& out, std::string_view text) {
  out.push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n') {
      fmt::format_to(std::back_inserter(out), "\\n");
    } else if (byte < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(byte));
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
}

// A log line is one line: control characters in values must not forge another.
void AppendPlain(fmt::memory_buffer& out, std::string_view text) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned>(byte));
    } else {
      out.push_back(c);
    }
  }
}

}  // namespace

void ConfigureLog(const LogOptions& options) {
  g_level = options.level;
  g_json = options.json;
  if (options.file.empty()) return;
  try {
    auto logger = spdlog::rotating_logger_mt("tidepool_file", options.file, size_t{32} << 20, 3);
    logger->set_pattern("%v");
    logger->set_level(spdlog::level::trace);
    logger->flush_on(spdlog::level::info);
    Sink() = std::move(logger);
  } catch (const spdlog::spdlog_ex& problem) {
    LogError("log file cannot be opened, logging to standard error",
             {{"file", options.file}, {"reason", problem.what()}});
  }
}

bool LogEnabled(LogLevel level) { return level >= g_level.load(std::memory_order_relaxed); }

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  if (!LogEnabled(level)) return;
  const auto now = std::chrono::system_clock::now();
  const auto millis =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
  fmt::memory_buffer line;
  if (g_json.load(std::memory_order_relaxed)) {
    fmt::format_to(std::back_inserter(line), R"({{"time":"{}.{:03}Z","level":"{}","message":)", stamp, millis,
                   LevelName(level));
    AppendJsonString(line, message);
    for (const LogField& field : fields) {
      line.push_back(',');
      AppendJsonString(line, field.key);
      line.push_back(':');
      AppendJsonString(line, field.value);
    }
    line.push_back('}');
  } else {
    fmt::format_to(std::back_inserter(line), "{}.{:03}Z {:5} ", stamp, millis, LevelName(level));
    AppendPlain(line, message);
    for (const LogField& field : fields) {
      fmt::format_to(std::back_inserter(line), "  {}=", field.key);
      AppendPlain(line, field.value);
    }
  }
  Sink()->log(spdlog::level::info, std::string_view(line.data(), line.size()));
}

}  // namespace tidepool
