// Models that can be pulled by name: a card each, with its quantisations, what they need and how fast they can be here.
import { Download } from "lucide-react";
import { useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import { useCatalogue, useStartPull, useStatus } from "../api/queries";
import type { CatalogueModel, Pull, StoredModel } from "../api/types";
import { formatBytes, formatCount, significant } from "../ui/format";
import { Badge, Button, cx, Dialog, Empty, ErrorNote, Input, Loading, Section, Select } from "../ui/kit";
import { cardsOf, estimatedBytes, expectedTokensPerS, fits, nearestThatFits, neededBytes, quantisationOf, type ModelCard } from "./fit";

export const live = (pull: Pull) => pull.state === "running" || pull.state === "queued" || pull.state === "paused";

export function Catalogue({ stored, poolBytes, pulls }: { stored: StoredModel[]; poolBytes: number; pulls: Pull[] }) {
  const { t } = useTranslation();
  const catalogue = useCatalogue();
  const status = useStatus();
  const pull = useStartPull();
  const [search, setSearch] = useState("");
  const [family, setFamily] = useState("");
  const [licence, setLicence] = useState("");
  const [onlyFitting, setOnlyFitting] = useState(false);
  const [tooLarge, setTooLarge] = useState<CatalogueModel | null>(null);
  const all = useMemo(() => catalogue.data ?? [], [catalogue.data]);
  const cards = useMemo(() => cardsOf(all), [all]);
  const families = useMemo(() => [...new Set(all.map((model) => model.family ?? ""))].filter(Boolean).sort(), [all]);
  const licences = useMemo(() => [...new Set(all.map((model) => model.licence ?? ""))].filter(Boolean).sort(), [all]);
  const wanted = (model: CatalogueModel) =>
    `${model.id} ${model.family} ${(model.sources ?? []).join(" ")}`.toLowerCase().includes(search.trim().toLowerCase())
    && (family === "" || model.family === family) && (licence === "" || model.licence === licence)
    && (!onlyFitting || poolBytes === 0 || fits(estimatedBytes(model), poolBytes));
  const shown = cards.map((card) => ({ ...card, variants: card.variants.filter(wanted) })).filter((card) => card.variants.length > 0);
  const start = (model: CatalogueModel) => {
    setTooLarge(null);
    pull.mutate({ source: model.id ?? "" });
  };
  const other = tooLarge ? nearestThatFits(tooLarge, all, poolBytes) : null;
  const bandwidth = status.data?.roofline.memory_bytes_per_s ?? 0;
  return (
    <Section title={t("models.catalogue")} note={catalogue.data && t("models.catalogueNote", { count: shown.length, all: cards.length })} actions={
      <>
        <Input type="search" className="w-44" aria-label={t("models.search")} placeholder={t("models.search")} value={search} onChange={(event) => setSearch(event.target.value)} />
        <Select className="w-36" aria-label={t("models.family")} value={family} onChange={(event) => setFamily(event.target.value)}><option value="">{t("models.allFamilies")}</option>{families.map((one) => <option key={one}>{one}</option>)}</Select>
        <Select className="w-36" aria-label={t("models.licence")} value={licence} onChange={(event) => setLicence(event.target.value)}><option value="">{t("models.allLicences")}</option>{licences.map((one) => <option key={one}>{one}</option>)}</Select>
        <label className="inline-flex items-center gap-1.5 text-sm"><input type="checkbox" className="accent-(--accent)" checked={onlyFitting} onChange={(event) => setOnlyFitting(event.target.checked)} />{t("models.onlyFitting")}</label>
      </>}>
      {pull.error && <div className="mb-3"><ErrorNote error={pull.error} /></div>}
      {catalogue.isPending ? <Loading rows={5} /> : catalogue.error ? <ErrorNote error={catalogue.error} retry={() => void catalogue.refetch()} />
        : shown.length === 0 ? <Empty title={t("models.noMatch")} /> : (
          <ul className="grid grid-cols-1 gap-x-8 md:grid-cols-2 2xl:grid-cols-3">
            {shown.map((card) => (
              <li key={card.name} className="border-b border-line py-3 [contain-intrinsic-size:auto_6rem] [content-visibility:auto]">
                <Card card={card} stored={stored} pulls={pulls} poolBytes={poolBytes} bandwidth={bandwidth} busy={pull.isPending} onPull={(model, good) => (good ? start(model) : setTooLarge(model))} />
              </li>
            ))}
          </ul>
        )}
      <Dialog open={tooLarge !== null} onClose={() => setTooLarge(null)} title={t("models.fitTitle")}>
        {tooLarge && (
          <div className="space-y-4 text-sm">
            <p>{t("models.fitText", { model: tooLarge.id ?? "", needs: formatBytes(neededBytes(estimatedBytes(tooLarge)), 2), pool: formatBytes(poolBytes, 2) })} {other ? t("models.fitOther", { model: other.id ?? "", needs: formatBytes(neededBytes(estimatedBytes(other)), 2) }) : t("models.fitNone")}</p>
            <div className="flex flex-wrap justify-end gap-2">
              <Button kind="quiet" onClick={() => start(tooLarge)}>{t("models.pullAnyway")}</Button>
              {other && <Button kind="primary" onClick={() => start(other)}>{t("models.pullNamed", { model: other.id ?? "" })}</Button>}
            </div>
          </div>
        )}
      </Dialog>
    </Section>
  );
}

function Card({ card, stored, pulls, poolBytes, bandwidth, busy, onPull }: { card: ModelCard; stored: StoredModel[]; pulls: Pull[]; poolBytes: number; bandwidth: number; busy: boolean; onPull: (model: CatalogueModel, good: boolean) => void }) {
  const { t } = useTranslation();
  const one = card.variants[0]!;
  return (
    <>
      <p className="truncate font-medium">{card.name}</p>
      <p className="truncate text-xs text-faint" title={one.licence}>{[one.parameters, one.family, t("models.contextOf", { tokens: formatCount(one.context_length ?? 0) }), one.licence].filter(Boolean).join(" · ")}</p>
      <ul aria-label={t("models.variants", { model: card.name })} className="mt-1">
        {card.variants.map((model) => {
          const bytes = estimatedBytes(model);
          const good = poolBytes === 0 || bytes === 0 || fits(bytes, poolBytes);
          const known = stored.find((other) => other.id === model.id);
          const pulling = pulls.some((other) => other.model === model.id && live(other));
          const generates = !/bert|roberta/i.test(model.family ?? "") && !/embed|rerank/i.test(model.id ?? "");
          const size = known?.bytes ?? bytes;
          return (
            <li key={model.id} title={(model.sources ?? []).join("\n")} className="grid min-h-9 grid-cols-[5.5rem_minmax(0,1fr)_auto] items-center gap-2 text-xs">
              <span className="min-w-0 font-mono" title={model.id}>
                <span className="block truncate">{quantisationOf(model) || model.id}</span>{" "}
                {/* Two of one kind are told apart by their names. */}
                {card.variants.filter((one) => quantisationOf(one) === quantisationOf(model)).length > 1 && <span className="block truncate text-[0.65rem] leading-tight text-faint">{model.id?.split(":").pop()}</span>}
              </span>
              <span className="min-w-0 leading-tight text-faint">
                {size > 0 && <><span className="whitespace-nowrap">{known ? "" : "≈ "}{formatBytes(size, 2)}</span> · <span className={cx("whitespace-nowrap", !good && "text-warn")}>{t("models.needs", { bytes: formatBytes(neededBytes(size), 2) })}{good ? "" : ` · ${t("models.doesNotFit")}`}</span></>}
                {size > 0 && bandwidth > 0 && good && generates && <> · <span className="whitespace-nowrap">{t("models.upTo", { speed: significant(expectedTokensPerS(size, bandwidth), 2) })}</span></>}
              </span>
              {known ? <Badge tone="good">{t("models.here")}</Badge> : pulling ? <Badge tone="accent">{t("models.pulling")}</Badge>
                : <Button kind="quiet" className="px-2" disabled={busy} aria-label={t("models.pullNamed", { model: model.id ?? "" })} onClick={() => onPull(model, good)}><Download className="size-4" aria-hidden />{t("models.pull")}</Button>}
            </li>
          );
        })}
      </ul>
    </>
  );
}
