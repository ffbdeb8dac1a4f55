// Names for the shapes that pages share: all of them from api/openapi.json.
import type { EventOf, ReplyOf, RowOf } from "./client";

export type StoredModel = RowOf<"/api/v1/models">;
export type CatalogueModel = RowOf<"/api/v1/catalogue">;
export type Pull = RowOf<"/api/v1/pulls">;
export type Deployment = RowOf<"/api/v1/deployments">;
export type DeploymentFit = ReplyOf<"/api/v1/deployments/fit", "post">;
export type BenchRow = ReplyOf<"/api/v1/bench", "post">["data"][number];

export type PoolState = ReplyOf<"/api/v1/pool", "get">;
export type Owner = PoolState["memory"]["owners"][number];
export type MemoryBudget = PoolState["warm"];
export type PoolModel = PoolState["models"][number];
export type ByPlace = PoolModel["bytes"];
// Since the start, as they happen. Of the generated ones, those that were promised a time came on time or late.
export type TokenCounts = PoolState["tokens"];
export type PoolTurn = ReplyOf<"/api/v1/pool/history", "get">["turns"][number];
export type PoolHappening = ReplyOf<"/api/v1/pool/history", "get">["events"][number];

export type ServerStatus = ReplyOf<"/api/v1/status", "get">;
export type DoctorReport = ReplyOf<"/api/v1/doctor", "get">;
export type Finding = DoctorReport["advice"][number];
export type Setting = RowOf<"/api/v1/settings">;
export type Session = ReplyOf<"/api/v1/sessions/current", "get">;

export type ApiKey = RowOf<"/api/v1/keys">;
export type Member = RowOf<"/api/v1/members">;
export type Workspace = RowOf<"/api/v1/workspaces">;
export type Organisation = RowOf<"/api/v1/organisations">;
export type AuditRow = RowOf<"/api/v1/audit">;
export type RequestRow = RowOf<"/api/v1/requests">;
export type UsageRow = RowOf<"/api/v1/usage">;
export type PriceBook = RowOf<"/api/v1/prices">;
export type Limit = RowOf<"/api/v1/limits">;
export type Budget = RowOf<"/api/v1/budgets">;
export type RunningRequest = RowOf<"/api/v1/requests/running">;
export type RangeSeries = RowOf<"/api/v1/query_range">;

export type Usage = NonNullable<EventOf<"ChatEvents", "chunk">["usage"]>;
// What a request came to, a decimal of its currency.
export type Cost = EventOf<"ChatEvents", "cost">;
export type Progress = EventOf<"ChatEvents", "progress">;
