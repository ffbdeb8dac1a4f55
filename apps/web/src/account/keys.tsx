import { Eye, KeyRound, MoreHorizontal, Plus, RotateCw, Trash2 } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { ReplyOf } from "../api/client";
import { useModels } from "../api/queries";
import type { ApiKey } from "../api/types";
import { useMay } from "../shell/session";
import { snippetsOf } from "../playground/snippets";
import { Ago, Badge, Button, Confirm, CopyButton, Dialog, Empty, ErrorNote, Field, IconButton, Input, Loading, Menu, More, Page, Select, Table } from "../ui/kit";
import { ConnectSection } from "./connect";
import { KeyDetails, ScopeFields, scopeOf } from "./key_scope";
import { LimitFields, limitsOf } from "./limit_forms";
import { useCursorList, useWrite } from "./lists";
import { useRoleName } from "./names";

const path = "/api/v1/keys";

function stateOf(key: ApiKey): "active" | "revoked" | "expired" {
  return key.revoked_at !== null ? "revoked" : key.expires_at !== null && key.expires_at < Date.now() / 1e3 ? "expired" : "active";
}

export function KeysPage() {
  const { t } = useTranslation();
  const admin = useMay("workspace_admin");
  const list = useCursorList(path);
  const write = useWrite<typeof path>([path]);
  const [creating, setCreating] = useState(false);
  const [shown, setShown] = useState<ReplyOf<typeof path, "post"> | null>(null);
  const [looking, setLooking] = useState<ApiKey | null>(null);
  const limit = useWrite(["/api/v1/limits"]);
  const roleName = useRoleName();
  const [revoking, setRevoking] = useState<ApiKey | null>(null);
  const keys = [...list.rows].sort((a, b) => Number(stateOf(a) !== "active") - Number(stateOf(b) !== "active") || b.created_at - a.created_at);
  return (
    <Page title={t("nav.keys")} lead={t(admin ? "keys.leadAdmin" : "keys.lead")} actions={<Button kind="primary" onClick={() => { write.reset(); setCreating(true); }}><Plus className="size-4" aria-hidden />{t("keys.create")}</Button>}>
      {write.error && !creating && !revoking && <div className="mb-3"><ErrorNote error={write.error} /></div>}
      {list.isPending ? <Loading /> : list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} />
        : keys.length === 0 ? <Empty title={t("keys.none")}>{t("keys.noneText")}</Empty> : (
          <Table label={t("nav.keys")} rows={keys} keyOf={(key) => key.id} columns={[
            { head: t("keys.name"), wide: true, cell: (key) => <span className="flex min-w-32 items-center gap-2"><KeyRound className="size-4 shrink-0 text-faint" aria-hidden /><button type="button" className="truncate text-left hover:underline" title={key.name} onClick={() => setLooking(key)}>{key.name}</button></span> },
            { head: t("keys.prefix"), cell: (key) => <span className="font-mono text-xs">{key.prefix}…</span> },
            { head: t("models.state"), cell: (key) => <Badge tone={stateOf(key) === "active" ? "good" : "neutral"}>{t(`keys.${stateOf(key)}`)}</Badge> },
            { head: t("keys.kind"), hide: "sm", cell: (key) => t(key.service ? "keys.service" : "keys.personal") },
            { head: t("keys.role"), hide: "md", cell: (key) => roleName(key.role) },
            { head: t("keys.scope"), hide: "lg", cell: (key) => <span className="block max-w-56 truncate text-faint" title={[...key.models, ...key.endpoints, ...key.networks].join(", ")}>{[...key.models, ...key.endpoints, ...key.networks].join(", ") || t("keys.everything")}</span> },
            { head: t("keys.lastUsed"), hide: "md", cell: (key) => (key.last_used_at ? <Ago at={key.last_used_at} /> : "–") },
            { head: t("keys.expires"), hide: "lg", cell: (key) => (key.expires_at ? <Ago at={key.expires_at} /> : t("keys.never")) },
            { head: "", right: true, cell: (key) => stateOf(key) === "active" && (
              <Menu trigger={<IconButton label={t("keys.actions", { name: key.name })}><MoreHorizontal /></IconButton>} items={[
                { label: t("keys.details"), icon: <Eye />, onSelect: () => setLooking(key) },
                { label: t("keys.rotate"), icon: <RotateCw />, onSelect: () => write.mutate({ method: "POST", path: `${path}/${key.id}/rotate`, body: { overlap_s: 86400 } }, { onSuccess: setShown }) },
                { label: t("keys.revoke"), icon: <Trash2 />, danger: true, onSelect: () => setRevoking(key) },
              ]} />) },
          ]} />
        )}
      <More list={list} />
      <div className="mt-6"><ConnectSection /></div>
      <Dialog open={creating} onClose={() => setCreating(false)} title={t("keys.create")}>
        <CreateForm admin={admin} error={write.error} busy={write.isPending} onClose={() => setCreating(false)}
          onCreate={(body, limits) => write.mutate({ method: "POST", path, body }, { onSuccess: (key) => {
            setCreating(false);
            setShown(key);
            // The key is there, whatever becomes of its limits: the dialog that shows it says so.
            if (Object.keys(limits).length > 0) limit.mutate({ method: "PUT", path: "/api/v1/limits", body: { scope: `key:${key.id}`, model: "*", ...limits } });
          } })} />
      </Dialog>
      <ShownKey made={shown} problem={limit.error} onClose={() => { setShown(null); limit.reset(); }} />
      <Dialog open={looking !== null} onClose={() => setLooking(null)} title={looking?.name ?? ""} wide>{looking && <KeyDetails shown={looking} admin={admin} active={stateOf(looking) === "active"} />}</Dialog>
      <Confirm open={revoking !== null} title={t("keys.revokeTitle", { name: revoking?.name ?? "" })} text={t("keys.revokeText")} action={t("keys.revoke")} busy={write.isPending} error={write.error}
        onClose={() => { setRevoking(null); write.reset(); }} onConfirm={() => revoking && write.mutate({ method: "DELETE", path: `${path}/${revoking.id}` }, { onSuccess: () => setRevoking(null) })} />
    </Page>
  );
}

function CreateForm({ admin, busy, error, onCreate, onClose }: { admin: boolean; busy: boolean; error: unknown; onCreate: (body: Record<string, unknown>, limits: Record<string, number>) => void; onClose: () => void }) {
  const { t } = useTranslation();
  const roleName = useRoleName();
  return (
    <form className="space-y-4" onSubmit={(event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      const text = (name: string) => String(form.get(name) ?? "").trim();
      const days = Number(text("days"));
      const lists = Object.fromEntries(Object.entries(scopeOf(form)).filter(([, list]) => list.length > 0));
      onCreate({ name: text("name"), ...lists, ...(text("weight") ? { weight: Number(text("weight")) } : {}), ...(days > 0 ? { expires_at: Math.floor(Date.now() / 1e3 + days * 86400) } : {}), ...(admin && text("kind") === "service" ? { service: true, role: text("role") } : {}) }, limitsOf(form));
    }}>
      <Field label={t("keys.name")} help={t("keys.nameHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="name" required maxLength={200} autoFocus />}</Field>
      {admin && (
        <div className="grid grid-cols-2 gap-3">
          <Field label={t("keys.kind")} help={t("keys.kindHelp")}>{(id, note) => <Select id={id} aria-describedby={note} name="kind"><option value="personal">{t("keys.personal")}</option><option value="service">{t("keys.service")}</option></Select>}</Field>
          <Field label={t("keys.role")} help={t("keys.roleHelp")}>{(id, note) => <Select id={id} aria-describedby={note} name="role" defaultValue="developer">{["viewer", "developer", "admin"].map((role) => <option key={role} value={role}>{roleName(role)}</option>)}</Select>}</Field>
        </div>
      )}
      <Field label={t("keys.days")} help={t("keys.daysHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="days" type="number" min={1} max={3650} />}</Field>
      <details className="text-sm">
        <summary className="text-soft">{t("keys.restrict")}</summary>
        <div className="space-y-3 pt-3">
          <ScopeFields />
          <Field label={t("policy.weight")} help={t("keys.weightHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="weight" type="number" step="any" min="0.001" max="1000" placeholder="1" />}</Field>
        </div>
      </details>
      {admin && <details className="text-sm"><summary className="text-soft">{t("limits.limits")}</summary><div className="pt-3"><LimitFields /></div></details>}
      {error != null && <ErrorNote error={error} />}
      <div className="flex justify-end gap-2"><Button onClick={onClose}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={busy}>{t("keys.create")}</Button></div>
    </form>
  );
}

// Once, and never again: with what it takes to use it right away.
function ShownKey({ made, problem, onClose }: { made: ReplyOf<typeof path, "post"> | null; problem: unknown; onClose: () => void }) {
  const { t } = useTranslation();
  const models = useModels();
  const model = made?.models[0] && !made.models[0].endsWith("*") ? made.models[0] : models.data?.find((one) => one.generates !== false)?.id ?? "smollm2:135m";
  const snippet = snippetsOf(location.origin, "/v1/chat/completions", { model, messages: [{ role: "user", content: "Hello!" }] })[0]!.text.replace("$OPENAI_API_KEY", made?.key ?? "");
  return (
    <Dialog open={made !== null} onClose={onClose} title={t("keys.shownTitle")} wide>
      <div className="space-y-4">
        <p className="text-sm text-soft">{t("keys.shownText")}</p>
        {problem != null && <div className="space-y-1"><p className="text-sm text-bad">{t("keys.limitsFailed")}</p><ErrorNote error={problem} /></div>}
        <div className="flex items-center gap-2 rounded-md border border-accent bg-accent-soft px-3 py-2"><code data-testid="key" className="min-w-0 grow font-mono text-sm break-all">{made?.key}</code><CopyButton text={made?.key ?? ""} label={t("keys.copy")} /></div>
        <div className="relative"><pre tabIndex={0} className="overflow-x-auto rounded-md bg-sunken p-3 pr-10 font-mono text-xs">{snippet}</pre><div className="absolute top-1 right-1 rounded-md bg-sunken"><CopyButton text={snippet} /></div></div>
        <div className="flex justify-end"><Button kind="primary" onClick={onClose}>{t("keys.kept")}</Button></div>
      </div>
    </Dialog>
  );
}
