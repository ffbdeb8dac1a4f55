import { MoreHorizontal, Pause, Pin, PinOff, Play, Rocket, Search, Trash2, Upload, X } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Link, useNavigate } from "react-router";
import { useChangePull, useDeleteModel, useLoadModel, useModels, usePoolOnce, usePoolPolicy, usePulls, useStartPull, useStatus, useUnloadModel } from "../api/queries";
import type { PoolModel, Pull, StoredModel } from "../api/types";
import { serverError } from "../i18n/server_texts";
import { useMay } from "../shell/session";
import { ModelDot, PlacesBar, stateTone } from "../overview/page";
import { formatBytes, formatCount, formatPercent, formatSeconds, significant } from "../ui/format";
import { Ago, Badge, Button, Dialog, Empty, ErrorNote, Field, IconButton, Input, Loading, Menu, Meter, Page, Section, Table } from "../ui/kit";
import { Catalogue, live } from "./catalogue";
import { DeploymentDialog, Deployments } from "./deployments";
import { expectedTokensPerS, neededBytes } from "./fit";
import { RetireDialog } from "./retire";

const phases = ["resolving", "waiting", "downloading", "verifying", "unpacking", "storing", "copying"] as const;

export function PullRow({ pull }: { pull: Pull }) {
  const { t } = useTranslation();
  const change = useChangePull();
  const id = pull.id ?? "";
  const done = pull.bytes_done ?? 0;
  const total = pull.bytes_total ?? 0;
  const rate = pull.bytes_per_s ?? 0;
  const problem = pull.error && serverError(pull.error);
  const phase = phases.find((one) => pull.phase?.startsWith(one));
  return (
    <li className="flex flex-wrap items-center gap-x-4 gap-y-1 py-2">
      <div className="min-w-0 grow basis-60">
        <div className="flex items-baseline gap-2"><span className="truncate font-medium">{pull.model}</span><span className="text-xs text-faint">{t(`pullState.${pull.state ?? "queued"}`)}{pull.phase && pull.state === "running" ? ` · ${phase ? t(`pullPhase.${phase}`) : pull.phase}` : ""}</span></div>
        {problem ? <p className="text-sm break-words text-bad">{problem}</p> : <Meter value={done} max={total || 1} label={t("models.progressOf", { model: pull.model ?? "" })} />}
      </div>
      <span className="text-sm whitespace-nowrap text-faint">
        {total > 0 ? `${formatBytes(done)} / ${formatBytes(total)} · ${formatPercent(done / total)}` : formatBytes(done)}
        {pull.state === "running" && rate > 0 && ` · ${formatBytes(rate)}/s${total > done ? ` · ${formatSeconds((total - done) / rate)}` : ""}`}
      </span>
      <span className="flex">
        {(pull.state === "running" || pull.state === "queued") && <IconButton label={t("models.pause")} onClick={() => change.mutate({ id, change: "pause" })}><Pause /></IconButton>}
        {(pull.state === "paused" || pull.state === "failed") && <IconButton label={t("models.resume")} onClick={() => change.mutate({ id, change: "resume" })}><Play /></IconButton>}
        {(live(pull) || pull.state === "failed") && <IconButton label={t("models.cancelPull")} onClick={() => change.mutate({ id, change: "cancel" })}><X /></IconButton>}
      </span>
      {change.error != null && <div className="w-full"><ErrorNote error={change.error} /></div>}
    </li>
  );
}

export function ModelsPage() {
  const { t } = useTranslation();
  const operator = useMay("operator");
  const navigate = useNavigate();
  const models = useModels(3_000);
  const pool = usePoolOnce(operator);
  const pulls = usePulls(operator);
  const status = useStatus();
  const bandwidth = status.data?.roofline.memory_bytes_per_s ?? 0;
  const load = useLoadModel();
  const unload = useUnloadModel();
  const remove = useDeleteModel();
  const policy = usePoolPolicy();
  const [retiring, setRetiring] = useState<StoredModel | null>(null);
  const [adding, setAdding] = useState(false);
  const [deploying, setDeploying] = useState<string | null>(null);  // the base; "": any
  const inPool = new Map((pool.data?.models ?? []).map((model) => [model.id, model]));
  const shownPulls = (pulls.data ?? []).filter((pull) => live(pull) || pull.state === "failed");
  const problem = load.error ?? unload.error ?? policy.error;
  return (
    <Page title={t("nav.models")} actions={operator && <Button kind="primary" onClick={() => setAdding(true)}><Upload className="size-4" aria-hidden />{t("models.add")}</Button>}>
      {shownPulls.length > 0 && (
        <Section title={t("models.pulls")}><ul className="divide-y divide-line">{shownPulls.map((pull) => <PullRow key={pull.id} pull={pull} />)}</ul></Section>
      )}
      <Section title={t("models.stored")} note={models.data && models.data.length > 0 && t("models.storedNote", { count: models.data.length, bytes: formatBytes(models.data.reduce((all, model) => all + (model.bytes ?? 0), 0)) })}>
        {problem != null && <div className="mb-2"><ErrorNote error={problem} /></div>}
        {models.isPending ? <Loading /> : models.error ? <ErrorNote error={models.error} retry={() => void models.refetch()} />
          : models.data.length === 0 ? <Empty title={t("models.none")}>{operator && t("models.noneText")}</Empty> : (
            <Table label={t("models.stored")} rows={models.data} keyOf={(model) => model.id ?? ""} columns={[
              { head: t("models.model"), wide: true, cell: (model) => <span className="flex min-w-36 items-center gap-2"><ModelDot id={model.id ?? ""} /><Link className="truncate font-medium hover:underline" to={`/models/${model.id}`}>{model.id}</Link></span> },
              { head: t("models.state"), cell: (model) => <Badge tone={stateTone({ state: model.state ?? "stored" })}>{t(`state.${model.state ?? "stored"}`)}{model.state === "loading" ? ` ${formatPercent(model.load_share ?? 0)}` : ""}</Badge> },
              ...(operator ? [{ head: t("overview.where"), hide: "md" as const, cell: (model: StoredModel) => <div className="w-24">{inPool.get(model.id ?? "") ? <PlacesBar model={inPool.get(model.id ?? "") as PoolModel} /> : <span className="text-faint">{t("place.cold")}</span>}</div> }] : []),
              { head: t("models.size"), right: true, cell: (model) => (model.bytes ? formatBytes(model.bytes) : "–") },
              { head: t("models.needed"), right: true, hide: "lg", cell: (model) => (model.bytes ? formatBytes(neededBytes(model.engine?.weight_bytes || model.bytes), 2) : "–") },
              { head: t("models.speed"), right: true, hide: "lg", cell: (model) => (model.bytes && bandwidth > 0 && model.generates !== false ? <span title={t("models.speedHelp")}>≤ {significant(expectedTokensPerS(model.engine?.weight_bytes || model.bytes, bandwidth), 2)}/s</span> : "–") },
              { head: t("models.parameters"), right: true, hide: "sm", cell: (model) => (model.parameters ? formatCount(model.parameters) : "–") },
              { head: t("models.quantisation"), hide: "md", cell: (model) => model.quantisation || "–" },
              { head: t("models.context"), right: true, hide: "lg", cell: (model) => formatCount(model.context_length ?? 0) },
              { head: t("models.licence"), hide: "lg", cell: (model) => <span className="block max-w-32 truncate" title={model.licence}>{model.licence || "–"}</span> },
              { head: t("models.added"), hide: "lg", cell: (model) => (model.created ? <Ago at={model.created} /> : "–") },
              { head: "", right: true, cell: (model) => {
                const id = model.id ?? "";
                const pinned = inPool.get(id)?.pinned ?? false;
                return operator && (
                  <Menu trigger={<IconButton label={t("models.actions", { model: id })}><MoreHorizontal /></IconButton>} items={[
                    { label: t("models.load"), icon: <Play />, disabled: model.state === "ready" || model.state === "loading", onSelect: () => load.mutate(id) },
                    { label: t("models.unload"), icon: <X />, disabled: model.state !== "ready" || id === "scripted", onSelect: () => unload.mutate({ id, force: false }) },
                    { label: pinned ? t("models.unpinShort") : t("models.pinShort"), icon: pinned ? <PinOff /> : <Pin />, disabled: id === "scripted", onSelect: () => policy.mutate({ model: id, pinned: !pinned }) },
                    { label: t("deployments.deployShort"), icon: <Rocket />, onSelect: () => setDeploying(id) },
                    { label: t("models.try"), icon: <Search />, onSelect: () => void navigate(`/playground?model=${encodeURIComponent(id)}`) },
                    "line",
                    { label: t("models.retire"), icon: <Trash2 />, danger: true, disabled: id === "scripted", onSelect: () => setRetiring(model) },
                  ]} />
                );
              } },
            ]} />
          )}
      </Section>
      <Deployments models={models.data ?? []} onDeploy={() => setDeploying("")} />
      {operator && <Catalogue stored={models.data ?? []} poolBytes={pool.data?.memory.limit_bytes ?? 0} pulls={pulls.data ?? []} />}
      <RetireDialog model={retiring} pool={retiring ? inPool.get(retiring.id ?? "") : undefined} busy={remove.isPending} error={remove.error}
        onClose={() => { setRetiring(null); remove.reset(); }} onConfirm={() => retiring && remove.mutate(retiring.id ?? "", { onSuccess: () => setRetiring(null) })} />
      <DeploymentDialog open={deploying !== null} deployment={null} base={deploying ?? ""} models={models.data ?? []} onClose={() => setDeploying(null)} />
      <AddDialog open={adding} onClose={() => setAdding(false)} />
    </Page>
  );
}

function AddDialog({ open, onClose }: { open: boolean; onClose: () => void }) {
  const { t } = useTranslation();
  const pull = useStartPull();
  return (
    <Dialog open={open} onClose={onClose} title={t("models.add")}>
      <form className="space-y-4" onSubmit={(event) => {
        event.preventDefault();
        const form = new FormData(event.currentTarget);
        const name = String(form.get("name") ?? "").trim();
        pull.mutate({ source: String(form.get("source") ?? "").trim(), ...(name ? { name } : {}) }, { onSuccess: onClose });
      }}>
        <Field label={t("models.source")} help={t("models.sourceHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="source" required autoFocus placeholder="org/repo:Q4_K_M" />}</Field>
        <Field label={t("models.nameAs")} help={t("models.nameAsHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="name" placeholder="name:tag" />}</Field>
        {pull.error && <ErrorNote error={pull.error} />}
        <div className="flex justify-end gap-2"><Button onClick={onClose}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={pull.isPending}>{t("models.pull")}</Button></div>
      </form>
    </Dialog>
  );
}
