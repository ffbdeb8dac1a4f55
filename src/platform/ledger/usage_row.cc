#include "platform/ledger/usage_row.h"

#include "platform/ledger/wire.h"

namespace tidepool::platform {

std::string_view UsageStatusName(UsageStatus status) {
  switch (status) {
    case UsageStatus::kDone: return "done";
    case UsageStatus::kCancelled: return "cancelled";
    case UsageStatus::kError: return "error";
    case UsageStatus::kInterrupted: return "interrupted";
  }
  return "error";
}

std::string_view BillingName(Billing billing) {
  switch (billing) {
    case Billing::kPaid: return "paid";
    case Billing::kFree: return "free";
    case Billing::kMixed: return "mixed";
    case Billing::kUnpriced: return "unpriced";
    case Billing::kWaived: return "waived";
  }
  return "paid";
}

void EncodeUsageRow(const UsageRow& row, std::string& out) {
  using wire::PutSigned, wire::PutString, wire::PutVarint;
  for (const std::string* text :
       {&row.id, &row.request_id, &row.payer.organisation, &row.payer.workspace, &row.payer.key,
        &row.payer.member, &row.model, &row.model_version, &row.endpoint, &row.error_code}) {
    PutString(*text, out);
  }
  for (const int64_t number :
       {row.started_ms, row.finished_ms, row.tokens.prompt, row.tokens.cached, row.tokens.output,
        row.tokens.reasoning, row.queue_ms, row.load_ms, row.prefill_ms, row.decode_ms, row.stall_ms,
        row.device_us, row.price_version, row.amount_nanos, row.free_tokens}) {
    PutSigned(number, out);
  }
  PutVarint(row.batch ? 1 : 0, out);
  PutVarint(static_cast<uint64_t>(row.status), out);
  PutVarint(static_cast<uint64_t>(row.billing), out);
}

Result<UsageRow> DecodeUsageRow(std::string_view bytes) {
  wire::Reader reader(bytes);
  UsageRow row;
  for (std::string* text :
       {&row.id, &row.request_id, &row.payer.organisation, &row.payer.workspace, &row.payer.key,
        &row.payer.member, &row.model, &row.model_version, &row.endpoint, &row.error_code}) {
    *text = reader.String();
  }
  for (int64_t* number :
       {&row.started_ms, &row.finished_ms, &row.tokens.prompt, &row.tokens.cached, &row.tokens.output,
        &row.tokens.reasoning, &row.queue_ms, &row.load_ms, &row.prefill_ms, &row.decode_ms, &row.stall_ms,
        &row.device_us, &row.price_version, &row.amount_nanos, &row.free_tokens}) {
    *number = reader.Signed();
  }
  const uint64_t batch = reader.Varint(), status = reader.Varint(), charge = reader.Varint();
  if (reader.failed() || !reader.at_end() || batch > 1 ||
      status > static_cast<uint64_t>(UsageStatus::kInterrupted) ||
      charge > static_cast<uint64_t>(Billing::kWaived)) {
    return Fail(ErrorKind::kCorrupt, "bad_usage_row", "a usage row of the journal cannot be read");
  }
  row.batch = batch == 1;
  row.status = static_cast<UsageStatus>(status);
  row.billing = static_cast<Billing>(charge);
  return row;
}

}  // namespace tidepool::platform
