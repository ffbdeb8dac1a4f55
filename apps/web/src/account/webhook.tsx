// Where the organisation is told of budgets and quotas, by POSTs that are signed with a secret shown once.
import { RotateCw, Send, Trash2 } from "lucide-react";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { getJson, postJson } from "../api/client";
import { Button, Confirm, CopyButton, cx, ErrorNote, Field, IconButton, Input, Loading, Section } from "../ui/kit";
import { useWrite } from "./lists";

const path = "/api/v1/webhook";

export function WebhookSection() {
  const { t } = useTranslation();
  const webhook = useQuery({ queryKey: ["list", path], queryFn: ({ signal }) => getJson(path, { signal }) });
  const write = useWrite<typeof path, "put">([path]);
  const trial = useMutation({ mutationFn: () => postJson("/api/v1/webhook/test") });
  const [renewing, setRenewing] = useState(false);
  const secret = write.data?.secret;
  // What an earlier one did says nothing of the next.
  const change: typeof write.mutate = (...args) => { trial.reset(); write.mutate(...args); };
  return (
    <Section title={t("webhook.title")} note={t("webhook.note")}>
      {webhook.isPending ? <Loading rows={1} /> : webhook.error ? <ErrorNote error={webhook.error} retry={() => void webhook.refetch()} /> : (
        <>
          {webhook.data.url !== null && (
            <p className="mb-3 flex min-w-0 items-center gap-2 text-sm"><code className="min-w-0 truncate font-mono" title={webhook.data.url}>{webhook.data.url}</code>
              <IconButton label={t("webhook.try")} disabled={trial.isPending} onClick={() => trial.mutate()}><Send /></IconButton>
              <IconButton label={t("webhook.renew")} disabled={write.isPending} onClick={() => setRenewing(true)}><RotateCw /></IconButton>
              <IconButton label={t("webhook.remove")} disabled={write.isPending} onClick={() => change({ method: "DELETE", path })}><Trash2 /></IconButton></p>
          )}
          {webhook.data.url !== null && trial.data && <p role="status" className={cx("mb-3 text-sm break-words", trial.data.delivered ? "text-good" : "text-bad")}>{trial.data.delivered ? t("webhook.arrived") : t("webhook.notArrived", { problem: trial.data.problem ?? "" })}</p>}
          {trial.error && <div className="mb-3"><ErrorNote error={trial.error} /></div>}
          <form className="flex max-w-2xl flex-wrap items-end gap-3" onSubmit={(event) => {
            event.preventDefault();
            const form = event.currentTarget;
            change({ method: "PUT", path, body: { url: String(new FormData(form).get("url") ?? "").trim() } }, { onSuccess: () => form.reset() });
          }}>
            <div className="min-w-60 grow"><Field label={webhook.data.url === null ? t("webhook.url") : t("webhook.another")}>{(id) => <Input id={id} name="url" type="url" required placeholder="https://…" />}</Field></div>
            <Button type="submit" busy={write.isPending}>{t("common.save")}</Button>
          </form>
          {secret && <p role="status" className="mt-3 flex flex-wrap items-center gap-2 rounded-md bg-accent-soft px-3 py-2 text-sm">{t("webhook.secret")} <code className="min-w-0 font-mono break-all">{secret}</code><CopyButton text={secret} /></p>}
          {write.error && !renewing && <div className="mt-3"><ErrorNote error={write.error} /></div>}
          <Confirm open={renewing} title={t("webhook.renewTitle")} text={t("webhook.renewText")} action={t("webhook.renew")} busy={write.isPending} error={write.error}
            onClose={() => setRenewing(false)} onConfirm={() => change({ method: "PUT", path, body: { url: webhook.data.url } }, { onSuccess: () => setRenewing(false) })} />
        </>
      )}
    </Section>
  );
}
