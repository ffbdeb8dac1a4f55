// Read-only links to a conversation as it is now, with an end; those that are open, to be taken back.
import { Trash2 } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { ApiError, at, deleteJson, getJson, postJson } from "../api/client";
import { formatTime } from "../ui/format";
import { Ago, Button, CopyButton, Dialog, ErrorNote, Field, IconButton, Input, Loading, Select } from "../ui/kit";

export function ShareDialog({ id, leaf, open, onClose }: { id: string; leaf: string | null; open: boolean; onClose: () => void }) {
  const { t } = useTranslation();
  return <Dialog open={open} onClose={onClose} title={t("share.title")}><ShareForm id={id} leaf={leaf} /></Dialog>;
}

function ShareForm({ id, leaf }: { id: string; leaf: string | null }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const path = at("/api/v1/conversations/{id}/shares", { id });
  const key = ["shares", id];
  const shares = useQuery({ queryKey: key, queryFn: ({ signal }) => getJson(path, { signal }).then((list) => list.data) });
  const [days, setDays] = useState("7");
  const settled = () => client.invalidateQueries({ queryKey: key });
  const make = useMutation({ mutationFn: () => postJson(path, { days: Number(days), ...(leaf ? { leaf } : {}) }), onSettled: settled });
  const revoke = useMutation({ mutationFn: (share: string) => deleteJson(at("/api/v1/conversations/{id}/shares/{share}", { id, share })), onSettled: settled });
  const link = make.data ? `${location.origin}/shared#${make.data.token}` : "";
  const off = make.error instanceof ApiError && make.error.code === "sharing_off";
  return (
    <div className="space-y-4 text-sm">
      <p className="text-soft">{t("share.text")}</p>
      <form className="flex items-end gap-2" onSubmit={(event) => { event.preventDefault(); make.mutate(); }}>
        <div className="grow"><Field label={t("share.ends")}>{(field) => (
          <Select id={field} value={days} onChange={(event) => setDays(event.target.value)}>{["1", "7", "30", "90"].map((one) => <option key={one} value={one}>{t("share.days", { count: Number(one) })}</option>)}</Select>
        )}</Field></div>
        <Button kind="primary" type="submit" busy={make.isPending}>{t("share.make")}</Button>
      </form>
      {make.error != null && (off ? <p role="alert" className="rounded-md bg-warn-soft px-3 py-2 text-warn">{t("share.off")}</p> : <ErrorNote error={make.error} />)}
      {link && (
        <div className="space-y-1" role="status">
          <p className="font-medium">{t("share.shown")}</p>
          <div className="flex items-center gap-1"><Input readOnly aria-label={t("share.link")} data-testid="share-link" className="min-w-0 grow font-mono text-xs" value={link} onFocus={(event) => event.currentTarget.select()} /><CopyButton text={link} label={t("share.copy")} /></div>
        </div>
      )}
      <section aria-label={t("share.open")}>
        <h3 className="mb-1 font-medium">{t("share.open")}</h3>
        {shares.isPending ? <Loading rows={1} /> : shares.error ? <ErrorNote error={shares.error} retry={() => void shares.refetch()} />
          : shares.data.length === 0 ? <p className="text-faint">{t("share.none")}</p> : (
            <ul className="divide-y divide-line">
              {shares.data.map((one) => (
                <li key={one.id} className="flex items-center gap-2 py-1">
                  <span className="min-w-0 grow">{t("share.made")} <Ago at={one.created_at} /> · {t("share.until", { time: formatTime(one.expires_at) })}</span>
                  <IconButton label={t("share.revoke")} disabled={revoke.isPending} onClick={() => revoke.mutate(one.id)}><Trash2 /></IconButton>
                </li>
              ))}
            </ul>
          )}
        {revoke.error != null && <ErrorNote error={revoke.error} />}
      </section>
    </div>
  );
}
