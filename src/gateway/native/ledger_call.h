// What the handlers of usage and money share: the ledger, and what a caller may see of it.
#pragma once

#include <string>

#include "gateway/native/call.h"
#include "platform/ledger/accounting.h"

namespace tidepool::gateway::native {

// Serve, for servers that have a ledger; 501 elsewhere.
void ServeLedger(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
                 const std::function<Result<Json>(Call&, platform::Accounting&)>& work);

// The query's conditions, within what the caller may see. kNotFound for another organisation or workspace, so
// that names do not leak.
Result<platform::UsageFilter> FilterOf(const Call& call);
// The organisation that is asked for: the caller's, or for an operator any that is named.
Result<std::string> OrganisationOf(const Call& call, const std::string& named);
// The organisation a scope belongs to, if the caller may reach it (kNotFound otherwise).
Result<std::string> OwnerOfScope(const Call& call, const platform::Scope& scope);
// May the caller set rules for this scope? An organisation's are the operator's to set, a workspace's its
// organisation's admins', a key's the admins' of its workspace.
Status CheckMayRule(const Call& call, const platform::Scope& scope);

bool IsOrganisationAdmin(const platform::Principal& principal);  // or operator

Json SecondsJson(int64_t unix_ms);  // with milliseconds
Json SumsJson(const platform::UsageSums& sums);
// item[name]: the amount, null where it is of several currencies; item[name + "_by_currency"]: all of them.
void PutAmounts(Json& item, const platform::Amounts& amounts, const std::string& name);

}  // namespace tidepool::gateway::native
