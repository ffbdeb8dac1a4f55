// Every route of the server and who may call it. A new endpoint is one line here; api/openapi.json follows
// from it.
#include "gateway/anthropic/errors.h"
#include "gateway/anthropic/handlers.h"
#include "gateway/anthropic/requests.h"
#include "gateway/bailian/handlers.h"
#include "gateway/bailian/reply.h"
#include "gateway/bailian/requests.h"
#include "gateway/errors.h"
#include "gateway/native/accounts_handlers.h"
#include "gateway/native/call.h"
#include "gateway/native/conversations.h"
#include "gateway/native/handlers.h"
#include "gateway/native/ledger_handlers.h"
#include "gateway/ollama/handlers.h"
#include "gateway/ollama/reply.h"
#include "gateway/ollama/requests.h"
#include "gateway/openai/handlers.h"
#include "gateway/openai/requests.h"
#include "gateway/rerank/handlers.h"
#include "gateway/rerank/requests.h"
#include "gateway/responses/handlers.h"
#include "gateway/responses/requests.h"
#include "gateway/router.h"

namespace tidepool::gateway {

namespace {

// A route of accounts: JSON, no new work, with the parameters of its query.
Route Account(std::string_view method, std::string_view pattern, platform::Role role, Lane lane,
              Handler handler, std::string_view summary, Schema request, Schema response, int success = 200,
              std::string_view query = {}) {
  return {method,
          pattern,
          role,
          lane,
          false,
          handler,
          "accounts",
          summary,
          request,
          response,
          success,
          false,
          "application/json",
          query};
}

// A route of Anthropic's dialect.
Route Anthropic(std::string_view method, std::string_view pattern, platform::Role role, bool inference,
                Handler handler, std::string_view summary, Schema request, Schema response,
                bool streams = false) {
  Route route{method,      pattern, role,    Lane::kWorker, inference, handler,
              "anthropic", summary, request, response,      200,       streams};
  route.errors = anthropic::ErrorReply;
  return route;
}

// A route of Ollama's dialect, with what is not said of most.
Route Ollama(Route route) {
  route.tag = "ollama";
  route.errors = ollama::ErrorReply;
  return route;
}

// A route of Bailian's native interface.
Route Bailian(std::string_view pattern, Handler handler, std::string_view summary, Schema request,
              Schema response, bool streams = false) {
  Route route{"POST",        pattern, platform::Role::kDeveloper,
              Lane::kWorker, true,    handler,
              "bailian",     summary, request,
              response,      200,     streams};
  route.errors = bailian::ErrorReply;
  return route;
}

// The list of models is at the same path in two dialects; the client's header tells which it speaks.
void ListModels(Services& services, std::shared_ptr<Exchange> exchange) {
  const bool anthropic = anthropic::IsAnthropic(exchange->request());
  return anthropic ? anthropic::ListModels(services, std::move(exchange))
                   : openai::ListModels(services, std::move(exchange));
}
void GetModel(Services& services, std::shared_ptr<Exchange> exchange) {
  const bool anthropic = anthropic::IsAnthropic(exchange->request());
  return anthropic ? anthropic::GetModel(services, std::move(exchange))
                   : openai::GetModel(services, std::move(exchange));
}
HttpResponse ModelsError(const Error& error, const HttpRequest& request) {
  return anthropic::IsAnthropic(request) ? anthropic::ErrorReply(error, request) : ErrorResponse(error);
}
Route ModelsRoute(std::string_view pattern, Handler handler, std::string_view summary, Schema response) {
  Route route{"GET",   pattern, platform::Role::kViewer, Lane::kWorker, false, handler, "openai", summary,
              nullptr, response};
  route.errors = ModelsError;
  return route;
}

}  // namespace

std::span<const Route> Routes() {
  using enum platform::Role;
  using enum Lane;
  static const std::vector<Route> kRoutes = {
      // method, pattern, least role, lane, new work?, handler, tag, summary, body, reply, status, streams,
      // type
      {"POST", "/v1/chat/completions", kDeveloper, kWorker, true, openai::ChatCompletions, "openai",
       "Answers a conversation", openai::ChatSchema, openai::ChatReplySchema, 200, true},
      {"POST", "/v1/responses", kDeveloper, kWorker, true, responses::Create, "responses",
       "Answers a conversation, and keeps the answer", responses::ResponseSchema,
       responses::ResponseReplySchema, 200, true},
      {"POST", "/v1/responses/input_tokens", kDeveloper, kWorker, false, responses::InputTokens, "responses",
       "The tokens of a response's prompt", responses::ResponseSchema, responses::InputTokensReplySchema},
      {"GET", "/v1/responses/{id}", kDeveloper, kWorker, false, responses::Get, "responses",
       "A stored response; with stream=true the events of a background response after starting_after",
       nullptr, responses::ResponseReplySchema, 200, true, "application/json", responses::kGetQuery},
      {"DELETE", "/v1/responses/{id}", kDeveloper, kWorker, false, responses::Delete, "responses",
       "Deletes a stored response; one that runs is ended"},
      {"POST", "/v1/responses/{id}/cancel", kDeveloper, kWorker, false, responses::Cancel, "responses",
       "Ends a background response", nullptr, responses::ResponseReplySchema},
      {"GET", "/v1/responses/{id}/input_items", kDeveloper, kWorker, false, responses::InputItems,
       "responses", "The input items of a stored response", nullptr, responses::InputItemsReplySchema, 200,
       false, "application/json", responses::kInputItemsQuery},
      {"POST", "/v1/completions", kDeveloper, kWorker, true, openai::Completions, "openai",
       "Continues a text", openai::CompletionSchema, openai::CompletionReplySchema, 200, true},
      {"POST", "/v1/embeddings", kDeveloper, kWorker, true, openai::Embeddings, "openai",
       "Turns texts into vectors", openai::EmbeddingSchema, openai::EmbeddingReplySchema},
      ModelsRoute("/v1/models", ListModels,
                  "The models that can be used; in Anthropic's shape with the header anthropic-version",
                  openai::ModelListSchema),
      ModelsRoute("/v1/models/{id...}", GetModel,
                  "One model; in Anthropic's shape with the header anthropic-version", openai::ModelSchema),
      {"POST", "/tokenize", kDeveloper, kWorker, false, openai::Tokenize, "text",
       "Text or a conversation to token ids", openai::TokenizeSchema, openai::TokenizeReplySchema},
      {"POST", "/detokenize", kDeveloper, kWorker, false, openai::Detokenize, "text", "Token ids to text",
       openai::DetokenizeSchema, openai::DetokenizeReplySchema},
      {"POST", "/v1/rerank", kDeveloper, kWorker, true, rerank::Rerank, "rerank",
       "Orders documents by their relevance to a query", rerank::RerankSchema, rerank::RerankReplySchema},
      {"POST", "/v2/rerank", kDeveloper, kWorker, true, rerank::Rerank, "rerank",
       "The same, where Cohere's clients look", rerank::RerankSchema, rerank::RerankReplySchema},
      {"POST", "/rerank", kDeveloper, kWorker, true, rerank::Rerank, "rerank",
       "The same, where clients of vLLM look", rerank::RerankSchema, rerank::RerankReplySchema},
      {"POST", "/compatible-api/v1/reranks", kDeveloper, kWorker, true, rerank::Rerank, "rerank",
       "The same, where Bailian's clients look", rerank::RerankSchema, rerank::RerankReplySchema},

      Ollama({"POST", "/api/chat", kDeveloper, kWorker, true, ollama::Chat, "ollama",
              "Answers a conversation", ollama::ChatSchema, ollama::ChatReplySchema, 200, true}),
      Ollama({"POST", "/api/generate", kDeveloper, kWorker, true, ollama::Generate, "ollama",
              "Answers a prompt", ollama::GenerateSchema, ollama::GenerateReplySchema, 200, true}),
      Ollama({"POST", "/api/embed", kDeveloper, kWorker, true, ollama::Embed, "ollama",
              "Turns texts into vectors", ollama::EmbedSchema, ollama::EmbedReplySchema}),
      Ollama({"POST", "/api/embeddings", kDeveloper, kWorker, true, ollama::Embeddings, "ollama",
              "Turns a text into a vector (older)", ollama::EmbeddingsSchema, ollama::EmbeddingsReplySchema}),
      Ollama({"GET", "/api/tags", kViewer, kWorker, false, ollama::Tags, "ollama", "The models of the store",
              nullptr, ollama::TagsSchema}),
      Ollama({"POST", "/api/show", kViewer, kWorker, false, ollama::Show, "ollama", "One model of the store",
              ollama::NameSchema, ollama::ShowSchema}),
      Ollama({"GET", "/api/ps", kViewer, kWorker, false, ollama::Running, "ollama",
              "The models that are loaded", nullptr, ollama::RunningSchema}),
      Ollama({"GET", "/api/version", kViewer, kInline, false, ollama::Version, "ollama",
              "The version of Ollama that is spoken", nullptr, ollama::VersionSchema}),
      Ollama({"POST", "/api/pull", kOperator, kSlow, true, ollama::Pull, "ollama",
              "Starts fetching a model and tells how it goes on", ollama::NameSchema, ollama::PullSchema, 200,
              true}),
      Ollama({"DELETE", "/api/delete", kOperator, kSlow, false, ollama::Delete, "ollama",
              "Removes a model from the store", ollama::NameSchema, ollama::PullSchema}),
      Ollama({"POST", "/api/copy", kOperator, kInline, false, ollama::NotSupported, "ollama",
              "Refused: a model has one name here"}),
      Ollama({"POST", "/api/create", kOperator, kInline, false, ollama::NotSupported, "ollama",
              "Refused: models come by pulls"}),
      Ollama({"POST", "/api/push", kOperator, kInline, false, ollama::NotSupported, "ollama",
              "Refused: models are not published from here"}),

      Bailian("/api/v1/services/aigc/text-generation/generation", bailian::Generation,
              "Answers a conversation; with the header X-DashScope-SSE: enable as events",
              bailian::GenerationSchema, bailian::GenerationReplySchema, true),
      Bailian("/api/v1/services/embeddings/text-embedding/text-embedding", bailian::TextEmbedding,
              "Turns texts into vectors", bailian::EmbeddingSchema, bailian::EmbeddingReplySchema),
      Bailian("/api/v1/services/rerank/text-rerank/text-rerank", bailian::TextRerank,
              "Orders documents by their relevance to a query", bailian::RerankSchema,
              bailian::RerankReplySchema),

      Anthropic("POST", "/v1/messages", kDeveloper, true, anthropic::Messages, "Answers a conversation",
                anthropic::MessagesSchema, anthropic::MessageReplySchema, true),
      Anthropic("POST", "/v1/messages/count_tokens", kDeveloper, false, anthropic::CountTokens,
                "The tokens of a conversation's prompt", anthropic::CountTokensSchema,
                anthropic::CountReplySchema),
      Anthropic("POST", "/anthropic/v1/messages", kDeveloper, true, anthropic::Messages,
                "Answers a conversation", anthropic::MessagesSchema, anthropic::MessageReplySchema, true),
      Anthropic("POST", "/anthropic/v1/messages/count_tokens", kDeveloper, false, anthropic::CountTokens,
                "The tokens of a conversation's prompt", anthropic::CountTokensSchema,
                anthropic::CountReplySchema),
      Anthropic("GET", "/anthropic/v1/models", kViewer, false, anthropic::ListModels,
                "The models that can be used", nullptr, anthropic::ModelListReplySchema),
      Anthropic("GET", "/anthropic/v1/models/{id...}", kViewer, false, anthropic::GetModel, "One model",
                nullptr, anthropic::ModelReplySchema),

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
       "Removes a model from the store (409 while it is in use)", nullptr, native::DeletedSchema},
      {"POST", "/api/v1/models/{id...}/load", kOperator, kWorker, true, native::LoadModel, "native",
       "Loads a model into memory", native::LoadSchema, native::ModelSchema},
      {"POST", "/api/v1/models/{id...}/unload", kOperator, kSlow, false, native::UnloadModel, "native",
       "Takes a model out of memory", native::UnloadSchema, native::ModelSchema},
      {"GET", "/api/v1/deployments", kViewer, kWorker, false, native::ListDeployments, "native",
       "The deployments: names that clients call, each of a model of the store, by name", nullptr,
       native::DeploymentListSchema, 200, false, "application/json", native::kPageQuery},
      {"POST", "/api/v1/deployments", kOperator, kSlow, false, native::CreateDeployment, "native",
       "Deploys a model under a name, with defaults, limits and its place in the pool",
       native::DeploymentRequestSchema, native::DeploymentSchema, 201},
      {"POST", "/api/v1/deployments/fit", kOperator, kSlow, false, native::CheckDeploymentFit, "native",
       "Whether a model fits the pool, also beside what is pinned", native::DeploymentFitRequestSchema,
       native::DeploymentFitSchema},
      {"GET", "/api/v1/deployments/{id...}", kViewer, kWorker, false, native::GetDeployment, "native",
       "One deployment, by its name", nullptr, native::DeploymentSchema},
      {"PATCH", "/api/v1/deployments/{id...}", kOperator, kSlow, false, native::ChangeDeployment, "native",
       "Changes a deployment: a merge patch, where null unsets; what runs goes on as it began",
       native::DeploymentChangeSchema, native::DeploymentSchema},
      {"DELETE", "/api/v1/deployments/{id...}", kOperator, kWorker, false, native::DeleteDeployment, "native",
       "Retires a deployment, and says who called it last; its model stays, what runs ends as it began",
       nullptr, native::DeploymentDeletedSchema},
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
      {"GET", "/api/v1/settings", kOperator, kWorker, false, native::Settings, "settings",
       "The settings in force", nullptr, native::SettingsSchema},
      {"PATCH", "/api/v1/settings", kOperator, kSlow, false, native::ChangeSettings, "settings",
       "Changes settings: for the next start, and at once where that can be", native::SettingsRequestSchema,
       native::SettingsSchema},
      {"GET", "/api/v1/doctor", kOperator, kSlow, false, native::Doctor, "native",
       "What the machine has and is able to do", nullptr, native::DoctorSchema},
      {"GET", "/api/v1/status", kOperator, kWorker, false, native::ServerStatus, "native",
       "The pool, its memory, the uptime", nullptr, native::StatusSchema},
      {"GET", "/api/v1/pool", kOperator, kWorker, false, native::Pool, "native",
       "The pool: budgets, device, and each model's residency, queue and policy", nullptr,
       native::PoolSchema},
      {"GET", "/api/v1/pool/events", kOperator, kWorker, false, native::PoolEventStream, "native",
       "The same as events, when it changes (at most four a second); model when one came, went or changed "
       "its "
       "state; and what the pool did, with its time: load, loaded, load_failed, load_stopped, evict, spill, "
       "restore, recompute, reject, switch, weights_lost",
       nullptr, nullptr, 200, true, "text/event-stream"},
      {"GET", "/api/v1/pool/history", kOperator, kWorker, false, native::PoolHistory, "native",
       "What was computed when (turns, pool.history_turns of them), and what the pool did", nullptr,
       native::PoolHistorySchema, 200, false, "application/json",
       "turns_after:integer events_after:integer limit:integer"},
      {"GET", "/api/v1/pool/trace", kOperator, kSlow, false, native::PoolTrace, "native",
       "The record of the scheduler's events and decisions (pool.trace_records), as JSON lines. In the audit "
       "log",
       nullptr, nullptr, 200, false, "application/x-ndjson"},
      {"GET", "/api/v1/pool/trace/requests", kOperator, kSlow, false, native::PoolTraceRequests, "native",
       "The requests in that record, as `tidepool sim --workload` reads them. In the audit log", nullptr,
       nullptr, 200, false, "application/x-ndjson"},
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

      {"GET", "/api/v1/conversations", kViewer, kWorker, false, native::ListConversations, "conversations",
       "One's own conversations: pinned, then newest first", nullptr, native::ConversationListSchema, 200,
       false, "application/json", "query after limit:integer"},
      {"POST", "/api/v1/conversations", kDeveloper, kWorker, false, native::CreateConversation,
       "conversations", "Begins a conversation", native::ConversationChangeSchema, native::ConversationSchema,
       201},
      {"GET", "/api/v1/conversations/{id}", kViewer, kWorker, false, native::GetConversation, "conversations",
       "A conversation with its tree of turns", nullptr, native::ConversationSchema},
      {"PATCH", "/api/v1/conversations/{id}", kViewer, kWorker, false, native::ChangeConversation,
       "conversations", "Title, pin, model, system prompt, sampling, or where the reader is",
       native::ConversationChangeSchema, native::ConversationDetailsSchema},
      {"DELETE", "/api/v1/conversations/{id}", kViewer, kWorker, false, native::DeleteConversation,
       "conversations", "Deletes a conversation with all its turns; what is being written stops", nullptr,
       native::DeletedSchema},
      {"POST", "/api/v1/conversations/{id}/turns", kDeveloper, kWorker, true, native::StartTurn,
       "conversations", "Says something, and has it answered on the server, whoever listens",
       native::NewTurnSchema, native::TurnsSchema, 201},
      {"POST", "/api/v1/conversations/{id}/turns/{turn}/stop", kViewer, kWorker, false, native::StopTurn,
       "conversations", "Stops an answer; what arrived is kept"},
      {"GET", "/api/v1/conversations/{id}/events", kViewer, kWorker, false, native::ConversationEvents,
       "conversations",
       "Events after that sequence: turn, delta, progress, conversation; reload: read the conversation again",
       nullptr, nullptr, 200, true, "text/event-stream", "after:integer"},
      {"GET", "/api/v1/conversations/{id}/export", kViewer, kWorker, false, native::ExportConversation,
       "conversations", "The branch as Markdown, or the whole tree as JSON (format=json). In the audit log",
       nullptr, nullptr, 200, false, "text/markdown", "format"},

      {"GET", "/api/v1/conversations/{id}/shares", kViewer, kWorker, false, native::ListShares,
       "conversations", "The links to a conversation of one's own that have not ended", nullptr,
       native::ShareListSchema},
      {"POST", "/api/v1/conversations/{id}/shares", kDeveloper, kWorker, false, native::CreateShare,
       "conversations",
       "A read-only link to a branch as it is now, for whoever holds it, where the workspace allows it; its "
       "token is shown once",
       native::ShareRequestSchema, native::CreatedShareSchema, 201},
      {"DELETE", "/api/v1/conversations/{id}/shares/{share}", kViewer, kWorker, false, native::RevokeShare,
       "conversations", "Takes a link back", nullptr, native::DeletedSchema},
      {"POST", "/api/v1/shared", kNone, kWorker, false, native::ReadShared, "conversations",
       "What a link shows, for whoever has its token", native::SharedRequestSchema, native::SharedSchema},

      {"GET", "/setup", kNone, kInline, false, native::SetupPage, "accounts",
       "The page that a link of the start, an invitation or a reset leads to", nullptr, nullptr, 200, false,
       "text/html"},
      Account("POST", "/api/v1/links/find", kNone, kWorker, native::FindLink, "What a link is for",
              native::LinkTokenSchema, native::LinkFoundSchema),
      Account("POST", "/api/v1/links/use", kNone, kSlow, native::UseLink,
              "Makes the owner or member, or sets the password, and signs in", native::LinkUseSchema,
              native::SignedInSchema, 201),
      Account("POST", "/api/v1/sessions", kNone, kSlow, native::SignIn, "Signs in: a session cookie",
              native::SignInSchema, native::SignedInSchema, 201),
      Account("GET", "/api/v1/sessions", kViewer, kWorker, native::ListSessions, "One's own sessions",
              nullptr, native::SessionListSchema),
      Account("GET", "/api/v1/sessions/current", kViewer, kWorker, native::CurrentSession,
              "Who is calling, and what they may do", nullptr, native::CurrentSessionSchema),
      Account("DELETE", "/api/v1/sessions/{id}", kViewer, kWorker, native::EndSession,
              "Ends one's own session (\"current\": this one)", nullptr, native::DeletedSchema),
      Account("POST", "/api/v1/password", kViewer, kSlow, native::ChangePassword,
              "Another password; ends one's other sessions", native::PasswordChangeSchema, nullptr),
      Account("GET", "/api/v1/organisations", kViewer, kWorker, native::ListOrganisations,
              "One's own organisation; all for the operator", nullptr, native::OrganisationListSchema, 200,
              "limit:integer after"),
      Account("POST", "/api/v1/organisations", kOperator, kWorker, native::CreateOrganisation,
              "A new organisation", native::OrganisationRequestSchema, native::OrganisationSchema, 201),
      Account("GET", "/api/v1/organisations/{id}", kViewer, kWorker, native::GetOrganisation,
              "One organisation", nullptr, native::OrganisationSchema),
      Account("PATCH", "/api/v1/organisations/{id}", kOwner, kWorker, native::ChangeOrganisation,
              "Another name; weight and suspension are the operator's", native::OrganisationChangeSchema,
              native::OrganisationSchema),
      Account("GET", "/api/v1/workspaces", kViewer, kWorker, native::ListWorkspaces,
              "The workspaces one is in; admins see their organisation's", nullptr,
              native::WorkspaceListSchema, 200, "limit:integer after organisation"),
      Account("POST", "/api/v1/workspaces", kAdmin, kWorker, native::CreateWorkspace, "A new workspace",
              native::WorkspaceRequestSchema, native::WorkspaceSchema, 201),
      Account("GET", "/api/v1/workspaces/{id}", kViewer, kWorker, native::GetWorkspace, "One workspace",
              nullptr, native::WorkspaceSchema),
      Account("PATCH", "/api/v1/workspaces/{id}", kAdmin, kWorker, native::ChangeWorkspace,
              "Another name, another share, whether conversations are shared and what is stored of requests",
              native::WorkspaceChangeSchema, native::ChangedWorkspaceSchema),
      Account("DELETE", "/api/v1/workspaces/{id}", kAdmin, kWorker, native::ArchiveWorkspace,
              "Archives a workspace: its keys stop, its usage stays, what was stored of its requests goes",
              nullptr, native::ChangedWorkspaceSchema),
      Account("GET", "/api/v1/members", kWorkspaceAdmin, kWorker, native::ListMembers,
              "The members of the workspace; admins see their organisation's", nullptr,
              native::MemberListSchema, 200, "limit:integer after workspace"),
      Account("GET", "/api/v1/members/{id}", kWorkspaceAdmin, kWorker, native::GetMember, "One member",
              nullptr, native::MemberSchema),
      Account("PATCH", "/api/v1/members/{id}", kWorkspaceAdmin, kWorker, native::ChangeMember, "Another role",
              native::MemberChangeSchema, native::MemberSchema),
      Account("DELETE", "/api/v1/members/{id}", kWorkspaceAdmin, kWorker, native::RemoveMember,
              "Ends a membership, and the personal keys with it", nullptr, native::DeletedSchema),
      Account("POST", "/api/v1/members/{id}/reset", kAdmin, kWorker, native::MakeResetLink,
              "A link with which a member sets a new password", nullptr, native::CreatedLinkSchema, 201),
      Account("GET", "/api/v1/invitations", kWorkspaceAdmin, kWorker, native::ListInvitations,
              "Invitations, used ones too", nullptr, native::LinkListSchema, 200, "limit:integer after"),
      Account("POST", "/api/v1/invitations", kWorkspaceAdmin, kWorker, native::CreateInvitation,
              "A link with which somebody becomes a member", native::InvitationRequestSchema,
              native::CreatedLinkSchema, 201),
      Account("DELETE", "/api/v1/invitations/{id}", kWorkspaceAdmin, kWorker, native::RemoveInvitation,
              "Takes an invitation back", nullptr, native::DeletedSchema),
      Account("GET", "/api/v1/keys", kDeveloper, kWorker, native::ListKeys,
              "One's own keys; admins see the workspace's", nullptr, native::KeyListSchema, 200,
              "limit:integer after workspace"),
      Account("POST", "/api/v1/keys", kDeveloper, kWorker, native::CreateKey, "A new key, shown once",
              native::KeyRequestSchema, native::CreatedKeySchema, 201),
      Account("GET", "/api/v1/keys/{id}", kDeveloper, kWorker, native::GetKey, "One key", nullptr,
              native::KeySchema),
      Account("PATCH", "/api/v1/keys/{id}", kDeveloper, kWorker, native::ChangeKey,
              "Another name, scope or expiry", native::KeyChangeSchema, native::KeySchema),
      Account("POST", "/api/v1/keys/{id}/rotate", kDeveloper, kWorker, native::RotateKey,
              "A new key with the same scope; the old one works on for overlap_s", native::KeyRotationSchema,
              native::CreatedKeySchema, 201),
      Account("DELETE", "/api/v1/keys/{id}", kDeveloper, kWorker, native::RevokeKey,
              "Revokes a key at once and cuts its streams", nullptr, native::KeySchema),
      Account("GET", "/api/v1/audit", kAdmin, kWorker, native::ListAudit,
              "What happened, newest first; the operator sees all organisations. As a file: format=csv, in "
              "the audit log",
              nullptr, native::AuditListSchema, 200, "limit:integer after organisation format"),
      Account("GET", "/api/v1/audit/verify", kOperator, kSlow, native::VerifyAudit,
              "Whether a row of the audit log was changed, removed, moved or cut off", nullptr,
              native::AuditVerdictSchema),
      Account("POST", "/api/v1/backup", kOperator, kSlow, native::Backup,
              "Copies the store to a file while serving (SQLite)", native::BackupRequestSchema,
              native::BackupSchema, 201),
      Account("GET", "/api/v1/secrets", kOperator, kWorker, native::ListSecrets,
              "The names of the secrets that are kept, encrypted", nullptr, native::SecretListSchema),
      Account("POST", "/api/v1/secrets", kOperator, kWorker, native::SetSecret,
              "Keeps a secret (hub.token: from the next start on)", native::SecretRequestSchema, nullptr),
      Account("DELETE", "/api/v1/secrets/{id}", kOperator, kWorker, native::RemoveSecret, "Forgets a secret",
              nullptr, native::DeletedSchema),

      {"GET", "/api/v1/usage", kViewer, kWorker, false, native::Usage, "money",
       "Sums of requests, tokens, device time and amounts, by group_by. As a file: format=csv, in the audit "
       "log",
       nullptr, native::UsageSchema, 200, false, "application/json", native::kUsageQuery},
      {"GET", "/api/v1/requests", kViewer, kWorker, false, native::ListRequests, "money",
       "Usage rows, newest first. As a file: format=csv, in the audit log", nullptr,
       native::RequestListSchema, 200, false, "application/json", native::kRequestsQuery},
      {"GET", "/api/v1/requests/running", kViewer, kWorker, false, native::ListRunningRequests, "money",
       "Requests that run or wait now, newest first: how far each is", nullptr,
       native::RunningRequestListSchema, 200, false, "application/json", native::kRunningQuery},
      {"POST", "/api/v1/requests/{id}/cancel", kDeveloper, kWorker, false, native::CancelRequest, "money",
       "Stops a request that runs or waits, by its X-Request-Id or its id in that list: one's own, as an "
       "admin "
       "those of the workspace or organisation; what was computed stays on the bill",
       nullptr, native::CancelledRequestSchema},
      {"GET", "/api/v1/requests/{id}", kViewer, kWorker, false, native::GetRequest, "money",
       "The usage row of a request, by its X-Request-Id or the row's id", nullptr, native::RequestSchema},
      {"GET", "/api/v1/requests/{id}/body", kDeveloper, kWorker, false, native::GetRequestBody, "money",
       "What a request said and was answered, redacted, where its workspace stores bodies: for admins, and "
       "for who sent "
       "it. In the audit log",
       nullptr, native::RequestBodySchema},
      {"DELETE", "/api/v1/requests/{id}/body", kDeveloper, kWorker, false, native::DeleteRequestBody, "money",
       "Deletes what is stored of it; its usage row stays"},
      {"GET", "/api/v1/query_range", kViewer, kSlow, false, native::QueryRange, "money",
       "History for charts: requests, errors, cancelled, prompt_tokens, cached_tokens, output_tokens, "
       "reasoning_tokens, total_tokens, device_seconds, amount, queue_seconds, ttft_seconds, decode_seconds, "
       "refusals",
       nullptr, native::RangeSchema, 200, false, "application/json", native::kRangeQuery},
      {"GET", "/api/v1/bills", kAdmin, kSlow, false, native::GetBill, "money",
       "A month's bill: lines by model, key and member, adjustments, totals. Whole, as a file: format=csv or "
       "json, in the audit log",
       nullptr, native::BillSchema, 200, false, "application/json", native::kBillQuery},
      {"GET", "/api/v1/bills/csv", kAdmin, kSlow, false, native::GetBillCsv, "money",
       "The same with format=csv", nullptr, nullptr, 200, false, "text/csv", "month organisation"},
      {"POST", "/api/v1/bills/adjustments", kOperator, kWorker, false, native::AdjustBill, "money",
       "A row of its own on a bill, with a reason", native::AdjustmentRequestSchema, native::AdjustmentSchema,
       201},
      {"GET", "/api/v1/limits", kViewer, kWorker, false, native::ListLimits, "money",
       "The limits one may see", nullptr, native::LimitListSchema, 200, false, "application/json",
       native::kLimitsQuery},
      {"PUT", "/api/v1/limits", kWorkspaceAdmin, kWorker, false, native::PutLimit, "money",
       "Sets the limit of a scope, for one model or all; what is not given is not limited",
       native::LimitRequestSchema, native::LimitSchema},
      {"DELETE", "/api/v1/limits", kWorkspaceAdmin, kWorker, false, native::DeleteLimit, "money",
       "Removes the limit of a scope", nullptr, nullptr, 200, false, "application/json", native::kLimitQuery},
      {"GET", "/api/v1/quotas", kViewer, kWorker, false, native::ListQuotas, "money",
       "The organisation's free quotas, by model", nullptr, native::QuotaListSchema, 200, false,
       "application/json", native::kQuotasQuery},
      {"PUT", "/api/v1/quotas", kAdmin, kWorker, false, native::PutQuota, "money",
       "Turns a free quota's stop switch; an operator also sets how much and until when",
       native::QuotaRequestSchema, native::QuotaSchema},
      {"GET", "/api/v1/budgets", kViewer, kWorker, false, native::ListBudgets, "money",
       "The budgets one may see", nullptr, native::BudgetListSchema, 200, false, "application/json",
       native::kPageQuery},
      {"POST", "/api/v1/budgets", kWorkspaceAdmin, kWorker, false, native::CreateBudget, "money",
       "What a scope may spend in a day or month", native::BudgetRequestSchema, native::BudgetSchema, 201},
      {"PUT", "/api/v1/budgets/{id}", kWorkspaceAdmin, kWorker, false, native::PutBudget, "money",
       "Changes a budget; what is spent stays", native::BudgetRequestSchema, native::BudgetSchema},
      {"DELETE", "/api/v1/budgets/{id}", kWorkspaceAdmin, kWorker, false, native::DeleteBudget, "money",
       "Removes a budget", nullptr, native::DeletedSchema},
      {"GET", "/api/v1/prices", kViewer, kWorker, false, native::ListPrices, "money",
       "The price book in force, and all versions", nullptr, native::PricesSchema, 200, false,
       "application/json", native::kPageQuery},
      {"POST", "/api/v1/prices", kOperator, kWorker, false, native::AddPrices, "money",
       "The next version of the price book; rows that are there never change", native::PriceBookSchema,
       native::StoredBookSchema, 201},
      {"POST", "/api/v1/prices/dry_run", kOperator, kSlow, false, native::DryRunPrices, "money",
       "What a month would have cost with another book", native::DryRunRequestSchema, native::DryRunSchema},
      {"GET", "/api/v1/webhook", kAdmin, kWorker, false, native::GetWebhook, "money",
       "Where the organisation is told of budgets and quotas", nullptr, native::WebhookSchema, 200, false,
       "application/json", "organisation"},
      {"PUT", "/api/v1/webhook", kAdmin, kWorker, false, native::PutWebhook, "money",
       "Sets it; the secret that signs is shown once", native::WebhookRequestSchema, native::WebhookSchema},
      {"DELETE", "/api/v1/webhook", kAdmin, kWorker, false, native::DeleteWebhook, "money", "Removes it"},
      {"POST", "/api/v1/webhook/test", kAdmin, kSlow, false, native::TestWebhook, "money",
       "Sends it a notice for trying, and tells what came of it", nullptr, native::WebhookTestSchema},
  };
  return kRoutes;
}

ErrorShape ErrorShapeOf(std::string_view target) {
  // The first that fits.
  static constexpr std::pair<std::string_view, ErrorShape> kPrefixes[] = {
      {"/api/v1/services/", bailian::ErrorReply},
      {"/api/v1", nullptr},
      {"/api/", ollama::ErrorReply},
      {"/anthropic/", anthropic::ErrorReply},
  };
  for (const auto& [prefix, shape] : kPrefixes) {
    if (target.starts_with(prefix)) return shape;
  }
  return nullptr;
}

}  // namespace tidepool::gateway
