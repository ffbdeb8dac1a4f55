// Secrets of the server: kept encrypted, replaced and removed here, never shown.
import { Trash2 } from "lucide-react";
import { useState } from "react";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { getJson } from "../api/client";
import { Ago, Badge, Button, Confirm, ErrorNote, Field, IconButton, Input, Loading, Section } from "../ui/kit";
import { useWrite } from "./lists";

const path = "/api/v1/secrets";
// What the server reads (platform/accounts/secrets.cc refuses others).
const names = ["hub.token"] as const;

export function SecretsSection() {
  const { t } = useTranslation();
  const list = useQuery({ queryKey: ["list", path], queryFn: ({ signal }) => getJson(path, { signal }).then((reply) => reply.data) });
  const write = useWrite([path]);
  const [editing, setEditing] = useState<string | null>(null);
  const [removing, setRemoving] = useState<string | null>(null);
  return (
    <Section title={t("secrets.title")} note={t("secrets.note")}>
      {list.isPending ? <Loading rows={1} /> : list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} /> : (
        <div className="divide-y divide-line">
          {names.map((name) => {
            const kept = list.data.find((one) => one.name === name);
            return (
              <div key={name} data-secret={name} className="grid grid-cols-1 gap-x-6 gap-y-1 py-2 md:grid-cols-[minmax(0,1fr)_19rem] xl:grid-cols-[16rem_minmax(0,1fr)_19rem]">
                <span className="font-mono text-sm md:max-xl:col-span-full">{name}</span>
                <span className="text-sm">{t("secrets.hub_token")}</span>
                <span className="flex flex-wrap items-center gap-2 text-sm md:justify-end">
                  {kept ? <><Badge tone="good">{t("secrets.kept")}</Badge><span className="text-faint"><Ago at={kept.created_at} /></span></> : <span className="text-faint">{t("secrets.none")}</span>}
                  <Button kind="quiet" aria-label={t(kept ? "secrets.replaceNamed" : "secrets.setNamed", { name })} onClick={() => { write.reset(); setEditing(editing === name ? null : name); }}>{t(kept ? "secrets.replace" : "secrets.set")}</Button>
                  {kept && <IconButton label={t("secrets.remove", { name })} onClick={() => { write.reset(); setRemoving(name); }}><Trash2 /></IconButton>}
                </span>
                {editing === name && (
                  <form className="mt-1 max-w-xl space-y-3 rounded-md bg-sunken p-3 md:col-span-full" onSubmit={(event) => {
                    event.preventDefault();
                    const value = String(new FormData(event.currentTarget).get("value") ?? "").trim();
                    write.mutate({ method: "POST", path, body: { name, value } }, { onSuccess: () => setEditing(null) });
                  }}>
                    <Field label={t("secrets.value", { name })} help={t("secrets.valueHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="value" type="password" required autoFocus autoComplete="off" spellCheck={false} />}</Field>
                    {write.error && <ErrorNote error={write.error} />}
                    <div className="flex gap-2"><Button kind="primary" type="submit" busy={write.isPending}>{t("common.save")}</Button><Button onClick={() => setEditing(null)}>{t("common.cancel")}</Button></div>
                  </form>
                )}
              </div>
            );
          })}
        </div>
      )}
      <Confirm open={removing !== null} title={t("secrets.removeTitle", { name: removing ?? "" })} text={t("secrets.removeText")} action={t("secrets.removeAction")} busy={write.isPending} error={write.error}
        onClose={() => setRemoving(null)} onConfirm={() => removing && write.mutate({ method: "DELETE", path: `${path}/${removing}` }, { onSuccess: () => setRemoving(null) })} />
    </Section>
  );
}
