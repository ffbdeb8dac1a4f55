// Retiring a stored model: what goes, who uses it now, and who used it last.
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { at, getJson } from "../api/client";
import type { PoolModel, StoredModel } from "../api/types";
import { useNames } from "../account/names";
import { formatBytes, formatTime } from "../ui/format";
import { Ago, Confirm } from "../ui/kit";

const days = 30;

export function RetireDialog({ model, pool, busy, error, onClose, onConfirm }: { model: StoredModel | null; pool: PoolModel | undefined; busy: boolean; error: unknown; onClose: () => void; onConfirm: () => void }) {
  const { t } = useTranslation();
  return (
    <Confirm open={model !== null} title={t("models.retireTitle", { model: model?.id ?? "" })} action={t("models.retire")} busy={busy} error={error} onClose={onClose} onConfirm={onConfirm}
      text={
        <div className="space-y-2">
          <p>{t("models.retireText", { bytes: formatBytes(model?.bytes ?? 0) })}</p>
          {pool && pool.active + pool.waiting > 0 && <p className="text-bad">{t("models.retireBusy", { count: pool.active + pool.waiting })}</p>}
          {pool && pool.arrivals > 0 && <p>{t("models.retireUsed", { count: pool.arrivals })}</p>}
          {model?.id && <LastUse model={model.id} />}
        </div>} />
  );
}

// From the rows of usage, which outlive restarts. Whose model it is, is everybody's: the operator alone retires, and sees all.
function LastUse({ model }: { model: string }) {
  const { t } = useTranslation();
  const names = useNames();
  const last = useQuery({ queryKey: ["last use", model], queryFn: ({ signal }) => getJson(at("/api/v1/requests", {}, { model, limit: 1 }), { signal }).then((reply) => reply.data[0] ?? null) });
  const from = new Date(Math.floor(Date.now() / 86_400_000 - days) * 86_400_000).toISOString().replace(".000", "");
  const users = useQuery({ queryKey: ["users", model, from], queryFn: ({ signal }) => getJson(at("/api/v1/usage", {}, { model, from, group_by: "key", limit: 1000 }), { signal }).then((reply) => [...reply.data].sort((a, b) => b.requests - a.requests)) });
  if (last.isPending) return <p className="text-faint">…</p>;
  if (last.error) return null;
  if (last.data === null) return <p>{t("models.neverUsed")}</p>;
  const { member, key, workspace, finished_at } = last.data;
  const who = (member !== null && (names("member", member) ?? member)) || (names("key", key) ?? key);
  return (
    <>
      <p className="text-bad"><Ago at={finished_at} /> <span title={`${member ?? ""} ${key} · ${formatTime(finished_at)}`}>{t("models.lastUsedBy", { who, workspace: names("workspace", workspace) ?? workspace })}</span></p>
      {users.data && users.data.length > 0 && (
        <div>
          <p>{t("models.usedIn", { count: days })}</p>
          <ul className="mt-1 space-y-1">
            {users.data.slice(0, 5).map((one) => (
              <li key={one.key} className="flex flex-wrap justify-between gap-x-3"><span className="min-w-0 truncate" title={one.key}>{names("key", one.key ?? "") ?? <span className="font-mono text-xs">{one.key}</span>}</span><span className="text-xs text-faint">{t("deployments.times", { count: one.requests })}</span></li>
            ))}
            {users.data.length > 5 && <li className="text-xs text-faint">{t("models.andMore", { count: users.data.length - 5 })}</li>}
          </ul>
        </div>
      )}
    </>
  );
}
