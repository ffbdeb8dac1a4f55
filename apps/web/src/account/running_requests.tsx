// What runs and waits right now, and stopping it.
import { useState } from "react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { at, getJson, postJson } from "../api/client";
import type { RunningRequest } from "../api/types";
import { ModelDot } from "../overview/page";
import { formatAgo, formatCount, formatPercent, formatSeconds, grouped } from "../ui/format";
import { Badge, Button, Confirm, ErrorNote, Section, Table, type Tone } from "../ui/kit";
import type { NamedKind } from "./names";

const path = "/api/v1/requests/running";
const tones: Record<RunningRequest["state"], Tone> = { queued: "neutral", loading: "warn", prefill: "accent", decode: "good" };
const most = 50;

export function RunningRequests({ query, names }: { query: Record<string, string>; names: (kind: NamedKind, id: string) => string | undefined }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const [stopping, setStopping] = useState<RunningRequest | null>(null);
  const asked = Object.fromEntries(["model", "key", "member", "endpoint"].map((name) => [name, query[name] ?? ""]).filter(([, value]) => value !== ""));
  const list = useQuery({
    queryKey: ["list", path, asked], refetchInterval: 1_000,
    queryFn: ({ signal }) => getJson(at(path, {}, { ...asked, limit: most }), { signal }),
  });
  const stop = useMutation({
    mutationFn: (one: RunningRequest) => postJson(at("/api/v1/requests/{id}/cancel", { id: one.id })),
    onSuccess: () => setStopping(null),
    onSettled: () => client.invalidateQueries({ queryKey: ["list", path] }),
  });
  const rows = list.data?.data ?? [];
  const stateOf = (one: RunningRequest) => (one.stopped ? t("requests.stopping") : one.state === "queued" && one.queue_position ? t("requests.queuedBehind", { count: one.queue_position }) : `${t(`requests.state_${one.state}`)}${one.share === null ? "" : ` ${formatPercent(one.share)}`}`);
  return (
    <Section title={t("requests.now")} note={list.data && t("requests.nowNote", { count: list.data.total })}>
      {list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} /> : rows.length === 0 ? <p className="text-sm text-soft">{t(list.isPending ? "common.loading" : "requests.nothingRuns")}</p> : (
        <Table label={t("requests.now")} rows={rows} keyOf={(one) => one.id} columns={[
          { head: t("requests.since"), cell: (one) => <span title={formatAgo(one.started_at)}>{formatSeconds(Math.max(0, Math.round(Date.now() / 1e3 - one.started_at)))}</span> },
          { head: t("usage.model"), wide: true, cell: (one) => <span className="flex min-w-24 items-center gap-2" title={`${one.deployment ?? one.model} · ${one.request_id}`}><ModelDot id={one.model} /><span className="truncate">{one.deployment ?? one.model}</span></span> },
          { head: t("usage.key"), hide: "lg", cell: (one) => <span className="block max-w-40 truncate" title={one.key}>{names("key", one.key) ?? <span className="font-mono text-xs">{one.key}</span>}</span> },
          { head: t("usage.member"), hide: "lg", cell: (one) => <span className="block max-w-40 truncate" title={one.member ?? ""}>{one.member === null ? "–" : names("member", one.member) ?? one.member}</span> },
          { head: t("requests.endpoint"), hide: "lg", cell: (one) => one.endpoint },
          { head: t("models.state"), cell: (one) => <Badge tone={one.stopped ? "bad" : tones[one.state]}>{stateOf(one)}</Badge> },
          { head: t("requests.tokens"), right: true, hide: "sm", cell: (one) => <span className="tabular-nums">{formatCount(one.prompt_tokens)} + {formatCount(one.output_tokens)}</span> },
          { head: "", right: true, cell: (one) => one.may_cancel && !one.stopped && <Button kind="quiet" aria-label={t("requests.cancelNamed", { id: one.request_id })} onClick={() => { stop.reset(); setStopping(one); }}>{t("requests.cancel")}</Button> },
        ]} />
      )}
      {list.data && list.data.total > rows.length && <p className="mt-2 text-xs text-faint">{t("requests.nowMore", { formatted: grouped(list.data.total - rows.length) })}</p>}
      <Confirm open={stopping !== null} title={t("requests.cancelTitle")} action={t("requests.cancelAction")} busy={stop.isPending} error={stop.error} onClose={() => setStopping(null)} onConfirm={() => stopping && stop.mutate(stopping)}
        text={<><p className="font-mono text-xs break-all">{stopping?.request_id}</p><p className="mt-2">{t("requests.cancelText", { model: stopping?.deployment ?? stopping?.model ?? "", who: stopping ? names("key", stopping.key) ?? (stopping.member && names("member", stopping.member)) ?? stopping.key : "" })}</p></>} />
    </Section>
  );
}
