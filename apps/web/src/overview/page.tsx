import { Pin, PinOff, TriangleAlert } from "lucide-react";
import { lazy, Suspense, type ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "react-router";
import { useBudgets, useChangePull, useLoadModel, useModels, usePoolCordon, usePoolPolicy, usePrices, usePulls, useSettings, useStatus, useUnloadModel, useUsageSince } from "../api/queries";
import { usePoolView, type PoolMoment } from "../api/pool_feed";
import { useNames } from "../account/names";
import type { Budget, PoolModel, PoolState } from "../api/types";
import { serverError } from "../i18n/server_texts";
import { modelColor } from "../ui/colors";
import { formatAttainment, formatBytes, formatCount, formatPercent, formatSeconds, grouped, significant } from "../ui/format";
import { Badge, Button, Empty, ErrorNote, errorText, IconButton, Loading, Meter, Page, Section, Stat, Table, type Tone } from "../ui/kit";
import { amountsText } from "../ui/money";
import { useDark } from "../ui/theme_hook";
import { MemoryPicture } from "./memory_picture";
import { onTimeShare, useRates } from "./rates";

const Chart = lazy(() => import("../ui/chart"));

export function stateTone(model: Pick<PoolModel, "state">): Tone {
  return model.state === "failed" || model.state === "quarantined" ? "bad" : model.state === "loading" ? "warn" : model.state === "ready" ? "good" : "neutral";
}

export function ModelDot({ id }: { id: string }) {
  useDark();
  return <span aria-hidden className="inline-block size-2.5 shrink-0 rounded-full" style={{ backgroundColor: modelColor(id) }} />;
}

// Where a model's weights are: in the pool, coming, in memory beside it, on disk.
export function PlacesBar({ model }: { model: PoolModel }) {
  const { t } = useTranslation();
  const { resident, loading, warm, cold } = model.bytes;
  const all = resident + loading + warm + cold;
  if (all === 0) return <span className="text-faint">–</span>;
  const text = ([["resident", resident], ["loading", loading], ["warm", warm], ["cold", cold]] as const)
    .filter(([, bytes]) => bytes > 0).map(([place, bytes]) => `${t(`place.${place}`)} ${formatBytes(bytes)}`).join(", ");
  return (
    <div role="img" aria-label={text} title={text} className="flex h-2 w-full min-w-16 overflow-hidden rounded-full bg-sunken">
      <div style={{ width: `${(resident / all) * 100}%`, backgroundColor: modelColor(model.id) }} className="transition-[width] duration-300" />
      <div style={{ width: `${(loading / all) * 100}%`, backgroundColor: modelColor(model.id) }} className="animate-pulse opacity-60 transition-[width] duration-300" />
      <div style={{ width: `${(warm / all) * 100}%`, backgroundColor: modelColor(model.id) }} className="opacity-30 transition-[width] duration-300" />
    </div>
  );
}

interface Concern { key: string; text: ReactNode; action?: ReactNode }

// By the name of what it is a budget of, where the caller may know it.
function BudgetConcern({ budget: { scope, block }, used }: { budget: Budget; used: number }) {
  const { t } = useTranslation();
  const names = useNames();
  const [kind = "", id = ""] = scope.split(/:(.*)/s);
  const named = kind === "key" || kind === "workspace" ? t(`overview.scope_${kind}`, { name: names(kind, id) ?? id }) : kind === "organisation" ? t("overview.scope_organisation") : scope;
  return <>{t(block && used >= 1 ? "overview.budgetGone" : "overview.budget", { scope: named, share: formatPercent(used) })}</>;
}

// Of the tokens that came while this page looked, at most the last five minutes; before any came, since the start.
function recentShare(moments: PoolMoment[]): number | null {
  const last = moments.at(-1);
  if (!last) return null;
  const first = moments.find((moment) => moment.atMs > last.atMs - 300_000)!;
  return onTimeShare({ on_time: Math.max(0, last.tokens.on_time - first.tokens.on_time), late: Math.max(0, last.tokens.late - first.tokens.late) }) ?? onTimeShare(last.tokens);
}
const worrying = 0.95;

function useConcerns(state: PoolState | null, share: number | null): Concern[] {
  const { t } = useTranslation();
  const cordon = usePoolCordon();
  const load = useLoadModel();
  const unload = useUnloadModel();
  // What was put aside is let go of first: then it is tried at once.
  const loadAgain = (id: string) => unload.mutate({ id, force: false }, { onSettled: () => load.mutate(id) });
  const change = useChangePull();
  const pulls = usePulls();
  const settings = useSettings();
  const budgets = useBudgets();
  const out: Concern[] = [];
  if (!state) return out;
  if (state.device.cordoned) {
    out.push({ key: "cordoned", text: t("overview.cordoned"), action: <Button busy={cordon.isPending} onClick={() => cordon.mutate(false)}>{t("overview.uncordon")}</Button> });
  }
  if (state.memory.over_bytes > 0) out.push({ key: "over", text: t("overview.over", { bytes: formatBytes(state.memory.over_bytes) }), action: <Link className="underline" to="/pool">{t("nav.pool")}</Link> });
  if (state.device.load > 1) out.push({ key: "load", text: t("overview.overloaded", { load: formatPercent(state.device.load) }), action: <Link className="underline" to="/planner">{t("nav.planner")}</Link> });
  else if (share !== null && share < worrying) out.push({ key: "late", text: t("overview.late", { share: formatPercent(1 - share) }), action: <Link className="underline" to="/pool">{t("overview.seeWhy")}</Link> });
  const waiting = (settings.data ?? []).filter((one) => one.next !== null);
  if (waiting.length > 0) out.push({ key: "settings", text: t("settings.waiting", { count: waiting.length, names: waiting.map((one) => one.id).join(", ") }), action: <Link className="underline" to="/settings">{t("nav.settings")}</Link> });
  for (const budget of budgets.data ?? []) {
    const used = Number(budget.amount) > 0 ? Number(budget.spent) / Number(budget.amount) : 0;
    if (used >= 0.8) out.push({ key: `budget ${budget.id}`, text: <BudgetConcern budget={budget} used={used} />, action: <Link className="underline" to="/limits">{t("nav.limits")}</Link> });
  }
  for (const model of state.models) {
    if (model.state !== "failed" && model.state !== "quarantined") continue;
    out.push({
      key: `model ${model.id}`, text: t("overview.modelFailed", { model: model.id, reason: model.error ? serverError(model.error) : model.state }),
      action: <Button busy={load.isPending && load.variables === model.id} onClick={() => loadAgain(model.id)}>{t("overview.tryAgain")}</Button>,
    });
  }
  for (const pull of pulls.data ?? []) {
    if (pull.state !== "failed" || !pull.id) continue;
    const id = pull.id;
    out.push({
      key: `pull ${id}`, text: t("overview.pullFailed", { model: pull.model ?? "", reason: pull.error ? serverError(pull.error) : "" }),
      action: <Button busy={change.isPending && change.variables.id === id} onClick={() => change.mutate({ id, change: "resume" })}>{t("overview.tryAgain")}</Button>,
    });
  }
  const problem = cordon.error ?? load.error ?? change.error;
  if (problem) out.push({ key: "problem", text: errorText(problem, t) });
  return out;
}

export function OverviewPage() {
  const { t } = useTranslation();
  const dark = useDark();
  const { state, moments, error } = usePoolView();
  const status = useStatus();
  const models = useModels(10_000);
  const points = useRates(moments);
  const policy = usePoolPolicy();
  const share = recentShare(moments);
  const concerns = useConcerns(state, share);
  const latest = points.at(-1);
  const today = useUsageSince(new Date().toISOString().slice(0, 10));
  const prices = usePrices();

  if (!state) {
    return <Page title={t("nav.overview")}>{error ? <ErrorNote error={error} /> : <Loading rows={6} />}</Page>;
  }
  const waiting = state.models.reduce((all, model) => all + model.waiting, 0);
  const active = state.models.reduce((all, model) => all + model.active, 0);
  const slacks = state.models.map((model) => model.slack_s).filter((slack): slack is number => slack !== null);
  const slack = slacks.length > 0 ? Math.min(...slacks) : null;
  const running = state.device.running;

  return (
    <Page title={t("nav.overview")} lead={
      <p className="flex flex-wrap items-center gap-x-2 gap-y-1">
        {concerns.length === 0 ? <Badge tone="good">{t("overview.well")}</Badge> : <Badge tone="warn">{t("overview.concerns", { count: concerns.length })}</Badge>}
        <span aria-live="off">
          {running ? t("overview.running", { model: running }) : active + waiting > 0 ? t("overview.waitingWork") : t("overview.idle")}
        </span>
        {status.data && <span className="text-faint"><span className="max-sm:hidden">· </span>{status.data.device}, {status.data.instruction_set} · {t("overview.up", { time: formatSeconds(status.data.uptime_s) })} · {status.data.version}</span>}
      </p>
    }>
      {error != null && <div className="mb-4"><ErrorNote error={error} /></div>}
      {concerns.length > 0 && (
        <ul className="mb-4 space-y-2" aria-label={t("overview.attention")}>
          {concerns.map((concern) => (
            <li key={concern.key} className="flex flex-wrap items-center gap-3 rounded-md bg-warn-soft px-3 py-2 text-sm">
              <TriangleAlert className="size-4 shrink-0 text-warn" aria-hidden />
              <span className="min-w-0 grow break-words">{concern.text}</span>
              {concern.action}
            </li>
          ))}
        </ul>
      )}
      <dl className="mb-5 grid grid-cols-2 gap-x-6 gap-y-4 sm:grid-cols-4 xl:grid-cols-8">
        <Stat label={t("overview.decode")} value={latest ? formatCount(Math.round(latest.decode)) : "–"} unit={t("unit.tokensPerS")} hint={t("overview.sinceStart", { tokens: formatCount(state.tokens.generated) })} />
        <Stat label={t("overview.prefill")} value={latest ? formatCount(Math.round(latest.prefill)) : "–"} unit={t("unit.tokensPerS")} hint={t("overview.sinceStart", { tokens: formatCount(state.tokens.computed - state.tokens.generated) })} />
        <Stat label={t("overview.requests")} value={`${active}`} hint={t("overview.queued", { count: waiting })} tone={waiting > 0 ? "warn" : undefined} />
        <Stat label={t("overview.onTime")} value={<span data-testid="on-time">{share === null ? "–" : formatAttainment(share)}</span>} tone={share === null ? undefined : share < worrying ? "bad" : "good"}
          hint={onTimeShare(state.tokens) === null ? t("overview.onTimeHint") : t("overview.onTimeSince", { share: formatAttainment(onTimeShare(state.tokens)!) })} />
        <Stat label={t("overview.slack")} value={slack === null ? "–" : formatSeconds(slack)} hint={t("overview.slackHint")} tone={slack === null ? undefined : slack < 0 ? "bad" : "good"} />
        <Stat label={t("overview.load")} value={formatPercent(state.device.load)} hint={t("overview.loadHint")} tone={state.device.load > 1 ? "bad" : undefined} />
        <Stat label={t("overview.switches")} value={grouped(state.counters.switches ?? 0)} hint={t("overview.switchShare", { share: formatPercent(state.device.switch_share) })} />
        <Stat label={t("overview.today")} value={<span data-testid="today">{today.data ? formatCount(today.data.prompt_tokens + today.data.output_tokens) : "–"}</span>} unit={t("unit.tokens")}
          hint={today.data && (prices.data?.priced ? amountsText([today.data]) : t("overview.todayUnpriced", { count: today.data.requests, formatted: grouped(today.data.requests) }))} />
      </dl>

      <Section title={t("overview.memory")} note={t("overview.memoryNote", { used: formatBytes(state.memory.used_bytes), limit: formatBytes(state.memory.limit_bytes) })}>
        <MemoryPicture state={state} dark={dark} />
        <div className="mt-4 grid grid-cols-1 gap-4 text-sm sm:grid-cols-2">
          {([["warm", state.warm], ["hostKv", state.host_kv]] as const).map(([name, budget]) => (
            <div key={name}>
              <div className="mb-1 flex justify-between gap-2"><span>{t(`overview.${name}`)}</span><span className="text-faint">{formatBytes(budget.used_bytes)} / {budget.limit_bytes > 0 ? formatBytes(budget.limit_bytes) : t("overview.noLimit")}</span></div>
              <Meter value={budget.used_bytes} max={budget.limit_bytes} label={t(`overview.${name}`)} />
            </div>
          ))}
        </div>
      </Section>

      <Section title={t("overview.modelsAtWork")}>
        {state.models.length === 0 || (models.data?.length === 0)
          ? <Empty title={t("overview.noModels")}><Link className="text-accent underline" to="/models">{t("overview.getModel")}</Link></Empty>
          : (
            <Table label={t("overview.modelsAtWork")} rows={state.models} keyOf={(model) => model.id} columns={[
              { head: t("models.model"), wide: true, cell: (model) => <span className="flex min-w-32 items-center gap-2"><ModelDot id={model.id} /><Link className="truncate hover:underline" to={`/models/${model.id}`}>{model.id}</Link></span> },
              { head: t("models.state"), cell: (model) => <Badge tone={stateTone(model)}>{t(`state.${model.state}`)}{model.state === "loading" ? ` ${formatPercent(model.load_share)}` : ""}</Badge> },
              { head: t("overview.where"), hide: "sm", cell: (model) => <div className="w-28"><PlacesBar model={model} /></div> },
              { head: t("overview.active"), right: true, cell: (model) => model.active },
              { head: t("overview.waiting"), right: true, cell: (model) => model.waiting },
              { head: t("overview.slack"), right: true, hide: "md", cell: (model) => (model.slack_s === null ? "–" : formatSeconds(model.slack_s)) },
              { head: t("overview.loads"), right: true, hide: "lg", cell: (model) => grouped(model.loads) },
              { head: t("overview.evictions"), right: true, hide: "lg", cell: (model) => grouped(model.evictions) },
              { head: "", right: true, cell: (model) => model.pooled && (
                <IconButton label={model.pinned ? t("models.unpin", { model: model.id }) : t("models.pin", { model: model.id })} aria-pressed={model.pinned} disabled={policy.isPending}
                  className={model.pinned ? "text-accent" : ""} onClick={() => policy.mutate({ model: model.id, pinned: !model.pinned })}>{model.pinned ? <PinOff /> : <Pin />}</IconButton>) },
            ]} />
          )}
        {policy.error != null && <div className="mt-2"><ErrorNote error={new Error(errorText(policy.error, t))} /></div>}
      </Section>

      <div className="grid grid-cols-1 gap-x-8 lg:grid-cols-2">
        <Section title={t("overview.speed")} note={t("overview.lastMinutes")}>
          <Suspense fallback={<Loading rows={3} />}>
            <Chart label={t("overview.speed")} times={points.map((point) => point.atS)} format={(value) => formatCount(Number(significant(value, 2)))}
              series={[
                { label: t("overview.decode"), color: "#129490", values: points.map((point) => point.decode), fill: true },
                { label: t("overview.prefill"), color: "#8d7fd8", values: points.map((point) => point.prefill) },
              ]} />
          </Suspense>
          <Legend items={[[t("overview.decode"), "#129490"], [t("overview.prefill"), "#8d7fd8"]]} />
        </Section>
        <Section title={t("overview.queueTitle")} note={t("overview.lastMinutes")}>
          <Suspense fallback={<Loading rows={3} />}>
            <Chart label={t("overview.queueTitle")} times={moments.map((moment) => moment.atMs / 1e3)} format={(value) => formatCount(Number(significant(value, 2)))}
              series={[
                { label: t("overview.active"), color: "#129490", values: moments.map((moment) => moment.active), fill: true },
                { label: t("overview.waiting"), color: "#c98a1b", values: moments.map((moment) => moment.waiting) },
              ]} />
          </Suspense>
          <Legend items={[[t("overview.active"), "#129490"], [t("overview.waiting"), "#c98a1b"]]} />
        </Section>
      </div>
    </Page>
  );
}

export function Legend({ items }: { items: [string, string][] }) {
  return (
    <ul className="mt-1 flex flex-wrap gap-x-4 text-xs text-soft">
      {items.map(([label, color]) => <li key={label} className="inline-flex items-center gap-1.5"><span aria-hidden className="h-0.5 w-3" style={{ backgroundColor: color }} />{label}</li>)}
    </ul>
  );
}
