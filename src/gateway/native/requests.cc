// Requests in flight: what runs and waits, and stopping one.
#include <fmt/format.h>

#include "base/wall_clock.h"
#include "gateway/native/ledger_call.h"
#include "gateway/native/ledger_handlers.h"
#include "platform/inference/inference.h"
#include "platform/inference/requests_in_flight.h"

namespace tidepool::gateway::native {

using platform::RequestInFlight;

namespace {

Json RunningJson(const RequestInFlight& one, int64_t now_ms) {
  using Phase = compute::ProgressEvent::Phase;
  const bool shares = one.phase == Phase::kLoading || one.phase == Phase::kPrefill;
  return {{"id", one.id},
          {"request_id", one.request_id},
          {"started_at", SecondsJson(now_ms - static_cast<int64_t>(one.age_s * 1e3))},
          {"organisation", one.organisation},
          {"workspace", one.workspace},
          {"key", one.key},
          {"member", one.member.empty() ? Json(nullptr) : Json(one.member)},
          {"model", one.model},
          {"deployment", one.called == one.model ? Json(nullptr) : Json(one.called)},
          {"endpoint", one.endpoint},
          {"state", platform::ProgressPhaseName(one.phase)},
          {"queue_position", one.phase == Phase::kQueued ? Json(one.queue_position) : Json(nullptr)},
          {"share", shares ? Json(one.share) : Json(nullptr)},
          {"prompt_tokens", one.prompt_tokens},
          {"output_tokens", one.output_tokens},
          {"stopped", one.stopped}};
}

// The same conditions as those of rows. Time is none of them: what runs is of now.
platform::RequestsInFlight::Wanted WantedBy(const platform::UsageFilter& filter) {
  return [filter](const RequestInFlight& one) {
    const auto is = [](const std::string& wanted, const std::string& value) {
      return wanted.empty() || wanted == value;
    };
    return is(filter.organisation, one.organisation) && is(filter.workspace, one.workspace) &&
           is(filter.key, one.key) && is(filter.member, one.member) && is(filter.endpoint, one.endpoint) &&
           (is(filter.model, one.model) || filter.model == one.called);
  };
}

// Whose request may this caller stop? One's own; an admin those of the workspace or organisation.
bool MayStop(const platform::Principal& p, const RequestInFlight& one) {
  if (p.is_operator) return true;
  if (one.organisation != p.organisation) return false;
  if (IsOrganisationAdmin(p)) return true;
  if (one.workspace != p.workspace) return false;
  if (p.role == platform::Role::kWorkspaceAdmin) return true;
  return p.member.empty() ? one.key == p.key : one.member == p.member;
}

}  // namespace

void ListRunningRequests(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const platform::UsageFilter filter, FilterOf(call));
    TP_ASSIGN(const platform::Page page, call.Page());
    Json out;
    out["data"] = Json::array();
    size_t all = 0;
    if (platform::RequestsInFlight* in_flight = call.services.inference.in_flight(); in_flight != nullptr) {
      const int64_t now_ms = SystemWallClock().unix_ms();
      for (const RequestInFlight& one :
           in_flight->List(WantedBy(filter), static_cast<size_t>(page.limit), &all)) {
        Json item = RunningJson(one, now_ms);
        item["may_cancel"] = MayStop(call.caller.principal, one);
        out["data"].push_back(std::move(item));
      }
    }
    out["total"] = all;
    return out;
  });
}

void CancelRequest(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    const std::string id = call.Id();
    const platform::Principal& p = call.caller.principal;
    std::vector<RequestInFlight> stopped;
    if (platform::RequestsInFlight* in_flight = call.services.inference.in_flight(); in_flight != nullptr) {
      stopped = in_flight->Stop([&](const RequestInFlight& one) {
        return (one.id == id || one.request_id == id) && MayStop(p, one);
      });
    }
    // Another's that one may only look at is not told from one that there is not.
    if (stopped.empty()) {
      return Fail(ErrorKind::kNotFound, "request_not_running",
                  fmt::format("No request \"{}\" of yours runs; it may have ended.", id.substr(0, 100)),
                  "id");
    }
    for (const RequestInFlight& one : stopped) {
      platform::AuditActor actor = call.caller.actor;
      actor.organisation = one.organisation;
      actor.workspace = one.workspace;
      call.audit().RecordLater(
          actor, "request.cancelled", one.request_id, nullptr,
          {{"model", one.model}, {"key", one.key}, {"output_tokens", one.output_tokens}});
    }
    Json out;
    out["id"] = id;
    out["cancelled"] = stopped.size();
    return out;
  });
}

Json RunningRequestListSchema() {
  Json item = SchemaLike(RunningJson({}, 0));
  item["properties"]["started_at"]["type"] = "number";
  item["properties"]["state"] = Json{{"enum", {"queued", "loading", "prefill", "decode"}}};
  item["properties"]["deployment"]["description"] = "the name it was called by, if that is a deployment's";
  item["properties"]["queue_position"] =
      Json{{"type", {"integer", "null"}}, {"description", "requests ahead, while queued"}};
  item["properties"]["share"] =
      Json{{"type", {"number", "null"}}, {"description", "0 to 1, while loading or in prefill"}};
  item["properties"]["may_cancel"]["type"] = "boolean";
  return Json{{"type", "object"},
              {"properties",
               {{"data", {{"type", "array"}, {"items", std::move(item)}}},
                {"total", {{"type", "integer"}, {"description", "how many there are, shown or not"}}}}}};
}
Json CancelledRequestSchema() {
  return Json::parse(R"json({"type": "object", "properties": {"id": {"type": "string"},
    "cancelled": {"type": "integer", "description": "how many were told to stop"}}})json");
}

}  // namespace tidepool::gateway::native
