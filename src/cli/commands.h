// The commands. Each prints its result and returns; errors go up to Main, which prints them and picks the
// exit code.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/api_client.h"
#include "cli/cli.h"
#include "cli/server_process.h"
#include "cli/terminal.h"

namespace tidepool::cli {

// What a command may use. The server is found (or started) by the first Api().
class Session {
 public:
  Session(const Hooks& hooks, ClientSettings settings,
          std::vector<std::pair<std::string, std::string>> overrides, bool json, bool colour);

  // Starts a server when none runs.
  Result<ApiClient*> Api();
  // Null when no server runs.
  ApiClient* ApiIfRunning();

  Terminal& terminal() { return terminal_; }
  const Hooks& hooks() const { return hooks_; }
  const ClientSettings& settings() const { return settings_; }
  bool json() const { return json_; }

 private:
  ApiClient* Connect(const RunningServer& server);

  const Hooks& hooks_;
  ClientSettings settings_;
  std::vector<std::pair<std::string, std::string>> overrides_;
  bool json_;
  Terminal terminal_;
  std::optional<ApiClient> api_;
};

void PrintJson(const Json& json);
std::string ModelPath(std::string_view model, std::string_view action = {});

struct RunOptions {
  std::string model;
  std::string prompt;
  std::string system;
  std::optional<double> temperature, top_p;
  std::optional<int64_t> max_tokens, seed;
  std::optional<bool> think;  // enable_thinking of the template
  bool verbose = false;
  bool yes = false;  // pull without asking
};
Status Run(Session& session, const RunOptions& options);

struct PullOptions {
  std::string source;
  std::string name;
};
// True for a path, URL, package or marked hub name; false for what may be a stored model ("name:tag",
// "org/repo").
bool NamesSource(const std::string& text);
// The stored model's id.
Result<std::string> PullModel(Session& session, const PullOptions& options);
Status Pull(Session& session, const PullOptions& options);

Status List(Session& session, bool catalogue);
Status Show(Session& session, const std::string& model);
Status Remove(Session& session, const std::vector<std::string>& models);
// watch: redrawn in place until Ctrl-C; lines where standard output is no terminal.
Status Processes(Session& session, bool watch);
Status ShowPool(Session& session);
struct PoolSizes {  // "8GiB", "60%"; empty: as it is
  std::string memory, warm_memory, host_kv;
};
Status ResizePool(Session& session, const PoolSizes& sizes);
Status CordonPool(Session& session, bool cordoned);
Status Pin(Session& session, const std::string& model, bool pinned);
Status Stop(Session& session, const std::string& model, bool force);

// Names that clients call, each of a stored model.
struct DeploymentOptions {
  std::string name, base;
  std::optional<std::string> description, system, template_file;  // an empty file name: the model's own
  std::optional<std::string> priority;
  std::optional<double> temperature, top_p, ttl_s, ttft_s, tpot_s, weight;
  std::optional<int64_t> top_k, max_tokens, context, max_output;
  std::vector<std::string> stop;
  std::optional<bool> pinned, thinking;  // as --pin, --no-pin, --think, --no-think say
  bool flag = false, force = false, yes = false;
};
Status ListDeployments(Session& session, const DeploymentOptions& options);
Status ShowDeployment(Session& session, const DeploymentOptions& options);
Status CreateDeployment(Session& session, const DeploymentOptions& options);
Status ChangeDeployment(Session& session, const DeploymentOptions& options);
Status DeleteDeployment(Session& session, const DeploymentOptions& options);

struct BenchOptions {
  std::string model;
  int64_t prompt_tokens = 512;
  int64_t generate_tokens = 64;
  int64_t depth = 8;
  std::vector<int64_t> batch{1, 4, 16};
  std::string profile;  // a file: fit the simulator's profile instead
};
Status Bench(Session& session, const BenchOptions& options);
Status BenchProfile(Session& session, const BenchOptions& options);
// What `sim` and `plan` share; empty and unset values are left to the simulator.
struct StudyOptions {
  std::string workload, models, devices, lengths, popularity, split, sweep, title;
  std::string svg, csv, replay;
  std::vector<std::string> profiles, policies, prices;
  std::string seeds, slo;
  std::optional<double> ttft, tpot, repeat_until, duration, input_scale, output_scale, copy_gbps,
      host_memory_gb, load_gbps, admission, share, risk;
  std::optional<int64_t> model_count, max_tokens;
  int64_t jobs = 1;
};
Status Simulate(Session& session, const StudyOptions& options);
Status Plan(Session& session, const StudyOptions& options);

// Usage and money; empty and unset values are left out.
struct MoneyOptions {
  std::string group_by, from, to, month, organisation, workspace, key, model, file, scope, amount, currency,
      reason, period, id, url, remove;
  std::vector<int64_t> thresholds;
  bool dry_run = false, csv = false, flag = false;
  std::optional<bool> stop, block;  // as --stop, --go-on and --block, --tell say
  std::optional<int64_t> total, days, requests_per_minute, tokens_per_minute, tokens_per_day, concurrent,
      context_length, max_output_tokens, burst_s;
};
Status ShowUsage(Session& session, const MoneyOptions& options);
Status ShowBill(Session& session, const MoneyOptions& options);
Status ShowAdjustments(Session& session, const MoneyOptions& options);
Status AdjustBill(Session& session, const MoneyOptions& options);
Status ShowPrices(Session& session, const MoneyOptions& options);
Status ShowQuota(Session& session, const MoneyOptions& options);
Status ShowBudget(Session& session, const MoneyOptions& options);
Status ShowLimits(Session& session, const MoneyOptions& options);
Status ShowWebhook(Session& session, const MoneyOptions& options);
Status SetWebhook(Session& session, const MoneyOptions& options);
Status TestWebhook(Session& session, const MoneyOptions& options);
Status RemoveWebhook(Session& session, const MoneyOptions& options);

// Who may use the server.
struct AccountsOptions {
  std::string id, name, role, workspace, organisation, email, expires, overlap = "1d", file, passphrase_file;
  std::vector<std::string> models, endpoints, networks;
  std::optional<double> weight;
  bool service = false, with_keys = false, flag = false;
  std::optional<bool> store_bodies, store_responses;  // as --store-bodies, --drop-bodies and so on say
  std::optional<int64_t> retention_days;
  std::vector<std::string> redact, leave, patterns;
  int64_t limit = 50;
  std::optional<int64_t> before;
};
Status ListKeys(Session& session, const AccountsOptions& options);
Status CreateKey(Session& session, const AccountsOptions& options);
Status ChangeKey(Session& session, const AccountsOptions& options);
Status RotateKey(Session& session, const AccountsOptions& options);
Status RevokeKey(Session& session, const AccountsOptions& options);
Status ListWorkspaces(Session& session, const AccountsOptions& options);
Status CreateWorkspace(Session& session, const AccountsOptions& options);
Status SetWorkspace(Session& session, const AccountsOptions& options);
Status ListRequests(Session& session, const AccountsOptions& options);
Status ShowRequest(Session& session, const AccountsOptions& options);
Status ShowRequestBody(Session& session, const AccountsOptions& options);
Status DeleteRequestBody(Session& session, const AccountsOptions& options);
Status ArchiveWorkspace(Session& session, const AccountsOptions& options);
Status ListOrganisations(Session& session, const AccountsOptions& options);
Status CreateOrganisation(Session& session, const AccountsOptions& options);
Status SuspendOrganisation(Session& session, const AccountsOptions& options, bool suspended);
Status ListMembers(Session& session, const AccountsOptions& options);
Status InviteMember(Session& session, const AccountsOptions& options);
Status ChangeMember(Session& session, const AccountsOptions& options);
Status RemoveMember(Session& session, const AccountsOptions& options);
Status ResetMember(Session& session, const AccountsOptions& options);
Status ListAudit(Session& session, const AccountsOptions& options);
Status VerifyAudit(Session& session, const AccountsOptions& options);
Status ListSecrets(Session& session, const AccountsOptions& options);
Status SetSecret(Session& session, const AccountsOptions& options);
Status RemoveSecret(Session& session, const AccountsOptions& options);
Status BackupStore(Session& session, const AccountsOptions& options);
Status RestoreStore(Session& session, const AccountsOptions& options);
Status ResetPassword(Session& session, const AccountsOptions& options);

Status Doctor(Session& session);
Status ShowSettings(Session& session);
Status Version(Session& session);

}  // namespace tidepool::cli
