import { useQuery } from "@tanstack/react-query";
import { CircleAlert, CircleCheck } from "lucide-react";
import { useTranslation } from "react-i18next";
import { at, getJson } from "../api/client";
import { useMay } from "../shell/session";
import { Ago, Button, Empty, ErrorNote, Loading, More, Page, Table } from "../ui/kit";
import { CsvButton } from "./csv_button";
import { useCursorList } from "./lists";

export function AuditPage() {
  const { t } = useTranslation();
  const operator = useMay("operator");
  const list = useCursorList("/api/v1/audit");
  const verdict = useQuery({ queryKey: ["audit-verdict"], queryFn: ({ signal }) => getJson("/api/v1/audit/verify", { signal }), enabled: false });
  return (
    <Page title={t("nav.audit")} lead={t("audit.lead")} actions={
      <>
        {operator && <Button busy={verdict.isFetching} onClick={() => void verdict.refetch()}>{t("audit.verify")}</Button>}
        <CsvButton file="audit.csv" disabled={list.rows.length === 0} from={at("/api/v1/audit", {}, { format: "csv" })} />
      </>}>
      {verdict.data && <p role="status" className={`mb-3 flex items-center gap-2 text-sm ${verdict.data.good ? "text-good" : "text-bad"}`}>{verdict.data.good ? <CircleCheck className="size-4" aria-hidden /> : <CircleAlert className="size-4" aria-hidden />}{verdict.data.good ? t("audit.good", { count: verdict.data.rows }) : t("audit.bad", { row: verdict.data.bad_row ?? 0, problem: verdict.data.problem ?? "" })}</p>}
      {verdict.error && <ErrorNote error={verdict.error} />}
      {list.isPending ? <Loading rows={6} /> : list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} />
        : list.rows.length === 0 ? <Empty title={t("audit.none")} /> : (
          <Table label={t("nav.audit")} rows={list.rows} keyOf={(row) => String(row.number)} columns={[
            { head: t("audit.when"), cell: (row) => <Ago at={row.time_ms / 1e3} /> },
            { head: t("audit.action"), cell: (row) => <span className="font-mono text-xs"><span>{row.action}</span>{row.object && <span className="block max-w-52 truncate text-faint sm:hidden" title={row.object}>{row.object}</span>}</span> },
            { head: t("audit.object"), wide: true, hide: "sm", cell: (row) => <span className="block min-w-24 truncate font-mono text-xs" title={row.object}>{row.object}</span> },
            { head: t("audit.who"), hide: "sm", cell: (row) => <span className="block max-w-40 truncate font-mono text-xs" title={row.member || row.key}>{row.member || row.key || "–"}</span> },
            { head: t("audit.from"), hide: "md", cell: (row) => row.address || t("audit.machine") },
            { head: t("audit.change"), hide: "md", cell: (row) => (row.before === null && row.after === null ? "–" : (
              <details><summary className="text-xs text-soft">{t("audit.show")}</summary><pre tabIndex={0} className="max-w-md overflow-x-auto text-xs">{JSON.stringify({ before: row.before, after: row.after }, null, 1)}</pre></details>)) },
          ]} />
        )}
      <More list={list} />
    </Page>
  );
}
