// Settings: one TOML file, what was changed through the API, TIDEPOOL_* variables, flags; each beats those
// before it.
//
// One table (settings_table.cc) is the only source: parsing, checks, `tidepool settings`, GET
// /api/v1/settings and the reference page docs/settings.md come from it. A setting `pool.memory` is `[pool]
// memory = ...` in the file, TIDEPOOL_POOL_MEMORY in the environment and --pool-memory on the command line.
//
// Threads: a Settings is a value; made once at start-up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tidepool::server {

struct SettingsInput {
  std::vector<std::pair<std::string, std::string>> environment;  // all variables; TIDEPOOL_* are looked at
  std::vector<std::string> flags;                                // "--listen=..", "--listen", "..", "--open"
  std::string config_file;  // "": $TIDEPOOL_HOME/tidepool.toml if it exists
  // What was changed through the API ({"pool.ttft_s": "5"}), between the file and the variables. Not given:
  // $TIDEPOOL_HOME/console.toml if it exists.
  std::optional<std::map<std::string, std::string>> console;
};

struct Settings {
  std::filesystem::path home;
  std::string listen;

  struct {
    bool open = false;
    bool allow_plain = false;
    std::string trusted_proxy;
    std::string tls_certificate, tls_key;
    std::vector<std::string> allowed_hosts, cors_origins;
    int64_t threads = 0, max_connections = 0;
    uint64_t max_body = 0, max_total_body = 0, max_header = 0, max_write_buffer = 0;
    double header_timeout_s = 0, body_timeout_s = 0, idle_timeout_s = 0, write_timeout_s = 0;
    double keep_alive_comment_s = 0, drain_timeout_s = 0;
    int64_t max_json_depth = 0;
  } http;

  struct {
    std::string memory, warm_memory, host_kv;  // "70%" or bytes; MemoryBytes() resolves them
    uint64_t kv_ready = 0, packed_cache = 0, prefix_files = 0;
    bool verify_weights = true, lock_weights = true, calibrate = true, pin_threads = false;
    double admission_load = 0, overcommit = 1, age_bound_s = 0, ttft_s = 0, tpot_s = 0;
    std::string kv_type, precision, instruction_set, numa;
    int64_t threads = 0, max_batch_tokens = 0, max_sequences = 0, max_waiting = 0, trace_records = 0;
    int64_t history_turns = 0;
    int64_t open_answer_tokens = 0;
    bool prefix_cache = true, speculation = true, deterministic = false;
  } pool;

  struct {
    int64_t context_length = 0, default_max_tokens = 0, max_waiting_for_load = 0;
    uint64_t grammar_cache = 0;
    double load_timeout_s = 0, idle_ttl_s = -1, min_resident_s = 0;
    std::vector<std::string> preload, pin, schedule;
    int64_t max_registered = 0, max_deployments = 0;
  } models;

  struct {
    double ttl_hours = 0;
    int64_t max_stored = 0, max_background = 0, max_chain = 0;
    uint64_t max_chain_size = 0, max_event_memory = 0;
  } responses;

  struct {
    int64_t max_days = 0;
    uint64_t max_request = 0, max_answer = 0, max_memory = 0, max_size = 0;
  } bodies;

  struct {
    std::string endpoint, token;
  } hub;

  struct {
    bool allow_private_addresses = false;
    std::vector<std::string> allowed_roots;
    int64_t max_concurrent = 0;
    std::string pip;
  } pull;

  struct {
    uint64_t journal_segment = 0, max_journal = 0;
    int64_t journal_tokens = 0, journal_ms = 0, max_unposted_rows = 0;
    double finish_hold_s = 0;
    int64_t free_tokens = 0, free_days = 0;
    bool free_stop = false, webhook_private = false;
    std::string cost_currency, device_per_hour, power_per_kwh;
    int64_t power_watts = 0, max_limits = 0, max_budgets = 0, webhook_workers = 0;
  } ledger;

  struct {
    int64_t max_conversations = 0, max_turns = 0, max_running = 0, max_member_running = 0, max_listeners = 0;
    int64_t max_idle_channels = 0;
    uint64_t max_turn = 0, max_size = 0, max_member_size = 0, max_recent = 0;
    int64_t max_shares = 0, shared_per_minute = 0;
    uint64_t max_share = 0;
    double max_share_days = 0;
  } conversations;

  struct {
    std::string postgresql;
    uint64_t max_size = 0;
    int64_t readers = 4, max_waiting_writes = 65536;
    double query_timeout_s = 15;
  } store;

  struct {
    int64_t max_organisations = 0, max_workspaces = 0, max_members = 0, max_keys = 0, sign_in_attempts = 0;
    double session_hours = 0;
  } accounts;

  struct {
    bool enabled = false;
    double step_ms = 0, token_us = 0;
    int64_t context_length = 0;
    int64_t models = 1;
    std::string tally;
  } simulated;

  struct {
    std::string level;
    bool json = false;
    std::string file;
  } log;

  // Where each setting came from: "default", "file", "console", "environment", "flag".
  std::map<std::string, std::string> sources;
  SettingsInput input;  // what this was resolved from, for resolving it again
};

// Resolves all sources. Errors name the setting, where it came from, the value, and what is allowed; unknown
// names are errors that suggest the closest one.
Result<Settings> ResolveSettings(const SettingsInput& input);

// The process' environment, for SettingsInput.
std::vector<std::pair<std::string, std::string>> ProcessEnvironment();

// Bytes of a setting like pool.memory ("70%" of the machine's memory, "12GiB").
Result<uint64_t> MemoryBytes(std::string_view text, uint64_t machine_bytes);

// "512MiB", "12 GiB", "1.5G", "4096" -> bytes.
Result<uint64_t> ParseBytes(std::string_view text);

// [{id, value, source, default, allowed, help, environment, flag, kind, minimum, maximum, choices,
// editable}], secrets masked.
nlohmann::ordered_json DescribeSettings(const Settings& settings);
// Whether the API may change it. Not what would let who holds an operator's key reach beyond the server:
// commands, files, addresses and hosts, who is let in, secrets. nullopt: there is no such setting.
std::optional<bool> IsEditable(std::string_view name);

// $TIDEPOOL_HOME/console.toml: settings that were changed through the API.
inline constexpr const char* kConsoleFile = "console.toml";
Result<std::map<std::string, std::string>> ReadConsoleFile(const std::filesystem::path& home);
std::string ConsoleFileText(const std::map<std::string, std::string>& values);
// docs/settings.md.
std::string SettingsReference();
// For `tidepool serve --help`.
std::string SettingsHelp();

}  // namespace tidepool::server
