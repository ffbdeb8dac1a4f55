import { useQuery } from "@tanstack/react-query";
import { CircleAlert, CircleCheck, Info } from "lucide-react";
import { useTranslation } from "react-i18next";
import { getJson } from "../api/client";
import { useStatus } from "../api/queries";
import { findingText } from "../i18n/server_texts";
import { formatBytes, formatCount, formatPercent, formatSeconds } from "../ui/format";
import { Button, ErrorNote, Loading, Page, Section, Stat, Table } from "../ui/kit";

export function HealthPage() {
  const { t } = useTranslation();
  const status = useStatus();
  const ready = useQuery({ queryKey: ["ready"], queryFn: ({ signal }) => getJson("/ready", { signal }), refetchInterval: 5_000 });
  const doctor = useQuery({ queryKey: ["doctor"], queryFn: ({ signal }) => getJson("/api/v1/doctor", { signal }), staleTime: Infinity });
  const report = doctor.data;
  return (
    <Page title={t("nav.health")} actions={<Button busy={doctor.isFetching} onClick={() => void doctor.refetch()}>{t("health.measure")}</Button>}
      lead={<p className="flex items-center gap-2">{ready.error || ready.data?.ready === false ? <><CircleAlert className="size-5 shrink-0 text-bad" aria-hidden />{ready.data?.reason ?? t("common.unreachable")}</> : ready.data ? <><CircleCheck className="size-5 shrink-0 text-good" aria-hidden />{t("health.ready")}</> : <span className="text-faint">{t("common.loading")}</span>}{status.data && <span className="text-faint">· {t("overview.up", { time: formatSeconds(status.data.uptime_s) })}</span>}</p>}>
      {doctor.isPending && <><p className="mb-2 text-sm text-faint">{t("health.measuring")}</p><Loading rows={5} /></>}
      {doctor.error && <ErrorNote error={doctor.error} retry={() => void doctor.refetch()} />}
      {report && (
        <>
          <Section title={t("health.findings")}>
            <ul className="space-y-1.5">
              {report.advice.map((one) => (
                <li key={one.topic + one.text} className="flex items-start gap-2 text-sm">
                  {one.level === "ok" ? <CircleCheck className="mt-0.5 size-4 shrink-0 text-good" aria-label={t("health.ok")} /> : one.level === "hint" ? <Info className="mt-0.5 size-4 shrink-0 text-accent" aria-label={t("health.hint")} /> : <CircleAlert className="mt-0.5 size-4 shrink-0 text-warn" aria-label={t("health.warning")} />}
                  <span className="min-w-0 break-words">{findingText(one)}</span>
                </li>
              ))}
            </ul>
          </Section>
          <Section title={t("health.machine")}>
            <dl className="grid grid-cols-2 gap-x-6 gap-y-4 sm:grid-cols-4">
              <Stat label={t("health.device")} value={<span className="text-base">{report.device}</span>} hint={report.instruction_sets.join(", ")} />
              <Stat label={t("health.memory")} value={formatBytes(report.memory_bytes)} hint={t("health.pool", { pool: formatBytes(report.pool_bytes) })} />
              <Stat label={t("health.bandwidth")} value={`${formatBytes(report.memory_bytes_per_s)}/s`} />
              <Stat label={t("health.int8")} value={`${formatCount(report.int8_ops_per_s)}op/s`} hint={`f32 ${formatCount(report.f32_flops_per_s)}flop/s`} />
              <Stat label={t("health.disk")} value={formatBytes(report.disk_free_bytes)} hint={t("health.diskWrite", { rate: `${formatBytes(report.disk_write_bytes_per_s)}/s` })} />
              <Stat label={t("health.load")} value={report.load_average.toFixed(2)} hint={t("health.threads", { count: report.threads })} />
            </dl>
          </Section>
          <Section title={t("health.kernels")} note={t("health.kernelsNote")}>
            <Table label={t("health.kernels")} rows={report.kernels} keyOf={(kernel) => kernel.type} columns={[
              { head: t("health.type"), cell: (kernel) => kernel.type },
              { head: t("health.kernel"), wide: true, hide: "sm", cell: (kernel) => kernel.kernel },
              { head: t("health.oneRow"), right: true, cell: (kernel) => `${formatBytes(kernel.one_row_bytes_per_s)}/s` },
              { head: t("health.ofMemory"), right: true, cell: (kernel) => formatPercent(kernel.one_row_share) },
              { head: t("health.manyRows"), right: true, hide: "md", cell: (kernel) => `${formatCount(kernel.many_rows_ops_per_s)}op/s` },
              { head: t("health.ofPeak"), right: true, hide: "md", cell: (kernel) => formatPercent(kernel.many_rows_share) },
            ]} />
          </Section>
        </>
      )}
    </Page>
  );
}
