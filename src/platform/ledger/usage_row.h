// One row a request: what was scheduled for it, how long that took, what it costs. Rows are written once and
// never changed; corrections are adjustments, rows of their own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::platform {

// Who pays. Ids, never names: names change.
struct Payer {
  std::string organisation, workspace, key, member;
  friend bool operator==(const Payer&, const Payer&) = default;
};

// Billable tokens: prompt tokens that were prefilled (those found in the prefix cache included), and tokens
// sampled until the step at which a cancel took effect.
struct BillableTokens {
  int64_t prompt = 0;     // of which
  int64_t cached = 0;     //   came from the prefix cache
  int64_t output = 0;     // of which
  int64_t reasoning = 0;  //   were reasoning
  int64_t total() const { return prompt + output; }
  friend bool operator==(const BillableTokens&, const BillableTokens&) = default;
};

enum class UsageStatus : uint8_t {
  kDone,
  kCancelled,    // by its client, or because its key was revoked
  kError,        // by a fault of ours
  kInterrupted,  // the server died: counts are those of the last journal interval
};
std::string_view UsageStatusName(UsageStatus status);

// How the amount came about.
enum class Billing : uint8_t {
  kPaid,
  kFree,      // all of it from the free quota
  kMixed,     // the quota covered the first `free_tokens`
  kUnpriced,  // the price book has no price for the model
  kWaived,    // it failed, and the price book does not charge for failures
};
std::string_view BillingName(Billing billing);

struct UsageRow {
  std::string id;                           // "use-...", unique: posting a row twice keeps one
  int64_t started_ms = 0, finished_ms = 0;  // Unix time
  std::string request_id;
  Payer payer;
  std::string model;          // the name it is stored under
  std::string model_version;  // content hash
  std::string endpoint;       // "chat.completions", "completions", "embeddings", "rerank", ...
  bool batch = false;
  BillableTokens tokens;
  // Waiting in line; for weights; wall time of prefill and of decode; of those two, without computing.
  int64_t queue_ms = 0, load_ms = 0, prefill_ms = 0, decode_ms = 0, stall_ms = 0;
  int64_t device_us = 0;  // its share, by tokens, of the steps it was in
  UsageStatus status = UsageStatus::kDone;
  std::string error_code;
  int64_t price_version = 0;
  int64_t amount_nanos = 0;  // 10^-9 of the currency
  int64_t free_tokens = 0;
  Billing billing = Billing::kUnpriced;

  // Priced as embeddings are: nothing is generated.
  bool embeds() const { return endpoint == "embeddings" || endpoint == "rerank"; }

  friend bool operator==(const UsageRow&, const UsageRow&) = default;
};

// The journal's form of a row. Decode: kCorrupt for anything Encode did not make.
void EncodeUsageRow(const UsageRow& row, std::string& out);
Result<UsageRow> DecodeUsageRow(std::string_view bytes);

}  // namespace tidepool::platform
