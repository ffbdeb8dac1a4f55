import { SlidersHorizontal } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "react-router";
import { usePoolCordon, usePoolResize } from "../api/queries";
import { usePoolView } from "../api/pool_feed";
import { usePoolHistory } from "../api/pool_history";
import { SettingList } from "../account/setting";
import { PolicyForm } from "../models/policy_form";
import type { PoolModel } from "../api/types";
import { ModelDot } from "../overview/page";
import { MemoryPicture } from "../overview/memory_picture";
import { onTimeShare } from "../overview/rates";
import { formatAttainment, formatBytes, formatCount, formatPercent, formatSeconds, grouped, significant } from "../ui/format";
import { Ago, Badge, Button, Confirm, Dialog, Empty, ErrorNote, Field, IconButton, Input, Loading, Page, Section, Stat, Table } from "../ui/kit";
import { useDark } from "../ui/theme_hook";
import { Gantt } from "./gantt";

const policySettings = ["pool.ttft_s", "pool.tpot_s", "pool.admission_load", "pool.age_bound_s", "pool.overcommit", "pool.open_answer_tokens", "models.idle_ttl_s", "models.min_resident_s", "models.pin", "models.schedule"];

const events = ["load", "loaded", "load_failed", "load_stopped", "evict", "spill", "restore", "recompute", "reject", "switch", "weights_lost"] as const;
const reasons = ["turn", "continue", "urgent", "prewarm", "pinned", "idle", "more_slack", "expired", "drain", "room", "move", "overloaded", "too_large", "quarantined", "no_device"] as const;

export function PoolPage() {
  const { t } = useTranslation();
  const dark = useDark();
  const { state, error } = usePoolView();
  const history = usePoolHistory();
  const cordon = usePoolCordon();
  const [cordoning, setCordoning] = useState(false);
  const [editing, setEditing] = useState<PoolModel | null>(null);
  if (!state) return <Page title={t("nav.pool")}>{error ? <ErrorNote error={error} /> : <Loading rows={6} />}</Page>;
  const models = state.models.map((model) => ({ id: model.id, resident: model.segments.resident, segments: model.segments.resident + model.segments.loading + model.segments.warm + model.segments.cold }));
  const counters = state.counters;
  const eventName = (name: string) => { const known = events.find((one) => one === name); return known ? t(`pool.event_${known}`) : name; };
  const reasonName = (name = "") => { const known = reasons.find((one) => one === name); return known ? t(`pool.reason_${known}`) : name; };
  return (
    <Page title={t("nav.pool")} actions={
      state.device.cordoned
        ? <Button busy={cordon.isPending} onClick={() => cordon.mutate(false)}>{t("overview.uncordon")}</Button>
        : <Button onClick={() => setCordoning(true)}>{t("pool.cordon")}</Button>
    } lead={<p className="flex flex-wrap items-center gap-2">{state.device.cordoned ? <Badge tone="warn">{t("pool.cordoned")}</Badge> : <Badge tone="good">{t("pool.open")}</Badge>}<span>{t("pool.policy", { policy: state.policy })}</span></p>}>
      {error != null && <div className="mb-3"><ErrorNote error={error} /></div>}
      <Section title={t("pool.gantt")} note={t("pool.ganttNote")}>
        {models.length === 0 && history.turns.length === 0 ? <Empty title={t("overview.noModels")}><Link className="text-accent underline" to="/models">{t("overview.getModel")}</Link></Empty>
          : (
            <>
              <Gantt models={models} history={history} dark={dark} />
              <ul className="mt-2 flex flex-wrap gap-x-4 text-xs text-faint">
                <li>{t("pool.legendRun")}</li><li>{t("pool.legendResident")}</li>
                <li className="inline-flex items-center gap-1"><span aria-hidden className="h-3 w-0.5 bg-good" />{t("pool.legendLoad")}</li>
                <li className="inline-flex items-center gap-1"><span aria-hidden className="h-3 w-0.5 bg-warn" />{t("pool.legendEvict")}</li>
                <li className="inline-flex items-center gap-1"><span aria-hidden className="size-1.5 bg-bad" />{t("pool.legendLate")}</li>
              </ul>
            </>
          )}
      </Section>
      <Section title={t("pool.counters")}>
        <dl className="grid grid-cols-2 gap-x-6 gap-y-4 sm:grid-cols-4 lg:grid-cols-8">
          <Stat label={t("pool.turns")} value={grouped(counters.turns ?? 0)} />
          <Stat label={t("overview.switches")} value={grouped(counters.switches ?? 0)} hint={t("pool.perS", { rate: significant(state.device.switches_per_s, 2) })} />
          <Stat label={t("pool.switchShare")} value={formatPercent(state.device.switch_share)} />
          <Stat label={t("overview.loads")} value={grouped(counters.loads ?? 0)} hint={formatBytes(counters.bytes_loaded ?? 0)} />
          <Stat label={t("overview.evictions")} value={grouped(counters.evictions ?? 0)} />
          <Stat label={t("pool.spills")} value={grouped(counters.spills ?? 0)} hint={formatBytes(counters.bytes_spilled ?? 0)} />
          <Stat label={t("pool.refused")} value={grouped(counters.rejected ?? 0)} tone={(counters.rejected ?? 0) > 0 ? "warn" : undefined} />
          <Stat label={t("pool.decisions")} value={formatCount(counters.decisions ?? 0)} />
        </dl>
      </Section>
      <Section title={t("overview.memory")} note={t("overview.memoryNote", { used: formatBytes(state.memory.used_bytes), limit: formatBytes(state.memory.limit_bytes) })}>
        <MemoryPicture state={state} dark={dark} />
      </Section>
      {state.models.length > 0 && <Section title={t("pool.models")}>
        <Table label={t("pool.models")} rows={state.models} keyOf={(model) => model.id} columns={[
          { head: t("models.model"), wide: true, cell: (model) => <span className="flex min-w-32 items-center gap-2"><ModelDot id={model.id} /><Link className="truncate hover:underline" to={`/models/${model.id}`}>{model.id}</Link></span> },
          { head: t("overview.slack"), right: true, cell: (model) => <span className={model.slack_s !== null && model.slack_s < 0 ? "text-bad" : ""}>{model.slack_s === null ? "–" : formatSeconds(model.slack_s)}</span> },
          { head: t("pool.share"), right: true, cell: (model) => formatPercent(model.load) },
          { head: t("overview.onTime"), right: true, hide: "sm", cell: (model) => { const share = model.engine ? onTimeShare({ on_time: model.engine.tokens_on_time, late: model.engine.tokens_late }) : null; return share === null ? "–" : formatAttainment(share); } },
          { head: t("policy.ttft_s"), right: true, hide: "sm", cell: (model) => formatSeconds(model.ttft_s) },
          { head: t("policy.tpot_s"), right: true, hide: "sm", cell: (model) => formatSeconds(model.tpot_s) },
          { head: t("policy.weight"), right: true, hide: "md", cell: (model) => significant(model.weight, 2) },
          { head: t("pool.spilled"), right: true, hide: "md", cell: (model) => model.spilled },
          { head: t("pool.arrivals"), right: true, hide: "lg", cell: (model) => grouped(model.arrivals) },
          { head: t("pool.pin"), hide: "md", cell: (model) => (model.pinned ? t(`pinned.${model.pinned_by}`) : "–") },
          { head: "", right: true, cell: (model) => model.pooled && <IconButton label={t("pool.editPolicy", { model: model.id })} onClick={() => setEditing(model)}><SlidersHorizontal /></IconButton> },
        ]} />
      </Section>}
      <Budgets state={state} />
      <Section title={t("pool.policySettings")} note={t("pool.policySettingsNote")}><SettingList ids={policySettings} /></Section>
      <Section title={t("pool.happenings")}>
        {history.happenings.length === 0 ? <p className="text-sm text-faint">{t("pool.nothingYet")}</p> : (
          <ul className="max-h-72 divide-y divide-line overflow-y-auto text-sm" tabIndex={0} aria-label={t("pool.happenings")}>
            {history.happenings.slice(-200).reverse().map((happening) => (
              <li key={happening.number} className="flex gap-3 py-1"><span className="w-32 shrink-0 text-faint"><Ago at={happening.time} /></span><span className="w-32 shrink-0 font-medium">{eventName(happening.event)}</span>
                <span className="min-w-0 truncate text-soft">{[happening.model, reasonName(happening.reason), happening.bytes ? formatBytes(happening.bytes) : "", happening.seconds ? formatSeconds(happening.seconds) : ""].filter(Boolean).join(" · ")}</span></li>
            ))}
          </ul>
        )}
      </Section>
      <Confirm open={cordoning} title={t("pool.cordon")} text={t("pool.cordonText")} action={t("pool.cordon")} busy={cordon.isPending} error={cordon.error} onClose={() => setCordoning(false)}
        onConfirm={() => cordon.mutate(true, { onSuccess: () => setCordoning(false) })} />
      <Dialog open={editing !== null} onClose={() => setEditing(null)} title={t("pool.editPolicy", { model: editing?.id ?? "" })} wide>{editing && <><p className="mb-4 text-sm text-soft">{t("model.policyNote")}</p><PolicyForm model={editing} /></>}</Dialog>
    </Page>
  );
}

function Budgets({ state }: { state: NonNullable<ReturnType<typeof usePoolView>["state"]> }) {
  const { t } = useTranslation();
  const resize = usePoolResize();
  const names = [["memory", state.memory], ["warm_memory", state.warm], ["host_kv", state.host_kv]] as const;
  return (
    <Section title={t("pool.budgets")} note={t("pool.budgetsNote")}>
      <form className="space-y-3" onSubmit={(event) => {
        event.preventDefault();
        const form = new FormData(event.currentTarget);
        resize.mutate(Object.fromEntries(names.flatMap(([name]) => { const text = String(form.get(name) ?? "").trim(); return text ? [[name, text]] : []; })));
      }}>
        <div className="grid grid-cols-1 gap-3 sm:grid-cols-3">
          {names.map(([name, budget]) => <Field key={name} label={t(`budget.${name}`)} help={t("pool.budgetNow", { limit: formatBytes(budget.limit_bytes), used: formatBytes(budget.used_bytes) })}>{(id, note) => <Input id={id} aria-describedby={note} name={name} placeholder={t("pool.budgetExample")} />}</Field>)}
        </div>
        {resize.error && <ErrorNote error={resize.error} />}
        {resize.isSuccess && <p role="status" className="text-sm text-good">{t(resize.data.draining ? "pool.draining" : "pool.resized")}</p>}
        <Button type="submit" busy={resize.isPending}>{t("common.apply")}</Button>
      </form>
    </Section>
  );
}
