#include "server/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/wall_clock.h"
#include "chips/device.h"
#include "compute/engine/engine.h"
#include "compute/memory/ledger.h"
#include "gateway/gateway.h"
#include "platform/catalog/catalog.h"
#include "platform/conversations/conversations.h"
#include "platform/conversations/shares.h"
#include "platform/inference/inference.h"
#include "platform/inference/pool_control.h"
#include "platform/ledger/accounting.h"
#include "platform/request_bodies/request_bodies.h"
#include "platform/responses/responses.h"
#include "server/accounts_store.h"
#include "server/bench.h"
#include "server/doctor.h"
#include "server/machine_profile.h"
#include "server/settings_editor.h"

namespace tidepool::server {
namespace {

// One server per home: two would fight over the store and the keys.
class HomeLock {
 public:
  static Result<HomeLock> Take(const std::filesystem::path& home) {
    const std::filesystem::path path = home / "server.lock";
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
      return Fail(ErrorKind::kUnavailable, "home_not_writable",
                  fmt::format("cannot write {}; set TIDEPOOL_HOME to a folder of your own", path.string()),
                  "home");
    }
    if (::flock(file, LOCK_EX | LOCK_NB) != 0) {
      ::close(file);
      return Fail(
          ErrorKind::kConflict, "home_in_use",
          fmt::format(
              "another Tidepool server runs in {}; stop it (make down) or choose another TIDEPOOL_HOME",
              home.string()),
          "home");
    }
    return HomeLock(file);
  }
  HomeLock(HomeLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  HomeLock& operator=(HomeLock&&) = delete;
  ~HomeLock() {
    if (file_ >= 0) ::close(file_);
  }

 private:
  explicit HomeLock(int file) : file_(file) {}
  int file_;
};

Status MakeHome(const std::filesystem::path& home) {
  std::error_code problem;
  std::filesystem::create_directories(home, problem);
  if (problem) {
    return Fail(ErrorKind::kUnavailable, "home_not_writable",
                fmt::format("cannot make {}: {}; set TIDEPOOL_HOME to a folder of your own", home.string(),
                            problem.message()),
                "home");
  }
  ::chmod(home.c_str(), 0700);  // keys and prompts' caches live here
  std::filesystem::create_directories(home / "logs", problem);
  return {};
}

gateway::GatewayOptions MakeGatewayOptions(const Settings& s) {
  gateway::GatewayOptions o;
  o.listen = s.listen;
  o.open = s.http.open;
  o.allow_plain_http = s.http.allow_plain;
  o.trusted_proxy = s.http.trusted_proxy;
  o.tls_certificate = s.http.tls_certificate;
  o.tls_key = s.http.tls_key;
  o.allowed_hosts = s.http.allowed_hosts;
  o.cors_origins = s.http.cors_origins;
  o.threads = static_cast<int32_t>(s.http.threads);
  o.max_connections = static_cast<int32_t>(s.http.max_connections);
  o.max_body_bytes = s.http.max_body;
  o.max_total_body_bytes = s.http.max_total_body;
  o.max_header_bytes = static_cast<uint32_t>(s.http.max_header);
  o.max_write_buffer_bytes = s.http.max_write_buffer;
  o.header_timeout_s = s.http.header_timeout_s;
  o.body_timeout_s = s.http.body_timeout_s;
  o.idle_timeout_s = s.http.idle_timeout_s;
  o.write_timeout_s = s.http.write_timeout_s;
  o.keep_alive_comment_s = s.http.keep_alive_comment_s;
  o.drain_timeout_s = s.http.drain_timeout_s;
  o.max_json_depth = static_cast<int32_t>(s.http.max_json_depth);
  return o;
}

// The setting's choices are checked where settings are read.
chips::DataType KvTypeOf(std::string_view name) {
  if (name == "f32") return chips::DataType::kF32;
  if (name == "bf16") return chips::DataType::kBF16;
  if (name == "f16") return chips::DataType::kF16;
  return name == "q8" ? chips::DataType::kQ8_0 : chips::DataType::kI16;
}

platform::CatalogOptions MakeCatalogOptions(const Settings& s) {
  platform::CatalogOptions o;
  o.home = s.home;
  o.hub_endpoint = s.hub.endpoint;
  o.hub_token = s.hub.token;
  o.allow_private_addresses = s.pull.allow_private_addresses;
  for (const std::string& root : s.pull.allowed_roots) o.allowed_roots.emplace_back(root);
  o.max_concurrent_pulls = static_cast<int32_t>(s.pull.max_concurrent);
  o.pip_command = s.pull.pip;
  return o;
}

platform::InferenceOptions MakeInferenceOptions(const Settings& s) {
  platform::InferenceOptions o;
  o.context_length = static_cast<int32_t>(s.models.context_length);
  o.default_max_tokens = static_cast<int32_t>(s.models.default_max_tokens);
  o.grammar_cache_bytes = s.models.grammar_cache;
  o.max_waiting_for_load = static_cast<int32_t>(s.models.max_waiting_for_load);
  o.load_timeout_s = s.models.load_timeout_s;
  o.precision =
      s.pool.precision == "f32" ? chips::WeightPrecision::kFloat32 : chips::WeightPrecision::kNative;
  o.kv_type = KvTypeOf(s.pool.kv_type);
  o.backing.verify = s.pool.verify_weights;
  o.backing.lock = s.pool.lock_weights;
  o.traced = s.pool.trace_records > 0;
  o.policy.ttft_s = s.pool.ttft_s;
  o.policy.tpot_s = s.pool.tpot_s;
  o.policy.idle_ttl_s = s.models.idle_ttl_s;
  o.policy.min_resident_s = s.models.min_resident_s;
  o.elasticity.pins = s.models.pin;
  o.elasticity.max_registered = static_cast<int32_t>(s.models.max_registered);
  return o;
}

platform::ResponsesOptions MakeResponsesOptions(const Settings& s) {
  platform::ResponsesOptions o;
  o.ttl_ms = static_cast<int64_t>(s.responses.ttl_hours * 3'600'000);
  o.max_stored = s.responses.max_stored;
  o.max_background = static_cast<int32_t>(s.responses.max_background);
  o.max_chain = static_cast<int32_t>(s.responses.max_chain);
  o.max_chain_bytes = s.responses.max_chain_size;
  o.max_event_bytes = s.responses.max_event_memory;
  o.max_run_event_bytes = s.responses.max_event_memory / 8;
  return o;
}

platform::RequestBodiesOptions MakeRequestBodiesOptions(const Settings& s) {
  platform::RequestBodiesOptions o;
  o.max_days = s.bodies.max_days;
  o.max_request_bytes = s.bodies.max_request;
  o.max_answer_bytes = s.bodies.max_answer;
  o.max_memory_bytes = s.bodies.max_memory;
  o.max_workspace_bytes = s.bodies.max_size;
  return o;
}

compute::EngineOptions MakeEngineOptions(const Settings& s) {
  compute::EngineOptions o;
  o.max_batch_tokens = static_cast<int32_t>(s.pool.max_batch_tokens);
  o.max_sequences = static_cast<int32_t>(s.pool.max_sequences);
  o.max_waiting = static_cast<int32_t>(s.pool.max_waiting);
  o.kv_type = KvTypeOf(s.pool.kv_type);
  o.deterministic = s.pool.deterministic;
  o.prefix_cache = s.pool.prefix_cache;
  o.speculation = s.pool.speculation;
  o.pool.admission_load = s.pool.admission_load;
  o.pool.overcommit = s.pool.overcommit;
  o.pool.age_bound_s = s.pool.age_bound_s;
  // Kernels change with the program; which of them compute, with the processor (and is part of a packed
  // file's key).
  o.prefix_files = {.max_bytes = s.pool.prefix_files,
                    .folder = s.home / "prefixes",
                    .salt = fmt::format(" {} {} deterministic={}", kVersion, kCommit, s.pool.deterministic)};
  o.open_answer_tokens = static_cast<int32_t>(s.pool.open_answer_tokens);
  o.trace_records = static_cast<size_t>(s.pool.trace_records);
  o.turn_records = static_cast<size_t>(s.pool.history_turns);
  return o;
}

LogOptions MakeLogOptions(const Settings& s) {
  LogOptions o;
  o.level = s.log.level == "debug"   ? LogLevel::kDebug
            : s.log.level == "warn"  ? LogLevel::kWarn
            : s.log.level == "error" ? LogLevel::kError
                                     : LogLevel::kInfo;
  o.json = s.log.json;
  o.file = s.log.file;
  return o;
}

// $TIDEPOOL_HOME/server.json tells scripts and the command line where the server is; removed at the end.
class ServerFile {
 public:
  ServerFile(const std::filesystem::path& home, const std::string& url) : path_(home / "server.json") {
    const std::filesystem::path half = home / "server.json.part";
    std::ofstream(half)
        << nlohmann::ordered_json{{"url", url}, {"pid", ::getpid()}, {"version", kVersion}}.dump() << "\n";
    std::error_code ignored;
    std::filesystem::rename(half, path_, ignored);
  }
  ~ServerFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ServerFile(const ServerFile&) = delete;
  ServerFile& operator=(const ServerFile&) = delete;

 private:
  std::filesystem::path path_;
};

// Everything that runs, in the order it is built; destroyed in reverse.
struct Pool {
  SteadyClock clock;
  SystemWallClock wall_clock;
  MetricsRegistry metrics;
  std::unique_ptr<chips::Device> device;
  std::unique_ptr<chips::SimulatedDevice> simulated;
  MachineProfile profile;
  std::unique_ptr<compute::Ledger> ledger;
  std::unique_ptr<compute::PackedCache> packed;
  std::unique_ptr<compute::Residency> residency;
  std::unique_ptr<compute::HostKvArena> host_kv;
  std::unique_ptr<compute::KvReserve> kv_reserve;
  AccountsStore store;
  std::unique_ptr<platform::Catalog> catalog;
  std::unique_ptr<platform::DeploymentBook> deployments;
  std::unique_ptr<platform::RequestBodies> bodies;  // before accounting, whose threads hand it what has ended
  std::unique_ptr<platform::Accounting> accounting;  // before the engine: it ends requests until it is gone
  std::unique_ptr<platform::Responses> responses;    // so, too
  std::unique_ptr<compute::Engine> engine;
  std::unique_ptr<platform::Inference> inference;
  std::unique_ptr<platform::Conversations> conversations;
  std::unique_ptr<platform::ConversationShares> shares;
  std::string setup_path;  // "/setup#..." while nobody can sign in as an owner
};

chips::DeviceOptions MakeDeviceOptions(const Settings& s, const chips::cpu::KernelTuning& tuning) {
  chips::DeviceOptions o;
  o.threads = static_cast<int>(s.pool.threads);
  o.instruction_set = s.pool.instruction_set;
  o.deterministic = s.pool.deterministic;
  o.pin_threads = s.pool.pin_threads;
  o.replicate_weights = s.pool.numa == "replicate";
  o.tuning = tuning;
  return o;
}

// Measuring takes a second or two, so it is done once on a machine: later starts read what was found.
Result<std::unique_ptr<chips::Device>> MakeMeasuredDevice(const Settings& settings, MachineProfile& profile) {
  const chips::DeviceOptions options = MakeDeviceOptions(settings, {});
  TP_ASSIGN(std::unique_ptr<chips::Device> device, chips::MakeCpuDevice(options));
  const std::filesystem::path file = settings.home / kMachineProfileFile;
  const MachineKey key = KeyOf(*device);
  auto known = ReadMachineProfile(file, key);
  if (known && (known->tried || !settings.pool.calibrate)) {
    profile = *known;
  } else {
    if (!known && known.error().kind != ErrorKind::kNotFound)
      LogInfo("the machine is measured again", {{"reason", known.error().message}});
    if (known) profile = *known;  // its rates are still true
    profile.key = key;
    TP_TRY(MeasureMachine(*device, options, settings.pool.calibrate, /*again=*/false, profile));
    if (const Status written = WriteMachineProfile(file, profile); !written)
      LogWarn("what was measured of the machine is not kept", {{"reason", written.error().message}});
  }
  if (!settings.pool.calibrate) {
    profile.tuning = {};
    profile.tried = profile.tuned = false;
  }
  device->SetTuning(profile.tuning);
  return device;
}

Result<platform::AccountingOptions> MakeAccountingOptions(const Settings& s) {
  platform::AccountingOptions o;
  o.folder = s.home / "ledger";
  o.ledger.journal.segment_bytes = s.ledger.journal_segment;
  o.ledger.journal.max_bytes = s.ledger.max_journal;
  o.ledger.journal_every_tokens = s.ledger.journal_tokens;
  o.ledger.journal_every_ms = s.ledger.journal_ms;
  o.ledger.max_unposted_rows = s.ledger.max_unposted_rows;
  o.ledger.finish_hold_s = s.ledger.finish_hold_s;
  o.quota = {.tokens = s.ledger.free_tokens,
             .validity_days = s.ledger.free_days,
             .stop_when_exhausted = s.ledger.free_stop};
  o.max_limits = s.ledger.max_limits;
  o.max_budgets = s.ledger.max_budgets;
  o.webhooks.allow_private_addresses = s.ledger.webhook_private;
  o.webhooks.workers = s.ledger.webhook_workers;
  if (!platform::IsCurrency(s.ledger.cost_currency)) {
    return Fail(
        ErrorKind::kInvalid, "bad_setting",
        fmt::format("ledger.cost_currency: \"{}\" is no code of three capitals such as EUR (ISO 4217)",
                    s.ledger.cost_currency),
        "ledger.cost_currency");
  }
  o.cost.currency = s.ledger.cost_currency;
  o.cost.power_watts = s.ledger.power_watts;
  const auto money = [](const char* setting, const std::string& text) -> Result<platform::Money> {
    auto amount = platform::Money::Parse(text);
    if (amount && *amount >= platform::Money{} && amount->FitsRow()) return amount;
    return Fail(ErrorKind::kInvalid, "bad_setting",
                fmt::format("{}: \"{}\" is no amount; write a decimal such as 1.25", setting, text), setting);
  };
  TP_ASSIGN(o.cost.device_per_hour, money("ledger.device_per_hour", s.ledger.device_per_hour));
  TP_ASSIGN(o.cost.power_per_kwh, money("ledger.power_per_kwh", s.ledger.power_per_kwh));
  return o;
}

platform::ConversationsOptions MakeConversationsOptions(const Settings& s) {
  platform::ConversationsOptions o;
  o.max_conversations = s.conversations.max_conversations;
  o.max_turns = s.conversations.max_turns;
  o.max_turn_bytes = s.conversations.max_turn;
  o.max_bytes = s.conversations.max_size;
  o.max_member_bytes = s.conversations.max_member_size;
  o.max_running = s.conversations.max_running;
  o.max_member_running = s.conversations.max_member_running;
  o.max_listeners = s.conversations.max_listeners;
  o.max_recent_bytes = s.conversations.max_recent;
  o.max_idle_channels = s.conversations.max_idle_channels;
  return o;
}

Status BuildAccounting(const Settings& settings, Pool& pool) {
  TP_ASSIGN(platform::AccountingOptions options, MakeAccountingOptions(settings));
  platform::Audit& audit = *pool.store.audit;
  options.audit = [&audit](store::Session& session, const platform::AuditActor& actor,
                           std::string_view action, std::string_view object,
                           const nlohmann::ordered_json& before, const nlohmann::ordered_json& after) {
    return audit.Append(session, actor, action, object, before, after);
  };
  const platform::KeyFile& keys = *pool.store.keys;
  options.seal = [&keys](const std::string& secret) { return platform::HexOf(keys.Seal(secret)); };
  options.unseal = [&keys](const std::string& sealed) { return keys.Unseal(platform::BytesOfHex(sealed)); };
  TP_ASSIGN(pool.accounting, platform::Accounting::Open(*pool.store.database, pool.clock, pool.wall_clock,
                                                        pool.metrics, std::move(options)));
  return {};
}

Status BuildPool(const Settings& settings, Pool& pool) {
  TP_ASSIGN(pool.store, OpenAccountsStore(settings, pool.clock, pool.wall_clock, pool.metrics));
  LogInfo("store", {{"what", pool.store.database->Describe()}});
  if (!settings.http.open) {
    TP_ASSIGN(const auto link, pool.store.accounts->MakeSetupLink());
    if (link) pool.setup_path = "/setup#" + link->token;
  }
  if (settings.pool.numa != "off") {
    // Before any thread that brings memory in is started: they inherit it.
    TP_ASSIGN(const int nodes, chips::InterleaveHostMemory());
    LogInfo(nodes < 2 ? "pool.numa has no effect: one memory node"
            : settings.pool.numa == "replicate"
                ? "weights lie on every memory node, other memory is interleaved"
                : "memory is interleaved",
            {{"nodes", nodes}});
  }
  TP_ASSIGN(pool.device, MakeMeasuredDevice(settings, pool.profile));
  const uint64_t machine = pool.device->info().memory_bytes;
  TP_ASSIGN(const uint64_t pool_bytes, MemoryBytes(settings.pool.memory, machine));
  TP_ASSIGN(const uint64_t warm_bytes, MemoryBytes(settings.pool.warm_memory, machine));
  TP_ASSIGN(const uint64_t host_kv_bytes, MemoryBytes(settings.pool.host_kv, machine));
  pool.ledger = std::make_unique<compute::Ledger>(pool_bytes);
  TP_ASSIGN(pool.packed, compute::PackedCache::Open({.folder = settings.home / "packed",
                                                     .max_bytes = settings.pool.packed_cache,
                                                     .keep_in_memory_bytes = warm_bytes}));
  pool.residency = compute::Residency::Start(*pool.ledger, pool.clock, {.warm_bytes = warm_bytes});
  pool.host_kv =
      std::make_unique<compute::HostKvArena>(compute::HostKvArenaOptions{.limit_bytes = host_kv_bytes});
  pool.kv_reserve = std::make_unique<compute::KvReserve>(
      *pool.device, *pool.ledger,
      compute::KvReserveOptions{.ready_bytes = settings.pool.kv_ready, .metrics = &pool.metrics});
  platform::CatalogOptions catalog_options = MakeCatalogOptions(settings);
  if (catalog_options.hub_token.empty()) {
    TP_ASSIGN(const std::optional<std::string> token,
              pool.store.accounts->GetSecret(std::string(platform::kHubTokenSecret)));
    catalog_options.hub_token = token.value_or("");
  }
  TP_ASSIGN(pool.catalog, platform::Catalog::Open(catalog_options));
  TP_ASSIGN(pool.deployments,
            platform::DeploymentBook::Open(*pool.store.database, pool.store.audit.get(), pool.wall_clock,
                                           pool.metrics, settings.models.max_deployments));
  pool.bodies = std::make_unique<platform::RequestBodies>(*pool.store.database, *pool.store.accounts,
                                                          *pool.store.keys, pool.wall_clock, pool.metrics,
                                                          MakeRequestBodiesOptions(settings));
  TP_TRY(BuildAccounting(settings, pool));
  TP_ASSIGN(pool.responses,
            platform::Responses::Open(*pool.store.database, *pool.store.keys, pool.store.accounts.get(),
                                      pool.wall_clock, pool.metrics, MakeResponsesOptions(settings)));
  compute::EngineOptions engine_options = MakeEngineOptions(settings);
  engine_options.host_kv = pool.host_kv.get();
  engine_options.kv_reserve = pool.kv_reserve.get();
  pool.engine = compute::Engine::Start(*pool.device, *pool.ledger, pool.clock, pool.metrics, engine_options);
  platform::InferenceOptions inference_options = MakeInferenceOptions(settings);
  inference_options.packed = pool.packed.get();
  inference_options.residency = pool.residency.get();
  inference_options.roofline = pool.profile.roofline;
  inference_options.host_kv = pool.host_kv.get();
  inference_options.ledger = &pool.accounting->ledger();
  inference_options.deployments = pool.deployments.get();
  for (const std::string& text : settings.models.schedule) {
    TP_ASSIGN(platform::ScheduleRule rule, platform::ParseScheduleRule(text));
    inference_options.elasticity.schedule.push_back(std::move(rule));
  }
  pool.inference = platform::Inference::Create(*pool.catalog, *pool.engine, *pool.device, *pool.ledger,
                                               pool.clock, pool.metrics, inference_options);
  if (settings.simulated.enabled) {
    chips::SimulatedDeviceOptions simulated_options;
    simulated_options.step_base_s = settings.simulated.step_ms / 1e3;
    simulated_options.step_per_token_s = settings.simulated.token_us / 1e6;
    simulated_options.tally_file = settings.simulated.tally;
    pool.simulated = chips::MakeSimulatedDevice(simulated_options);
    for (int64_t number = 1; number <= settings.simulated.models; ++number) {
      const std::string name = number == 1 ? "scripted" : fmt::format("scripted-{}", number);
      TP_TRY(pool.inference->AddScripted(*pool.simulated, name,
                                         static_cast<int32_t>(settings.simulated.context_length)));
    }
  }
  TP_ASSIGN(pool.conversations,
            platform::Conversations::Open(*pool.store.database, *pool.inference, pool.clock, pool.wall_clock,
                                          pool.metrics, MakeConversationsOptions(settings)));
  platform::ConversationSharesOptions shares;
  shares.max_shares = settings.conversations.max_shares;
  shares.max_share_bytes = settings.conversations.max_share;
  shares.max_member_bytes = settings.conversations.max_member_size;
  shares.max_days = settings.conversations.max_share_days;
  shares.reads_per_minute = settings.conversations.shared_per_minute;
  shares.audit = pool.store.audit.get();
  shares.may_share = [&accounts = *pool.store.accounts](const std::string& workspace,
                                                        const std::string& member) {
    return accounts.MayShare(workspace, member);
  };
  pool.shares = std::make_unique<platform::ConversationShares>(
      *pool.store.database, pool.clock, pool.wall_clock, pool.metrics, std::move(shares));
  return {};
}

nlohmann::ordered_json DescribeStatus(const Pool& pool, Nanoseconds started) {
  nlohmann::ordered_json owners = nlohmann::ordered_json::array();
  uint64_t used = 0;
  for (const auto& [key, bytes] : pool.ledger->Snapshot(&used)) {
    owners.push_back({{"owner", key.first}, {"kind", compute::ChargeKindName(key.second)}, {"bytes", bytes}});
  }
  const compute::Engine::Load load = pool.engine->load();
  return {{"version", kVersion},
          {"pid", ::getpid()},
          {"uptime_s", static_cast<double>(pool.clock.now() - started) / kSecond},
          {"device", pool.device->info().name},
          {"instruction_set", pool.device->info().instruction_set},
          {"threads", pool.device->info().threads},
          {"roofline",
           {{"memory_bytes_per_s", pool.profile.roofline.memory_bytes_per_s},
            {"int8_ops_per_s", pool.profile.roofline.int8_ops_per_s},
            {"f32_flops_per_s", pool.profile.roofline.f32_flops_per_s}}},
          {"pool", {{"limit_bytes", pool.ledger->limit()}, {"used_bytes", used}, {"owners", owners}}},
          {"running", load.running},
          {"waiting", load.waiting},
          {"steps", load.steps}};
}

// What a start would refuse beyond the bounds of each setting.
Status CheckNext(const Settings& next, uint64_t machine_bytes) {
  TP_TRY(MakeAccountingOptions(next));
  for (const std::string& rule : next.models.schedule) TP_TRY(platform::ParseScheduleRule(rule));
  TP_ASSIGN(const uint64_t pool_bytes, MemoryBytes(next.pool.memory, machine_bytes));
  if (pool_bytes > machine_bytes) {
    return Fail(ErrorKind::kInvalid, "bad_setting",
                fmt::format("pool.memory is {} bytes; the machine has {}", pool_bytes, machine_bytes),
                "pool.memory");
  }
  return {};
}

SettingsEditor::Hooks MakeEditorHooks(Pool& pool) {
  const uint64_t machine = pool.device->info().memory_bytes;
  const auto resize = [&pool, machine](const std::string& text,
                                       std::optional<uint64_t> platform::PoolResize::* budget) -> Status {
    platform::PoolResize change;
    TP_ASSIGN(change.*budget, MemoryBytes(text, machine));
    return pool.inference->pool()->Resize(change);
  };
  SettingsEditor::Hooks hooks;
  hooks.check = [machine](const Settings& next) { return CheckNext(next, machine); };
  hooks.live["pool.memory"] = [resize](const Settings& next) {
    return resize(next.pool.memory, &platform::PoolResize::memory);
  };
  hooks.live["pool.warm_memory"] = [resize](const Settings& next) {
    return resize(next.pool.warm_memory, &platform::PoolResize::warm_memory);
  };
  hooks.live["pool.host_kv"] = [resize](const Settings& next) {
    return resize(next.pool.host_kv, &platform::PoolResize::host_kv);
  };
  hooks.live["log.level"] = [](const Settings& next) -> Status {
    ConfigureLog(MakeLogOptions(next));
    return {};
  };
  return hooks;
}

gateway::ServerHooks MakeHooks(const Settings& settings, Pool& pool, Nanoseconds started) {
  gateway::ServerHooks hooks;
  hooks.accounting = pool.accounting.get();
  hooks.version = kVersion;
  hooks.commit = kCommit;
  const auto editor = std::make_shared<SettingsEditor>(settings, MakeEditorHooks(pool));
  hooks.settings = [editor] { return nlohmann::ordered_json{{"data", editor->Describe()}}; };
  hooks.change_settings = [editor](const nlohmann::ordered_json& values,
                                   const SettingsEditor::Record& record) {
    return editor->Change(values, record);
  };
  hooks.doctor = [&settings, &pool] {
    return DescribeMachine({.device = pool.device.get(),
                            .options = MakeDeviceOptions(settings, pool.profile.tuning),
                            .profile = pool.profile,
                            .calibrate = settings.pool.calibrate,
                            .pool_bytes = pool.ledger->limit(),
                            .home = settings.home,
                            .catalog = pool.catalog.get()});
  };
  hooks.conversations = pool.conversations.get();
  hooks.shares = pool.shares.get();
  hooks.bodies = pool.bodies.get();
  hooks.responses = pool.responses.get();
  hooks.deployments = pool.deployments.get();
  hooks.status = [&pool, started] { return DescribeStatus(pool, started); };
  hooks.memory_bytes = [&pool](std::string_view text) {
    return MemoryBytes(text, pool.device->info().memory_bytes);
  };
  hooks.accounts = pool.store.accounts.get();
  hooks.audit = pool.store.audit.get();
  hooks.on_rights_changed = [&pool](std::function<void()> changed) {
    pool.store.accounts->OnChange(std::move(changed));
  };
  hooks.backup = [&pool](const std::string& file, const std::string& passphrase) {
    return BackupStore(pool.store, file, passphrase, pool.wall_clock);
  };
  hooks.bench = [&pool](const nlohmann::ordered_json& request) {
    return RunBench(request, *pool.inference, *pool.engine, pool.clock, pool.profile.roofline);
  };
  return hooks;
}

void PrintBanner(const Pool& pool, const std::string& url, const Settings& settings) {
  const chips::DeviceInfo& info = pool.device->info();
  fmt::print("Tidepool {}\n", kVersion);
  fmt::print("machine    {} cores, {}; memory {:.1f} GB/s, int8 {:.2f} TOPS; pool {:.1f} GiB\n", info.threads,
             info.instruction_set, pool.profile.roofline.memory_bytes_per_s / 1e9,
             pool.profile.roofline.int8_ops_per_s / 1e12,
             static_cast<double>(pool.ledger->limit()) / (1 << 30));
  if (!pool.store.created_key.empty()) {
    fmt::print("admin key  {}\n           shown once; the command line reads {}\n", pool.store.created_key,
               (settings.home / "admin.key").string());
  }
  if (!pool.setup_path.empty()) {
    fmt::print("set up     {}{}\n           makes the first owner; once, within 24 hours\n", url,
               pool.setup_path);
  } else if (!settings.http.open && pool.store.created_key.empty()) {
    fmt::print("admin key  {}\n", (settings.home / "admin.key").string());
  }
  if (settings.http.open) fmt::print("admin key  none needed (--open)\n");
  fmt::print("serving    {}   API {}/v1   Ctrl-C stops\n", url, url);
  std::fflush(stdout);
}

// Waits for SIGTERM/SIGINT, which every thread has blocked, and takes the server down.
void RunUntilSignal(gateway::Gateway& gateway, compute::Engine& engine, const Clock& clock,
                    double drain_timeout_s) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  int received = 0;
  sigwait(&signals, &received);
  LogInfo("draining: no new work, running answers may end", {{"timeout_s", drain_timeout_s}});
  std::atomic<bool> drained{false};
  std::thread drain([&] {
    gateway.Drain();
    engine.Drain(clock.now() + static_cast<Nanoseconds>(drain_timeout_s * kSecond));
    drained = true;
  });
  while (!drained) {
    const timespec wait{0, 50'000'000};
    if (sigtimedwait(&signals, nullptr, &wait) > 0) {
      LogWarn("second signal: stopping at once");
      std::fflush(nullptr);
      ::_exit(130);
    }
  }
  drain.join();
}

}  // namespace

Result<std::string> Restore(const Settings& settings, const std::string& file,
                            const std::string& passphrase) {
  TP_TRY(MakeHome(settings.home));
  auto lock = HomeLock::Take(settings.home);
  if (!lock) return tl::unexpected<Error>(std::move(lock).error());
  return RestoreStore(settings, file, passphrase);
}

int Serve(const Settings& settings) {
  ConfigureLog(MakeLogOptions(settings));
  // Blocked before any thread starts, so that only RunUntilSignal sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  const auto fail = [](const Error& error) {
    fmt::print(stderr, "tidepool: {}\n", error.message);
    return error.kind == ErrorKind::kInvalid ? 2 : 1;
  };
  if (const Status made = MakeHome(settings.home); !made) return fail(made.error());
  const Result<HomeLock> lock = HomeLock::Take(settings.home);
  if (!lock) return fail(lock.error());

  Pool pool;
  if (const Status built = BuildPool(settings, pool); !built) return fail(built.error());
  const Nanoseconds started = pool.clock.now();
  auto gateway = gateway::Gateway::Start(MakeGatewayOptions(settings), *pool.inference, *pool.catalog,
                                         *pool.store.accounts, pool.clock, pool.metrics,
                                         MakeHooks(settings, pool, started));
  if (!gateway) return fail(gateway.error());
  {
    const ServerFile file(settings.home, (*gateway)->url());
    PrintBanner(pool, (*gateway)->url(), settings);
    // What is in force from now on; changes through the API are recorded as they are made.
    nlohmann::ordered_json changed = nlohmann::ordered_json::object();
    for (const auto& setting : DescribeSettings(settings)) {
      if (setting["source"] != "default") changed[setting["id"].get<std::string>()] = setting["value"];
    }
    pool.store.audit->RecordLater(platform::MachineActor(), "server.started", kVersion, nullptr, changed);
    LogInfo("serving", {{"url", (*gateway)->url()}, {"home", settings.home.string()}});
    for (const std::string& model : settings.models.preload) {
      pool.inference->Load(model, [model](const Status& loaded) {
        if (loaded) {
          LogInfo("model ready", {{"model", model}});
        } else {
          LogError("model cannot be loaded", {{"model", model}, {"reason", loaded.error().message}});
        }
      });
    }
    RunUntilSignal(**gateway, *pool.engine, pool.clock, settings.http.drain_timeout_s);
    pool.engine->SavePrefixCaches();
    pool.residency->LeaveInMemory();  // a server that is started again finds its weights
  }
  (*gateway)->Stop();
  pool.responses->Stop();
  LogInfo("stopped");
  return 0;
}

}  // namespace tidepool::server
