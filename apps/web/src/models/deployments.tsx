// Deployments: names that clients call, each of a stored model with defaults, limits and a place in the pool.
import { MoreHorizontal, Pencil, Pin, PinOff, Rocket, Search, Trash2 } from "lucide-react";
import { Fragment, useState } from "react";
import { useTranslation } from "react-i18next";
import { useNavigate } from "react-router";
import { useChangeDeployment, useCreateDeployment, useDeleteDeployment, useDeployments, useFit } from "../api/queries";
import type { Deployment, StoredModel } from "../api/types";
import { useNames } from "../account/names";
import { ModelDot, stateTone } from "../overview/page";
import { useMay } from "../shell/session";
import { formatBytes, formatCount, formatTime } from "../ui/format";
import { Ago, Badge, Button, Confirm, Dialog, Empty, ErrorNote, Field, IconButton, Input, Loading, Menu, Section, Select, Table, TextArea } from "../ui/kit";

export function Deployments({ models, onDeploy }: { models: StoredModel[]; onDeploy: () => void }) {
  const { t } = useTranslation();
  const operator = useMay("operator");
  const navigate = useNavigate();
  const deployments = useDeployments(5_000);
  const change = useChangeDeployment();
  const [editing, setEditing] = useState<Deployment | null>(null);
  const [retiring, setRetiring] = useState<Deployment | null>(null);
  return (
    <Section title={t("deployments.title")} note={t("deployments.note")} actions={operator && models.length > 0 && <Button onClick={onDeploy}><Rocket className="size-4" aria-hidden />{t("deployments.deploy")}</Button>}>
      {change.error && <div className="mb-2"><ErrorNote error={change.error} /></div>}
      {deployments.isPending ? <Loading rows={2} /> : deployments.error ? <ErrorNote error={deployments.error} retry={() => void deployments.refetch()} />
        : deployments.data.length === 0 ? <Empty title={t("deployments.none")}>{operator && t("deployments.noneText")}</Empty> : (
          <Table label={t("deployments.title")} rows={deployments.data} keyOf={(one) => one.name ?? ""} columns={[
            { head: t("deployments.name"), wide: true, cell: (one) => <span className="flex min-w-36 items-center gap-2" title={one.description}><ModelDot id={one.base ?? ""} /><span className="truncate font-medium">{one.name}</span></span> },
            { head: t("deployments.base"), cell: (one) => <span className="block max-w-48 truncate">{one.base}</span> },
            { head: t("models.state"), cell: (one) => (one.state === "missing" ? <Badge tone="bad">{t("deployments.missing")}</Badge> : <Badge tone={stateTone({ state: one.state ?? "stored" })}>{t(`state.${one.state ?? "stored"}`)}</Badge>) },
            { head: t("deployments.kept"), hide: "sm", cell: (one) => (one.pinned ? t("deployments.pinned") : "–") },
            { head: t("models.context"), right: true, hide: "md", cell: (one) => formatCount(one.context_length ?? 0) },
            { head: t("deployments.maxOutput"), right: true, hide: "lg", cell: (one) => (one.max_output_tokens ? formatCount(one.max_output_tokens) : "–") },
            // Who else calls it, and when, is the operator's to see.
            ...(operator ? [{ head: t("keys.lastUsed"), hide: "md" as const, cell: (one: Deployment) => (one.last_used_at ? <Ago at={one.last_used_at} /> : t("keys.never")) }] : []),
            { head: "", right: true, cell: (one) => {
              const name = one.name ?? "";
              return operator && (
                <Menu trigger={<IconButton label={t("models.actions", { model: name })}><MoreHorizontal /></IconButton>} items={[
                  { label: t("deployments.edit"), icon: <Pencil />, onSelect: () => setEditing(one) },
                  { label: one.pinned ? t("models.unpinShort") : t("models.pinShort"), icon: one.pinned ? <PinOff /> : <Pin />, onSelect: () => change.mutate({ name, change: { pinned: !one.pinned } }) },
                  { label: t("models.try"), icon: <Search />, onSelect: () => void navigate(`/playground?model=${encodeURIComponent(name)}`) },
                  "line",
                  { label: t("models.retire"), icon: <Trash2 />, danger: true, onSelect: () => setRetiring(one) },
                ]} />
              );
            } },
          ]} />
        )}
      <DeploymentDialog open={editing !== null} deployment={editing} base="" models={models} onClose={() => setEditing(null)} />
      <RetireDeployment deployment={retiring} onClose={() => setRetiring(null)} />
    </Section>
  );
}

function RetireDeployment({ deployment, onClose }: { deployment: Deployment | null; onClose: () => void }) {
  const { t } = useTranslation();
  const remove = useDeleteDeployment();
  const users = deployment?.used_by ?? [];
  const names = useNames();
  return (
    <Confirm open={deployment !== null} title={t("models.retireTitle", { model: deployment?.name ?? "" })} action={t("models.retire")} busy={remove.isPending} error={remove.error}
      onClose={() => { remove.reset(); onClose(); }} onConfirm={() => deployment && remove.mutate(deployment.name ?? "", { onSuccess: onClose })}
      text={
        <div className="space-y-2">
          <p>{t("deployments.retireText", { base: deployment?.base ?? "" })}</p>
          {users.length === 0 ? <p>{t("deployments.neverUsed")}</p> : (
            <>
              <p className="text-bad">{t("deployments.usedBy")}</p>
              <ul className="space-y-1">
                {users.slice(0, 5).map((one) => (
                  <li key={`${one.workspace}/${one.member}/${one.key}`} className="flex flex-wrap justify-between gap-x-3">
                    <span className="min-w-0 truncate" title={`${one.member} ${one.key} · ${one.workspace}`}>{(one.member && names("member", one.member)) || (names("key", one.key) ?? (one.member || one.key))} · {names("workspace", one.workspace) ?? one.workspace}</span>
                    <span className="text-xs text-faint" title={formatTime(one.last_used_at ?? 0)}>{t("deployments.times", { count: one.requests ?? 0 })} · <Ago at={one.last_used_at ?? 0} /></span>
                  </li>
                ))}
              </ul>
            </>
          )}
        </div>} />
  );
}

const defaultNumbers = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "max_tokens", "reasoning_budget"] as const;

// A number, or null for an empty field: unset.
const numberIn = (form: FormData, name: string) => {
  const text = String(form.get(name) ?? "").trim();
  return text === "" ? null : Number(text);
};
const textOf = (value: number | null | undefined) => (value === null || value === undefined ? "" : String(value));

// With a deployment it is changed, without one another is made.
export function DeploymentDialog({ open, deployment, base, models, onClose }: { open: boolean; deployment: Deployment | null; base: string; models: StoredModel[]; onClose: () => void }) {
  const { t } = useTranslation();
  return (
    <Dialog wide open={open} onClose={onClose} title={deployment ? t("deployments.editTitle", { name: deployment.name ?? "" }) : t("deployments.deployTitle")}>
      <DeploymentForm key={deployment?.name ?? base} deployment={deployment} base={base} models={models} onClose={onClose} />
    </Dialog>
  );
}

function DeploymentForm({ deployment, base, models, onClose }: { deployment: Deployment | null; base: string; models: StoredModel[]; onClose: () => void }) {
  const { t } = useTranslation();
  const create = useCreateDeployment();
  const change = useChangeDeployment();
  const [model, setModel] = useState(deployment?.base ?? (base || models[0]?.id || ""));
  const [pinned, setPinned] = useState(deployment?.pinned ?? false);
  const fit = useFit(model, pinned);
  const defaults = deployment?.defaults;
  const generates = models.find((one) => one.id === model)?.generates !== false;
  const error = create.error ?? change.error;
  const submit = (form: FormData) => {
    const thinking = String(form.get("thinking") ?? "");
    const body = {
      base: model,
      description: String(form.get("description") ?? "").trim(),
      pinned,
      idle_ttl_s: numberIn(form, "idle_ttl_s"),
      min_resident_s: numberIn(form, "min_resident_s"),
      weight: numberIn(form, "weight"),
      ttft_s: numberIn(form, "ttft_s"),
      tpot_s: numberIn(form, "tpot_s"),
      max_context_tokens: numberIn(form, "max_context_tokens"),
      max_output_tokens: numberIn(form, "max_output_tokens"),
      ...(generates ? {
        system_prompt: String(form.get("system_prompt") ?? ""),
        chat_template: String(form.get("chat_template") ?? ""),
        defaults: {
          ...Object.fromEntries(defaultNumbers.map((name) => [name, numberIn(form, name)])), stop: String(form.get("stop") ?? "").split("\n").filter((line) => line !== ""),
          thinking: thinking === "" ? null : thinking === "on",
          priority: (String(form.get("priority") ?? "") || null) as "interactive" | "normal" | "batch" | null,
        },
      } : {}),
    };
    if (deployment) change.mutate({ name: deployment.name ?? "", change: body }, { onSuccess: onClose });
    else create.mutate({ ...body, name: String(form.get("name") ?? "").trim() }, { onSuccess: onClose });
  };
  const number = (name: (typeof defaultNumbers)[number] | "max_context_tokens" | "max_output_tokens" | "idle_ttl_s" | "min_resident_s" | "weight" | "ttft_s" | "tpot_s", value: number | null | undefined) => (
    <Field label={t(`deployments.field.${name}`)} help={t(`deployments.help.${name}`)}>{(id, note) => <Input id={id} aria-describedby={note} name={name} type="number" step="any" defaultValue={textOf(value)} placeholder={t("deployments.asModel")} />}</Field>
  );
  return (
    <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); submit(new FormData(event.currentTarget)); }}>
      <div className="grid grid-cols-1 gap-3 sm:grid-cols-2">
        {!deployment && <Field label={t("deployments.name")} help={t("deployments.nameHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="name" required autoFocus maxLength={128} placeholder="support" />}</Field>}
        <Field label={t("deployments.base")} help={t("deployments.baseHelp")}>{(id, note) => (
          <Select id={id} aria-describedby={note} value={model} onChange={(event) => setModel(event.target.value)}>
            {!models.some((one) => one.id === model) && <option>{model}</option>}
            {models.map((one) => <option key={one.id}>{one.id}</option>)}
          </Select>
        )}</Field>
        <div className={deployment ? "" : "sm:col-span-2"}><Field label={t("deployments.description")}>{(id) => <Input id={id} name="description" maxLength={2000} defaultValue={deployment?.description ?? ""} />}</Field></div>
      </div>
      <div className="space-y-1">
        <label className="flex items-center gap-2 text-sm"><input type="checkbox" className="accent-(--accent)" checked={pinned} onChange={(event) => setPinned(event.target.checked)} />{t("policy.pinned")}</label>
        {fit.data && (
          <p role="status" className={fit.data.fits ? "text-sm text-soft" : "rounded-md bg-warn-soft px-3 py-2 text-sm text-warn"}>
            {t(fit.data.fits ? "deployments.fits" : "deployments.doesNotFit", { needs: formatBytes(fit.data.needed_bytes ?? 0, 2), pool: formatBytes(fit.data.pool_bytes ?? 0, 2) })}
            {pinned && (fit.data.pinned_bytes ?? 0) > 0 && ` ${t("deployments.beside", { bytes: formatBytes(fit.data.pinned_bytes ?? 0, 2) })}`}
            {!fit.data.fits && fit.data.nearest && ` ${t("deployments.nearest", { model: fit.data.nearest })}`}
          </p>
        )}
        {fit.error && <ErrorNote error={fit.error} />}
      </div>
      <div className="grid grid-cols-2 gap-3 sm:grid-cols-4">
        {number("max_context_tokens", deployment?.max_context_tokens || null)}
        {number("max_output_tokens", deployment?.max_output_tokens || null)}
        {number("idle_ttl_s", deployment?.idle_ttl_s)}
        {number("min_resident_s", deployment?.min_resident_s)}
        {number("weight", deployment?.weight)}
        {number("ttft_s", deployment?.ttft_s)}
        {number("tpot_s", deployment?.tpot_s)}
      </div>
      {generates && (
        <details className="rounded-md border border-line" open={deployment !== null}>
          <summary className="cursor-pointer px-3 py-2 text-sm font-medium">{t("deployments.defaults")}</summary>
          <div className="space-y-3 border-t border-line p-3">
            <p className="text-sm text-faint">{t("deployments.defaultsText")}</p>
            <div className="grid grid-cols-2 gap-3 sm:grid-cols-4">
              {defaultNumbers.map((name) => <Fragment key={name}>{number(name, defaults?.[name])}</Fragment>)}
              <Field label={t("deployments.thinking")}>{(id) => (
                <Select id={id} name="thinking" defaultValue={defaults?.thinking === true ? "on" : defaults?.thinking === false ? "off" : ""}>
                  <option value="">{t("deployments.asModel")}</option><option value="on">{t("deployments.on")}</option><option value="off">{t("deployments.off")}</option>
                </Select>
              )}</Field>
              <Field label={t("deployments.priority")}>{(id) => (
                <Select id={id} name="priority" defaultValue={defaults?.priority ?? ""}>
                  <option value="">{t("deployments.asModel")}</option>{(["interactive", "normal", "batch"] as const).map((one) => <option key={one} value={one}>{t(`deployments.${one}`)}</option>)}
                </Select>
              )}</Field>
            </div>
            <Field label={t("sampling.stop")} help={t("samplingHelp.stop")}>{(id, note) => <TextArea id={id} aria-describedby={note} name="stop" rows={2} className="min-h-12 font-mono" defaultValue={(defaults?.stop ?? []).join("\n")} />}</Field>
            <Field label={t("deployments.system")} help={t("deployments.systemHelp")}>{(id, note) => <TextArea id={id} aria-describedby={note} name="system_prompt" rows={3} defaultValue={deployment?.system_prompt ?? ""} />}</Field>
            <Field label={t("deployments.template")} help={t("deployments.templateHelp")}>{(id, note) => <TextArea id={id} aria-describedby={note} name="chat_template" rows={3} className="font-mono" defaultValue={deployment?.chat_template ?? ""} />}</Field>
          </div>
        </details>
      )}
      {error != null && <ErrorNote error={error} />}
      <div className="flex justify-end gap-2"><Button onClick={onClose}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={create.isPending || change.isPending} disabled={fit.data?.fits === false}>{deployment ? t("common.save") : t("deployments.deploy")}</Button></div>
    </form>
  );
}
