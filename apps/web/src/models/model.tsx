import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Link, useNavigate, useParams } from "react-router";
import { postJson } from "../api/client";
import { fetchMetrics, quantileOf, type Sample, useDeleteModel, useLoadModel, useModels, usePoolOnce, useStatus, useUnloadModel } from "../api/queries";
import type { BenchRow, PoolModel } from "../api/types";
import { serverError } from "../i18n/server_texts";
import { RecentRequests } from "../account/requests";
import { onTimeShare } from "../overview/rates";
import { useMay } from "../shell/session";
import { ModelDot, PlacesBar, stateTone } from "../overview/page";
import { formatAttainment, formatBytes, formatCount, formatPercent, formatSeconds, formatTime, grouped, significant } from "../ui/format";
import { Badge, Button, CopyButton, Empty, ErrorNote, Loading, Page, Section, Stat, Table } from "../ui/kit";
import { DeploymentDialog } from "./deployments";
import { expectedTokensPerS, neededBytes } from "./fit";
import { RetireDialog } from "./retire";
import { PolicyForm } from "./policy_form";

export function ModelPage() {
  const { t } = useTranslation();
  const id = useParams()["*"] ?? "";
  const navigate = useNavigate();
  const models = useModels(2_000);
  const operator = useMay("operator");
  const pool = usePoolOnce(operator);
  const metrics = useQuery({ queryKey: ["metrics"], queryFn: ({ signal }) => fetchMetrics(signal), refetchInterval: 5_000, enabled: operator });
  const status = useStatus();
  const bandwidth = status.data?.roofline.memory_bytes_per_s ?? 0;
  const load = useLoadModel();
  const unload = useUnloadModel();
  const remove = useDeleteModel();
  const [retiring, setRetiring] = useState(false);
  const [deploying, setDeploying] = useState(false);
  const model = models.data?.find((one) => one.id === id);
  const state = pool.data?.models.find((one) => one.id === id);
  if (models.isPending) return <Page title={id}><Loading rows={5} /></Page>;
  if (models.error) return <Page title={id}><ErrorNote error={models.error} retry={() => void models.refetch()} /></Page>;
  if (!model) return <Page title={id}><Empty title={t("models.notHere", { model: id })}><Link className="text-accent underline" to="/models">{t("models.toModels")}</Link></Empty></Page>;
  const of = (name: string, more: Record<string, string> = {}) => (metrics.data ?? [])
    .filter((sample) => sample.name === name && sample.labels.model === id && Object.entries(more).every(([key, value]) => sample.labels[key] === value))
    .reduce((all, sample) => all + sample.value, 0);
  const prompt = of("tidepool_prompt_tokens_total");
  const cached = of("tidepool_cached_tokens_total");
  const weights = model.engine?.weight_bytes || model.bytes || 0;
  const problem = load.error ?? unload.error;
  const error = model.error;
  return (
    <Page title={id} actions={
      <>
        <Link to={`/playground?model=${encodeURIComponent(id)}`} className="inline-flex min-h-8 items-center rounded-md border border-line-strong bg-panel px-3 text-sm font-medium hover:bg-sunken">{t("models.try")}</Link>
        {operator && (model.state === "ready"
          ? <Button disabled={id === "scripted"} busy={unload.isPending} onClick={() => unload.mutate({ id, force: false })}>{t("models.unload")}</Button>
          : <Button busy={load.isPending || model.state === "loading"} onClick={() => load.mutate(id)}>{t("models.load")}</Button>)}
        {operator && <Button onClick={() => setDeploying(true)}>{t("deployments.deployShort")}</Button>}
        {operator && <Button kind="danger" disabled={id === "scripted"} onClick={() => setRetiring(true)}>{t("models.retire")}</Button>}
      </>
    } lead={<p className="flex flex-wrap items-center gap-2"><ModelDot id={id} /><Badge tone={stateTone({ state: model.state ?? "stored" })}>{t(`state.${model.state ?? "stored"}`)}</Badge><span className="text-faint">{[model.architecture, model.parameters ? formatCount(model.parameters) : "", model.quantisation, model.bytes ? formatBytes(model.bytes) : ""].filter(Boolean).join(" · ")}</span></p>}>
      {problem != null && <div className="mb-3"><ErrorNote error={problem} /></div>}
      {error && <p role="alert" className="mb-3 rounded-md bg-bad-soft px-3 py-2 text-sm break-words text-bad">{serverError(error)}{model.retry_in_s ? ` ${t("models.retryIn", { time: formatSeconds(model.retry_in_s) })}` : ""}</p>}
      {operator && <dl className="mb-5 grid grid-cols-2 gap-x-6 gap-y-4 sm:grid-cols-3 lg:grid-cols-6">
        <Stat label={t("model.requests")} value={grouped(of("tidepool_requests_total"))} hint={t("model.now", { active: state?.active ?? 0, waiting: state?.waiting ?? 0 })} />
        <Stat label={t("model.failed")} value={grouped(of("tidepool_requests_total", { finish: "error" }))} hint={t("model.cancelled", { count: of("tidepool_requests_total", { finish: "cancelled" }) })} tone={of("tidepool_requests_total", { finish: "error" }) > 0 ? "bad" : undefined} />
        <Stat label={t("model.promptTokens")} value={formatCount(prompt)} hint={prompt > 0 ? t("model.cachedShare", { share: formatPercent(cached / prompt) }) : undefined} />
        <Stat label={t("model.outputTokens")} value={formatCount(of("tidepool_completion_tokens_total"))} hint={t("model.reasoning", { tokens: formatCount(of("tidepool_reasoning_tokens_total")) })} />
        <Stat label={t("overview.loads")} value={grouped(state?.loads ?? 0)} hint={state && state.loads > 0 ? t("model.loadTime", { time: formatSeconds(state.load_seconds / state.loads) }) : undefined} />
        <Stat label={t("overview.evictions")} value={grouped(state?.evictions ?? 0)} />
      </dl>}
      {operator && <Latency id={id} samples={metrics.data ?? []} promise={state} />}
      {state && (
        <Section title={t("overview.where")}>
          <PlacesBar model={state} />
          <dl className="mt-3 grid grid-cols-2 gap-4 sm:grid-cols-4">
            {(["resident", "loading", "warm", "cold"] as const).map((place) => <Stat key={place} label={t(`place.${place}`)} value={formatBytes(state.bytes[place])} hint={t("model.segments", { count: state.segments[place] })} />)}
          </dl>
        </Section>
      )}
      {state?.pooled && <Section title={t("model.policy")} note={t("model.policyNote")}><PolicyForm key={id} model={state} /></Section>}
      {operator && <Bench id={id} generates={model.generates !== false} />}
      <RecentRequests model={id} />
      <Section title={t("model.facts")}>
        <dl className="grid grid-cols-1 gap-x-8 gap-y-1 text-sm sm:grid-cols-2">
          {([["format", model.format], ["architecture", model.architecture], ["quantisation", model.quantisation], ["context", grouped(model.context_length ?? 0)], ["needed", weights > 0 ? formatBytes(neededBytes(weights)) : "–"], ["speed", weights > 0 && bandwidth > 0 && model.generates !== false ? t("models.upTo", { speed: significant(expectedTokensPerS(weights, bandwidth), 2) }) : "–"], ["licence", model.licence], ["capabilities", model.capabilities?.join(", ").replaceAll("_", " ")], ["added", model.created ? formatTime(model.created) : "–"]] as const).map(([name, value]) => (
            <div key={name} className="flex justify-between gap-4 border-b border-line py-1.5"><dt className="text-faint">{t(`models.${name}`)}</dt><dd className="truncate">{value || "–"}</dd></div>
          ))}
          <div className="flex items-center justify-between gap-4 border-b border-line py-1 sm:col-span-2"><dt className="text-faint">{t("models.source")}</dt><dd className="flex min-w-0 items-center"><span className="truncate font-mono text-xs" title={model.source}>{model.source}</span><CopyButton text={model.source ?? ""} /></dd></div>
        </dl>
      </Section>
      <DeploymentDialog open={deploying} deployment={null} base={id} models={models.data} onClose={() => setDeploying(false)} />
      <RetireDialog model={retiring ? model : null} pool={state} busy={remove.isPending} error={remove.error} onClose={() => { setRetiring(false); remove.reset(); }}
        onConfirm={() => remove.mutate(id, { onSuccess: () => void navigate("/models") })} />
    </Page>
  );
}

function Latency({ id, samples, promise }: { id: string; samples: Sample[]; promise: PoolModel | undefined }) {
  const { t } = useTranslation();
  const rows = ([["ttft_s", "tidepool_ttft_seconds"], ["tpot_s", "tidepool_tpot_seconds"]] as const).map(([name, metric]) => ({ name, quantiles: [0.5, 0.95, 0.99].map((q) => quantileOf(samples, metric, { model: id }, q)) }));
  if (rows.every((row) => row.quantiles[0] === null)) return null;
  const share = promise?.engine ? onTimeShare({ on_time: promise.engine.tokens_on_time, late: promise.engine.tokens_late }) : null;
  return (
    <Section title={t("model.latency")} note={share === null ? t("model.latencyNote") : t("model.latencyShare", { share: formatAttainment(share) })}>
      <Table label={t("model.latency")} rows={rows} keyOf={(row) => row.name} columns={[
        { head: "", wide: true, cell: (row) => <span className="block min-w-20 whitespace-normal">{t(`model.${row.name}`)}</span> },
        ...["p50", "p95", "p99"].map((head, index) => ({ head, right: true, cell: (row: (typeof rows)[number]) => (row.quantiles[index] === null ? "–" : formatSeconds(row.quantiles[index]!)) })),
        { head: t("model.promised"), right: true, cell: (row) => (promise ? formatSeconds(promise[row.name]) : "–") },
      ]} />
    </Section>
  );
}

function Bench({ id, generates }: { id: string; generates: boolean }) {
  const { t } = useTranslation();
  const [rows, setRows] = useState<BenchRow[] | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const run = async () => {
    setBusy(true);
    setError(null);
    try {
      setRows((await postJson("/api/v1/bench", { model: id, prompt_tokens: 256, generate_tokens: 32, batch: generates ? [1, 4] : [], repeat: 1 })).data);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Section title={t("model.bench")} note={t("model.benchNote")} actions={<Button busy={busy} onClick={() => void run()}>{t("model.benchRun")}</Button>}>
      {error != null && <ErrorNote error={error} />}
      {rows && <Table label={t("model.bench")} rows={rows} keyOf={(row) => `${row.test}${row.batch}`} columns={[
        { head: t("model.test"), cell: (row) => (row.test === "prefill" ? t("overview.prefill") : t("overview.decode")) },
        { head: t("model.batch"), right: true, cell: (row) => row.batch },
        { head: t("unit.tokensPerS"), right: true, cell: (row) => significant(row.tokens_per_s, 3) },
        { head: t("model.shareOfLimit"), right: true, cell: (row) => formatPercent(row.share_of_limit) },
        { head: t("model.seconds"), right: true, cell: (row) => formatSeconds(row.seconds) },
      ]} />}
    </Section>
  );
}
