// What tokens cost: versioned books with dates of validity, and the amount of one request.
//
// A book in JSON (unknown fields are errors; prices are decimal strings a million tokens):
//   {"currency": "EUR", "valid_from": "2026-12-01T00:00:00Z", "valid_to": null, "note": "...",
//    "charge_failed": false,
//    "models": [{"model": "qwen3:4b" or "*",
//                "tiers": [{"up_to": 32768, "input": "2.5", "cached_input": "0.5", "output": "10",
//                           "reasoning_output": "12"}, {"input": "4", "output": "16"}],
//                "embedding": "0.5", "batch_factor": "0.5", "minimum_charge": "0.0001"}],
//    "discounts": [{"organisation": "org-...", "factor": "0.8"}]}
//
// The tier is chosen by the length of a request's whole prompt and applies to all its tokens (as in Model
// Studio's price list). cached_input is input's price and reasoning_output is output's unless given; a model
// that has no entry and no "*" is unpriced: it costs nothing and its rows say so.
//
//   amount = (input (prompt - cached) + cached_input cached + output (output - reasoning)
//             + reasoning_output reasoning) / 10^6 * batch_factor * discount,
//
// rounded once, half to even, to 10^-9, then raised to minimum_charge. Tokens that the free quota covers come
// off first: from the uncached prompt, the cached one, the output, the reasoning, in this order.
//
// Bounds, so that nothing can overflow: a price is at most 100,000 a million, a factor at most 10, a discount
// at most 1, a request at most 2^31 tokens a kind: 4 * 2^31 * 0.1 * 10 = 8.6e9 units < 2^63 * 10^-9.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "platform/ledger/money.h"
#include "platform/ledger/usage_row.h"

namespace tidepool::platform {

struct PriceTier {
  int64_t up_to = 0;  // prompt tokens, inclusive; 0: any length (the last tier only)
  Money input, cached_input, output, reasoning_output;
};

struct ModelPrice {
  std::vector<PriceTier> tiers;  // at least one, ascending
  std::optional<Money> embedding;
  int64_t batch_factor = kFactorOne;
  Money minimum_charge;
};

struct PriceBook {
  int64_t version = 0;  // given by the store, 1, 2, ...; 0: the built-in book without prices
  std::string currency = "USD";
  int64_t valid_from_ms = 0;
  int64_t valid_to_ms = INT64_MAX;  // exclusive
  std::string note;
  bool charge_failed = false;                             // of requests that ended by a fault of ours
  std::map<std::string, ModelPrice, std::less<>> models;  // by name, "*": all others
  std::map<std::string, int64_t, std::less<>> discounts;  // organisation -> millionths

  const ModelPrice* Find(std::string_view model) const;
};

// kInvalid names the field: "models[2].tiers[0].input".
Result<PriceBook> ParsePriceBook(const nlohmann::ordered_json& json);
nlohmann::ordered_json PriceBookJson(const PriceBook& book);

struct PriceRequest {
  std::string_view organisation, model;
  bool embeds = false, batch = false;
  UsageStatus status = UsageStatus::kDone;
  BillableTokens tokens = {};
  int64_t free_tokens = 0;  // at most tokens.total()
};
struct PricedAmount {
  Money amount;
  Billing billing = Billing::kUnpriced;
};
PricedAmount PriceOf(const PriceBook& book, const PriceRequest& request);

// All versions. Any thread.
class PriceBooks {
 public:
  PriceBooks();
  // The newest version that is valid at `at_ms`; the built-in one if there is none. Never null.
  std::shared_ptr<const PriceBook> At(int64_t at_ms) const;
  std::shared_ptr<const PriceBook> Version(int64_t version) const;  // nullptr: no such
  // By version, without the built-in one: at most `most` of those after a version.
  std::vector<std::shared_ptr<const PriceBook>> After(int64_t version, size_t most) const;
  // Of the book in force, or of the oldest where none is; "" while there is but the built-in one.
  std::string Currency(int64_t at_ms) const;
  bool HasCurrency(std::string_view currency) const;  // some book, also one that is over or to come
  void Add(PriceBook book);
  size_t size() const;  // the built-in one among them

 private:
  mutable std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<const PriceBook>> books_;
};

// "2026-12-01T00:00:00Z", "2026-12-01" or Unix seconds as digits, to milliseconds. kInvalid names `param`.
Result<int64_t> ParseTimeMs(std::string_view text, std::string_view param);
std::string TimeText(int64_t unix_ms);  // "2026-12-01T00:00:00Z"; milliseconds if there are any

}  // namespace tidepool::platform
