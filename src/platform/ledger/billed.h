// What one request came to, as its usage row says.
#pragma once

#include <cstdint>
#include <string>

#include "platform/ledger/usage_row.h"

namespace tidepool::platform {

struct Billed {
  int64_t amount_nanos = 0;  // 10^-9 of the currency
  std::string currency;      // of the price book it was priced by
  Billing billing = Billing::kUnpriced;
  int64_t free_tokens = 0;

  friend bool operator==(const Billed&, const Billed&) = default;
};

}  // namespace tidepool::platform
