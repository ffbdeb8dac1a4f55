// Limits, free quotas, budgets, prices, usage, bills: /api/v1. Each is a Handler of the route table. Who sees
// what: an operator everything, owners and admins their organisation, all others their workspace.
#pragma once

#include <memory>

#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::native {

// usage.cc: what was used
void Usage(Services& services, std::shared_ptr<Exchange> exchange);
void ListRequests(Services& services, std::shared_ptr<Exchange> exchange);
void GetRequest(Services& services, std::shared_ptr<Exchange> exchange);
void GetRequestBody(Services& services, std::shared_ptr<Exchange> exchange);
void DeleteRequestBody(Services& services, std::shared_ptr<Exchange> exchange);
void QueryRange(Services& services, std::shared_ptr<Exchange> exchange);
void GetBill(Services& services, std::shared_ptr<Exchange> exchange);
void GetBillCsv(Services& services, std::shared_ptr<Exchange> exchange);
void AdjustBill(Services& services, std::shared_ptr<Exchange> exchange);

// requests.cc: what runs
void ListRunningRequests(Services& services, std::shared_ptr<Exchange> exchange);
void CancelRequest(Services& services, std::shared_ptr<Exchange> exchange);

// money.cc: what may be used, and what it costs
void ListLimits(Services& services, std::shared_ptr<Exchange> exchange);
void PutLimit(Services& services, std::shared_ptr<Exchange> exchange);
void DeleteLimit(Services& services, std::shared_ptr<Exchange> exchange);
void ListQuotas(Services& services, std::shared_ptr<Exchange> exchange);
void PutQuota(Services& services, std::shared_ptr<Exchange> exchange);
void ListBudgets(Services& services, std::shared_ptr<Exchange> exchange);
void CreateBudget(Services& services, std::shared_ptr<Exchange> exchange);
void PutBudget(Services& services, std::shared_ptr<Exchange> exchange);
void DeleteBudget(Services& services, std::shared_ptr<Exchange> exchange);
void ListPrices(Services& services, std::shared_ptr<Exchange> exchange);
void AddPrices(Services& services, std::shared_ptr<Exchange> exchange);
void DryRunPrices(Services& services, std::shared_ptr<Exchange> exchange);
void GetWebhook(Services& services, std::shared_ptr<Exchange> exchange);
void PutWebhook(Services& services, std::shared_ptr<Exchange> exchange);
void DeleteWebhook(Services& services, std::shared_ptr<Exchange> exchange);
void TestWebhook(Services& services, std::shared_ptr<Exchange> exchange);

inline constexpr std::string_view kUsageQuery =
    "group_by from to organisation workspace key member model status endpoint limit:integer after format";
inline constexpr std::string_view kRequestsQuery =
    "from to organisation workspace key member model status endpoint limit:integer after format";
inline constexpr std::string_view kRunningQuery =
    "organisation workspace key member model endpoint limit:integer";
inline constexpr std::string_view kRangeQuery =
    "metric from to step:integer group_by top:integer organisation workspace key member model status "
    "endpoint";
inline constexpr std::string_view kBillQuery = "month organisation limit:integer after format";
inline constexpr std::string_view kLimitQuery = "scope model";
inline constexpr std::string_view kLimitsQuery = "scope model limit:integer after";
inline constexpr std::string_view kQuotasQuery = "organisation limit:integer after";

nlohmann::ordered_json UsageSchema();
nlohmann::ordered_json RequestSchema();
nlohmann::ordered_json RequestBodySchema();
nlohmann::ordered_json RequestListSchema();
nlohmann::ordered_json RunningRequestListSchema();
nlohmann::ordered_json CancelledRequestSchema();
nlohmann::ordered_json RangeSchema();
nlohmann::ordered_json BillSchema();
nlohmann::ordered_json AdjustmentRequestSchema();
nlohmann::ordered_json AdjustmentSchema();
nlohmann::ordered_json LimitListSchema();
nlohmann::ordered_json LimitRequestSchema();
nlohmann::ordered_json LimitSchema();
nlohmann::ordered_json QuotaListSchema();
nlohmann::ordered_json QuotaRequestSchema();
nlohmann::ordered_json QuotaSchema();
nlohmann::ordered_json BudgetListSchema();
nlohmann::ordered_json BudgetRequestSchema();
nlohmann::ordered_json BudgetSchema();
nlohmann::ordered_json PricesSchema();
nlohmann::ordered_json PriceBookSchema();
nlohmann::ordered_json StoredBookSchema();
nlohmann::ordered_json DryRunRequestSchema();
nlohmann::ordered_json DryRunSchema();
nlohmann::ordered_json WebhookRequestSchema();
nlohmann::ordered_json WebhookSchema();
nlohmann::ordered_json WebhookTestSchema();

}  // namespace tidepool::gateway::native
