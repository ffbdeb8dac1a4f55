// Every route of the server and who may call it. A new endpoint is one line here; api/openapi.json follows
// from it.
#include "gateway/native/handlers.h"
#include "gateway/openai/handlers.h"
#include "gateway/openai/requests.h"
#include "gateway/router.h"

namespace tidepool::gateway {

std::span<const Route> Routes() {
  using enum platform::Role;
  using enum Lane;
  static const std::vector<Route> kRoutes = {
      // method, pattern, least role, lane, new work?, handler, tag, summary, body, reply, status, streams,
      // type
      {"POST", "/v1/chat/completions", kDeveloper, kWorker, true, openai::ChatCompletions, "openai",
       "Answers a conversation", openai::ChatSchema, openai::ChatReplySchema, 200, true},
      {"POST", "/v1/completions", kDeveloper, kWorker, true, openai::Completions, "openai",
       "Continues a text", openai::CompletionSchema, openai::CompletionReplySchema, 200, true},
      {"POST", "/v1/embeddings", kDeveloper, kWorker, true, openai::Embeddings, "openai",
       "Turns texts into vectors", openai::EmbeddingSchema, openai::EmbeddingReplySchema},
      {"GET", "/v1/models", kViewer, kWorker, false, openai::ListModels, "openai",
       "The models that can be used", nullptr, openai::ModelListSchema},
      {"GET", "/v1/models/{id...}", kViewer, kWorker, false, openai::GetModel, "openai", "One model", nullptr,
       openai::ModelSchema},
      {"POST", "/tokenize", kDeveloper, kWorker, false, openai::Tokenize, "text",
       "Text or a conversation to token ids", openai::TokenizeSchema, openai::TokenizeReplySchema},
      {"POST", "/detokenize", kDeveloper, kWorker, false, openai::Detokenize, "text", "Token ids to text",
       openai::DetokenizeSchema, openai::DetokenizeReplySchema},

      {"GET", "/health", kNone, kInline, false, native::Health, "server", "Whether the process answers",
       nullptr, native::HealthSchema},
      {"GET", "/ready", kNone, kInline, false, native::Ready, "server",
       "Whether new work is taken (503 while stopping)", nullptr, native::ReadySchema},
      {"GET", "/version", kViewer, kInline, false, native::Version, "server", "Version and commit", nullptr,
       native::VersionSchema},
      {"GET", "/openapi.json", kViewer, kWorker, false, native::OpenApi, "server", "This document"},
      {"GET", "/metrics", kOperator, kWorker, false, native::Metrics, "server",
       "Metrics in Prometheus' text format", nullptr, nullptr, 200, false, "text/plain"},

      {"GET", "/api/v1/models", kViewer, kWorker, false, native::ListModels, "native",
       "The models of the store and what they do", nullptr, native::ModelListSchema},
      {"GET", "/api/v1/models/{id...}", kViewer, kWorker, false, native::GetModel, "native",
       "One model of the store", nullptr, native::ModelSchema},
      {"DELETE", "/api/v1/models/{id...}", kOperator, kSlow, false, native::DeleteModel, "native",
       "Removes a model from the store (409 while it is in use)"},
      {"POST", "/api/v1/models/{id...}/load", kOperator, kWorker, true, native::LoadModel, "native",
       "Loads a model into memory", native::LoadSchema, native::ModelSchema},
      {"POST", "/api/v1/models/{id...}/unload", kOperator, kSlow, false, native::UnloadModel, "native",
       "Takes a model out of memory", native::UnloadSchema, native::ModelSchema},
      {"GET", "/api/v1/catalogue", kViewer, kWorker, false, native::Catalogue, "native",
       "Models that can be pulled by name", nullptr, native::CatalogueSchema},
      {"POST", "/api/v1/pulls", kOperator, kSlow, true, native::StartPull, "native",
       "Starts fetching a model", native::PullRequestSchema, native::PullSchema, 202},
      {"GET", "/api/v1/pulls", kOperator, kWorker, false, native::ListPulls, "native",
       "Running and recent pulls", nullptr, native::PullListSchema},
      {"GET", "/api/v1/pulls/{id}", kOperator, kWorker, false, native::GetPull, "native", "One pull", nullptr,
       native::PullSchema},
      {"POST", "/api/v1/pulls/{id}/pause", kOperator, kSlow, false, native::PausePull, "native",
       "Pauses a pull; its bytes are kept", nullptr, native::PullSchema},
      {"POST", "/api/v1/pulls/{id}/resume", kOperator, kSlow, false, native::ResumePull, "native",
       "Goes on with a pull", nullptr, native::PullSchema},
      {"POST", "/api/v1/pulls/{id}/cancel", kOperator, kSlow, false, native::CancelPull, "native",
       "Ends a pull and drops its bytes", nullptr, native::PullSchema},
      {"GET", "/api/v1/settings", kOperator, kWorker, false, native::Settings, "native",
       "The settings in force"},
      {"GET", "/api/v1/doctor", kOperator, kSlow, false, native::Doctor, "native",
       "What the machine has and is able to do"},
      {"GET", "/api/v1/status", kOperator, kWorker, false, native::ServerStatus, "native",
       "The pool, its memory, the uptime"},
      {"GET", "/api/v1/pool", kOperator, kWorker, false, native::Pool, "native",
       "The pool: budgets, device, and each model's residency, queue and policy", nullptr,
       native::PoolSchema},
      {"GET", "/api/v1/pool/events", kOperator, kWorker, false, native::PoolEventStream, "native",
       "The same as events, when it changes (at most four a second); model when one came, went or changed its "
       "state; and what the pool did, with its time: load, loaded, load_failed, load_stopped, evict, spill, "
       "restore, recompute, reject, switch, weights_lost",
       nullptr, nullptr, 200, true, "text/event-stream"},
      {"GET", "/api/v1/pool/trace", kOperator, kSlow, false, native::PoolTrace, "native",
       "The record of the scheduler's events and decisions (pool.trace_records), as JSON lines", nullptr, nullptr,
       200, false, "application/x-ndjson"},
      {"GET", "/api/v1/pool/trace/requests", kOperator, kSlow, false, native::PoolTraceRequests, "native",
       "The requests in that record, as `tidepool sim --workload` reads them", nullptr, nullptr, 200, false,
       "application/x-ndjson"},
      {"POST", "/api/v1/pool/resize", kOperator, kSlow, false, native::PoolResize, "native",
       "Other budgets until the next start; nothing that runs is killed", native::PoolResizeRequestSchema,
       native::PoolResizeSchema},
      {"POST", "/api/v1/pool/policy", kOperator, kSlow, false, native::PoolPolicy, "native",
       "What a model is promised and whether it stays in memory, until the next start",
       native::PoolPolicyRequestSchema, native::PoolModelSchema},
      {"POST", "/api/v1/pool/cordon", kOperator, kSlow, false, native::PoolCordon, "native",
       "No new work begins, or again does", native::PoolCordonSchema, native::PoolCordonSchema},
      {"POST", "/api/v1/bench", kOperator, kSlow, true, native::Bench, "native",
       "Measures prefill and decode speed (one at a time)", native::BenchRequestSchema, native::BenchSchema},
      {"POST", "/api/v1/simulate", kOperator, kSlow, true, native::Simulate, "native",
       "Simulates policies, models and devices against a workload (one at a time)",
       native::SimulateRequestSchema, native::SimulateSchema},
      {"POST", "/api/v1/plan", kOperator, kSlow, true, native::Plan, "native",
       "How many devices of which kind: dedicated to models, and pooled (one at a time)",
       native::PlanRequestSchema, native::PlanSchema},
  };
  return kRoutes;
}

}  // namespace tidepool::gateway
