// Tidepool's own API: models, pulls, the machine, and what every server has (health, metrics, its
// description).
#pragma once

#include <memory>
#include <string_view>

#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::native {

// system.cc
void Health(Services& services, std::shared_ptr<Exchange> exchange);
void Ready(Services& services, std::shared_ptr<Exchange> exchange);
void Version(Services& services, std::shared_ptr<Exchange> exchange);
void OpenApi(Services& services, std::shared_ptr<Exchange> exchange);
void Metrics(Services& services, std::shared_ptr<Exchange> exchange);
void Settings(Services& services, std::shared_ptr<Exchange> exchange);
void ChangeSettings(Services& services, std::shared_ptr<Exchange> exchange);
nlohmann::ordered_json SettingsRequestSchema();
nlohmann::ordered_json SettingsSchema();
void Doctor(Services& services, std::shared_ptr<Exchange> exchange);
void ServerStatus(Services& services, std::shared_ptr<Exchange> exchange);
void Bench(Services& services, std::shared_ptr<Exchange> exchange);

// simulate.cc
void Simulate(Services& services, std::shared_ptr<Exchange> exchange);
void Plan(Services& services, std::shared_ptr<Exchange> exchange);
nlohmann::ordered_json SimulateRequestSchema();
nlohmann::ordered_json SimulateSchema();
nlohmann::ordered_json PlanRequestSchema();
nlohmann::ordered_json PlanSchema();

// pool.cc
void Pool(Services& services, std::shared_ptr<Exchange> exchange);
void PoolEventStream(Services& services, std::shared_ptr<Exchange> exchange);
void PoolHistory(Services& services, std::shared_ptr<Exchange> exchange);
void PoolTrace(Services& services, std::shared_ptr<Exchange> exchange);
void PoolTraceRequests(Services& services, std::shared_ptr<Exchange> exchange);
void PoolResize(Services& services, std::shared_ptr<Exchange> exchange);
void PoolPolicy(Services& services, std::shared_ptr<Exchange> exchange);
void PoolCordon(Services& services, std::shared_ptr<Exchange> exchange);
nlohmann::ordered_json PoolSchema();
nlohmann::ordered_json PoolModelSchema();
nlohmann::ordered_json PoolEventsSchema();  // the data of the events that pages read, by name
nlohmann::ordered_json PoolHistorySchema();
nlohmann::ordered_json PoolResizeRequestSchema();
nlohmann::ordered_json PoolResizeSchema();
nlohmann::ordered_json PoolPolicyRequestSchema();
nlohmann::ordered_json PoolCordonSchema();

// models.cc
void ListModels(Services& services, std::shared_ptr<Exchange> exchange);
void GetModel(Services& services, std::shared_ptr<Exchange> exchange);
void DeleteModel(Services& services, std::shared_ptr<Exchange> exchange);
void LoadModel(Services& services, std::shared_ptr<Exchange> exchange);
void UnloadModel(Services& services, std::shared_ptr<Exchange> exchange);
void Catalogue(Services& services, std::shared_ptr<Exchange> exchange);

// deployments.cc
void ListDeployments(Services& services, std::shared_ptr<Exchange> exchange);
void CreateDeployment(Services& services, std::shared_ptr<Exchange> exchange);
void GetDeployment(Services& services, std::shared_ptr<Exchange> exchange);
void ChangeDeployment(Services& services, std::shared_ptr<Exchange> exchange);
void DeleteDeployment(Services& services, std::shared_ptr<Exchange> exchange);
void CheckDeploymentFit(Services& services, std::shared_ptr<Exchange> exchange);
nlohmann::ordered_json DeploymentRequestSchema();
nlohmann::ordered_json DeploymentChangeSchema();
nlohmann::ordered_json DeploymentSchema();
nlohmann::ordered_json DeploymentListSchema();
nlohmann::ordered_json DeploymentDeletedSchema();
nlohmann::ordered_json DeploymentFitRequestSchema();
nlohmann::ordered_json DeploymentFitSchema();

// pulls.cc
void StartPull(Services& services, std::shared_ptr<Exchange> exchange);
void ListPulls(Services& services, std::shared_ptr<Exchange> exchange);
void GetPull(Services& services, std::shared_ptr<Exchange> exchange);
void PausePull(Services& services, std::shared_ptr<Exchange> exchange);
void ResumePull(Services& services, std::shared_ptr<Exchange> exchange);
void CancelPull(Services& services, std::shared_ptr<Exchange> exchange);

// schemas.cc
nlohmann::ordered_json ModelSchema();
nlohmann::ordered_json ModelListSchema();
nlohmann::ordered_json LoadSchema();
nlohmann::ordered_json UnloadSchema();
nlohmann::ordered_json CatalogueSchema();
nlohmann::ordered_json PullRequestSchema();
nlohmann::ordered_json PullSchema();
nlohmann::ordered_json PullListSchema();
nlohmann::ordered_json BenchRequestSchema();
nlohmann::ordered_json BenchSchema();
nlohmann::ordered_json StatusSchema();
// What doctor may find: each has a text in every language of the web application.
inline constexpr std::string_view kDoctorFindings[] = {
    "processor_reference", "processor_not_best", "processor_best", "load_high", "memory_speed",
    "pool_small",          "disk_low",           "files_few",      "key_file",  "model_broken",
    "kernels_slow",
};
// Why, where a finding has a reason beside it: of a tensor on a slower path, of the key file, of a model's
// file (codes of models/formats). The web application has a text for each too.
inline constexpr std::string_view kDoctorReasons[] = {
    "type_unsupported", "shape_unsupported", "no_kernel",        "reference_kernels",
    "kept_as_bf16",     "key_file_missing",  "key_file_no_file", "key_file_readable",
    "key_file_owner",   "key_file_damaged",  "file_corrupt",     "file_truncated",
    "unsupported_file", "file_over_limit",   "file_not_found",   "file_unreadable",
};
nlohmann::ordered_json DoctorSchema();
nlohmann::ordered_json DeletedSchema();
nlohmann::ordered_json HealthSchema();
nlohmann::ordered_json ReadySchema();
nlohmann::ordered_json VersionSchema();

}  // namespace tidepool::gateway::native
