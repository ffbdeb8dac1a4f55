// One step after the set-up: chat with what is served already, or get a model that makes more of this machine first.
import { useQueryClient } from "@tanstack/react-query";
import { Download, MessageSquare } from "lucide-react";
import { useEffect } from "react";
import { useTranslation } from "react-i18next";
import { Link, Navigate } from "react-router";
import { useCatalogue, usePoolOnce, usePulls, useStartPull, useStatus } from "../api/queries";
import { firstModel, useChatModels } from "../chat/model_picker";
import { estimatedBytes, expectedTokensPerS, neededBytes, suggestions } from "../models/fit";
import { PullRow } from "../models/page";
import { useMay } from "../shell/session";
import { formatBytes, formatCount, significant } from "../ui/format";
import { Badge, Button, cx, ErrorNote, Loading, Page, Section } from "../ui/kit";

export function WelcomePage() {
  const { t } = useTranslation();
  const operator = useMay("operator");
  const client = useQueryClient();
  const models = useChatModels();
  const catalogue = useCatalogue();
  const pool = usePoolOnce(operator);
  const status = useStatus();
  const pulls = usePulls(operator);
  const pull = useStartPull();
  const done = (pulls.data ?? []).filter((one) => one.state === "done").length;
  useEffect(() => { void client.invalidateQueries({ queryKey: ["models"] }); }, [client, done]);
  if (!operator) return <Navigate to="/chat" replace />;
  const served = firstModel(models.data, null);
  const poolBytes = pool.data?.memory.limit_bytes ?? 0;
  const bandwidth = status.data?.roofline.memory_bytes_per_s ?? 0;
  const offered = catalogue.data && pool.data && status.data ? suggestions(catalogue.data, poolBytes, bandwidth) : null;
  const coming = (pulls.data ?? []).filter((one) => one.state === "running" || one.state === "queued" || one.state === "paused" || one.state === "failed");
  return (
    <Page title={t("welcome.title")} lead={models.data && <p>{served ? t("welcome.served", { model: served }) : t("welcome.nothingServed")}</p>}>
      <p className="mb-6">
        <Link to="/chat" className={cx("inline-flex min-h-10 items-center gap-2 rounded-md px-4 font-medium", served ? "bg-accent text-on-accent hover:brightness-110" : "border border-line-strong bg-panel hover:bg-sunken")}><MessageSquare className="size-4" aria-hidden />{t("welcome.skip")}</Link>
      </p>
      {coming.length > 0 && <Section title={t("models.pulls")}><ul className="divide-y divide-line">{coming.map((one) => <PullRow key={one.id} pull={one} />)}</ul></Section>}
      <Section title={t("welcome.fits")} note={poolBytes > 0 && t("welcome.fitsNote", { pool: formatBytes(poolBytes, 2) })} actions={<Link className="text-sm text-accent underline" to="/models">{t("models.toModels")}</Link>}>
        {pull.error != null && <div className="mb-3"><ErrorNote error={pull.error} /></div>}
        {catalogue.error ? <ErrorNote error={catalogue.error} retry={() => void catalogue.refetch()} /> : offered === null ? <Loading rows={4} /> : (
          <ul className="grid grid-cols-1 gap-x-8 sm:grid-cols-2 xl:grid-cols-3">
            {offered.map((model) => {
              const bytes = estimatedBytes(model);
              const has = models.data?.some((one) => one.id === model.id) ?? false;
              return (
                <li key={model.id} className="flex items-start gap-3 border-b border-line py-3">
                  <div className="min-w-0 grow">
                    <p className="truncate font-medium">{model.id}</p>
                    <p className="truncate text-xs text-faint">{[model.parameters, t("models.contextOf", { tokens: formatCount(model.context_length ?? 0) }), model.licence].filter(Boolean).join(" · ")}</p>
                    <p className="truncate text-xs text-faint">≈ {formatBytes(neededBytes(bytes), 2)}{bandwidth > 0 && ` · ${t("models.upTo", { speed: significant(expectedTokensPerS(bytes, bandwidth), 2) })}`}</p>
                  </div>
                  {has ? <Badge tone="good">{t("models.here")}</Badge> : coming.some((one) => one.model === model.id) ? <Badge tone="accent">{t("models.pulling")}</Badge>
                    : <Button disabled={pull.isPending} aria-label={t("models.pullNamed", { model: model.id ?? "" })} onClick={() => pull.mutate({ source: model.id ?? "" })}><Download className="size-4" aria-hidden />{t("models.pull")}</Button>}
                </li>
              );
            })}
          </ul>
        )}
      </Section>
    </Page>
  );
}
