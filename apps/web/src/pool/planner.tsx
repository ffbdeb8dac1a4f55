import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { postJson, type ReplyOf, send } from "../api/client";
import { formatCount, formatPercent, significant } from "../ui/format";
import { modelColor } from "../ui/colors";
import { Button, Empty, ErrorNote, Field, Input, Page, Section, Table } from "../ui/kit";

type Plan = ReplyOf<"/api/v1/plan", "post">;
type PlanRow = Plan["data"][number];

export function PlannerPage() {
  const { t } = useTranslation();
  const [trace, setTrace] = useState<{ name: string; text: string } | null>(null);
  const [chosen, setChosen] = useState(0);  // counts what was given back: a field of a file forgets it only when it is another field
  const seen = useMutation({
    mutationFn: async () => (await send("GET", "/api/v1/pool/trace/requests")).text(),
    onSuccess: (text) => { setChosen((old) => old + 1); setTrace({ name: "requests.jsonl", text }); },
  });
  const plan = useMutation({ mutationFn: (body: Record<string, unknown>) => postJson("/api/v1/plan", body) });
  return (
    <Page title={t("nav.planner")} lead={t("planner.lead")}>
      <form className="space-y-4" onSubmit={(event) => {
        event.preventDefault();
        const form = new FormData(event.currentTarget);
        const text = (name: string) => String(form.get(name) ?? "").trim();
        const number = (name: string) => (text(name) === "" ? {} : { [name]: Number(text(name)) });
        const body: Record<string, unknown> = { devices: text("devices"), models: text("models"), ...number("ttft_s"), ...number("tpot_s"), ...number("duration_s"), ...number("max_count"), chart: true };
        const share = text("share");
        if (share) body.share = Number(share) / 100;
        if (trace) body.trace = trace;
        else body.workload = text("workload");
        const prices = Object.fromEntries(text("prices").split(/[,\n]/).map((pair) => pair.split("=")).filter((pair) => pair.length === 2).map(([kind, price]) => [kind!.trim(), Number(price)]));
        if (Object.keys(prices).length > 0) body.prices = prices;
        plan.mutate(body);
      }}>
        <div className="grid grid-cols-1 gap-4 sm:grid-cols-2 lg:grid-cols-4">
          <Field label={t("planner.models")} help={t("planner.modelsHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="models" required defaultValue="mix:sosp25" />}</Field>
          <Field label={t("planner.workload")} help={trace ? t("planner.traceInstead", { name: trace.name }) : t("planner.workloadHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="workload" required={!trace} disabled={trace !== null} defaultValue="poisson:0.1x12" />}</Field>
          <Field label={t("planner.devices")} help={t("planner.devicesHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="devices" required defaultValue="H800,H20" />}</Field>
          <Field label={t("planner.prices")} help={t("planner.pricesHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="prices" placeholder="H800=2.5, H20=1.2" />}</Field>
          <Field label={t("policy.ttft_s")} help={t("policyHelp.ttft_s")}>{(id, note) => <Input id={id} aria-describedby={note} name="ttft_s" type="number" step="any" min="0.001" defaultValue="10" />}</Field>
          <Field label={t("policy.tpot_s")} help={t("policyHelp.tpot_s")}>{(id, note) => <Input id={id} aria-describedby={note} name="tpot_s" type="number" step="any" min="0.0001" defaultValue="0.1" />}</Field>
          <Field label={t("planner.share")} help={t("planner.shareHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="share" type="number" step="any" min="1" max="100" defaultValue="99" />}</Field>
          <Field label={t("planner.duration")} help={t("planner.durationHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="duration_s" type="number" step="any" min="1" defaultValue="300" />}</Field>
        </div>
        <Field label={t("planner.trace")} help={t("planner.traceHelp")}>
          {(id, note) => <Input key={chosen} id={id} aria-describedby={note} type="file" className="file:mr-3 file:cursor-pointer file:rounded file:border-0 file:bg-sunken file:px-2 file:py-0.5 file:text-ink" accept=".csv,.jsonl,.json,.txt" onChange={(event) => {
            const file = event.target.files?.[0];
            if (!file) return setTrace(null);
            void file.text().then((text) => setTrace({ name: file.name, text }));
          }} />}
        </Field>
        {seen.error && <ErrorNote error={seen.error} />}
        <div className="flex flex-wrap gap-2">
          <Button kind="primary" type="submit" busy={plan.isPending}>{t("planner.run")}</Button>
          <Button busy={seen.isPending} onClick={() => seen.mutate()}>{t("planner.seen")}</Button>
          {trace && <Button kind="quiet" onClick={() => { setChosen((old) => old + 1); setTrace(null); }}>{t("planner.without", { name: trace.name })}</Button>}
        </div>
      </form>
      <div className="mt-6">
        {plan.error && <ErrorNote error={plan.error} />}
        {plan.isPending && <p role="status" className="text-sm text-faint">{t("planner.running")}</p>}
        {!plan.data && !plan.isPending && !plan.error && <Empty title={t("planner.empty")}>{t("planner.emptyText")}</Empty>}
        {plan.data && <PlanView plan={plan.data} />}
      </div>
    </Page>
  );
}

function PlanView({ plan }: { plan: Plan }) {
  const { t } = useTranslation();
  const rows = plan.data ?? [];
  const most = Math.max(1, ...rows.flatMap((row) => [row.pooled?.devices ?? 0, row.dedicated?.devices ?? 0]));
  return (
    <>
      <Section title={t("planner.result")} note={t("planner.resultNote", { models: plan.models ?? 0, rate: significant(plan.requests_per_s ?? 0, 3), tokens: formatCount(plan.tokens_per_s ?? 0), share: formatPercent(plan.share ?? 0) })}>
        <div className="grid grid-cols-1 gap-6 md:grid-cols-2">
          {rows.map((row) => (
            <figure key={row.kind}>
              <figcaption className="mb-2 flex items-baseline gap-3"><span className="font-semibold">{row.kind}</span>{row.saving !== undefined && row.saving > 0 && <span className="text-sm text-good">{t("planner.saves", { share: formatPercent(row.saving) })}</span>}</figcaption>
              {(["pooled", "dedicated"] as const).map((kind) => {
                const devices = row[kind]?.devices ?? null;
                return (
                  <div key={kind} className="mb-1 flex items-center gap-2 text-sm">
                    <span className="w-24 shrink-0 text-faint">{t(`planner.${kind}`)}</span>
                    <div className="h-5 grow"><div className={kind === "pooled" ? "h-full rounded-sm bg-accent" : "h-full rounded-sm bg-line-strong"} style={{ width: `${((devices ?? 0) / most) * 100}%` }} /></div>
                    <span className="w-10 text-right font-medium">{devices ?? "–"}</span>
                  </div>
                );
              })}
            </figure>
          ))}
        </div>
      </Section>
      <Table label={t("planner.result")} rows={rows} keyOf={(row: PlanRow) => row.kind ?? ""} columns={[
        { head: t("planner.kind"), cell: (row: PlanRow) => row.kind },
        { head: t("planner.pooled"), right: true, cell: (row: PlanRow) => row.pooled?.devices ?? "–" },
        { head: t("planner.dedicated"), right: true, cell: (row: PlanRow) => row.dedicated?.devices ?? "–" },
        { head: t("planner.onTime"), right: true, cell: (row: PlanRow) => formatPercent(row.pooled?.tokens_on_time ?? 0) },
        { head: t("planner.atRisk"), right: true, hide: "sm", cell: (row: PlanRow) => (row.pooled?.at_risk ? `${formatPercent(row.pooled.at_risk.tokens_on_time ?? 0)} (${significant(row.pooled.at_risk.load ?? 0, 2)}×)` : "–") },
        { head: t("planner.perHour"), right: true, hide: "sm", cell: (row: PlanRow) => (row.pooled?.per_hour ? significant(row.pooled.per_hour, 3) : "–") },
        { head: t("planner.perMillion"), right: true, hide: "md", cell: (row: PlanRow) => (row.pooled?.per_million_tokens ? significant(row.pooled.per_million_tokens, 3) : "–") },
      ]} />
      {rows.map((row) => (row.placement?.length ?? 0) > 0 && (
        <Section key={row.kind} title={t("planner.placement", { kind: row.kind ?? "" })}>
          <ul className="grid grid-cols-1 gap-2 sm:grid-cols-2 lg:grid-cols-3">
            {row.placement!.map((device) => (
              <li key={device.device} className="text-sm">
                <div className="mb-1 flex justify-between text-faint"><span>{row.kind} {device.device}</span><span>{t("planner.busy", { share: formatPercent(device.busy ?? 0) })}</span></div>
                <div className="flex h-4 overflow-hidden rounded-sm bg-sunken">
                  {(device.models ?? []).map((model) => <div key={model.model} title={`${model.model} ${formatPercent(model.share ?? 0)}`} style={{ width: `${(model.share ?? 0) * (device.busy ?? 0) * 100}%`, backgroundColor: modelColor(model.model ?? "") }} />)}
                </div>
              </li>
            ))}
          </ul>
        </Section>
      ))}
    </>
  );
}
